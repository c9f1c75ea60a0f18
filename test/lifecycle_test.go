package test

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestHealthAnswersSoonAfterTheFirstStart(t *testing.T) {
	// A sanity bound, far above what it takes.
	const bound = 20 * time.Second
	begin := time.Now()
	p := launch(t, "up", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
	c := p.client(t)
	eventually(t, bound, func() string { return "/health does not answer" }, func(ctx context.Context) bool {
		status, _, err := c.get(ctx, "/health")
		return err == nil && status == http.StatusOK
	})
	health := time.Since(begin)
	p.awaitReady(t)
	t.Logf("empty data directory: /health after %v, /readyz after %v", health.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
}

func TestSecondUpOnOneDataDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := up(t, dir)
	second := launch(t, "up", "--data", dir, "--listen", "127.0.0.1:0")
	if status := second.wait(t, startTimeout); status != 1 {
		t.Errorf("exit status of the second: got %d, want 1", status)
	}
	said := second.stderr.String()
	for _, part := range []string{dir, "in use", "--data"} {
		if !strings.Contains(said, part) {
			t.Errorf("the second does not mention %q: %s", part, said)
		}
	}
	if out := second.stdout.String(); out != "" {
		t.Errorf("the second printed %q", out)
	}
	// The first does not notice.
	if _, err := first.client(t).createExperiment(t.Context(), "still here"); err != nil {
		t.Error(err)
	}
}

func TestBadArgumentsAreRefusedWithAClearMessage(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		args []string
		want []string
	}{
		"busy address":                 {[]string{"up", "--data", t.TempDir(), "--listen", busy.Addr().String()}, []string{busy.Addr().String(), "address already in use", "--listen"}},
		"data directory is a file":     {[]string{"up", "--data", file, "--listen", "127.0.0.1:0"}, []string{"data directory", file}},
		"ClickHouse address":           {[]string{"up", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--clickhouse-url", "::"}, []string{"--clickhouse-url"}},
		"too many shards":              {[]string{"up", "--data", t.TempDir(), "--listen", "127.0.0.1:0", "--shards", "1000"}, []string{"1000", "shards", "64"}},
		"unknown flag":                 {[]string{"up", "--nonsense"}, []string{"--nonsense"}},
		"unknown command":              {[]string{"nonsense"}, []string{"nonsense"}},
		"service without NATS":         {[]string{"ingest"}, []string{"nats-url"}},
		"ingest without artifacts":     {[]string{"ingest", "--nats-url", "nats://127.0.0.1:1"}, []string{"--artifacts", "s3://", "directory"}},
		"registry without artifacts":   {[]string{"registry", "--nats-url", "nats://127.0.0.1:1"}, []string{"--artifacts"}},
		"projector without ClickHouse": {[]string{"projector", "--nats-url", "nats://127.0.0.1:1"}, []string{"clickhouse-url"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := launch(t, test.args...)
			if status := p.wait(t, startTimeout); status != 1 {
				t.Errorf("exit status: got %d, want 1", status)
			}
			for _, part := range test.want {
				if !strings.Contains(p.stderr.String(), part) {
					t.Errorf("the message does not mention %q: %s", part, p.stderr.String())
				}
			}
		})
	}
}

func TestTwoServersRunSideBySideAndShareNothing(t *testing.T) {
	a, b := launch(t, "up", "--data", t.TempDir(), "--listen", "127.0.0.1:0"), launch(t, "up", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
	for _, p := range []*program{a, b} {
		p.awaitReady(t)
	}
	if _, err := a.client(t).createExperiment(t.Context(), "of a"); err != nil {
		t.Error(err)
	}
	if _, err := a.client(t).experimentByName(t.Context(), "of a"); err != nil {
		t.Error(err)
	}
	if e, err := b.client(t).experimentByName(t.Context(), "of a"); code(err) != "RESOURCE_DOES_NOT_EXIST" {
		t.Errorf("the other server answers %v, %v; want RESOURCE_DOES_NOT_EXIST", e, err)
	}
}

func TestSignalsEndTheServerCleanlyAndLeaveNothingBehind(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name+" while it is written to", func(t *testing.T) {
			dir := t.TempDir()
			p := up(t, dir)
			c := p.client(t)
			work := startWorkload(t, func() *client { return c }, seed(t), 4, 1, 0)
			work.goesOn(t, 100)
			if p.engine(t) == 0 {
				t.Error("the engine is not found among the child processes")
			}
			begin := time.Now()
			p.stop(t, sig)
			t.Logf("ended %v after %s", time.Since(begin).Round(time.Millisecond), name)
			work.stop()
			t.Log(&work.counts)

			again := up(t, dir)
			work.verify(t, again.client(t))
			again.awaitProjected(t)
			again.stop(t, sig)
			verifyTables(t, dir)
		})
		t.Run(name+" during the start", func(t *testing.T) {
			p := launch(t, "up", "--data", t.TempDir(), "--listen", "127.0.0.1:0")
			// The handler is installed before anything is started, and the
			// engine is the first thing to be seen from outside.
			eventually(t, startTimeout, func() string { return "no engine was started" }, func(context.Context) bool { return p.engine(t) != 0 })
			p.stop(t, sig)
		})
	}
}
