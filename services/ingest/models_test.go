package ingest_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// ask sends a request of any method; a nil body is none.
func ask(t testing.TB, method, url, path string, body object) reply {
	t.Helper()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	return exchange(t, method, url+"/api/2.0/mlflow"+path, data, "Content-Type", "application/json")
}

func createModel(t testing.TB, url string, body object) (id string) {
	t.Helper()
	r := ask(t, http.MethodPost, url, "/logged-models", body)
	if r.status != http.StatusOK {
		t.Fatalf("create a logged model: %d %v", r.status, r.body)
	}
	info := r.body["model"].(map[string]any)["info"].(map[string]any)
	return info["model_id"].(string)
}

// written returns how many events fn adds to the log.
func written(t testing.TB, log *eventlog.Log, fn func()) uint64 {
	t.Helper()
	before := length(t, log)
	fn()
	return length(t, log) - before
}

func TestLifeOfALoggedModel(t *testing.T) {
	log := openLog(t)
	// What one service writes the other one knows.
	one, two := serve(t, log, 0), serve(t, log, 0)
	id := createModel(t, one, object{"experiment_id": "0", "name": "m", "params": []object{{"key": "p", "value": "1"}}})
	path := "/logged-models/" + id
	for _, tt := range []struct {
		name, method, path string
		body               object
		status             int
		events             uint64
	}{
		{"same parameter", http.MethodPost, path + "/params", object{"params": []object{{"key": "p", "value": "1"}}}, 200, 0},
		{"other parameter", http.MethodPost, path + "/params", object{"params": []object{{"key": "q", "value": "1"}, {"key": "p", "value": "2"}}}, 400, 0},
		{"new parameter", http.MethodPost, path + "/params", object{"params": []object{{"key": "q", "value": "1"}}}, 200, 1},
		{"tags", http.MethodPatch, path + "/tags", object{"tags": []object{{"key": "t/1 x", "value": "1"}}}, 200, 1},
		{"no tags", http.MethodPatch, path + "/tags", object{}, 200, 0},
		{"missing tag", http.MethodDelete, path + "/tags/u", nil, 404, 0},
		{"delete a tag", http.MethodDelete, path + "/tags/t%2F1%20x", nil, 200, 1},
		{"no status", http.MethodPatch, path, object{}, 400, 0},
		{"ready", http.MethodPatch, path, object{"status": "LOGGED_MODEL_READY"}, 200, 1},
		{"ready again", http.MethodPatch, path, object{"status": "LOGGED_MODEL_READY"}, 200, 0},
		{"delete", http.MethodDelete, path, nil, 200, 1},
		{"delete again", http.MethodDelete, path, nil, 200, 0},
		{"no such model", http.MethodPatch, "/logged-models/m-x", object{"status": "LOGGED_MODEL_READY"}, 404, 0},
		{"wildcard", http.MethodDelete, "/logged-models/*", nil, 404, 0},
	} {
		one, two = two, one
		if n := written(t, log, func() {
			if r := ask(t, tt.method, one, tt.path, tt.body); r.status != tt.status {
				t.Errorf("%s: %d %v, want %d", tt.name, r.status, r.body, tt.status)
			}
		}); n != tt.events {
			t.Errorf("%s: %d events, want %d", tt.name, n, tt.events)
		}
	}
	if m, err := log.LoggedModel(t.Context(), id); m != nil || err != nil {
		t.Errorf("the deleted model is found: %v, %v", m, err)
	}
}

func TestLinksAreSets(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	run, _ := createRun(t, url, object{"experiment_id": "0"})
	model := createModel(t, url, object{"experiment_id": "0", "source_run_id": run})
	data := func(name, source string) object {
		return object{"dataset": object{"name": name, "digest": "1", "source_type": "s", "source": source}}
	}
	for _, tt := range []struct {
		name, path string
		body       object
		events     uint64
	}{
		{"inputs", "/runs/log-inputs", object{"datasets": []object{data("a", "1"), data("a", "2"), data("b", "1")}, "models": []object{{"model_id": model}, {"model_id": model}}}, 1},
		{"inputs again", "/runs/log-inputs", object{"datasets": []object{data("b", "3")}, "models": []object{{"model_id": model}}}, 0},
		{"nothing", "/runs/log-inputs", object{}, 0},
		{"outputs", "/runs/outputs", object{"models": []object{{"model_id": model, "step": 1}, {"model_id": model, "step": 1}}}, 1},
		{"outputs again", "/runs/outputs", object{"models": []object{{"model_id": model, "step": 1}}}, 0},
		{"another step", "/runs/outputs", object{"models": []object{{"model_id": model, "step": 2}}}, 1},
		{"metric of the model", "/runs/log-metric", object{"key": "a", "value": 1, "timestamp": 1, "model_id": model}, 1},
	} {
		tt.body["run_id"] = run
		if n := written(t, log, func() { must(t, url, tt.path, tt.body) }); n != tt.events {
			t.Errorf("%s: %d events, want %d", tt.name, n, tt.events)
		}
	}
	stream, _ := log.RunSubject("0", run, events.KindMeta)
	for _, rec := range all(t, log, stream) {
		if in := rec.GetRunInputsLogged(); in != nil {
			if len(in.GetDatasets()) != 2 || in.GetDatasets()[0].GetSource() != "1" || len(in.GetModelIds()) != 1 {
				t.Errorf("logged %v", in)
			}
		}
	}
	if r := call(t, url, "/runs/log-metric", object{"run_id": run, "key": "a", "value": 1, "timestamp": 1, "model_id": "m-none"}); r.status != http.StatusNotFound {
		t.Errorf("a metric of no model: %d %v", r.status, r.body)
	}
}
