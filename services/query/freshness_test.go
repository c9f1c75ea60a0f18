package query_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/watermark"
	"github.com/runledger/runledger/services/query"
)

// marks announces watermarks: of each stream the last event of the log, but for
// those named, and waits until the service has heard them.
func (f *fixture) marks(held map[string]uint64) {
	f.t.Helper()
	for _, stream := range f.log.Streams() {
		seq, err := f.log.LastSeq(f.t.Context(), stream)
		if err != nil {
			f.t.Fatal(err)
		}
		if at, ok := held[stream]; ok {
			seq = at
		}
		a, err := watermark.NewAnnouncer(f.nc, stream)
		if err != nil {
			f.t.Fatal(err)
		}
		if err := a.Announce(seq); err != nil {
			f.t.Fatal(err)
		}
		f.eventually("the service hears of the watermark", func() bool { return f.service.Mark(stream) == seq })
		if err := a.Close(); err != nil {
			f.t.Fatal(err)
		}
	}
}

// runIn returns the id of a run whose events are in a shard.
func (f *fixture) runIn(shard int) string {
	for {
		if id := newRunID(); events.Shard(id, f.log.Shards()) == shard {
			return id
		}
	}
}

// read is a request of a route, and the streams that its answer is made from:
// the tables must have all of each.
type read struct {
	route, path string
	body        map[string]any
	streams     []string
}

