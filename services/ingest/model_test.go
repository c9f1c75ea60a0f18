package ingest_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/proptest"
)

// world is what there should be: the model that the services are checked
// against, and what the events of the log add up to.
type world struct {
	experiments map[string]*modelExperiment
	runs        map[string]*modelRun
}

type modelExperiment struct {
	name    string
	deleted bool
	tags    map[string]string
}

type modelRun struct {
	experiment, name, status string
	deleted                  bool
	parameters, tags         map[string]string
	points                   map[events.Identity]bool
}

func newWorld() world {
	return world{experiments: map[string]*modelExperiment{}, runs: map[string]*modelRun{}}
}

func newModelRun(experiment, name string) *modelRun {
	return &modelRun{
		experiment: experiment, name: name, status: "RUN_STATUS_RUNNING",
		parameters: map[string]string{}, tags: map[string]string{}, points: map[events.Identity]bool{},
	}
}

const nameTag = "mlflow.runName"

func ids[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }

// fold adds up the events of some experiments and their runs.
func fold(t *testing.T, log *eventlog.Log, experiments []string) world {
	w := newWorld()
	read := func(stream, filter string, apply func(eventlog.Record)) {
		for rec, err := range log.Read(t.Context(), stream, filter, 1, 0) {
			if err != nil {
				t.Fatal(err)
			}
			apply(rec)
		}
	}
	for _, id := range experiments {
		read(events.StreamExperiments, events.ExperimentSubject(id), func(rec eventlog.Record) { w.experiment(id, rec.Event) })
		for shard, stream := range log.RunStreams() {
			read(stream, fmt.Sprintf("run.%d.%s.>", shard, id), func(rec eventlog.Record) {
				w.run(events.RunOfSubject(rec.Subject), rec.Event)
			})
		}
	}
	return w
}

func (w world) experiment(id string, e *events.Event) {
	if c := e.GetExperimentCreated(); c != nil {
		w.experiments[id] = &modelExperiment{name: c.GetName(), tags: map[string]string{}}
		return
	}
	x := w.experiments[id]
	switch d := e.GetData().(type) {
	case *events.Event_ExperimentRenamed:
		x.name = d.ExperimentRenamed.GetName()
	case *events.Event_ExperimentTagSet:
		x.tags[d.ExperimentTagSet.GetTag().GetKey()] = d.ExperimentTagSet.GetTag().GetValue()
	case *events.Event_ExperimentTagDeleted:
		delete(x.tags, d.ExperimentTagDeleted.GetKey())
	case *events.Event_ExperimentDeleted:
		x.deleted = true
	case *events.Event_ExperimentRestored:
		x.deleted = false
	}
}

func (w world) run(id string, e *events.Event) {
	if c := e.GetRunCreated(); c != nil {
		w.runs[id] = newModelRun(c.GetExperimentId(), c.GetName())
		for _, t := range c.GetTags() {
			w.runs[id].tags[t.GetKey()] = t.GetValue()
		}
		return
	}
	r := w.runs[id]
	switch d := e.GetData().(type) {
	case *events.Event_RunUpdated:
		if d.RunUpdated.Name != nil {
			r.name = d.RunUpdated.GetName()
		}
		if d.RunUpdated.Status != nil {
			r.status = d.RunUpdated.GetStatus().String()
		}
	case *events.Event_RunParametersLogged:
		for _, p := range d.RunParametersLogged.GetParameters() {
			r.parameters[p.GetKey()] = p.GetValue()
		}
	case *events.Event_RunTagsSet:
		for _, t := range d.RunTagsSet.GetTags() {
			r.tags[t.GetKey()] = t.GetValue()
		}
	case *events.Event_RunTagDeleted:
		delete(r.tags, d.RunTagDeleted.GetKey())
	case *events.Event_RunDeleted:
		r.deleted = true
	case *events.Event_RunRestored:
		r.deleted = false
	case *events.Event_MetricsLogged:
		for _, p := range d.MetricsLogged.Points() {
			r.points[p.Identity()] = true
		}
	}
}

