package query_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestGetRun(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{
		experiment: 7, name: "first", user: "ada", status: "FINISHED", start: 1000, end: 2000, artifactURI: "mlflow-artifacts:/7/r/artifacts",
		params:  map[string]string{"lr": "0.1", "depth": "3"},
		tags:    map[string]string{"mlflow.runName": "first", "a": ""},
		metrics: []point{{"loss", -inf, 5, -2}, {"acc", 0.5, 4, 1}},
	})[0]
	want := `{"run":{"info":{"run_uuid":"` + run.id + `","experiment_id":"7","run_name":"first","user_id":"ada","status":"FINISHED",` +
		`"start_time":1000,"end_time":2000,"artifact_uri":"mlflow-artifacts:/7/r/artifacts","lifecycle_stage":"active","run_id":"` + run.id + `"},` +
		`"data":{"metrics":[{"key":"acc","value":0.5,"timestamp":4,"step":1},{"key":"loss","value":"-Infinity","timestamp":5,"step":-2}],` +
		`"params":[{"key":"depth","value":"3"},{"key":"lr","value":"0.1"}],"tags":[{"key":"a","value":""},{"key":"mlflow.runName","value":"first"}]},"inputs":{},"outputs":{}}}`
	for _, from := range []string{"log", "tables"} {
		w := f.get("/runs/get", "run_id", run.id)
		if w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("from the %s: got %d %s\nwant %s", from, w.Code, w.Body, want)
		}
		if w.Header().Get("Runledger-Watermark") == "" || w.Header().Get("Runledger-Stale") != "" {
			t.Errorf("from the %s: headers %v", from, w.Header())
		}
		f.service.ReadRunsFromTables()
	}
	if again := f.get("/runs/get", "run_uuid", run.id); again.Body.String() != want {
		t.Errorf("by run_uuid: %s", again.Body)
	}
	for _, id := range []string{newRunID(), "nope", "a/b", run.id + "0", "' OR 1=1 --", "*", "a.b", ">"} {
		wantError(t, f.get("/runs/get", "run_id", id), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Run with id="+id+" not found")
	}
	wantError(t, f.get("/runs/get"), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'run_id'.")
}

func TestSearchRunsRules(t *testing.T) {
	f := newFixture(t)
	f.project()
	nan := inf - inf
	id := func(n string) string { return "0000000000004000800000000000000" + n }
	f.insert(
		testRun{
			id: id("1"), experiment: 1, name: "alpha", user: "ada", status: "FINISHED", start: 100, end: 150,
			params: map[string]string{"lr": "0.1", "opt": "Adam", "path": `a\b%c_d`}, tags: map[string]string{"team": "red", "ünï": "ÄÖ"},
			metrics: []point{{"loss", 0.5, 1, 1}, {"acc", 0.1, 1, 1}},
		},
		testRun{
			id: id("2"), experiment: 1, name: "beta", user: "bob", status: "RUNNING", start: 300,
			params: map[string]string{"lr": "0.01", "opt": "SGD", "path": `a/b`}, tags: map[string]string{"team": "blue"},
			metrics: []point{{"loss", nan, 1, 1}, {"acc", 0.30000000000000004, 1, 1}},
		},
		testRun{
			id: id("3"), experiment: 1, name: "Gamma", user: "ada", status: "KILLED", start: 200, end: 250,
			params: map[string]string{"opt": "adam\nx", "path": `a\bXcYd`}, metrics: []point{{"loss", inf, 1, 1}},
		},
		testRun{id: id("4"), experiment: 1, name: "delta", status: "FAILED", start: 300, metrics: []point{{"loss", 0, 1, 1}}},
		testRun{id: id("5"), experiment: 1, name: "gone", deleted: true, start: 50, tags: map[string]string{"team": "red"}},
		testRun{id: id("6"), experiment: 2, name: "other", start: 10, params: map[string]string{"lr": "0.1"}},
	)
	search := func(filter string, order ...string) map[string]any {
		return map[string]any{"experiment_ids": []string{"1"}, "filter": filter, "order_by": order}
	}
	for _, c := range []struct {
		name string
		body map[string]any
		want string // the last digits of the ids, in order
	}{
		{"natural order", search(""), "2431"},
		{"metric below", search("metrics.loss < 0.6"), "41"},
		{"metric bits", search("metrics.acc = 0.30000000000000004"), "2"},
		{"metric bits, near", search("metrics.acc = 0.3"), ""},
		{"NaN equals no number", search("metrics.loss = 0"), "4"},
		{"NaN is unequal to all", search("metrics.loss != 0"), "231"},
		{"NaN is not above", search("metrics.loss >= -1e308"), "431"},
		{"infinity", search("metrics.loss = 1e999"), "3"},
		{"two on one metric", search("metrics.loss > 0 AND metrics.loss < 1"), "1"},
		{"two entities", search("metrics.loss > 0 AND params.lr = '0.1'"), "1"},
		{"missing never matches", search("params.lr != '0.1'"), "2"},
		{"missing metric never matches", search("metrics.acc != 7"), "21"},
		{"LIKE is case-sensitive", search("params.opt LIKE 'A%'"), "1"},
		{"ILIKE is not", search("params.opt ILIKE 'a%'"), "31"},
		{"a wildcard matches a line break", search("params.opt LIKE 'adam%x'"), "3"},
		{"a backslash is itself", search(`params.path LIKE 'a\b%'`), "31"},
		{"a backslash escapes nothing", search(`params.path LIKE 'a\b\%c%'`), ""},
		{"one character", search(`params.path LIKE 'a_b'`), "2"},
		{"unicode, folded", search("tags.`ünï` ILIKE 'äö'"), "1"},
		{"unicode, one character", search("tags.`ünï` LIKE '_Ö'"), "1"},
		{"tag", search("tags.team = 'blue'"), "2"},
		{"IS NULL", search("params.lr IS NULL"), "43"},
		{"IS NOT NULL", search("params.lr IS NOT NULL"), "21"},
		{"IS NULL of a tag, and more", search("tags.team IS NULL AND params.opt IS NOT NULL"), "3"},
		{"status", search("attributes.status = 'FINISHED'"), "1"},
		{"status, unknown", search("attributes.status != 'NOPE'"), "2431"},
		{"name", search("attributes.run_name ILIKE '%A'"), "2431"},
		{"user", search("user_id != 'ada'"), "24"},
		{"start", search("attributes.start_time >= 200"), "243"},
		{"start, fraction", search("created > 199.5 and created < 200.5"), "3"},
		{"no end meets nothing", search("end_time != 1"), "31"},
		{"id", search("run_id = '" + id("3") + "'"), "3"},
		{"ids", search("run_id IN ('" + id("3") + "', '" + id("1") + "', 'nope')"), "31"},
		{"not ids", search("run_id NOT IN ('" + id("3") + "', 'x')"), "241"},
		{"id, not an id", search("run_id != 'NOPE'"), "2431"},
		{"id, upper case", search("run_id = '0000000000004000800000000000000A'"), ""},
		{"id, pattern", search("run_id LIKE '%3'"), "3"},
		{"data set", search("datasets.name != 'x'"), ""},
		{"by metric", search("", "metrics.loss"), "4132"},
		{"by metric, down", search("", "metrics.loss DESC"), "3142"},
		{"by metric, missing last", search("", "metrics.acc DESC"), "2143"},
		{"by parameter, missing last", search("", "params.lr"), "2143"},
		{"by parameter, down, missing last", search("", "params.lr DESC"), "1243"},
		{"by status, as text", search("", "status"), "4132"},
		{"by name", search("", "attributes.run_name"), "3124"},
		{"by end, none last", search("", "end_time DESC"), "3124"},
		{"by start, then id", search("", "start_time"), "1324"},
		{"by id", search("", "run_id DESC"), "4321"},
		{"by two", search("", "user_id DESC", "params.lr DESC"), "2134"},
		{"deleted", map[string]any{"experiment_ids": []string{"1"}, "run_view_type": "DELETED_ONLY"}, "5"},
		{"all", map[string]any{"experiment_ids": []string{"1"}, "run_view_type": "ALL"}, "24315"},
		{"two experiments", map[string]any{"experiment_ids": []string{"2", "1", "2"}, "filter": "params.lr = '0.1'"}, "16"},
		{"more experiments than are asked for one by one", map[string]any{"experiment_ids": []string{"2", "3", "4", "5", "6", "7", "8", "9", "10"}}, "6"},
		{"no experiment", map[string]any{}, ""},
		{"unknown experiment", map[string]any{"experiment_ids": []string{"99", "01"}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, size := range []int{1, 2, 1000} {
				c.body["max_results"] = size
				delete(c.body, "page_token")
				got := ""
				for _, id := range f.searchAll(c.body) {
					got += id[len(id)-1:]
				}
				if got != c.want {
					t.Errorf("pages of %d: got %q, want %q", size, got, c.want)
				}
			}
		})
	}
	if w := f.post("/runs/search", map[string]any{}); strings.TrimSpace(w.Body.String()) != "{}" {
		t.Errorf("empty search: %s", w.Body)
	}
}

func TestSearchRunsRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insert(testRun{experiment: 1}, testRun{experiment: 1})
	first := decode[wireRuns](t, f.post("/runs/search", map[string]any{"experiment_ids": []string{"1"}, "max_results": 1}))
	for _, c := range []struct {
		name    string
		body    map[string]any
		message string
	}{
		{"no page", map[string]any{"max_results": 0}, "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"},
		{"page too long", map[string]any{"max_results": 50001}, "Invalid value 50001 for parameter 'max_results' supplied"},
		{"filter", map[string]any{"filter": "metrics.x >"}, "Invalid clause(s) in filter string"},
		{"order", map[string]any{"order_by": []string{"metrics.x FOO"}}, "Invalid ordering key in order_by clause 'metrics.x FOO'."},
		{"order twice", map[string]any{"order_by": []string{"metrics.x", "metrics.x DESC"}}, "`order_by` contains duplicate fields"},
		{"token, no base 64", map[string]any{"page_token": "abc"}, "Invalid page token, could not base64-decode"},
		{"token, no JSON", map[string]any{"page_token": "!!!!"}, "Invalid page token"},
		{"token of MLflow", map[string]any{"page_token": "eyJvZmZzZXQiOiAxfQ=="}, "Invalid page token, parsed value="},
		{"token of another search", map[string]any{"page_token": first.NextPageToken, "filter": "metrics.x > 1"}, "Invalid page token, parsed value="},
		{"token of other experiments", map[string]any{"page_token": first.NextPageToken, "experiment_ids": []string{"1", "2"}}, "Invalid page token, parsed value="},
		{"token of another view", map[string]any{"page_token": first.NextPageToken, "run_view_type": "ALL"}, "Invalid page token, parsed value="},
		{"token of another order", map[string]any{"page_token": first.NextPageToken, "order_by": []string{"metrics.x"}}, "Invalid page token, parsed value="},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, ok := c.body["experiment_ids"]; !ok {
				c.body["experiment_ids"] = []string{"1"}
			}
			wantError(t, f.post("/runs/search", c.body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.message)
		})
	}
}