func (f *fixture) read(r read, header ...string) *httptest.ResponseRecorder {
	f.t.Helper()
	method, _, _ := strings.Cut(r.route, " ")
	var body []byte
	if r.body != nil {
		var err error
		if body, err = json.Marshal(r.body); err != nil {
			f.t.Fatal(err)
		}
	}
	request := httptest.NewRequest(method, r.path, bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return f.do(request)
}

// TestReadsAreFreshOrRefused: no route answers from tables that lack events which
// its answer would be made from, whichever stream is behind, unless the client
// asks for that; and what is told to come from old tables says how old they are.
func TestReadsAreFreshOrRefused(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.Wait = 10 * time.Millisecond })
	run := testRun{id: f.runIn(0), experiment: 1, params: map[string]string{"lr": "1"}, metrics: []point{{"loss", 1, 1, 1}}}
	f.insert(run, testRun{id: f.runIn(1), experiment: 1, params: map[string]string{"lr": "2"}, metrics: []point{{"loss", 2, 1, 1}}})
	f.insertExperiments(testExperiment{id: 1, name: "x"})
	f.publish(events.ModelSubject("m"), &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "m"}}})
	model := testModel{id: 1, experiment: 1, status: "READY"}
	f.insertModels(model)
	f.insertArtifacts(run.id, "", 0, "a")
	f.service.ReadRunsFromTables()

	const mlflow = "/api/2.0/mlflow"
	shards := f.log.RunStreams()
	runs := append(slices.Clone(shards), events.StreamExperiments)
	everything := append(slices.Clone(runs), events.StreamRegistry)
	loss := map[string]any{"metric_key": "loss"}
	sweep := func(extra map[string]any) map[string]any {
		body := map[string]any{"experiment_ids": []string{"1"}}
		for key, value := range extra {
			body[key] = value
		}
		return body
	}
	ask := []read{
		{"GET /experiments/get", mlflow + "/experiments/get?experiment_id=1", nil, nil},
		{"GET /experiments/get-by-name", mlflow + "/experiments/get-by-name?experiment_name=x", nil, nil},
		{"GET /experiments/search", mlflow + "/experiments/search?max_results=5", nil, runs[2:]},
		{"POST /experiments/search", mlflow + "/experiments/search", map[string]any{"max_results": 5}, runs[2:]},
		{"GET /runs/get", mlflow + "/runs/get?run_id=" + run.id, nil, []string{shards[0], events.StreamExperiments}},
		{"POST /runs/search", mlflow + "/runs/search", sweep(nil), runs},
		{"GET /metrics/get-history", mlflow + "/metrics/get-history?metric_key=loss&run_id=" + run.id, nil, shards[:1]},
		{"GET /metrics/get-history-bulk-interval", mlflow + "/metrics/get-history-bulk-interval?metric_key=loss&max_results=5&run_ids=" + run.id, nil, shards[:1]},
		{"GET /metrics/get-history-bulk", "/ajax-api/2.0/mlflow/metrics/get-history-bulk?metric_key=loss&run_id=" + run.id, nil, shards[:1]},
		{"GET /logged-models/:model_id", mlflow + "/logged-models/" + model.wireID(), nil, shards},
		{"POST /logged-models/search", mlflow + "/logged-models/search", sweep(nil), shards},
		{"POST /experiments/search-datasets", mlflow + "/experiments/search-datasets", sweep(nil), runs},
		{"GET /api/v1/audit", "/api/v1/audit", nil, everything},
		{"GET /api/v1/audit/counts", "/api/v1/audit/counts?by=actor", nil, everything},
		{"GET /api/v1/lineage", "/api/v1/lineage?run_id=" + run.id, nil, everything},
		{"GET /api/v1/artifacts", "/api/v1/artifacts?run_id=" + run.id, nil, shards[:1]},
		{"GET /api/v1/gc/candidates", "/api/v1/gc/candidates", nil, runs},
		{"POST /api/v1/series", "/api/v1/series", sweep(map[string]any{"metric_keys": []string{"loss"}}), runs},
		{"GET /api/v1/experiments/:id/catalogue", "/api/v1/experiments/1/catalogue", nil, runs},
		{"POST /api/v1/runs/compare", "/api/v1/runs/compare", sweep(nil), runs},
		{"POST /api/v1/sweeps/curves", "/api/v1/sweeps/curves", sweep(map[string]any{"metric_keys": []string{"loss"}}), runs},
		{"POST /api/v1/sweeps/top", "/api/v1/sweeps/top", sweep(map[string]any{"objective": loss}), runs},
		{"POST /api/v1/sweeps/coordinates", "/api/v1/sweeps/coordinates", sweep(map[string]any{"objectives": []any{loss}}), runs},
		{"POST /api/v1/sweeps/importance", "/api/v1/sweeps/importance", sweep(map[string]any{"objective": loss}), runs},
		{"POST /api/v1/sweeps/pareto", "/api/v1/sweeps/pareto", sweep(map[string]any{"objectives": []any{loss, map[string]any{"metric_key": "loss", "at": "min"}}}), runs},
		{"POST /api/v1/sweeps/progress", "/api/v1/sweeps/progress", sweep(map[string]any{"objective": loss}), runs},
	}
	f.marks(nil)
	for _, r := range ask {
		if w := f.read(r); w.Code != http.StatusOK || w.Header().Get("Runledger-Stale") != "" || w.Header().Get("Runledger-Watermark") == "" {
			t.Errorf("%s of tables that have everything: %d %s, %v", r.route, w.Code, w.Body, w.Header())
		}
	}
	for _, held := range f.log.Streams() {
		f.marks(map[string]uint64{held: 0})
		for _, r := range ask {
			w := f.read(r)
			if !slices.Contains(r.streams, held) {
				if w.Code != http.StatusOK {
					t.Errorf("%s waits for %s: %d %s", r.route, held, w.Code, w.Body)
				}
				continue
			}
			if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || w.Header().Get("Runledger-Stale") != "" {
				t.Errorf("%s without %s: %d %s, %v", r.route, held, w.Code, w.Body, w.Header())
				continue
			}
			wantError(t, w, http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "The tables do not have the newest writes yet, try again")
			for _, word := range []string{"false", "1", "yes", "TRUE"} {
				if w := f.read(r, "Runledger-Allow-Stale", word); w.Code != http.StatusServiceUnavailable {
					t.Errorf("%s without %s, asked for with %q: %d", r.route, held, word, w.Code)
				}
			}
			old := f.read(r, "Runledger-Allow-Stale", "true")
			age, err := strconv.ParseFloat(old.Header().Get("Runledger-Age"), 64)
			if old.Code != http.StatusOK || old.Header().Get("Runledger-Stale") != "true" || err != nil || age <= 0 ||
				!strings.Contains(old.Header().Get("Runledger-Watermark"), held+"=0") {
				t.Errorf("%s without %s, old data asked for: %d %s, %v", r.route, held, old.Code, old.Body, old.Header())
			}
		}
	}

	// Every route is asked.
	e := echo.New()
	f.service.Register(e)
	for _, route := range e.Routes() {
		name := route.Method + " " + strings.TrimPrefix(strings.TrimPrefix(route.Path, mlflow), "/ajax-api/2.0/mlflow")
		if !slices.ContainsFunc(ask, func(r read) bool { return r.route == name }) {
			t.Errorf("%s is not asked", name)
		}
	}
}

