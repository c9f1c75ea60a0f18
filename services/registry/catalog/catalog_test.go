package catalog_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
)

// text returns all that a state says.
func text(t *testing.T, st *catalog.State) string {
	t.Helper()
	var b strings.Builder
	add := func(v any) {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(data, '\n'))
	}
	for m := range st.Models() {
		add(m)
		for v := range m.AllVersions() {
			add(v)
		}
	}
	for w := range st.Webhooks() {
		add(w)
	}
	return b.String()
}

// Whatever is applied to a state, it stays as it was, and so does what another event
// made of it: readers and commands that are decided ahead share its parts.
func TestAStateNeverChanges(t *testing.T) {
	st := catalog.Empty()
	apply := func(e *events.Event) *catalog.State {
		t.Helper()
		next, _, err := st.Apply(st.Seq()+1, time.UnixMilli(1), e)
		if err != nil {
			t.Fatal(err)
		}
		return next
	}
	tag := func(value string) *events.Tag { return &events.Tag{Key: "k", Value: value} }
	decision := func(by string) *events.Event {
		return &events.Event{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{
			Name: "m", Version: 1, Status: events.ApprovalStatus_APPROVAL_STATUS_APPROVED, Actor: by,
		}}}
	}
	evaluation := func(name string) *events.Event {
		return &events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: &events.EvaluationRecorded{
			Name: "m", Version: 1, Evaluation: name, Metrics: []*events.EvaluationMetric{{Key: "f1", Value: 1}},
		}}}
	}
	alias := func(to, from uint64) *events.Event {
		return &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: "m", Alias: "k", Version: to, PreviousVersion: from}}}
	}
	version := func(n uint64) *events.Event {
		return &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
			Name: "m", Version: n, Source: "s3://b/m", Tags: []*events.Tag{tag("1")},
		}}}
	}
	gate := func(approvals uint32) *events.Event {
		return &events.Event{Data: &events.Event_GateSet{GateSet: &events.GateSet{
			Name: "m", Target: catalog.Target{Stage: "Production"}.Event(), Approvals: approvals,
		}}}
	}
	var states []*catalog.State
	var texts []string
	keep := func(s *catalog.State) { states, texts = append(states, s), append(texts, text(t, s)) }
	for _, e := range []*events.Event{
		{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "m", Tags: []*events.Tag{tag("1")}}}},
		version(1), version(2), alias(1, 0), gate(1), decision("ada"), evaluation("1"), evaluation("2"), evaluation("3"),
	} {
		st = apply(e)
		keep(st)
	}
	for _, e := range []*events.Event{
		{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{Name: "m", Tag: tag("2")}}},
		{Data: &events.Event_RegisteredModelTagDeleted{RegisteredModelTagDeleted: &events.RegisteredModelTagDeleted{Name: "m", Key: "k"}}},
		{Data: &events.Event_ModelVersionTagSet{ModelVersionTagSet: &events.ModelVersionTagSet{Name: "m", Version: 1, Tag: tag("2")}}},
		{Data: &events.Event_ModelVersionTagDeleted{ModelVersionTagDeleted: &events.ModelVersionTagDeleted{Name: "m", Version: 1, Key: "k"}}},
		version(3), alias(2, 1), gate(2), decision("ada"), decision("bob"), evaluation("x"), evaluation("y"),
		{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: &events.ModelVersionStageSet{Name: "m", Version: 1, FromStage: "None", ToStage: "Staging"}}},
		{Data: &events.Event_ModelVersionDeleted{ModelVersionDeleted: &events.ModelVersionDeleted{Name: "m", Version: 1}}},
		{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: "m", NewName: "n"}}},
		{Data: &events.Event_RegisteredModelDeleted{RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: "m"}}},
	} {
		keep(apply(e))
	}
	for i, was := range texts {
		if is := text(t, states[i]); is != was {
			t.Errorf("state %d has become\n%s, it was\n%s", i, is, was)
		}
	}
}
