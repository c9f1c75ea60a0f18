package query_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/watermark"
	"github.com/runledger/runledger/services/query"
)

// A read waits for the projector, and then has what was acknowledged before it.
func TestReadWaitsForTheProjector(t *testing.T) {
	f := newFixture(t)
	f.service.ReadRunsFromTables()
	run := testRun{experiment: 3, metrics: []point{{"loss", 1, 1, 1}}}.withDefaults()
	stream, subject := f.log.RunSubject("3", run.id, events.KindMeta)
	at := f.publish(subject, &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: run.id}}})
	a, err := watermark.NewAnnouncer(f.nc, stream)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	requests := map[string]func() *httptest.ResponseRecorder{
		"get": func() *httptest.ResponseRecorder { return f.get("/runs/get", "run_id", run.id) },
		"search": func() *httptest.ResponseRecorder {
			return f.post("/runs/search", map[string]any{"experiment_ids": []string{"3"}})
		},
	}
	answers := make(map[string]*httptest.ResponseRecorder)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, request := range requests {
		wg.Go(func() {
			w := request()
			mu.Lock()
			defer mu.Unlock()
			answers[name] = w
		})
	}
	// The rows come only after both have asked for them.
	for range requests {
		if seq := <-a.Wanted(); seq != at.Seq {
			t.Errorf("a reader wants %d, the run is at %d", seq, at.Seq)
		}
	}
	f.insertRows([]testRun{run})
	if err := a.Announce(at.Seq); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if w := answers["get"]; w.Code != http.StatusOK {
		t.Errorf("get: %d %s", w.Code, w.Body)
	}
	if page := decode[wireRuns](t, answers["search"]); len(page.Runs) != 1 || page.Runs[0].Data.Metrics[0].Value != 1 {
		t.Errorf("search finds %v", page.Runs)
	}
	for name, w := range answers {
		if w.Header().Get("Runledger-Stale") != "" || w.Header().Get("Runledger-Watermark") == "" {
			t.Errorf("%s: headers %v", name, w.Header())
		}
	}
}

// Reads that waited are counted, and what became of them.
func TestLateReadsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	f := newFixture(t, func(c *query.Config) { c.Wait, c.Registerer = 20*time.Millisecond, registry })
	f.insert(testRun{experiment: 1})
	search := read{"POST /runs/search", "/api/2.0/mlflow/runs/search", map[string]any{"experiment_ids": []string{"1"}}, nil}
	for range 2 {
		wantError(t, f.read(search), http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "")
	}
	if w := f.read(search, "Runledger-Allow-Stale", "true"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		m := family.GetMetric()[0]
		got[family.GetName()] = m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	if got["runledger_query_freshness_wait_seconds"] != 3 || got["runledger_query_late_reads_total"] != 2 || got["runledger_query_stale_reads_total"] != 1 {
		t.Errorf("metrics %v, want three waits, two refused and one stale", got)
	}
}

func TestClickHouseIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, func(c *query.Config) {
		c.ClickHouse = &clickhouse.Options{Addr: []string{addr}, DialTimeout: time.Second}
	})
	f.project()
	f.service.ReadRunsFromTables()
	run := f.insert(testRun{experiment: 1})[0]
	f.insertPoints(run.id, point{"loss", 1, 1, 1})
	f.insertExperiments(testExperiment{id: 1, name: "x"})
	for name, w := range map[string]*httptest.ResponseRecorder{
		"runs/get":         f.get("/runs/get", "run_id", run.id),
		"runs/search":      f.post("/runs/search", map[string]any{"experiment_ids": []string{"1"}}),
		"get-history":      f.get("/metrics/get-history", "run_id", run.id, "metric_key", "loss"),
		"experiments/find": f.post("/experiments/search", map[string]any{"max_results": 1}),
	} {
		wantError(t, w, http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "The tables are not available, try again")
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	if err := f.service.Ready(t.Context()); err == nil {
		t.Error("the service is ready without ClickHouse")
	}
}

func TestReady(t *testing.T) {
	f := newFixture(t)
	if err := f.service.Ready(t.Context()); err != nil {
		t.Error(err)
	}
}

// What a read may cost is bounded; beyond, the answer is one that clients
// understand, and never a 5xx.
func TestBudgets(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.MaxMemory = 1 << 20 })
	f.project()
	manyRuns(f, 1, 20_000, 2)
	w := f.post("/runs/search", map[string]any{"experiment_ids": []string{"1"}, "order_by": []string{"params.p0"}, "max_results": 50_000})
	wantError(t, w, http.StatusTooManyRequests, "REQUEST_LIMIT_EXCEEDED", "The read needs more memory than there is for it")
}

func TestTooManyReads(t *testing.T) {
	t.Attr("covers", "error-overload")
	f := newFixture(t, func(c *query.Config) { c.MaxRequests, c.SlotWait = 1, 10*time.Millisecond })
	f.project()
	run := newRunID()
	const points = 300_000
	f.insertPoints(run, point{"loss", 0, 0, 0})
	if err := f.conn.Exec(t.Context(), "INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx) "+
		"SELECT toUUID('"+testRun{id: run}.uuid().String()+"'), 'loss', number, number, number, 0, number, 0 FROM numbers(300000)"); err != nil {
		t.Fatal(err)
	}
	// A client that does not read its answer holds the only slot.
	server := httptest.NewServer(f.server)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api/2.0/mlflow/metrics/get-history?metric_key=loss&run_id="+run, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	w := f.get("/metrics/get-history", "metric_key", "loss", "run_id", run)
	wantError(t, w, http.StatusTooManyRequests, "REQUEST_LIMIT_EXCEEDED", "Too many reads are under way, try again")
	if w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	// It goes away, and the slot with it.
	cancel()
	f.eventually("the slot is free", func() bool {
		w = f.get("/metrics/get-history", "metric_key", "loss", "run_id", run)
		return w.Code != http.StatusTooManyRequests
	})
	if got := decode[wireHistory](t, w); len(got.Metrics) != points {
		t.Errorf("%d points, want %d", len(got.Metrics), points)
	}
}
