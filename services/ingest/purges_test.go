package ingest_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/ingest"
)

// purge sends a request about what is to go for good.
func purge(t testing.TB, method, url, path string) reply {
	t.Helper()
	return exchange(t, method, url+"/api/v1/gc"+path, nil)
}

// typesOf returns the types of the events about a run, in order.
func typesOf(t testing.TB, log *eventlog.Log, run string) (types []string) {
	t.Helper()
	stream, subject := log.RunSubject(events.Any, run, events.KindMeta)
	for rec, err := range log.Read(t.Context(), stream, subject, 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, events.Type(rec.Event))
	}
	return types
}

func TestPurgesAreDecidedOnTheLog(t *testing.T) {
	log := openLog(t)
	var down atomic.Bool
	store := func(_ context.Context, _, _ string, dry bool, _ ingest.RecordArtifacts) (int64, int64, bool, error) {
		if down.Load() && !dry {
			return 1, 1, false, errors.New("the store is down")
		}
		return 3, 30, false, nil
	}
	one := start(t, ingest.Config{Log: log, PurgeArtifacts: store})
	two := start(t, ingest.Config{Log: log, PurgeArtifacts: store})
	run, _ := createRun(t, one, object{})
	path := "/runs/" + run
	// The other service knows the run, and does not know what comes to pass here.
	must(t, two, "/runs/set-tag", object{"run_id": run, "key": "k", "value": "v"})

	for _, tt := range []struct {
		name, method, path string
		before             func()
		status             int
		code               string
		events             uint64
	}{
		{"active", http.MethodPost, path, nil, 400, "INVALID_PARAMETER_VALUE", 0},
		{"deleted just now", http.MethodPost, path + "?older_than_ms=60000", func() { must(t, one, "/runs/delete", object{"run_id": run}) }, 400, "INVALID_PARAMETER_VALUE", 0},
		{"bad age", http.MethodPost, path + "?older_than_ms=-1", nil, 400, "INVALID_PARAMETER_VALUE", 0},
		{"age beyond a duration", http.MethodPost, path + "?older_than_ms=9223372036854775807", nil, 400, "INVALID_PARAMETER_VALUE", 0},
		{"unknown", http.MethodPost, "/runs/" + run[1:] + "0", nil, 404, "RESOURCE_DOES_NOT_EXIST", 0},
		{"no id", http.MethodPost, "/runs/x", nil, 404, "RESOURCE_DOES_NOT_EXIST", 0},
		{"measured", http.MethodGet, path, nil, 200, "", 0},
		{"restored", http.MethodPost, path, func() { must(t, two, "/runs/restore", object{"run_id": run}) }, 400, "INVALID_PARAMETER_VALUE", 0},
		{"store is down", http.MethodPost, path, func() { must(t, two, "/runs/delete", object{"run_id": run}); down.Store(true) }, 500, "INTERNAL_ERROR", 1},
		{"completed", http.MethodPost, path, func() { down.Store(false) }, 200, "", 1},
		{"repeated", http.MethodPost, path, nil, 200, "", 0},
	} {
		if tt.before != nil {
			tt.before()
		}
		var r reply
		added := written(t, log, func() { r = purge(t, tt.method, one, tt.path) })
		if r.status != tt.status || r.code() != tt.code || added != tt.events {
			t.Errorf("%s: %d %v and %d events; want %d %s and %d", tt.name, r.status, r.body, added, tt.status, tt.code, tt.events)
		}
	}
	want := []string{"runledger.run_created", "runledger.run_tags_set", "runledger.run_deleted", "runledger.run_restored", "runledger.run_deleted", "runledger.run_purged", "runledger.artifacts_purged"}
	if got := typesOf(t, log, run); len(got) != len(want) || got[5] != want[5] || got[6] != want[6] {
		t.Errorf("the log has %v, want %v", got, want)
	}
	// Neither the service that purged it nor the one with an old state, nor a new
	// one, takes anything for it.
	three := serve(t, log, 0)
	for _, url := range []string{one, two, three} {
		for path, body := range map[string]object{
			"/runs/log-metric": {"run_id": run, "key": "m", "value": 1, "timestamp": 1},
			"/runs/log-batch":  {"run_id": run, "params": []object{{"key": "p", "value": "1"}}},
			"/runs/set-tag":    {"run_id": run, "key": "k", "value": "w"},
			"/runs/restore":    {"run_id": run},
			"/runs/delete":     {"run_id": run},
			"/runs/update":     {"run_id": run, "run_name": "n"},
		} {
			added := written(t, log, func() {
				if r := call(t, url, path, body); r.status != 404 || r.code() != "RESOURCE_DOES_NOT_EXIST" {
					t.Errorf("%s: %d %v, want RESOURCE_DOES_NOT_EXIST", path, r.status, r.body)
				}
			})
			if added > 0 {
				t.Errorf("%s wrote %d events", path, added)
			}
		}
	}
}