// TestASearchWaitsForEachExperiment: a search of several experiments waits for the
// last event of any of them in every stream, whichever of them has it.
func TestASearchWaitsForEachExperiment(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.Wait = 10 * time.Millisecond })
	for _, first := range []string{"1", "2"} { // which has the later events
		other := map[string]string{"1": "2", "2": "1"}[first]
		for _, experiment := range []string{other, first} {
			id, err := strconv.ParseUint(experiment, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			f.insertExperiments(testExperiment{id: id})
			for shard := range f.log.Shards() {
				f.insert(testRun{id: f.runIn(shard), experiment: id})
			}
		}
		for _, held := range append(f.log.RunStreams(), events.StreamExperiments) {
			last, err := f.log.LastSeq(t.Context(), held)
			if err != nil {
				t.Fatal(err)
			}
			f.marks(map[string]uint64{held: last - 1})
			for _, ids := range [][]string{{"1", "2"}, {"2", "1"}, {"1", "2", "3", "4", "5", "6", "7", "8", "9", "10"}} {
				for _, path := range []string{"/runs/search", "/experiments/search-datasets"} {
					if w := f.post(path, map[string]any{"experiment_ids": ids}); w.Code != http.StatusServiceUnavailable {
						t.Errorf("%s of %v without the last event of experiment %s in %s: %d", path, ids, first, held, w.Code)
					}
				}
			}
			// The other one needs not wait.
			if w := f.post("/runs/search", map[string]any{"experiment_ids": []string{other}}); w.Code != http.StatusOK {
				t.Errorf("a search of experiment %s waits for one of %s in %s: %d", other, first, held, w.Code)
			}
		}
	}
}

// TestABeginningNeedsNoTables: what a script asks for when it begins, and of its
// run while that has few events, comes from the log: neither the projector nor
// ClickHouse is needed.
func TestABeginningNeedsNoTables(t *testing.T) {
	f := newFixture(t, func(c *query.Config) {
		c.Wait = 10 * time.Millisecond
		c.ClickHouse.Addr = []string{"127.0.0.1:1"}
	})
	f.publish(events.ExperimentSubject("0"), &events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{
		ExperimentId: "0", Name: "Default",
	}}})
	run := testRun{experiment: 0, params: map[string]string{"p": "1"}, metrics: []point{{"loss", 1, 1, 1}}}.withDefaults()
	f.logRun(run)
	for name, w := range map[string]*httptest.ResponseRecorder{
		"experiments/get":         f.get("/experiments/get", "experiment_id", "0"),
		"experiments/get-by-name": f.get("/experiments/get-by-name", "experiment_name", "Default"),
		"runs/get":                f.get("/runs/get", "run_id", run.id),
	} {
		if w.Code != http.StatusOK || w.Header().Get("Runledger-Watermark") == "" || w.Header().Get("Runledger-Stale") != "" {
			t.Errorf("%s: %d %s, %v", name, w.Code, w.Body, w.Header())
		}
	}
	wantError(t, f.get("/runs/get", "run_id", newRunID()), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "")
	wantError(t, f.get("/experiments/get", "experiment_id", "1"), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "")
	_, subject := f.log.RunSubject("0", run.id, events.KindMeta)
	for range query.MaxLoggedEvents {
		f.publish(subject, &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: run.id}}})
	}
	wantError(t, f.get("/runs/get", "run_id", run.id), http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "")
}
