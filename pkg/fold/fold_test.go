package fold_test

import (
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

// at is when the events of a history are: each a second behind the one before.
func at(i int) (events.Attributes, int64) {
	t := time.UnixMilli(1_700_000_000_123).Add(time.Duration(i) * time.Second)
	return events.Attributes{Time: t}, t.UnixMilli()
}

func tags(kv ...string) (out []*events.Tag) {
	for i := 0; i < len(kv); i += 2 {
		out = append(out, &events.Tag{Key: kv[i], Value: kv[i+1]})
	}
	return out
}

func updated(change func(*events.RunUpdated)) *events.Event {
	u := &events.RunUpdated{RunId: "r"}
	change(u)
	return &events.Event{Data: &events.Event_RunUpdated{RunUpdated: u}}
}

func TestARunIsWhatItsEventsSay(t *testing.T) {
	created := &events.RunCreated{RunId: "r", ExperimentId: "7", Name: "n", UserId: "ada", StartTime: 11, ArtifactUri: "s3://b/r", Tags: tags("a", "1", "bb", "2")}
	r := fold.NewRun()
	r.Apply(events.Attributes{}, &events.Event{Data: &events.Event_RunCreated{RunCreated: created}})
	want := fold.Run{
		Created: created, Name: "n", Status: events.RunStatus_RUN_STATUS_RUNNING,
		Parameters: map[string]string{}, Tags: map[string]string{"a": "1", "bb": "2"}, Text: 5,
	}
	failed, end := events.RunStatus_RUN_STATUS_FAILED, int64(0)
	name := "m"
	deletedAt := func(i int) int64 { _, ms := at(i); return ms }
	for i, step := range []struct {
		name   string
		event  *events.Event
		change func()
	}{
		{"nothing", updated(func(*events.RunUpdated) {}), func() {}},
		{"an end", updated(func(u *events.RunUpdated) { end := int64(5); u.EndTime = &end }), func() { want.EndTime = 5 }},
		{"an end at 0", updated(func(u *events.RunUpdated) { u.EndTime = &end }), func() { want.EndTime = 0 }},
		{"a status", updated(func(u *events.RunUpdated) { u.Status = &failed }), func() { want.Status = failed }},
		{"a name", updated(func(u *events.RunUpdated) { u.Name = &name }), func() { want.Name = "m" }},
		{"a parameter", &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{
			Parameters: []*events.Parameter{{Key: "a", Value: "333"}},
		}}}, func() { want.Parameters["a"] = "333"; want.Text += 4 }},
		{"tags", &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{Tags: tags("a", "4444", "c", "")}}}, func() {
			want.Tags["a"], want.Tags["c"] = "4444", ""
			want.Text += 3 + 1
		}},
		{"no tag", &events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{Key: "a"}}}, func() { delete(want.Tags, "a"); want.Text -= 5 }},
		{"no tag again", &events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{Key: "a"}}}, func() {}},
		{"deleted", &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{}}}, func() { want.Deleted, want.DeletedAt = true, deletedAt(9) }},
		{"restored", &events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{}}}, func() { want.Deleted = false }},
		{"deleted again", &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{}}}, func() { want.Deleted, want.DeletedAt = true, deletedAt(11) }},
		{"purged", &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: "r"}}}, func() {
			want = fold.NewRun()
			want.Created, want.Purge = &events.RunCreated{RunId: "r", ExperimentId: "7", ArtifactUri: "s3://b/r"}, fold.Purged
		}},
		{"emptied", &events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{}}}, func() { want.Purge = fold.Emptied }},
	} {
		a, _ := at(i)
		r.Apply(a, step.event)
		step.change()
		if !reflect.DeepEqual(r, want) {
			t.Fatalf("%s: %+v, want %+v", step.name, r, want)
		}
		shown := mlflow.RunInfo{
			RunID: "r", RunUUID: "r", ExperimentID: "7", RunName: want.Name, UserID: want.Created.GetUserId(), Status: fold.RunStatuses[want.Status],
			StartTime: want.Created.GetStartTime(), EndTime: want.EndTime, ArtifactURI: "s3://b/r", LifecycleStage: mlflow.LifecycleActive,
		}
		if want.Deleted {
			shown.LifecycleStage = mlflow.LifecycleDeleted
		}
		if got := r.Info(); got != shown {
			t.Errorf("%s: shown as %+v, want %+v", step.name, got, shown)
		}
	}
}

func TestEveryStatusHasItsName(t *testing.T) {
	for number, name := range events.RunStatus_name {
		if number != 0 && "RUN_STATUS_"+string(fold.RunStatuses[events.RunStatus(number)]) != name {
			t.Errorf("%s is shown as %q", name, fold.RunStatuses[events.RunStatus(number)])
		}
	}
}

func TestTagsAreShownInTheOrderOfTheirKeys(t *testing.T) {
	shown := fold.Tags(map[string]string{"b": "1", "a": "2", "aa": "3", "B": "4"})
	if !slices.Equal(shown, []mlflow.Tag{{Key: "B", Value: "4"}, {Key: "a", Value: "2"}, {Key: "aa", Value: "3"}, {Key: "b", Value: "1"}}) || fold.Tags(nil) != nil {
		t.Errorf("%v", shown)
	}
}