func TestAPurgedExperimentFreesItsNameAndNotItsID(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	id := createExperiment(t, url, "e")
	run, _ := createRun(t, url, object{"experiment_id": id})
	model := createModel(t, url, object{"experiment_id": id, "name": "m"})
	if r := purge(t, http.MethodPost, url, "/experiments/"+id); r.status != 400 {
		t.Errorf("an active experiment: %d %v", r.status, r.body)
	}
	must(t, url, "/experiments/delete", object{"experiment_id": id})
	must(t, url, "/runs/restore", object{"run_id": run}) // by itself
	for _, path := range []string{"/runs/" + run, "/logged-models/" + model} {
		if r := purge(t, http.MethodPost, url, path); r.status != 400 {
			t.Errorf("%s of a deleted experiment, not deleted itself: %d %v", path, r.status, r.body)
		}
		if r := purge(t, http.MethodGet, url, path); r.status != 200 {
			t.Errorf("%s is to go with its experiment: %d %v", path, r.status, r.body)
		}
	}
	for range 2 {
		if r := purge(t, http.MethodPost, url, "/experiments/"+id); r.status != 200 {
			t.Errorf("purge: %d %v", r.status, r.body)
		}
	}
	for _, path := range []string{"/runs/" + run, "/logged-models/" + model} {
		if r := purge(t, http.MethodPost, url, path); r.status != 200 {
			t.Errorf("%s of a purged experiment: %d %v", path, r.status, r.body)
		}
	}
	for path, body := range map[string]object{
		"/experiments/restore":            {"experiment_id": id},
		"/experiments/delete":             {"experiment_id": id},
		"/experiments/update":             {"experiment_id": id, "new_name": "f"},
		"/experiments/set-experiment-tag": {"experiment_id": id, "key": "k", "value": "v"},
		"/runs/create":                    {"experiment_id": id},
		"/logged-models":                  {"experiment_id": id, "name": "m"},
	} {
		if r := call(t, url, path, body); r.status != 404 || r.code() != "RESOURCE_DOES_NOT_EXIST" {
			t.Errorf("%s: %d %v, want RESOURCE_DOES_NOT_EXIST", path, r.status, r.body)
		}
	}
	if again := createExperiment(t, url, "e"); again == id {
		t.Errorf("id %s is used again", id)
	}

	// The default experiment too, as in MLflow; a new process does not make it again.
	must(t, url, "/experiments/delete", object{"experiment_id": "0"})
	if r := purge(t, http.MethodPost, url, "/experiments/0"); r.status != 200 {
		t.Fatalf("purge the default experiment: %d %v", r.status, r.body)
	}
	url = serve(t, log, 0)
	if r := call(t, url, "/runs/create", object{"experiment_id": "0"}); r.code() != "RESOURCE_DOES_NOT_EXIST" {
		t.Errorf("a run in the purged default experiment: %v", r.body)
	}
	if id := createExperiment(t, url, "Default"); id == "0" {
		t.Error("id 0 is used again")
	}
}
