package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// volume mounts a file system of its own at a directory.
func volume(t *testing.T, dir string, mebibytes int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("filling a disk needs a file system of its own, which only root can mount")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mebibytes)); err != nil {
		t.Skipf("filling a disk needs a file system of its own: mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// fill leaves no room on the volume of a directory, and returns how to make some
// again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size > 0; size /= 2 {
		for {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEachFullDiskIsSurvivedWithoutARestart fills the volume of each store in
// turn. What cannot be kept is refused, soon and with a time to come back; the rest
// goes on; and when there is room, everything does.
func TestEachFullDiskIsSurvivedWithoutARestart(t *testing.T) {
	dir := t.TempDir()
	volume(t, filepath.Join(dir, "nats"), 64)
	volume(t, filepath.Join(dir, "clickhouse"), 512)
	volume(t, filepath.Join(dir, "registry"), 64)
	volume(t, filepath.Join(dir, "artifacts"), 64)
	p := up(t, dir, "--shards", "2")
	c := p.client(t)
	experimentID, err := c.createExperiment(t.Context(), "full disks")
	if err != nil {
		t.Fatal(err)
	}
	run, err := c.createRun(t.Context(), experimentID, "run", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	step := int64(0)
	write := func(ctx context.Context) error { // a page and more, so that it does not fit into what is left of one
		step++
		return c.logBatch(ctx, run, []metric{{Key: "loss", Step: step, Timestamp: step, Value: number(step)}},
			[]pair{{fmt.Sprint("p", step), strings.Repeat("v", 5000)}}, nil)
	}
	// unavailable is whether an answer is a 503 that says when to come back.
	unavailable := func(err error) bool {
		e, ok := errors.AsType[*apiError](err)
		return ok && e.Status == http.StatusServiceUnavailable && e.RetryAfter != ""
	}
	becomesRefused := func(what string, do func(context.Context) error) {
		t.Helper()
		var last error
		eventually(t, startTimeout, func() string { return fmt.Sprintf("%s is not refused on a full disk: %v", what, last) }, func(ctx context.Context) bool {
			last = do(ctx)
			return unavailable(last)
		})
	}
	becomesReady := func(what string, do func(context.Context) error) {
		t.Helper()
		var last error
		eventually(t, startTimeout, func() string { return fmt.Sprintf("%s does not work again: %v", what, last) }, func(ctx context.Context) bool {
			last = do(ctx)
			return last == nil
		})
		p.awaitReady(t)
		p.awaitProjected(t)
	}
	notReady := func(name string) {
		t.Helper()
		var body []byte
		eventually(t, startTimeout, func() string { return fmt.Sprintf("/readyz does not name %s: %s", name, body) }, func(ctx context.Context) bool {
			var status int
			var err error
			status, body, err = c.get(ctx, "/readyz")
			return err == nil && status == http.StatusServiceUnavailable && strings.Contains(string(body), name)
		})
	}
	models := 0
	createModel := func(ctx context.Context) error {
		models++
		return c.createModel(ctx, fmt.Sprintf("model %d %s", models, strings.Repeat("m", 200)))
	}
	for range 3 {
		if err := errors.Join(write(t.Context()), createModel(t.Context()), c.upload(t.Context(), experimentID, run, "before", "x")); err != nil {
			t.Fatal(err)
		}
	}
	p.awaitProjected(t)

	t.Run("log", func(t *testing.T) {
		empty := fill(t, filepath.Join(dir, "nats"))
		becomesRefused("a write", write)
		notReady("jetstream")
		// It is known now, so that nobody waits for it.
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if err := write(ctx); !unavailable(err) || !strings.Contains(err.Error(), "disk") {
				t.Errorf("a write to a log that is known to be full: %v", err)
			}
			cancel()
		}
		empty()
		becomesReady("a write", write)
		becomesReady("a new model", createModel)
	})
	t.Run("tables", func(t *testing.T) {
		empty := fill(t, filepath.Join(dir, "clickhouse"))
		for range 20 {
			if err := write(t.Context()); err != nil {
				t.Errorf("a write needs the log alone: %v", err)
			}
		}
		notReady("projected")
		empty()
		becomesReady("a write", write)
	})
	t.Run("ledger", func(t *testing.T) {
		empty := fill(t, filepath.Join(dir, "registry"))
		becomesRefused("a new model", createModel)
		notReady("registry")
		if err := write(t.Context()); err != nil {
			t.Errorf("a write of a run does not need the ledger: %v", err)
		}
		empty()
		becomesReady("a new model", createModel)
	})
	t.Run("artifacts", func(t *testing.T) {
		empty := fill(t, filepath.Join(dir, "artifacts"))
		upload := func(ctx context.Context) error {
			return c.upload(ctx, experimentID, run, "file", strings.Repeat("x", 1<<16))
		}
		becomesRefused("an upload", upload)
		notReady("artifact")
		if err := errors.Join(write(t.Context()), createModel(t.Context())); err != nil {
			t.Errorf("only uploads need the artifact store: %v", err)
		}
		empty()
		becomesReady("an upload", upload)
	})
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)
}