// A run of a deleted experiment is deleted, and active again with it.
func TestRunsOfADeletedExperiment(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 4}, testRun{experiment: 4, deleted: true}, testRun{experiment: 5})[0]
	check := func(stage string, counts map[string]int) {
		t.Helper()
		got := decode[struct{ Run wireRun }](t, f.get("/runs/get", "run_id", run.id))
		if got.Run.Info["lifecycle_stage"] != stage {
			t.Errorf("the run is %v, want %s", got.Run.Info["lifecycle_stage"], stage)
		}
		for view, want := range counts {
			if n := len(f.searchAll(map[string]any{"experiment_ids": []string{"4", "5"}, "run_view_type": view})); n != want {
				t.Errorf("%s shows %d runs, want %d", view, n, want)
			}
		}
	}
	f.insertExperiments(testExperiment{id: 4, deleted: true}, testExperiment{id: 5})
	check("deleted", map[string]int{"ACTIVE_ONLY": 1, "DELETED_ONLY": 2, "ALL": 3})
	f.insertExperiments(testExperiment{id: 4})
	check("active", map[string]int{"ACTIVE_ONLY": 2, "DELETED_ONLY": 1, "ALL": 3})
}

// Only the newest row of a run, parameter, tag or metric counts, and a deleted
// tag does not.
func TestSearchRunsReadsTheCurrentRows(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{
		experiment: 1, status: "RUNNING", tags: map[string]string{"t": "old", "gone": "x"}, metrics: []point{{"loss", 1, 1, 1}},
	})[0]
	run.status, run.tags, run.metrics = "FINISHED", map[string]string{"t": "new"}, []point{{"loss", 2, 2, 2}}
	f.insertRows([]testRun{run})
	if err := f.conn.Exec(t.Context(), "INSERT INTO run_attributes SELECT experiment_id, kind, key, run_id, '', 1, shard, seq + 1000 FROM run_attributes WHERE key = 'gone'"); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]int{
		"status = 'RUNNING'": 0, "status = 'FINISHED'": 1, "tags.t = 'old'": 0, "tags.t != 'old'": 1, "tags.gone = 'x'": 0,
		"tags.gone IS NULL": 1, "metrics.loss = 1": 0, "metrics.loss != 1": 1,
	} {
		page := decode[wireRuns](t, f.post("/runs/search", map[string]any{"experiment_ids": []string{"1"}, "filter": filter}))
		if len(page.Runs) != want {
			t.Errorf("%s finds %d runs, want %d", filter, len(page.Runs), want)
		}
		for _, r := range page.Runs {
			if r.Data.Metrics[0].Value != 2 || len(r.Data.Tags) != 1 || r.Data.Tags[0].Value != "new" {
				t.Errorf("%s shows %+v", filter, r.Data)
			}
		}
	}
}

