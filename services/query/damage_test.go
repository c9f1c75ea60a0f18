package query_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/runledger/runledger/pkg/chdb"
	"github.com/runledger/runledger/pkg/tables"
	"github.com/runledger/runledger/pkg/watermark"
	"github.com/runledger/runledger/services/query"
)

func mustBeRefused(t *testing.T, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%s: %d, Retry-After %q: %s", what, w.Code, w.Header().Get("Retry-After"), w.Body)
	}
}

func seriesOf(run string) map[string]any {
	return map[string]any{"run_ids": []string{run}, "metric_keys": []string{"loss"}}
}

// A read that meets a part which is not as it was written is refused, and the projector
// is told of it.
func TestReadsOfADamagedPartAreRefused(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{"loss", 1, 1, 1}}})[0].id
	f.insertPoints(run, point{"loss", 1, 1, 1}, point{"loss", 2, 2, 2})
	if points, _ := f.history(run, "loss", 0); len(points) != 2 {
		t.Fatalf("%d points", len(points))
	}
	var path string
	if err := f.conn.QueryRow(t.Context(), "SELECT path FROM system.parts WHERE database = currentDatabase() AND table = 'metrics' AND active").Scan(&path); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(path, "data.bin")
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i := range content {
		content[i] ^= 1
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	reports := make(chan string, 10)
	sub, err := watermark.OnDamage(f.nc, func(what string) { reports <- what })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	mustBeRefused(t, "history", f.get("/metrics/get-history", "run_id", run, "metric_key", "loss"))
	mustBeRefused(t, "series", f.postV1("/series", seriesOf(run)))
	for range 2 {
		select {
		case <-reports:
		case <-time.After(time.Minute):
			t.Fatal("nobody is told")
		}
	}
}

// A read that has waited for tables which are replaced before it gets to them is
// refused: the new ones may have little yet.
func TestReadsOfReplacedTablesAreRefused(t *testing.T) {
	dialled, goOn := make(chan struct{}, 10), make(chan struct{})
	f := newFixture(t, func(c *query.Config) {
		opts := *c.ClickHouse
		dial := opts.DialContext
		opts.DialContext = func(ctx context.Context, addr string) (net.Conn, error) {
			dialled <- struct{}{}
			<-goOn
			return dial(ctx, addr)
		}
		c.ClickHouse = &opts
	})
	run := f.insert(testRun{experiment: 1, metrics: []point{{"loss", 1, 1, 1}}})[0].id
	f.insertPoints(run, point{"loss", 1, 1, 1})
	announce := f.announce(100)
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- f.get("/metrics/get-history", "run_id", run, "metric_key", "loss") }()
	<-dialled // it has waited
	announce(0)
	announce(100)
	close(goOn)
	mustBeRefused(t, "history", <-answer)
	if points, _ := f.history(run, "loss", 0); len(points) != 1 {
		t.Errorf("%d points of the new tables", len(points))
	}
}

// Reads from an engine that stands still end, and clients are told to try again.
func TestReadsFromAFrozenEngineAreRefused(t *testing.T) {
	engine, err := chdb.Start(t.Context(), chdb.Config{DataDir: t.TempDir(), MaxMemory: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := engine.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if err := tables.Migrate(t.Context(), engine.Options(), nil); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *query.Config) { c.ClickHouse, c.MaxSilence = engine.Options(), time.Second })
	if f.conn, err = clickhouse.Open(engine.Options()); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.conn.Close() }()
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{"loss", 1, 1, 1}}})[0].id
	f.insertPoints(run, point{"loss", 1, 1, 1})
	read := map[string]func() *httptest.ResponseRecorder{
		"history": func() *httptest.ResponseRecorder {
			return f.get("/metrics/get-history", "run_id", run, "metric_key", "loss")
		},
		"series": func() *httptest.ResponseRecorder { return f.postV1("/series", seriesOf(run)) },
	}
	for what, read := range read {
		if w := read(); w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", what, w.Code, w.Body)
		}
	}
	pid := engine.Pid()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := func() {
		if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}
	defer goOn()
	for range 2 { // on connections that are kept, and on new ones
		for what, read := range read {
			mustBeRefused(t, what, read())
		}
	}
	goOn()
	for what, read := range read {
		for deadline := time.Now().Add(time.Minute); ; {
			w := read()
			if w.Code == http.StatusOK {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s, when the engine goes on: %d %s", what, w.Code, w.Body)
			}
		}
	}
}
