package test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runledger runs a command of the program to its end.
func runledger(t *testing.T, args ...string) (output string, status int) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary(t), args...).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	} else if ok {
		status = exit.ExitCode()
	}
	return string(out), status
}

// refusesToStart starts the program, which must end by itself, and returns what it said.
func refusesToStart(t *testing.T, dir string) string {
	t.Helper()
	p := launch(t, "up", "--data", dir, "--listen", "127.0.0.1:0")
	select {
	case <-p.exited:
	case <-time.After(startTimeout):
		t.Fatal("the program started on a damaged log")
	}
	if p.cmd.ProcessState.Success() {
		t.Error("the program ended with status 0")
	}
	return p.stderr.String()
}

// TestDamagedLog damages the log of a server that is stopped, in the ways that a
// machine does, and takes the documented ways on.
func TestDamagedLog(t *testing.T) {
	dir := t.TempDir()
	p := up(t, dir, "--shards", "1")
	c := p.client(t)
	experimentID, err := c.createExperiment(t.Context(), "damage")
	if err != nil {
		t.Fatal(err)
	}
	var runs []string
	for i := range 4 {
		run, err := c.createRun(t.Context(), experimentID, fmt.Sprint("run ", i), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.logBatch(t.Context(), run, []metric{{Key: "m", Step: 1, Timestamp: 1, Value: 1}}, []pair{{"p", fmt.Sprint("parameter-", i)}}, nil); err != nil {
			t.Fatal(err)
		}
		runs = append(runs, run)
	}
	signHead := func(c *client) {
		t.Helper()
		answer, err := c.http.Post(c.base+"/api/v1/registry/tree-heads", "application/json", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusCreated && answer.StatusCode != http.StatusOK {
			t.Errorf("sign a tree head: %d, %v", answer.StatusCode, err)
		}
	}
	for i := range 3 {
		if err := c.createModel(t.Context(), fmt.Sprint("model ", i)); err != nil {
			t.Fatal(err)
		}
	}
	before, err := c.tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	signHead(c)
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	block := filepath.Join(dir, "nats", "jetstream", "$G", "streams", "RUNS_0", "msgs", "1.blk")
	data, err := os.ReadFile(block)
	if err != nil {
		t.Fatal(err)
	}
	check := func(wantStatus int, want ...string) {
		t.Helper()
		out, status := runledger(t, "log", "check", "--data", dir)
		if status != wantStatus {
			t.Errorf("log check ended with status %d, want %d:\n%s", status, wantStatus, out)
		}
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("log check does not say %q:\n%s", text, out)
			}
		}
	}
	check(0, "RUNS_0 has all of its 12 events", "EXPERIMENTS has all", "REGISTRY has all")

	t.Run("a damaged ledger is built again from the log", func(t *testing.T) {
		manifests, err := filepath.Glob(filepath.Join(dir, "registry", "MANIFEST-*"))
		if err != nil || len(manifests) == 0 {
			t.Fatal(manifests, err)
		}
		for _, m := range manifests {
			if err := os.WriteFile(m, bytes.Repeat([]byte{0xff}, 200), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if said := refusesToStart(t, dir); !strings.Contains(said, "--rebuild-ledger") {
			t.Errorf("it does not say that the ledger can be built again:\n%s", said)
		}
		p := up(t, dir, "--rebuild-ledger")
		c := p.client(t)
		if after, err := c.tree(t.Context()); err != nil || after != before {
			t.Errorf("the tree is %+v, was %+v (%v)", after, before, err)
		}
		if old, err := filepath.Glob(filepath.Join(dir, "set-aside-*", "registry", "MANIFEST-*")); err != nil || len(old) == 0 {
			t.Errorf("the damaged ledger is not set aside: %v, %v", old, err)
		}
		// The signed heads are those of this ledger, and more follow.
		if err := c.createModel(t.Context(), "another"); err != nil {
			t.Error(err)
		}
		signHead(c)
		p.stop(t, syscall.SIGTERM)
		if out, status := runledger(t, "audit", "verify", "--data", dir); status != 0 || !strings.Contains(out, "Compared with 2 tree heads") {
			t.Errorf("audit verify: %d\n%s", status, out)
		}
	})

	t.Run("a flipped bit does not change what is written once", func(t *testing.T) {
		at := bytes.Index(data, []byte("parameter-1"))
		flipped := bytes.Clone(data)
		flipped[at] ^= 2
		if err := os.WriteFile(block, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		check(1, "RUNS_0 has 11 of 12 events", "missing: 5", "bytes")
		p := up(t, dir)
		c := p.client(t)
		err := c.logBatch(t.Context(), runs[1], nil, []pair{{"p", "another"}}, nil)
		e, ok := errors.AsType[*apiError](err)
		if !ok || e.Status != http.StatusServiceUnavailable || !strings.Contains(e.Message, "damaged") {
			t.Errorf("a parameter whose event cannot be read was written again: %v", err)
		}
		if status, body, err := c.get(t.Context(), "/readyz"); err != nil || status == http.StatusOK || !strings.Contains(string(body), "RUNS_0") {
			t.Errorf("/readyz: %d %s %v", status, body, err)
		}
		if err := c.logBatch(t.Context(), runs[2], nil, []pair{{"q", "more"}}, nil); err == nil {
			t.Error("a damaged stream takes writes")
		}
		p.stop(t, syscall.SIGTERM)
	})

	t.Run("a log that was cut off is not started, and a backup is", func(t *testing.T) {
		if err := os.WriteFile(block, data, 0o600); err != nil {
			t.Fatal(err)
		}
		backup := t.TempDir()
		if err := os.CopyFS(filepath.Join(backup, "nats"), os.DirFS(filepath.Join(dir, "nats"))); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(block, data[:len(data)-300], 0o600); err != nil {
			t.Fatal(err)
		}
		said := refusesToStart(t, dir)
		for _, text := range []string{"RUNS_0 has 11 of 12 events", "missing: 12", "runledger log check --data"} {
			if !strings.Contains(said, text) {
				t.Errorf("it does not say %q:\n%s", text, said)
			}
		}
		if got, err := os.ReadFile(block); err != nil || !bytes.Equal(got, data[:len(data)-300]) {
			t.Errorf("the start has changed the log: %v", err)
		}
		check(1, "missing: 12")
		if err := os.RemoveAll(filepath.Join(dir, "nats")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(dir, os.DirFS(backup)); err != nil {
			t.Fatal(err)
		}
		check(0)
		p := up(t, dir)
		c := p.client(t)
		for _, run := range runs {
			if err := c.logBatch(t.Context(), run, nil, []pair{{"p2", "v"}}, nil); err != nil {
				t.Error(err)
			}
		}
		p.awaitProjected(t)
		p.stop(t, syscall.SIGTERM)
		verifyTables(t, dir)
	})

	t.Run("a loss is accepted where there is no backup", func(t *testing.T) {
		if data, err = os.ReadFile(block); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(block, data[:len(data)-300], 0o600); err != nil {
			t.Fatal(err)
		}
		refusesToStart(t, dir)
		out, status := runledger(t, "log", "accept-loss", "--data", dir)
		if status != 1 || !strings.Contains(out, "RUNS_0 keeps the events 1 to 15, and loses 16, of which 0 can be read") {
			t.Errorf("accept-loss without --yes: %d\n%s", status, out)
		}
		check(1, "missing: 16")
		if out, status := runledger(t, "log", "accept-loss", "--yes", "--data", dir); status != 0 {
			t.Fatalf("accept-loss: %d\n%s", status, out)
		}
		check(0, "RUNS_0 has all of its 15 events")
		if record, err := os.ReadFile(filepath.Join(dir, "accepted-losses.jsonl")); err != nil || !strings.Contains(string(record), `"stream":"RUNS_0","kept":15,"lost":{"first":16,"last":16}`) {
			t.Errorf("the loss is recorded as %s, %v", record, err)
		}
		p := up(t, dir)
		c := p.client(t)
		if err := c.logBatch(t.Context(), runs[3], nil, []pair{{"p2", "again"}}, nil); err != nil {
			t.Error(err)
		}
		p.awaitProjected(t)
		p.stop(t, syscall.SIGTERM)
		verifyTables(t, dir)
		check(0, "RUNS_0 has all of its 16 events")
	})
}
