package ingest

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/pkg/proptest"
)

const runID = "0123456789abcdef0123456789abcdef"

// clone copies a run, so that a later change of either does not show in the other.
func clone(r *run) *run {
	c := *r
	c.Parameters, c.Tags, c.requests = maps.Clone(r.Parameters), maps.Clone(r.Tags), maps.Clone(r.requests)
	c.Created = proto.CloneOf(r.Created)
	return &c
}

// command draws a command on a run.
func command(t *rapid.T) decision {
	key := func(label string) string {
		return rapid.SampledFrom([]string{"a", "b", mlflow.TagRunName}).Draw(t, label)
	}
	value := func(label string) string { return rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, label) }
	switch rapid.IntRange(0, 4).Draw(t, "command") {
	case 0:
		batch := &mlflow.LogBatch{RunID: runID}
		for _, k := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"p", "q", "r"}), 0, 3, rapid.ID).Draw(t, "parameters") {
			batch.Params = append(batch.Params, mlflow.Param{Key: k, Value: value("value")})
		}
		for range rapid.IntRange(0, 3).Draw(t, "tags") {
			batch.Tags = append(batch.Tags, mlflow.Tag{Key: key("tag"), Value: value("value")})
		}
		for i := range rapid.IntRange(0, 3).Draw(t, "points") {
			batch.Metrics = append(batch.Metrics, mlflow.Metric{Key: "m", Value: float64(i), Timestamp: int64(i)})
		}
		return func(r *run) ([]*events.Event, error) { return r.batch(batch, false) }
	case 1:
		tag := key("tag")
		return func(r *run) ([]*events.Event, error) { return r.deleteTag(tag) }
	case 2:
		deleted := rapid.Bool().Draw(t, "deleted")
		return func(r *run) ([]*events.Event, error) { return r.setDeleted(deleted) }
	case 3:
		name := value("name")
		return func(r *run) ([]*events.Event, error) { return r.update(&mlflow.UpdateRun{RunName: &name}) }
	default:
		status, end := mlflow.StatusFinished, int64(7)
		return func(r *run) ([]*events.Event, error) {
			return r.update(&mlflow.UpdateRun{Status: &status, EndTime: &end})
		}
	}
}

// TestRunDecisions: whatever is asked of a run, a decision changes nothing but
// through its events, and the events keep the rules of a run.
func TestRunDecisions(t *testing.T) {
	proptest.Check(t, func(t *rapid.T) {
		created, err := creation(runID, &experiment{ID: "0", ArtifactLocation: "l"}, &mlflow.CreateRun{}, 1)
		if err != nil {
			t.Fatal(err)
		}
		log := []*events.Event{{Data: &events.Event_RunCreated{RunCreated: created}}}
		r := newRun()
		r.apply(events.Attributes{}, log[0])
		tag := r.Name // the value of the name's tag, "" when it is deleted or empty
		for range rapid.IntRange(1, 30).Draw(t, "commands") {
			before := clone(r)
			out, err := command(t)(r)
			if !reflect.DeepEqual(clone(r), before) {
				t.Fatal("the decision has changed the run")
			}
			if err != nil && len(out) > 0 {
				t.Fatalf("an error and %d events", len(out))
			}
			for _, e := range out {
				if r.Deleted && e.GetRunRestored() == nil {
					t.Fatalf("%T of a deleted run", e.GetData())
				}
				for _, p := range e.GetRunParametersLogged().GetParameters() {
					if _, ok := r.Parameters[p.GetKey()]; ok {
						t.Fatalf("parameter %s twice", p.GetKey())
					}
				}
				for _, kv := range e.GetRunTagsSet().GetTags() {
					if kv.GetKey() == mlflow.TagRunName {
						tag = kv.GetValue()
					}
				}
				if e.GetRunTagDeleted().GetKey() == mlflow.TagRunName {
					tag = ""
				}
				if e.GetMetricsLogged() == nil { // as the log has it: a fold reads no metrics
					r.apply(events.Attributes{}, e)
					log = append(log, e)
				}
			}
			if r.Name == "" || tag != "" && r.Name != tag {
				t.Fatalf("the name is %q, its tag %q", r.Name, tag)
			}
		}
		again := newRun()
		for _, e := range log {
			again.apply(events.Attributes{}, e)
		}
		if !reflect.DeepEqual(again, r) {
			t.Fatalf("the fold of the events is %+v, the run %+v", again, r)
		}
	})
}

