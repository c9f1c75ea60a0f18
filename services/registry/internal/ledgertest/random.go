package ledgertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
)

// RandomEvents returns n events that fit each other.
func RandomEvents(t testing.TB, seed uint64, n int) []eventlog.Record {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	st := catalog.Empty()
	var recs []eventlog.Record
	at := time.Date(2026, 3, 3, 14, 0, 0, 0, time.UTC)
	for len(recs) < n {
		e := randomEvent(r, st)
		at = at.Add(time.Duration(r.IntN(5_000_000)) * time.Microsecond)
		seq := uint64(len(recs) + 1)
		next, _, err := st.Apply(seq, at, e)
		if errors.Is(err, catalog.ErrMisfit) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		st = next
		recs = append(recs, eventlog.Record{
			Stream: events.StreamRegistry, Seq: seq, Event: e,
			Attributes: events.Attributes{
				ID: fmt.Sprintf("event-%d-%d", seed, seq), Source: "/test", Time: at, Actor: "ada\xff", Reason: "because é \b<&>\u2028",
				RequestID: "r", IdempotencyKey: []string{"", fmt.Sprint(seq)}[r.IntN(2)],
			},
		})
		recs[len(recs)-1].Actor = "ada"
	}
	return recs
}

func randomEvent(r *rand.Rand, st *catalog.State) *events.Event {
	name := fmt.Sprintf("model %d", r.IntN(4))
	version := uint64(1 + r.IntN(5))
	text := []string{"", "a", "é\u2028\"\\\n\x01", "b"}[r.IntN(4)]
	key := []string{"k", "l", "m/n"}[r.IntN(3)]
	stages := []string{"None", "Staging", "Production", "Archived"}
	m, _ := st.Model(name)
	target := &events.PromotionTarget{Target: &events.PromotionTarget_Stage{Stage: stages[1+r.IntN(2)]}}
	if r.IntN(2) == 0 {
		target = &events.PromotionTarget{Target: &events.PromotionTarget_Alias{Alias: key}}
	}
	people := []string{"ada", "bob", "cyd"}
	switch r.IntN(20) {
	case 0, 1:
		return &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{
			Name: name, Description: text, Tags: []*events.Tag{{Key: key, Value: text}},
		}}}
	case 2:
		return &events.Event{Data: &events.Event_RegisteredModelUpdated{RegisteredModelUpdated: &events.RegisteredModelUpdated{Name: name, Description: text}}}
	case 3:
		return &events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: name, NewName: fmt.Sprintf("model %d", r.IntN(4))}}}
	case 4:
		if r.IntN(4) > 0 {
			break
		}
		return &events.Event{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: name}}}
	case 5:
		return &events.Event{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{Name: name, Tag: &events.Tag{Key: key, Value: text}}}}
	case 6:
		return &events.Event{Data: &events.Event_RegisteredModelTagDeleted{RegisteredModelTagDeleted: &events.RegisteredModelTagDeleted{Name: name, Key: key}}}
	case 7:
		if m == nil {
			break
		}
		e := &events.ModelVersionStageSet{Name: name, Version: version, ToStage: stages[r.IntN(4)]}
		if v, ok := m.Version(version); ok {
			e.FromStage = v.Stage
		}
		for v := range m.Versions() {
			if v.Stage == e.ToStage && v.Number != version {
				e.ArchivedVersions = append(e.ArchivedVersions, v.Number)
			}
		}
		return &events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: e}}
	case 8:
		return &events.Event{Data: &events.Event_ModelVersionDeleted{ModelVersionDeleted: &events.ModelVersionDeleted{Name: name, Version: version}}}
	case 9:
		return &events.Event{Data: &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{Name: name, Version: version, Tag: &events.Tag{Key: key, Value: text}}}}
	case 10:
		return &events.Event{Data: &events.Event_ModelVersionTagDeleted{ModelVersionTagDeleted: &events.ModelVersionTagDeleted{Name: name, Version: version, Key: key}}}
	case 11:
		if m == nil {
			break
		}
		return &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: name, Alias: key, Version: version, PreviousVersion: m.Aliases[key]}}}
	case 12:
		if m == nil || m.Aliases[key] == 0 {
			break
		}
		return &events.Event{Data: &events.Event_AliasDeleted{AliasDeleted: &events.AliasDeleted{Name: name, Alias: key, PreviousVersion: m.Aliases[key]}}}
	}
	switch r.IntN(12) {
	case 0:
		return &events.Event{Data: &events.Event_GateSet{GateSet: &events.GateSet{
			Name: name, Target: target, Conditions: []string{"metrics.a > 1", "metrics.b >= current - 1%"}[:r.IntN(3)],
			RequiredTags: []*events.Tag{{Key: key, Value: text}}[:r.IntN(2)], Approvals: uint32(r.IntN(3)),
		}}}
	case 1:
		return &events.Event{Data: &events.Event_GateDeleted{GateDeleted: &events.GateDeleted{Name: name, Target: target}}}
	case 2:
		return &events.Event{Data: &events.Event_PromotionRefused{PromotionRefused: &events.PromotionRefused{
			Name: name, Version: version, Target: target, Requester: people[r.IntN(3)], Failures: []string{text, "too low"}[:1+r.IntN(2)],
		}}}
	case 3, 4:
		return &events.Event{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{
			Name: name, Version: version, Status: events.ApprovalStatus(1 + r.IntN(3)), Actor: people[r.IntN(3)], Comment: text,
		}}}
	case 5:
		return &events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: &events.EvaluationRecorded{
			Name: name, Version: version, Evaluation: key, DatasetDigest: text, Evaluator: people[r.IntN(3)],
			Metrics: []*events.EvaluationMetric{{Key: "f1", Value: r.NormFloat64()}, {Key: "loss", Value: 1e300 * r.Float64()}}[:1+r.IntN(2)],
		}}}
	}
	if m == nil {
		return &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: name}}}
	}
	return &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
		Name: name, Version: m.Next, Source: "s3://b/" + text, RunId: "r", Description: text, Tags: []*events.Tag{{Key: key, Value: text}},
	}}}
}

// Publish writes the events to the log.
func Publish(t testing.TB, log *eventlog.Log, recs []eventlog.Record) {
	t.Helper()
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
	defer lane.Close()
	for _, rec := range recs {
		_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(events.ModelSubject("any"), rec.Attributes, rec.Event, eventlog.Expect{}, nil)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
