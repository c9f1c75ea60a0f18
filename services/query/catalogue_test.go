package query_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"testing"
)

type wireCatalogue struct {
	Metrics []struct {
		Key       string
		Runs      int
		Min, Max  *float64
		NotFinite int   `json:"not_finite"`
		LastStep  int64 `json:"last_step"`
	}
	Parameters, Tags []struct {
		Key                     string
		Runs, Distinct, Numbers int
		Examples                []string
		Min, Max                *float64
	}
	NextPageToken string `json:"next_page_token"`
}

func TestCatalogueSaysWhatAnExperimentHas(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(testExperiment{id: 1}, testExperiment{id: 2})
	var runs []testRun
	for i := range 150 {
		runs = append(runs, testRun{
			experiment: 1, params: map[string]string{"lr": fmt.Sprint(i), "model": []string{"mlp", "cnn", "3"}[i%3]}, tags: map[string]string{"team": "a"},
			metrics: []point{{key: "loss", value: float64(i) - 10, step: int64(i)}, {key: "odd", value: math.NaN()}},
		})
	}
	runs[7].metrics[0].value = math.Inf(1)
	runs = append(
		runs,
		testRun{experiment: 1, deleted: true, params: map[string]string{"gone": "1"}, metrics: []point{{key: "loss", value: 1e9}}},
		testRun{experiment: 2, metrics: []point{{key: "other"}}},
	)
	runs = f.insert(runs...)
	// A run that was written again counts once, with its newest value.
	runs[0].metrics = []point{{key: "loss", value: -99, step: 500}}
	f.insertRows(runs[:1])

	ask := func(args ...string) wireCatalogue {
		return decode[wireCatalogue](t, f.do(f.request("/api/v1/experiments/1/catalogue", args...)))
	}
	got := ask()
	if len(got.Metrics) != 2 || got.NextPageToken != "" {
		t.Fatalf("%+v", got)
	}
	if m := got.Metrics[0]; m.Key != "loss" || m.Runs != 150 || *m.Min != -99 || *m.Max != 139 || m.NotFinite != 1 || m.LastStep != 500 {
		t.Errorf("%+v", m)
	}
	if m := got.Metrics[1]; m.Key != "odd" || m.Runs != 150 || m.NotFinite != 150 || m.Min != nil || m.Max != nil {
		t.Errorf("%+v", m)
	}
	got = ask("kind", "parameters")
	if len(got.Parameters) != 2 {
		t.Fatalf("%+v", got)
	}
	if p := got.Parameters[0]; p.Key != "lr" || p.Runs != 150 || p.Distinct != 101 || p.Numbers != 150 || *p.Min != 0 || *p.Max != 149 || len(p.Examples) != 5 {
		t.Errorf("%+v", p)
	}
	if p := got.Parameters[1]; p.Key != "model" || p.Distinct != 3 || p.Numbers != 50 || *p.Min != 3 || !slices.Equal(p.Examples, []string{"3", "cnn", "mlp"}) {
		t.Errorf("%+v", p)
	}
	if got := ask("kind", "tags"); len(got.Tags) != 1 || got.Tags[0].Key != "team" || got.Tags[0].Min != nil {
		t.Errorf("%+v", got)
	}
	if got := ask("kind", "parameters", "prefix", "mo"); len(got.Parameters) != 1 || got.Parameters[0].Key != "model" {
		t.Errorf("%+v", got)
	}
	if got := ask("prefix", "none"); got.Metrics == nil || len(got.Metrics) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestCataloguePages(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(testExperiment{id: 1})
	run := testRun{experiment: 1}
	var want []string
	for i := range 25 {
		key := fmt.Sprintf("k%02d", i)
		want = append(want, key)
		run.metrics = append(run.metrics, point{key: key})
	}
	f.insert(run)
	var got []string
	args := []string{"max_results", "10", "prefix", "k"}
	for {
		page := decode[wireCatalogue](t, f.do(f.request("/api/v1/experiments/1/catalogue", args...)))
		for _, m := range page.Metrics {
			got = append(got, m.Key)
		}
		if page.NextPageToken == "" {
			break
		}
		args = append(args[:4:4], "page_token", page.NextPageToken)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	args[3] = "other"
	wantError(t, f.do(f.request("/api/v1/experiments/1/catalogue", args...)), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid page token")
	wantError(t, f.do(f.request("/api/v1/experiments/9/catalogue")), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=9 exists")
	wantError(t, f.do(f.request("/api/v1/experiments/x/catalogue")), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=x exists")
	wantError(t, f.do(f.request("/api/v1/experiments/1/catalogue", "kind", "runs")), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid value 'runs' for parameter 'kind'")
	wantError(t, f.do(f.request("/api/v1/experiments/1/catalogue", "max_results", "1001")), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid value '1001' for parameter 'max_results'")
}