// What a run shows is read from the copies in the order of runs, where the tables
// are large enough for it to matter, also after the rows of another one were
// deleted, and together with what was written since the copies were.
func TestRunsAreReadFromTheCopies(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.service.ReadRunsFromTables()
	run := f.insert(testRun{
		experiment: 1, params: map[string]string{"p": "1"}, tags: map[string]string{"t": "old", "gone": "x"},
		metrics: []point{{"loss", 1, 1, 1}, {"acc", 1, 1, 1}},
	})[0]
	manyRuns(f, 1, 10_000, benchKeys)
	run.tags, run.metrics = map[string]string{"t": "new", "more": "y"}, []point{{"loss", 2, 2, 2}, {"auc", 3, 3, 3}}
	f.insertRows([]testRun{run})
	exec := func(q string) {
		t.Helper()
		if err := f.conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	exec("INSERT INTO run_attributes SELECT experiment_id, kind, key, run_id, '', 1, shard, seq + 1000000 FROM run_attributes WHERE key = 'gone'")
	for _, table := range []string{"latest_metrics", "run_attributes"} {
		exec("ALTER TABLE " + table + " DELETE WHERE run_id = (SELECT max(run_id) FROM runs) SETTINGS mutations_sync = 1")
	}
	var page []uuid.UUID
	if err := f.conn.QueryRow(t.Context(), "SELECT groupArray(3)(run_id) FROM runs").Scan(&page); err != nil {
		t.Fatal(err)
	}
	for _, merged := range []bool{false, true} {
		if merged {
			exec("OPTIMIZE TABLE latest_metrics FINAL")
			exec("OPTIMIZE TABLE run_attributes FINAL")
		}
		plans, err := f.service.FetchPlans(t.Context(), 1, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, plan := range plans {
			if !strings.Contains(plan, "ReadFromMergeTree (by_run)") {
				t.Errorf("merged: %v: the copy is not read:\n%s", merged, plan)
			}
		}
		got := f.get("/runs/get", "run_id", run.id).Body.String()
		want := `"data":{"metrics":[{"key":"acc","value":1.0,"timestamp":1,"step":1},{"key":"auc","value":3.0,"timestamp":3,"step":3},` +
			`{"key":"loss","value":2.0,"timestamp":2,"step":2}],"params":[{"key":"p","value":"1"}],"tags":[{"key":"more","value":"y"},{"key":"t","value":"new"}]}`
		if !strings.Contains(got, want) {
			t.Errorf("merged: %v: got %s\nwant %s", merged, got, want)
		}
	}
}

// Text that tries to be SQL is data wherever it stands.
func TestSearchRunsInjection(t *testing.T) {
	t.Attr("covers", "search-injection")
	f := newFixture(t)
	f.project()
	f.insert(testRun{experiment: 1, name: "mine", params: map[string]string{"k": "v"}},
		testRun{experiment: 2, name: "foreign", params: map[string]string{"k": "v"}})
	for _, evil := range []string{
		"' OR 1=1 --", "') OR 1=1 --", "\\' OR 1=1 --", "x}' OR {p0:String} = '", "{p0:String}", "'; DROP TABLE runs; --", "1) UNION ALL SELECT * FROM runs --",
		"\x00", "\t", "\n\r", "\\N", "NULL", `\`, `\\`, "%", "?", "$1", "@p0", "/*", "`", `"`, "\u2028", "😀", "[]", "['a']",
	} {
		quoted := `"` + evil + `"`
		if evil == `"` || evil == `\` {
			quoted = "'" + evil + "'"
		}
		for _, body := range []map[string]any{
			{"filter": "params.k = " + quoted},
			{"filter": "params.k LIKE " + quoted},
			{"filter": "tags.k ILIKE " + quoted},
			{"filter": "run_id IN (" + quoted + ")"},
			{"filter": "run_id LIKE " + quoted},
			{"filter": "run_name != " + quoted},
			{"filter": "params.`" + evil + "` != 'x'"},
			{"filter": "metrics.`" + evil + "` != 1"},
			{"filter": evil},
			{"order_by": []string{"params.`" + evil + "` DESC", "metrics.`" + evil + "`"}},
			{"order_by": []string{evil}},
			{"run_view_type": evil},
			{"page_token": evil},
			{"experiment_ids": []string{evil, "1"}},
		} {
			if body["experiment_ids"] == nil {
				body["experiment_ids"] = []string{"1"}
			}
			w := f.post("/runs/search", body)
			if w.Code == http.StatusBadRequest {
				continue
			}
			for _, r := range decode[wireRuns](t, w).Runs {
				if r.Info["run_name"] != "mine" {
					t.Errorf("%q shows %v", body, r.Info)
				}
			}
		}
		for path, arg := range map[string]string{"/experiments/get-by-name": "experiment_name", "/experiments/get": "experiment_id", "/runs/get": "run_id"} {
			if w := f.get(path, arg, evil); w.Code != http.StatusNotFound && w.Code != http.StatusBadRequest {
				t.Errorf("%s %q: %d %s", path, evil, w.Code, w.Body)
			}
		}
	}
	if got := f.searchAll(map[string]any{"experiment_ids": []string{"1", "2"}}); len(got) != 2 {
		t.Errorf("%d runs are left", len(got))
	}
}

// A value with any character is found by its very self.
func TestSearchRunsBindsEveryCharacter(t *testing.T) {
	t.Attr("covers", "search-injection")
	f := newFixture(t)
	f.project()
	values := []string{"\x00", "a\tb", "a\nb", "a\rb", `\`, `\\`, `\N`, `\t`, "'", "NULL", "", " ", "😀", "{p0:String}", "\u2028", "\x7f", "\b"}
	var runs []testRun
	for _, v := range values {
		runs = append(runs, testRun{experiment: 1, name: v, params: map[string]string{"k": v}, tags: map[string]string{"k" + v: "x"}})
	}
	runs = f.insert(runs...)
	for i, v := range values {
		for _, filter := range []string{`params.k = "` + v + `"`, "tags.`k" + v + "` = 'x'"} {
			got := f.searchAll(map[string]any{"experiment_ids": []string{"1"}, "filter": filter})
			if !slices.Equal(got, []string{runs[i].id}) {
				t.Errorf("%q finds %d runs", filter, len(got))
			}
		}
	}
	// As sort keys they go through a page token.
	for _, order := range []string{"params.k", "run_name DESC"} {
		got := f.searchAll(map[string]any{"experiment_ids": []string{"1"}, "order_by": []string{order}, "max_results": 1})
		if len(got) != len(values) {
			t.Errorf("%s: %d runs, want %d", order, len(got), len(values))
		}
	}
}
