package events_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/events"
)

// Subjects are in logs for good: what writes and reads them agrees with what wrote
// the first ones.
func TestSubjectsStay(t *testing.T) {
	for got, want := range map[string]string{
		events.RunSubject(3, "12", "r", events.KindMeta):         "run.3.12.r.meta",
		events.RunSubject(0, events.Any, "r", events.KindMetric): "run.0.*.r.metric",
		events.RunSubject(0, "1", events.Any, events.KindAny):    "run.0.1.*.*",
		events.LoggedModelSubject(3, "12", "m-1"):                "model.3.12.m-1",
		events.ArtifactSubject(3, "12", events.NoOwner):          "artifact.3.12.-",
		events.ExperimentSubject("12"):                           "experiment.12",
		events.WebhookSubject("w"):                               "registry.webhook-w",
		events.ModelSubject("iris"):                              "registry.47612b3175fece07f6c3e91992412c5b",
		events.RunsStream(7):                                     "RUNS_7",
	} {
		if got != want {
			t.Errorf("the subject is %s, want %s", got, want)
		}
	}
	if a, b := events.ModelSubject("iris"), events.ModelSubject("Iris"); a == b {
		t.Errorf("two models have the subject %s", a)
	}
	for _, tc := range []struct{ subject, run, ofRun, ofModel, ofArtifact string }{
		{"run.3.12.r.meta", "r", "12", "", ""},
		{"run.3.12.r", "", "", "", ""},
		{"model.3.12.m-1", "", "", "12", ""},
		{"model.3.12.m-1.meta", "", "", "", ""},
		{"artifact.3.12.r", "", "", "", "12"},
		{"artifact.3.-.r", "", "", "", ""},
		{"artifact.3.12.r.x", "", "", "", ""},
		{"other.3.12.r.meta", "", "", "", ""},
		{"other.3.12.r", "", "", "", ""},
		{"", "", "", "", ""},
	} {
		got := [...]string{
			events.RunOfSubject(tc.subject), events.ExperimentOfRunSubject(tc.subject),
			events.ExperimentOfLoggedModelSubject(tc.subject), events.ExperimentOfArtifactSubject(tc.subject),
		}
		if want := [...]string{tc.run, tc.ofRun, tc.ofModel, tc.ofArtifact}; got != want {
			t.Errorf("%q is of %q, want %q", tc.subject, got, want)
		}
	}
}

func TestShardOfStream(t *testing.T) {
	for stream, want := range map[string]int{
		"RUNS_0": 0, "RUNS_63": 63, "RUNS_64": -1, "RUNS_-1": -1, "RUNS_": -1, "RUNS_x": -1, "runs_1": -1, "EXPERIMENTS": -1, "REGISTRY": -1,
	} {
		if got, ok := events.ShardOfStream(stream); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s is shard %d, %v, want %d", stream, got, ok, want)
		}
	}
}

func TestValidIDs(t *testing.T) {
	const id = "0123456789abcdef0123456789abcdef"
	for run, want := range map[string]bool{
		id: true, id + "0": false, id[1:]: false, "": false, strings.ToUpper(id): false, id[:31] + "g": false, id[:15] + "-" + id[16:]: false, id[:30] + "é": false,
	} {
		if got := events.ValidRunID(run); got != want {
			t.Errorf("%q is the id of a run: %v", run, got)
		}
		if got := events.ValidLoggedModelID("m-" + run); got != want {
			t.Errorf("%q is the id of a logged model: %v", "m-"+run, got)
		}
	}
	if events.ValidLoggedModelID(id) || events.ValidLoggedModelID("M-"+id) {
		t.Error("an id without m- is that of a logged model")
	}
}

// Nothing is ever deleted from a stream, nor is anything taken that it cannot keep.
func TestStreamsKeepEverything(t *testing.T) {
	configs := events.StreamConfigs(events.StreamOptions{Shards: 2, Replicas: 3, MaxBytes: 5})
	subjects := [][]string{
		{"experiment.*"}, {"registry.*"}, {"run.0.>", "model.0.>", "artifact.0.>"}, {"run.1.>", "model.1.>", "artifact.1.>"},
	}
	if len(configs) != len(subjects) {
		t.Fatalf("%d streams", len(configs))
	}
	for i, name := range []string{events.StreamExperiments, events.StreamRegistry, "RUNS_0", "RUNS_1"} {
		want := jetstream.StreamConfig{
			Name: name, Subjects: subjects[i], Storage: jetstream.FileStorage, Retention: jetstream.LimitsPolicy, Discard: jetstream.DiscardNew,
			MaxBytes: 5, MaxMsgSize: 1 << 20, Replicas: 3, Duplicates: 2 * time.Minute,
			DenyDelete: true, DenyPurge: true, AllowDirect: true, AllowAtomicPublish: true, Metadata: map[string]string{},
		}
		shards := 0
		if i >= 2 {
			want.Metadata["runledger-shards"] = "2"
			shards = 2
		}
		if !reflect.DeepEqual(configs[i], want) {
			t.Errorf("got  %+v\nwant %+v", configs[i], want)
		}
		if got := events.ShardsOf(configs[i]); got != shards {
			t.Errorf("%s is one of %d shards, want %d", name, got, shards)
		}
	}
	for recorded, want := range map[string]int{"1": 1, "64": 64, "65": 0, "0": 0, "-1": 0, "x": 0} {
		c := jetstream.StreamConfig{Metadata: map[string]string{"runledger-shards": recorded}}
		if got := events.ShardsOf(c); got != want {
			t.Errorf("%q is %d shards, want %d", recorded, got, want)
		}
	}
}
