package test

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestAFrozenEngineIsNamedAndAScriptGoesOn: while ClickHouse is frozen a script that
// begins creates its run, logs to it and reads it back, and readiness blames what
// needs ClickHouse and nothing else.
func TestAFrozenEngineIsNamedAndAScriptGoesOn(t *testing.T) {
	p := up(t, t.TempDir())
	c := p.client(t)
	engine := p.engine(t)
	if err := syscall.Kill(engine, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	thaw := sync.OnceFunc(func() {
		if err := syscall.Kill(engine, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})
	defer thaw()

	e, err := c.experimentByName(t.Context(), "Default")
	if err != nil {
		t.Fatal(err)
	}
	id, err := c.createRun(t.Context(), e.ID, "begun", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.logBatch(t.Context(), id, []metric{{Key: "loss", Value: 0.5, Step: 1}}, []pair{{"lr", "0.1"}}, nil); err != nil {
		t.Fatal(err)
	}
	r, isFresh, err := c.getRun(t.Context(), id)
	if err != nil || !isFresh || len(r.Data.Metrics) != 1 || len(r.Data.Params) != 1 {
		t.Errorf("the run that was just created: %+v, fresh: %t, %v", r, isFresh, err)
	}

	status, body, err := c.get(t.Context(), "/readyz")
	var said struct{ Checks map[string]string }
	if err != nil || status != http.StatusServiceUnavailable || json.Unmarshal(body, &said) != nil {
		t.Fatalf("/readyz: %d %s, %v", status, body, err)
	}
	if !strings.Contains(said.Checks["query"], "ClickHouse") {
		t.Errorf("query is %q", said.Checks["query"])
	}
	for _, check := range []string{"jetstream", "ingest", "registry", "artifacts"} {
		if said.Checks[check] != "ok" {
			t.Errorf("%s is %q", check, said.Checks[check])
		}
	}

	thaw()
	p.awaitReads(t, "Default")
	p.stop(t, syscall.SIGTERM)
}

// TestAStuckFileDoesNotKeepTheProcess: a file in the artifact store that makes who
// opens it wait for ever, as one on a network file system that is gone, keeps a
// process that is told to end no longer than it may take.
func TestAStuckFileDoesNotKeepTheProcess(t *testing.T) {
	dir := t.TempDir()
	p := up(t, dir, "--shutdown-timeout", "1s")
	c := p.client(t)
	id, err := c.createRun(t.Context(), "0", "stuck", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.upload(t.Context(), "0", id, "a", "x"); err != nil {
		t.Fatal(err)
	}
	// Whoever opens it to read may have to wait for one who writes.
	if err := syscall.Mkfifo(filepath.Join(dir, "artifacts", "0", id, "artifacts", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	go func() { // ends with the process
		defer close(asked)
		_, _, _ = c.get(context.WithoutCancel(t.Context()), "/get-artifact?run_uuid="+id+"&path=fifo")
	}()
	select {
	case <-asked: // the store refuses it
	case <-time.After(2 * time.Second):
	}
	p.signal(t, syscall.SIGTERM)
	if status := p.wait(t, stopTimeout); status != 0 && !strings.Contains(p.stderr.String(), "part=artifacts") {
		t.Errorf("exit status %d, and the log does not name the artifacts", status)
	}
	<-asked
}