// TestTwoServicesAgreeWithAModel sends random commands, each to one of two
// services on one log: every answer is the model's, and in the end the log adds
// up to the model. One of the services remembers one run at a time.
func TestTwoServicesAgreeWithAModel(t *testing.T) {
	t.Attr("covers", "param-immutability")
	t.Attr("covers", "experiment-name-reserved")
	log := openLog(t)
	urls := []string{serve(t, log, 1), serve(t, log, 0)}
	check := 0
	proptest.Check(t, func(rt *rapid.T) {
		check++
		w := newWorld()
		var created []string // runs, oldest first: their ids are random
		// do sends a command and demands the status that the model expects.
		do := func(path string, request object, allowed bool) reply {
			url := rapid.SampledFrom(urls).Draw(rt, "service")
			r := call(t, url, path, request)
			if (r.status == 200) != allowed || r.status != 200 && r.status != 400 && r.status != 404 {
				data, _ := json.Marshal(request)
				rt.Fatalf("%s %s: %d %v, allowed: %v", path, data, r.status, r.body, allowed)
			}
			return r
		}
		draw := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(rt, label) }
		experiment := func() (string, *modelExperiment) {
			if len(w.experiments) == 0 {
				rt.Skip("no experiment yet")
			}
			id := draw("experiment", ids(w.experiments)...)
			return id, w.experiments[id]
		}
		run := func() (string, *modelRun) {
			if len(created) == 0 {
				rt.Skip("no run yet")
			}
			id := created[rapid.IntRange(0, len(created)-1).Draw(rt, "run")]
			return id, w.runs[id]
		}
		name := func() string { return fmt.Sprint(check, "-", draw("name", "a", "b", "c")) }
		taken := func(name string) bool {
			return slices.ContainsFunc(ids(w.experiments), func(id string) bool { return w.experiments[id].name == name })
		}
		tag := func(r *modelRun, key, value string) {
			if key == nameTag && value == "" {
				return
			}
			r.tags[key] = value
			if key == nameTag {
				r.name = value
			}
		}
		cascade := func(id string, deleted bool) {
			for _, r := range w.runs {
				if r.experiment == id {
					r.deleted = deleted
				}
			}
			w.experiments[id].deleted = deleted
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create experiment": func(*rapid.T) {
				name := name()
				ok := !taken(name)
				if r := do("/experiments/create", object{"name": name}, ok); ok {
					id := r.body["experiment_id"].(string)
					if w.experiments[id] != nil {
						rt.Fatalf("id %s was given twice", id)
					}
					w.experiments[id] = &modelExperiment{name: name, tags: map[string]string{}}
				}
			},
			"rename experiment": func(*rapid.T) {
				id, x := experiment()
				name := name()
				ok := !x.deleted && (x.name == name || !taken(name))
				if do("/experiments/update", object{"experiment_id": id, "new_name": name}, ok); ok {
					x.name = name
				}
			},
			"tag experiment": func(*rapid.T) {
				id, x := experiment()
				if do("/experiments/set-experiment-tag", object{"experiment_id": id, "key": "t", "value": "v"}, !x.deleted); !x.deleted {
					x.tags["t"] = "v"
				}
			},
			"untag experiment": func(*rapid.T) {
				id, x := experiment()
				_, ok := x.tags["t"]
				ok = ok && !x.deleted
				if do("/experiments/delete-experiment-tag", object{"experiment_id": id, "key": "t"}, ok); ok {
					delete(x.tags, "t")
				}
			},
			"delete experiment": func(*rapid.T) {
				id, x := experiment()
				if ok := !x.deleted; do("/experiments/delete", object{"experiment_id": id}, ok).status == 200 {
					cascade(id, true)
				}
			},
			"restore experiment": func(*rapid.T) {
				id, x := experiment()
				if ok := x.deleted; do("/experiments/restore", object{"experiment_id": id}, ok).status == 200 {
					cascade(id, false)
				}
			},
			"create run": func(*rapid.T) {
				id, x := experiment()
				request := object{"experiment_id": id, "tags": []object{{"key": "t", "value": "0"}}}
				if name := draw("run name", "", "n"); name != "" {
					request["run_name"] = name
				}
				if r := do("/runs/create", request, !x.deleted); !x.deleted {
					info := r.body["run"].(object)["info"].(object)
					name := info["run_name"].(string)
					if want, ok := request["run_name"]; ok && name != want || name == "" {
						rt.Fatalf("%v became %v", request, info)
					}
					r := newModelRun(id, name)
					r.tags["t"], r.tags[nameTag] = "0", name
					created = append(created, info["run_id"].(string))
					w.runs[info["run_id"].(string)] = r
				}
			},
			"log parameter": func(*rapid.T) {
				id, r := run()
				key, value := draw("key", "p", "q"), draw("value", "1", "2")
				was, logged := r.parameters[key]
				ok := !r.deleted && (!logged || was == value)
				if do("/runs/log-parameter", object{"run_id": id, "key": key, "value": value}, ok); ok {
					r.parameters[key] = value
				}
			},
			"log metric": func(*rapid.T) {
				id, r := run()
				p := events.Point{Key: "m", Value: float64(rapid.IntRange(0, 3).Draw(rt, "value")), Timestamp: 1}
				if do("/runs/log-metric", object{"run_id": id, "key": p.Key, "value": p.Value, "timestamp": p.Timestamp}, !r.deleted); !r.deleted {
					r.points[p.Identity()] = true
				}
			},
			"log batch": func(*rapid.T) {
				id, r := run()
				value, name := draw("value", "1", "2"), draw("name tag", "", "x", "y")
				p := events.Point{Key: "b", Value: 0.5, Timestamp: 2, Step: int64(rapid.IntRange(-2, 2).Draw(rt, "step"))}
				was, logged := r.parameters["q"]
				ok := !r.deleted && (!logged || was == value)
				do("/runs/log-batch", object{
					"run_id":  id,
					"params":  []object{{"key": "q", "value": value}},
					"tags":    []object{{"key": "t", "value": value}, {"key": nameTag, "value": name}},
					"metrics": []object{{"key": p.Key, "value": p.Value, "timestamp": p.Timestamp, "step": p.Step}},
				}, ok)
				if ok {
					r.parameters["q"] = value
					tag(r, "t", value)
					tag(r, nameTag, name)
					r.points[p.Identity()] = true
				}
			},
			"set tag": func(*rapid.T) {
				id, r := run()
				key, value := draw("key", "t", nameTag), draw("value", "", "1", "2")
				if do("/runs/set-tag", object{"run_id": id, "key": key, "value": value}, !r.deleted); !r.deleted {
					tag(r, key, value)
				}
			},
			"delete tag": func(*rapid.T) {
				id, r := run()
				key := draw("key", "t", nameTag)
				_, ok := r.tags[key]
				ok = ok && !r.deleted
				if do("/runs/delete-tag", object{"run_id": id, "key": key}, ok); ok {
					delete(r.tags, key)
				}
			},
			"update run": func(*rapid.T) {
				id, r := run()
				name := draw("name", "", "u", "v")
				reply := do("/runs/update", object{"run_id": id, "run_name": name, "status": "FAILED"}, !r.deleted)
				if r.deleted {
					return
				}
				r.status = "RUN_STATUS_FAILED"
				if name != "" {
					tag(r, nameTag, name)
				}
				if info := reply.body["run_info"].(object); info["run_name"] != r.name || info["status"] != "FAILED" {
					rt.Fatalf("run %+v is answered as %v", r, info)
				}
			},
			"delete run": func(*rapid.T) {
				id, r := run()
				do("/runs/delete", object{"run_id": id}, true)
				r.deleted = true
			},
			"restore run": func(*rapid.T) {
				id, r := run()
				do("/runs/restore", object{"run_id": id}, true)
				r.deleted = false
			},
		})
		got := fold(t, log, ids(w.experiments))
		if !reflect.DeepEqual(got, w) {
			for _, id := range ids(w.experiments) {
				if !reflect.DeepEqual(got.experiments[id], w.experiments[id]) {
					rt.Errorf("experiment %s is %+v, want %+v", id, got.experiments[id], w.experiments[id])
				}
			}
			for _, id := range ids(w.runs) {
				if !reflect.DeepEqual(got.runs[id], w.runs[id]) {
					rt.Errorf("run %s is %+v, want %+v", id, got.runs[id], w.runs[id])
				}
			}
			rt.Fatalf("the log has %d runs, the model %d", len(got.runs), len(w.runs))
		}
	})
}