func TestExperimentsAreWhatTheirEventsSay(t *testing.T) {
	x := fold.NewExperiments()
	created := func(id, name string) *events.Event {
		return &events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{
			ExperimentId: id, Name: name, ArtifactLocation: "s3://" + name, Tags: tags("k", "v"),
		}}}
	}
	renamed := func(id, name string) *events.Event {
		return &events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: id, Name: name}}}
	}
	want := map[string]fold.Experiment{}
	maxID := uint64(0)
	now := int64(0)
	change := func(id string, change func(*fold.Experiment)) func() {
		return func() { e := want[id]; e.Tags = maps.Clone(e.Tags); change(&e); want[id] = e }
	}
	create := func(id, name string) func() {
		return change(id, func(e *fold.Experiment) {
			*e = fold.Experiment{ID: id, Name: name, ArtifactLocation: "s3://" + name, CreatedAt: now, UpdatedAt: now, Tags: map[string]string{"k": "v"}}
		})
	}
	for i, step := range []struct {
		name   string
		about  string
		event  *events.Event
		change func()
	}{
		{"nothing", "", &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: "r"}}}, func() {}},
		{"created", "9", created("9", "nine"), func() { create("9", "nine")(); maxID = 9 }},
		{"created with a lower id", "3", created("3", "three"), create("3", "three")},
		{"created with a word", "x", created("x", "word"), create("x", "word")},
		{"one that is not there", "4", renamed("4", "four"), func() {}},
		{"renamed", "3", renamed("3", "tres"), change("3", func(e *fold.Experiment) { e.Name, e.UpdatedAt = "tres", now })},
		{"its old name given to another", "x", renamed("x", "three"), change("x", func(e *fold.Experiment) { e.Name, e.UpdatedAt = "three", now })},
		{"tagged", "3", &events.Event{Data: &events.Event_ExperimentTagSet{ExperimentTagSet: &events.ExperimentTagSet{ExperimentId: "3", Tag: tags("t", "1")[0]}}}, change("3", func(e *fold.Experiment) { e.Tags["t"] = "1" })},
		{"untagged", "3", &events.Event{Data: &events.Event_ExperimentTagDeleted{ExperimentTagDeleted: &events.ExperimentTagDeleted{ExperimentId: "3", Key: "k"}}}, change("3", func(e *fold.Experiment) { delete(e.Tags, "k") })},
		{"deleted", "3", &events.Event{Data: &events.Event_ExperimentDeleted{ExperimentDeleted: &events.ExperimentDeleted{ExperimentId: "3"}}}, change("3", func(e *fold.Experiment) { e.Deleted, e.DeletedAt, e.UpdatedAt = true, now, now })},
		{"restored", "3", &events.Event{Data: &events.Event_ExperimentRestored{ExperimentRestored: &events.ExperimentRestored{ExperimentId: "3"}}}, change("3", func(e *fold.Experiment) { e.Deleted, e.UpdatedAt = false, now })},
		{"another deleted", "9", &events.Event{Data: &events.Event_ExperimentDeleted{ExperimentDeleted: &events.ExperimentDeleted{ExperimentId: "9"}}}, change("9", func(e *fold.Experiment) { e.Deleted, e.DeletedAt, e.UpdatedAt = true, now, now })},
		{"purged", "9", &events.Event{Data: &events.Event_ExperimentPurged{ExperimentPurged: &events.ExperimentPurged{ExperimentId: "9"}}}, change("9", func(e *fold.Experiment) { *e = fold.Experiment{ID: "9", Purged: true} })},
		{"its name given to another", "10", created("10", "nine"), func() { create("10", "nine")(); maxID = 10 }},
	} {
		var a events.Attributes
		a, now = at(i)
		if about := fold.ExperimentOf(step.event); about != step.about {
			t.Errorf("%s is about %q", step.name, about)
		}
		x.Apply(a, step.event)
		step.change()
		named := map[string]string{}
		for id, e := range want {
			got := x.ByID[id]
			if got == nil || !reflect.DeepEqual(*got, e) {
				t.Fatalf("%s: experiment %s is %+v, want %+v", step.name, id, got, e)
			}
			if found, ok := x.Find(id); ok == e.Purged || found != got {
				t.Errorf("%s: experiment %s is found: %v", step.name, id, ok)
			}
			if e.Purged {
				continue
			}
			named[e.Name] = id
			shown := mlflow.Experiment{
				ExperimentID: id, Name: e.Name, ArtifactLocation: e.ArtifactLocation, LifecycleStage: mlflow.LifecycleActive,
				CreationTime: e.CreatedAt, LastUpdateTime: e.UpdatedAt, Tags: fold.Tags(e.Tags),
			}
			if e.Deleted {
				shown.LifecycleStage = mlflow.LifecycleDeleted
			}
			if got := got.Show(); !reflect.DeepEqual(got, shown) {
				t.Errorf("%s: experiment %s is shown as %+v, want %+v", step.name, id, got, shown)
			}
		}
		got := map[string]string{}
		for name, e := range x.ByName {
			got[name] = e.ID
		}
		if !maps.Equal(got, named) || len(x.ByID) != len(want) || x.MaxID != maxID {
			t.Errorf("%s: the names are %v, want %v; %d experiments, want %d; the greatest id is %d, want %d", step.name, got, named, len(x.ByID), len(want), x.MaxID, maxID)
		}
	}
}