// TestDirectoryDecisions: names and ids of experiments stay unique, whatever is
// asked for.
func TestDirectoryDecisions(t *testing.T) {
	proptest.Check(t, func(t *rapid.T) {
		d := newDirectory()
		names := map[string]string{} // by id
		deleted := map[string]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "commands") {
			id := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "id"))
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
			var e *events.Event
			switch rapid.IntRange(0, 5).Draw(t, "command") {
			case 0:
				e, _ = d.createDefault()
			case 1:
				e, _ = d.create(&mlflow.CreateExperiment{Name: name})
			case 2:
				e, _ = d.rename(id, name)
			case 3:
				e, _ = d.setTag(id, mlflow.Tag{Key: name})
			case 4:
				e, _ = d.deleteTag(id, name)
			default:
				e, _ = d.setDeleted(id, rapid.Bool().Draw(t, "deleted"))
			}
			if e == nil {
				continue
			}
			about := fold.ExperimentOf(e)
			c := e.GetExperimentCreated()
			if _, exists := names[about]; exists == (c != nil) {
				t.Fatalf("%v, and experiment %s exists: %v", e, about, exists)
			}
			if deleted[about] && e.GetExperimentRestored() == nil {
				t.Fatalf("%v of a deleted experiment", e)
			}
			given := c.GetName() + e.GetExperimentRenamed().GetName()
			for other, n := range names {
				if n == given {
					t.Fatalf("%v, but experiment %s has that name", e, other)
				}
			}
			if given != "" {
				names[about] = given
			}
			deleted[about] = e.GetExperimentDeleted() != nil
			d.apply(events.Attributes{}, e)
		}
		for id, name := range names {
			if exp := d.ByID[id]; exp.Name != name || exp.Deleted != deleted[id] || d.ByName[name] != exp {
				t.Fatalf("experiment %s is %+v, want name %s, deleted %v", id, exp, name, deleted[id])
			}
		}
		if len(d.ByName) != len(names) || len(d.ByID) != len(names) {
			t.Fatalf("%d names and %d ids of %d experiments", len(d.ByName), len(d.ByID), len(names))
		}
	})
}

func TestAStartOfZeroIsKept(t *testing.T) {
	for body, want := range map[string]int64{`{"experiment_id": "0", "start_time": 0}`: 0, `{"experiment_id": "0"}`: 7, `{"experiment_id": "0", "start_time": -1}`: -1} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		req, err := mlflow.Decode[mlflow.CreateRun](r)
		if err != nil {
			t.Fatal(err)
		}
		created, err := creation("r", &experiment{ID: "0", ArtifactLocation: "l"}, req, 7)
		if err != nil || created.GetStartTime() != want {
			t.Errorf("%s starts at %d (%v), want %d", body, created.GetStartTime(), err, want)
		}
	}
}

func TestRunCacheIsBounded(t *testing.T) {
	const limit = 1 << 20
	c, err := newRunCache(limit)
	if err != nil {
		t.Fatal(err)
	}
	add := func(i, parameters int) *run {
		r := newRun()
		r.apply(events.Attributes{}, &events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: fmt.Sprint(i)}}})
		grow(r, parameters)
		c.add(r)
		return r
	}
	var last *run
	for i := range 5000 {
		last = add(i, i%20)
		sum := 0
		for _, r := range c.lru.Values() {
			sum += r.footprint()
		}
		if sum != c.now || sum > limit {
			t.Fatalf("%d runs hold %d bytes, counted as %d, at most %d", c.lru.Len(), sum, c.now, limit)
		}
	}
	if n := c.lru.Len(); n < 50 || n > 2000 {
		t.Errorf("%d runs fit", n)
	}
	// A run that grows pushes the others out, and stays.
	grow(last, 5000)
	c.add(last)
	if got, ok := c.get("4999"); !ok || got != last || c.lru.Len() != 1 {
		t.Errorf("%v: %d runs beside one that fills the cache", ok, c.lru.Len())
	}
	c.remove("4999")
	if _, ok := c.get("4999"); ok || c.now != 0 {
		t.Errorf("an empty cache counts %d bytes", c.now)
	}
}

func grow(r *run, parameters int) {
	e := &events.RunParametersLogged{}
	for i := range parameters {
		e.Parameters = append(e.Parameters, &events.Parameter{Key: fmt.Sprint(len(r.Parameters), "-", i), Value: strings.Repeat("v", 50)})
	}
	r.apply(events.New("", "", time.Now()), &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: e}})
}

func TestRequestsAreToldApart(t *testing.T) {
	r := make(requests)
	r.add("")
	r.add("no digest")
	r.add("a#b#1:1111")
	r.add("old#1111") // by a build before digests had versions
	if len(r) != 2 {
		t.Errorf("%d requests remembered", len(r))
	}
	for key, want := range map[string]struct{ seen, refused bool }{
		"": {}, "x#1:1111": {}, "a#1:1111": {}, "a#b#1:1111": {seen: true}, "a#b#1:2222": {refused: true},
		"old#1:1111": {seen: true}, "old#1:2222": {seen: true},
	} {
		if seen, err := r.seen(key); seen != want.seen || (err != nil) != want.refused {
			t.Errorf("%q: seen %v, %v", key, seen, err)
		}
	}
}
