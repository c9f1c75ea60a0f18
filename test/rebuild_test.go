package test

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestTablesAndLedgerComeBackFromTheLog(t *testing.T) {
	dir := t.TempDir()
	p := up(t, dir)
	c := p.client(t)
	work := startWorkload(t, func() *client { return c }, seed(t), 4, 2, 300)
	work.wait(t)
	t.Log(&work.counts)
	work.verify(t, c)
	before := work.answers(t, c)
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	verifyTables(t, dir)

	for _, lost := range [][]string{{"clickhouse"}, {"registry"}, {"clickhouse", "registry"}} {
		t.Run("without "+strings.Join(lost, " and "), func(t *testing.T) {
			for _, name := range lost {
				part := filepath.Join(dir, name)
				if size(t, part) == 0 {
					t.Fatalf("%s holds nothing", part)
				}
				if err := os.RemoveAll(part); err != nil {
					t.Fatal(err)
				}
			}
			begin := time.Now()
			p := up(t, dir)
			t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
			c := p.client(t)
			after := work.answers(t, c)
			for path, answer := range before {
				if after[path] != answer {
					t.Errorf("%s\nwas %.500s\n is %.500s", path, answer, after[path])
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d answers, before %d", len(after), len(before))
			}
			work.verify(t, c)
			p.awaitProjected(t)
			p.stop(t, syscall.SIGTERM)
			verifyTables(t, dir)
		})
	}
}

// answers reads everything that there is to read, and returns each answer as
// JSON by the path of its request.
func (w *workload) answers(t *testing.T, c *client) map[string]string {
	t.Helper()
	answers := map[string]string{}
	keep := func(what string, answer any, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		encoded, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		answers[what] = string(encoded)
	}
	get := func(path string) {
		t.Helper()
		answer, _, err := do[any](t.Context(), c, "GET", path, nil)
		keep(path, answer, err)
	}
	experiments, err := c.searchExperiments(t.Context())
	keep("experiments", experiments, err)
	for _, e := range experiments {
		get(api + "experiments/get?experiment_id=" + e.ID)
		runs, _, err := c.searchRuns(t.Context(), e.ID)
		keep("runs of "+e.ID, runs, err)
		for _, r := range runs {
			get(api + "runs/get?run_id=" + r.Info.RunID)
			for _, m := range r.Data.Metrics {
				get(api + "metrics/get-history?" + url.Values{"run_id": {r.Info.RunID}, "metric_key": {m.Key}}.Encode())
			}
		}
	}
	get(api + "registered-models/search?max_results=100")
	get(api + "model-versions/search?max_results=10000")
	get("/api/v1/registry/tree")
	for _, m := range w.modelers {
		get("/api/v1/models/" + url.PathEscape(m.model) + "/history?max_results=1000")
		get(api + "registered-models/get?" + url.Values{"name": {m.model}}.Encode())
	}
	return answers
}
