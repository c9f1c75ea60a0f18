package query_test

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/runledger/runledger/pkg/events"
)

type object = map[string]any

// testModel is a logged model as a test describes it; its id is a digit.
type testModel struct {
	id         int
	name       string
	status     string
	created    int64
	deleted    bool
	params     map[string]string
	metrics    []point
	dataset    string // of the points, with the digest "1"
	experiment uint64
}

func (m testModel) wireID() string { return fmt.Sprintf("m-%032x", m.id) }

// insertModels writes logged models into the tables, and their creation into
// the log.
func (f *fixture) insertModels(models ...testModel) {
	f.t.Helper()
	for _, m := range models {
		_, subject := f.log.LoggedModelSubject(fmt.Sprint(m.experiment), m.wireID())
		f.publish(subject, &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{ModelId: m.wireID()}}})
	}
	f.batch("INSERT INTO logged_models (experiment_id, model_id, name, status, lifecycle, creation_time, params, tags, shard, seq)", func(b driver.Batch) error {
		for _, m := range models {
			lifecycle := "active"
			if m.deleted {
				lifecycle = "deleted"
			}
			params := m.params
			if params == nil {
				params = map[string]string{}
			}
			if err := b.Append(m.experiment, m.wireID(), m.name, m.status, lifecycle, m.created, params, params, uint16(0), f.seq.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
	run := testRun{id: newRunID()}.uuid()
	for range 2 { // a point that is there twice is one
		f.batch("INSERT INTO logged_model_metrics (model_id, key, step, timestamp, value, run_id, dataset_name, dataset_digest, shard, seq, idx)", func(b driver.Batch) error {
			for _, m := range models {
				for _, p := range m.metrics {
					if err := b.Append(m.wireID(), p.key, p.step, p.timestamp, p.value, run, m.dataset, "1", uint16(0), f.seq.Add(1), uint32(0)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
}

type wireModels struct {
	Models []struct {
		Info struct {
			ModelID string `json:"model_id"`
			Name    string
			Status  string
		}
		Data struct{ Metrics []wireMetric }
	}
	NextPageToken string `json:"next_page_token"`
}

func (w wireModels) names() string {
	var names []string
	for _, m := range w.Models {
		names = append(names, m.Info.Name)
	}
	return strings.Join(names, "")
}

func TestSearchLoggedModels(t *testing.T) {
	f := newFixture(t)
	f.project()
	nan := math.NaN()
	f.insertModels(
		testModel{id: 1, name: "a", status: "READY", created: 1, experiment: 1, params: map[string]string{"p": "1"}, metrics: []point{{"m", 5, 1, 1}, {"m", 1, 2, 2}}, dataset: "train"},
		testModel{id: 2, name: "b", status: "PENDING", created: 2, experiment: 1, metrics: []point{{"m", 3, 1, 1}, {"m", 2, 1, 1}}},
		testModel{id: 3, name: "c", status: "FAILED", created: 2, experiment: 1, params: map[string]string{"p": "2"}, metrics: []point{{"m", nan, 1, 1}}},
		testModel{id: 4, name: "d", status: "READY", created: 3, experiment: 1},
		testModel{id: 5, name: "x", status: "READY", created: 9, experiment: 1, deleted: true},
		testModel{id: 6, name: "y", status: "READY", created: 9, experiment: 2},
		testModel{id: 7, name: "e", status: "READY", created: 1, experiment: 3, metrics: []point{{"m", 9, 1, 9}, {"m", 1, 2, 1}}, dataset: "late"},
		testModel{id: 8, name: "f", status: "READY", created: 2, experiment: 3, metrics: []point{{"m", 5, 1, 1}}},
	)
	order := func(field string, ascending bool) []any {
		return []any{object{"field_name": field, "ascending": ascending}}
	}
	for _, tt := range []struct {
		filter string
		more   object
		want   string
	}{
		{"", nil, "dbca"}, // the newest first, then by id
		{"status IN ('READY', 'FAILED')", nil, "dca"},
		{"params.p != '1'", nil, "c"},
		{"tags.p LIKE '1'", nil, "a"},
		// Any point counts: 5 and 1 of a, 3 and 2 of b.
		{"metrics.m < 4", nil, "ba"},
		{"metrics.m = 5", nil, "a"},
		{"metrics.m != 3", nil, "bca"},
		{"metrics.m > 4 AND metrics.m < 2", nil, "a"},
		{"metrics.m > 4", object{"datasets": []any{object{"dataset_name": "train"}}}, "a"},
		{"creation_timestamp >= 2 AND name != 'd'", nil, "bc"},
		{"", object{"datasets": []any{object{"dataset_name": "train"}}}, "a"},
		{"metrics.m > 0", object{"datasets": []any{object{"dataset_name": "train", "dataset_digest": "1"}}}, "a"},
		{"metrics.m > 0", object{"datasets": []any{object{"dataset_name": "test"}}}, ""},
		{"", object{"order_by": order("metrics.m", true)}, "abcd"},
		{"", object{"order_by": order("metrics.m", false)}, "bacd"},
		{"", object{"order_by": []any{object{"field_name": "metrics.m", "dataset_name": "train"}}}, "adbc"},
		{"", object{"order_by": []any{object{"field_name": "metrics.m", "dataset_digest": "2"}}}, "dbca"},
		{"", object{"order_by": order("status", true)}, "bdac"},
		// The latest is the one with the greatest timestamp: 1 of e, 5 of f.
		{"", object{"order_by": order("metrics.m", true), "experiment_ids": []string{"3"}}, "ef"},
		// The data sets of the filter are not those of the order.
		{"", object{"order_by": order("metrics.m", true), "experiment_ids": []string{"3"}, "datasets": []any{object{"dataset_name": "late"}}}, "e"},
	} {
		for _, size := range []int{50, 1} {
			got, token := "", ""
			for {
				request := object{"experiment_ids": []string{"1"}, "filter": tt.filter, "max_results": size, "page_token": token}
				for k, v := range tt.more {
					request[k] = v
				}
				page := decode[wireModels](t, f.post("/logged-models/search", request))
				got += page.names()
				if token = page.NextPageToken; token == "" {
					break
				}
			}
			if got != tt.want {
				t.Errorf("%q %v in pages of %d: %q, want %q", tt.filter, tt.more, size, got, tt.want)
			}
		}
	}
	for size, want := range map[int]string{0: "dbca", -1: ""} {
		page := decode[wireModels](t, f.post("/logged-models/search", object{"experiment_ids": []string{"1"}, "max_results": size}))
		if page.names() != want || page.NextPageToken != "" {
			t.Errorf("max_results %d: %q and token %q, want %q", size, page.names(), page.NextPageToken, want)
		}
	}
	wantError(t, f.post("/logged-models/search", object{"experiment_ids": []string{"1"}, "max_results": 50_001}),
		http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000")
	page := decode[wireModels](t, f.post("/logged-models/search", object{"experiment_ids": []string{"1"}, "filter": "name = 'b'"}))
	values := []wireNumber{}
	for _, m := range page.Models[0].Data.Metrics {
		values = append(values, m.Value)
	}
	if !slices.Equal(values, []wireNumber{2, 3}) || page.Models[0].Info.Status != "LOGGED_MODEL_PENDING" {
		t.Errorf("found %+v", page.Models[0])
	}
	for message, body := range map[string]object{
		"Missing value for required parameter 'experiment_ids'.":    {},
		"`dataset_name` in the `datasets` clause must be specified": {"experiment_ids": []string{"1"}, "datasets": []any{object{"dataset_digest": "1"}}},
		"Invalid order by field name":                               {"experiment_ids": []string{"1"}, "order_by": order("params.p", true)},
		"Invalid page token":                                        {"experiment_ids": []string{"1"}, "page_token": "eyJ4IjoxfQ=="},
	} {
		wantError(t, f.post("/logged-models/search", body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", message)
	}
	deleted := testModel{id: 5}.wireID()
	wantError(t, f.get("/logged-models/"+deleted), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "")
	if w := f.get("/logged-models/"+deleted, "allow_deleted", "true"); w.Code != http.StatusOK {
		t.Errorf("a deleted model: %d %s", w.Code, w.Body)
	}
	wantError(t, f.get("/logged-models/m-x"), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Logged model with ID 'm-x' not found.")
}
