package registry_test

import (
	"context"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

// addToModel appends an event to a logged model.
func addToModel(t *testing.T, log *eventlog.Log, id string, e *events.Event) {
	t.Helper()
	stream, subject := log.LoggedModelSubject("1", id)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(subject, events.New("/test", "tester", time.Now()), e, eventlog.Expect{}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func setTag(t *testing.T, log *eventlog.Log, id, value string) {
	t.Helper()
	addToModel(t, log, id, &events.Event{Data: &events.Event_LoggedModelTagsSet{LoggedModelTagsSet: &events.LoggedModelTagsSet{
		ModelId: id, Tags: []*events.Tag{{Key: "mlflow.modelVersions", Value: value}},
	}}})
}

func TestVersionsAreListedOnTheirLoggedModel(t *testing.T) {
	const id = "m-0123456789abcdef0123456789abcdef"
	log := openLog(t, natstest.Start(t))
	addToModel(t, log, id, &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{
		ModelId: id, ExperimentId: "1", Name: "tree", ArtifactUri: "mlflow-artifacts:/1/models/" + id + "/artifacts",
	}}})
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.create("m")

	// tag returns the value of the tag, and how often it was set.
	tag := func() (value string, times int) {
		stream, subject := log.LoggedModelSubject("1", id)
		for rec, err := range log.Read(t.Context(), stream, subject, 1, 0) {
			if err != nil {
				t.Fatal(err)
			}
			if set := rec.GetLoggedModelTagsSet(); set != nil {
				value, times = set.GetTags()[0].GetValue(), times+1
			}
		}
		return value, times
	}
	check := func(want string, wantTimes int) {
		t.Helper()
		if value, times := tag(); value != want || times != wantTimes {
			t.Errorf("tag %s, set %d times; want %s, %d times", value, times, want, wantTimes)
		}
	}
	version := func(name, source string, header ...string) {
		t.Helper()
		f := fields{"name": name, "source": source}
		if source == "models:/"+id {
			f["model_id"] = id
		}
		if a := s.send("POST", "model-versions/create", f, header...); a.status != 200 {
			t.Fatalf("%s from %s: %v", name, source, a.body)
		}
	}
	const one, two = `[{"name": "m", "version": 1}`, `, {"name": "m", "version": 2}`
	version("m", "models:/"+id)
	check(one+"]", 1)
	for range 2 {
		version("m", "models:/"+id, "Idempotency-Key", "once")
		check(one+two+"]", 2)
	}
	s.create("copy")
	version("copy", "models:/m/1")
	check(one+two+`, {"name": "copy", "version": 1}]`, 3)

	// A prompt is no model.
	prompt := []fields{{"key": "mlflow.prompt.is_prompt", "value": "true"}}
	s.must("POST", "registered-models/create", fields{"name": "p", "tags": prompt})
	s.must("POST", "model-versions/create", fields{"name": "p", "source": "dummy-source", "model_id": id, "tags": prompt})
	check(one+two+`, {"name": "copy", "version": 1}]`, 3)

	// What clients write into it too.
	setTag(t, log, id, `[{"name":"m","version":"3"}]`)
	version("m", "models:/"+id)
	check(`[{"name": "m", "version": "3"}, {"name": "m", "version": 3}]`, 5)
	for i, other := range []string{"mine", `{"name": "m"}`, `[{"name":"m","version":1,"by":"ada"}]`} {
		setTag(t, log, id, other)
		version("m", "models:/"+id)
		check(other, 6+i)
	}
	addToModel(t, log, id, &events.Event{Data: &events.Event_LoggedModelTagDeleted{LoggedModelTagDeleted: &events.LoggedModelTagDeleted{
		ModelId: id, Key: "mlflow.modelVersions",
	}}})
	version("m", "models:/"+id)
	check(`[{"name": "m", "version": 7}]`, 9)
}
