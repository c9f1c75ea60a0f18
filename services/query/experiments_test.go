package query_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func TestGetExperiment(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(
		testExperiment{id: 0, name: "Default", created: 1, lastUpdate: 2},
		testExperiment{id: 12, name: "é' OR 1=1 --", deleted: true, created: 3, lastUpdate: 4, tags: map[string]string{"b": "2", "a": "1"}},
	)
	want := `{"experiment":{"experiment_id":"12","name":"é' OR 1=1 --","artifact_location":"mlflow-artifacts:/12","lifecycle_stage":"deleted",` +
		`"last_update_time":4,"creation_time":3,"tags":[{"key":"a","value":"1"},{"key":"b","value":"2"}]}}`
	for name, w := range map[string]*httptest.ResponseRecorder{
		"id":             f.get("/experiments/get", "experiment_id", "12"),
		"id with zeroes": f.get("/experiments/get", "experiment_id", "012"),
		"name":           f.get("/experiments/get-by-name", "experiment_name", "é' OR 1=1 --"),
	} {
		if w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("by %s: %d %s", name, w.Code, w.Body)
		}
		if !strings.HasPrefix(w.Header().Get("Runledger-Watermark"), "EXPERIMENTS=") {
			t.Errorf("by %s: headers %v", name, w.Header())
		}
	}
	if w := f.get("/experiments/get", "experiment_id", "0"); w.Code != http.StatusOK {
		t.Errorf("default experiment: %d %s", w.Code, w.Body)
	}
	wantError(t, f.get("/experiments/get", "experiment_id", "99999"), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "No Experiment with id=99999 exists")
	wantError(t, f.get("/experiments/get", "experiment_id", "abc"), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid experiment ID 'abc'. Experiment ID must be a valid integer.")
	wantError(t, f.get("/experiments/get"), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'experiment_id'.")
	wantError(t, f.get("/experiments/get-by-name", "experiment_name", "nope"), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Could not find experiment with name 'nope'")
	wantError(t, f.get("/experiments/get-by-name"), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Missing value for required parameter 'experiment_name'.")
}

func TestSearchExperiments(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insertExperiments(
		testExperiment{id: 1, name: "Alpha", created: 10, lastUpdate: 40, tags: map[string]string{"team": "red"}},
		testExperiment{id: 2, name: "beta", created: 30, lastUpdate: 20, tags: map[string]string{"team": "blue", "x": ""}},
		testExperiment{id: 3, name: "gamma", created: 10, lastUpdate: 30, deleted: true, tags: map[string]string{"team": "red"}},
		testExperiment{id: 4, name: `de\l%ta`, created: 20, lastUpdate: 20},
	)
	for _, c := range []struct {
		name, filter, view, want string
		order                    []string
	}{
		{name: "newest first", want: "241"},
		{name: "deleted", view: "DELETED_ONLY", want: "3"},
		{name: "all, ties by id", view: "ALL", want: "2413"},
		{name: "name", filter: "name = 'beta'", want: "2"},
		{name: "not name", filter: "attribute.name != 'beta'", want: "41"},
		{name: "LIKE", filter: "name LIKE 'a%'", want: ""},
		{name: "ILIKE", filter: "name ILIKE 'a%'", want: "1"},
		{name: "backslash", filter: `name LIKE 'de\l%'`, want: "4"},
		{name: "tag", filter: "tags.team = 'red'", view: "ALL", want: "13"},
		{name: "missing tag never matches", filter: "tags.team != 'red'", want: "2"},
		{name: "empty tag", filter: "tags.x = ''", want: "2"},
		{name: "no tag", filter: "tags.team IS NULL", want: "4"},
		{name: "some tag", filter: "tags.x IS NOT NULL AND tags.team LIKE 'b%'", want: "2"},
		{name: "time", filter: "creation_time >= 20 AND last_update_time < 21", want: "24"},
		{name: "id", filter: "experiment_id = '04'", want: "4"},
		{name: "not id", filter: "experiment_id != '-4'", want: "241"},
		{name: "ids", filter: "experiment_id IN ('1', '002', '99')", want: "21"},
		{name: "by name", order: []string{"name"}, want: "124"},
		{name: "by update, then id down", order: []string{"last_update_time"}, want: "421"},
		{name: "by id", order: []string{"experiment_id ASC"}, want: "124"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.view == "" {
				c.view = "ACTIVE_ONLY" // also what is asked for by saying nothing
			}
			for _, size := range []int{1, 2, 50} {
				for _, method := range []string{http.MethodGet, http.MethodPost} {
					got, token := "", ""
					for {
						var w *httptest.ResponseRecorder
						if method == http.MethodPost {
							w = f.post("/experiments/search", map[string]any{
								"filter": c.filter, "view_type": c.view, "order_by": c.order, "max_results": size, "page_token": token,
							})
						} else {
							args := []string{"filter", c.filter, "max_results", strconv.Itoa(size), "page_token", token}
							for _, o := range c.order {
								args = append(args, "order_by", o)
							}
							if c.view != "ACTIVE_ONLY" {
								args = append(args, "view_type", c.view)
							}
							w = f.get("/experiments/search", args...)
						}
						page := decode[wireExperiments](t, w)
						for _, x := range page.Experiments {
							got += x.ExperimentID
						}
						if token = page.NextPageToken; token == "" {
							break
						}
					}
					if got != c.want {
						t.Errorf("%s, pages of %d: got %q, want %q", method, size, got, c.want)
					}
				}
			}
		})
	}
	for _, c := range []struct {
		body    map[string]any
		message string
	}{
		{map[string]any{}, "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer"},
		{map[string]any{"max_results": 50001}, "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000"},
		{map[string]any{"max_results": 5, "page_token": "abc"}, "Invalid page token, could not base64-decode"},
		{map[string]any{"max_results": 5, "filter": "foo.x = 1"}, "Invalid entity type 'foo'"},
		{map[string]any{"max_results": 5, "order_by": []string{"name FOO"}}, "Invalid ordering key in order_by clause 'name FOO'."},
	} {
		wantError(t, f.post("/experiments/search", c.body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.message)
	}
	for _, evil := range []string{"' OR 1=1 --", "x', 1) OR 1 = 1 --", "{p0:String}", "\x00", `\`} {
		for _, filter := range []string{`name = "` + evil + `"`, "tags.`" + evil + "` = 'x'", "tags.team LIKE \"" + evil + `"`, evil} {
			w := f.post("/experiments/search", map[string]any{"max_results": 5, "filter": filter})
			if w.Code == http.StatusBadRequest {
				continue
			}
			if page := decode[wireExperiments](t, w); len(page.Experiments) != 0 {
				t.Errorf("%s finds %v", filter, page.Experiments)
			}
		}
	}
	first := decode[wireExperiments](t, f.post("/experiments/search", map[string]any{"max_results": 1}))
	wantError(t, f.post("/experiments/search", map[string]any{"max_results": 1, "page_token": first.NextPageToken, "view_type": "ALL"}),
		http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid page token, parsed value=")
}
