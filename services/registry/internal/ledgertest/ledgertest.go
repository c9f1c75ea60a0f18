// Package ledgertest checks ledgers from outside: what is on disk against a fold
// of the events that shares no code with the registry's.
package ledgertest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

// Version and Model are the naive state: plain values, changed in place.
type (
	Version struct {
		Created, Updated                                                               int64
		Stage, Description, UserID, Source, Location, RunID, RunLink, ModelID, Deleted string
		Tags                                                                           map[string]string
		Asked, Refused                                                                 string
		Said                                                                           map[string]string // of an approval, by whom
		Evaluations                                                                    []string
	}
	Model struct {
		Created, Updated int64
		Description      string
		Tags             map[string]string
		Aliases          map[string]uint64
		Gates            map[string]string
		Versions         []*Version // version n is at n-1
	}
)

// Fold applies the events one by one. It takes the stream for right.
func Fold(recs []eventlog.Record) map[string]*Model {
	models := make(map[string]*Model)
	for _, rec := range recs {
		now := rec.Time.UnixMilli()
		version := func(name string, number uint64) *Version { return models[name].Versions[number-1] }
		switch d := rec.GetData().(type) {
		case *events.Event_RegisteredModelCreated:
			e := d.RegisteredModelCreated
			models[e.Name] = &Model{Created: now, Updated: now, Description: e.Description, Tags: tags(e.Tags), Aliases: map[string]uint64{}}
		case *events.Event_RegisteredModelUpdated:
			m := models[d.RegisteredModelUpdated.Name]
			m.Description, m.Updated = d.RegisteredModelUpdated.Description, now
		case *events.Event_RegisteredModelRenamed:
			e := d.RegisteredModelRenamed
			m := models[e.Name]
			delete(models, e.Name)
			models[e.NewName] = m
			m.Updated = now
			for _, v := range m.Versions {
				v.Updated = max(v.Updated, now)
			}
		case *events.Event_RegisteredModelDeleted:
			delete(models, d.RegisteredModelDeleted.Name)
		case *events.Event_RegisteredModelTagSet:
			e := d.RegisteredModelTagSet
			models[e.Name].Tags[e.Tag.Key] = e.Tag.Value
		case *events.Event_RegisteredModelTagDeleted:
			delete(models[d.RegisteredModelTagDeleted.Name].Tags, d.RegisteredModelTagDeleted.Key)
		case *events.Event_ModelVersionCreated:
			e := d.ModelVersionCreated
			m := models[e.Name]
			m.Updated = now
			m.Versions = append(m.Versions, &Version{
				Created: now, Updated: now, Stage: "None", Description: e.Description, UserID: e.UserId, Source: e.Source,
				Location: e.StorageLocation, RunID: e.RunId, RunLink: e.RunLink, ModelID: e.ModelId, Tags: tags(e.Tags),
			})
		case *events.Event_ModelVersionUpdated:
			v := version(d.ModelVersionUpdated.Name, d.ModelVersionUpdated.Version)
			v.Description, v.Updated = d.ModelVersionUpdated.Description, now
		case *events.Event_ModelVersionStageSet:
			e := d.ModelVersionStageSet
			for _, n := range e.ArchivedVersions {
				v := version(e.Name, n)
				v.Stage, v.Updated = "Archived", now
			}
			v := version(e.Name, e.Version)
			v.Stage, v.Updated, models[e.Name].Updated = e.ToStage, now, now
		case *events.Event_ModelVersionDeleted:
			e := d.ModelVersionDeleted
			v := version(e.Name, e.Version)
			*v = Version{
				Created: v.Created, Updated: now, Stage: "Deleted_Internal", Tags: v.Tags,
				Source: "REDACTED-SOURCE-PATH", RunID: "REDACTED-RUN-ID", RunLink: "REDACTED-RUN-LINK",
			}
			models[e.Name].Updated = now
			maps.DeleteFunc(models[e.Name].Aliases, func(_ string, n uint64) bool { return n == e.Version })
		case *events.Event_ModelVersionTagSet:
			e := d.ModelVersionTagSet
			version(e.Name, e.Version).Tags[e.Tag.Key] = e.Tag.Value
		case *events.Event_ModelVersionTagDeleted:
			e := d.ModelVersionTagDeleted
			delete(version(e.Name, e.Version).Tags, e.Key)
		case *events.Event_RegisteredModelRestored:
			e := d.RegisteredModelRestored
			m := &Model{Created: e.CreationTimestamp, Updated: now, Description: e.Description, Tags: tags(e.Tags), Aliases: map[string]uint64{}}
			for range e.NextVersion - 1 {
				m.Versions = append(m.Versions, &Version{
					Created: now, Updated: now, Stage: "Deleted_Internal", Tags: map[string]string{},
					Source: "REDACTED-SOURCE-PATH", RunID: "REDACTED-RUN-ID", RunLink: "REDACTED-RUN-LINK",
				})
			}
			models[e.Name] = m
		case *events.Event_ModelVersionRestored:
			e := d.ModelVersionRestored
			*version(e.Name, e.Version) = Version{
				Created: e.CreationTimestamp, Updated: now, Stage: e.Stage, Description: e.Description, UserID: e.UserId,
				Source: e.Source, Location: e.StorageLocation, RunID: e.RunId, RunLink: e.RunLink, ModelID: e.ModelId, Tags: tags(e.Tags),
			}
			models[e.Name].Updated = now
		case *events.Event_AliasSet:
			models[d.AliasSet.Name].Aliases[d.AliasSet.Alias] = d.AliasSet.Version
		case *events.Event_AliasDeleted:
			delete(models[d.AliasDeleted.Name].Aliases, d.AliasDeleted.Alias)
		case *events.Event_GateSet:
			e := d.GateSet
			m := models[e.Name]
			if m.Gates == nil {
				m.Gates = make(map[string]string)
			}
			m.Gates[e.Target.GetStage()+"@"+e.Target.GetAlias()] = fmt.Sprint(e.Conditions, tags(e.RequiredTags), e.Approvals)
		case *events.Event_GateDeleted:
			e := d.GateDeleted
			m := models[e.Name]
			if delete(m.Gates, e.Target.GetStage()+"@"+e.Target.GetAlias()); len(m.Gates) == 0 {
				m.Gates = nil
			}
		case *events.Event_PromotionRefused:
			e := d.PromotionRefused
			version(e.Name, e.Version).Refused = fmt.Sprint(rec.Seq, e.Target.GetStage(), e.Target.GetAlias(), e.Requester, e.Failures)
		case *events.Event_ApprovalSet:
			e := d.ApprovalSet
			v := version(e.Name, e.Version)
			if e.Status == 1 {
				v.Asked, v.Said = e.Actor+": "+e.Comment, nil
				continue
			}
			if v.Said == nil {
				v.Said = make(map[string]string)
			}
			v.Said[e.Actor] = fmt.Sprint([]string{2: "Approved", 3: "Rejected"}[e.Status], e.Comment, now)
		case *events.Event_EvaluationRecorded:
			e := d.EvaluationRecorded
			metrics := make(map[string]float64)
			for _, m := range e.Metrics {
				metrics[m.Key] = m.Value
			}
			v := version(e.Name, e.Version)
			v.Evaluations = append(v.Evaluations, fmt.Sprint(rec.Seq, now, e.Evaluation, metrics, e.DatasetName, e.DatasetDigest, e.Evaluator, e.Comment))
		}
	}
	return models
}

// plainPromotion puts what is known of a version's promotion into the naive form.
func (v *Version) plainPromotion(of *catalog.Version) {
	if r := of.Refused; r != nil {
		v.Refused = fmt.Sprint(r.Seq, r.Target.Stage, r.Target.Alias, r.Requester, r.Failures)
	}
	if a := of.Approval; a != nil {
		if a.Requester != "" {
			v.Asked = a.Requester + ": " + a.Comment
		}
		for who, said := range a.Decisions {
			if v.Said == nil {
				v.Said = make(map[string]string)
			}
			v.Said[who] = fmt.Sprint(said.Status, said.Comment, said.Time)
		}
	}
	for _, e := range of.Evaluations {
		v.Evaluations = append(v.Evaluations, fmt.Sprint(e.Seq, e.Time, e.Name, e.Metrics, e.DatasetName, e.DatasetDigest, e.Evaluator, e.Comment))
	}
}

func tags(list []*events.Tag) map[string]string {
	m := make(map[string]string)
	for _, t := range list {
		m[t.Key] = t.Value
	}
	return m
}

// Plain returns a state in the naive form. It takes the times of versions as
// they are shown.
func Plain(st *catalog.State) map[string]*Model {
	models := make(map[string]*Model)
	for m := range st.Models() {
		p := &Model{Created: m.Created, Updated: m.Updated, Description: m.Description, Tags: map[string]string{}, Aliases: map[string]uint64{}}
		maps.Copy(p.Tags, m.Tags)
		maps.Copy(p.Aliases, m.Aliases)
		for _, g := range m.Gates {
			required := make(map[string]string)
			maps.Copy(required, g.Tags)
			if p.Gates == nil {
				p.Gates = make(map[string]string)
			}
			p.Gates[g.Target.Stage+"@"+g.Target.Alias] = fmt.Sprint(g.Conditions, required, g.Approvals)
		}
		for v := range m.AllVersions() {
			pv := &Version{
				Created: v.Created, Updated: m.VersionUpdated(v), Stage: v.Stage, Description: v.Description, UserID: v.UserID,
				Source: v.Source, Location: v.StorageLocation, RunID: v.RunID, RunLink: v.RunLink, ModelID: v.ModelID, Tags: map[string]string{},
			}
			maps.Copy(pv.Tags, v.Tags)
			pv.plainPromotion(v)
			p.Versions = append(p.Versions, pv)
		}
		models[m.Name] = p
	}
	return models
}

// Equal fails the test unless the two states are equal.
func Equal(t testing.TB, what string, got, want map[string]*Model) {
	t.Helper()
	if reflect.DeepEqual(got, want) {
		return
	}
	g, _ := json.Marshal(got)
	w, _ := json.Marshal(want)
	t.Fatalf("%s:\n got %s\nwant %s", what, g, w)
}

// webhookPrefix begins the keys of the documents of webhooks: no name of a model
// has a slash.
const webhookPrefix = "webhook/"

// Dump returns every key of the ledger in dir, which must not be open, and its
// value.
func Dump(t testing.TB, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, ReadOnly: true, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{t}})
	if err != nil {
		t.Fatal(err)
	}
	iter, err := db.NewIter(nil)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for iter.First(); iter.Valid(); iter.Next() {
		all[string(iter.Key())] = string(iter.Value())
	}
	if err := iter.Close(); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return all
}

// quiet fails the test instead of the process.
type quiet struct{ testing.TB }

func (quiet) Infof(string, ...any) {}

// Verify recomputes the ledger of these events: it has one entry for each, its
// tree is the RFC 6962 tree of the entries, each of which is proved to be in it,
// the entries lead to the state, and the state is the naive fold.
func Verify(t testing.TB, l *ledger.Ledger, recs []eventlog.Record) {
	t.Helper()
	if l.Size() != uint64(len(recs)) || l.LastSeq() != uint64(len(recs)) {
		t.Fatalf("%d entries up to event %d, the stream has %d", l.Size(), l.LastSeq(), len(recs))
	}
	Equal(t, "state and fold of the stream", Plain(l.State()), Fold(recs))
	head, err := l.Head()
	if err != nil {
		t.Fatal(err)
	}
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, n := range indexes {
			out[i] = stored[n]
		}
		return out, nil
	})
	documents := make(map[string]map[string]any)
	for i, rec := range recs {
		canonical, err := l.Canonical(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		hashes, err := tlog.StoredHashes(int64(i), canonical, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, hashes...)
		e, err := ledger.ParseEntry(canonical)
		if err != nil {
			t.Fatal(err)
		}
		if e.Index != uint64(i) || e.Seq != rec.Seq || e.EventID != rec.ID || e.Actor != rec.Actor || e.Reason != rec.Reason {
			t.Fatalf("entry %d is %+v, the event %+v", i, e, rec.Attributes)
		}
		step(t, documents, e)
	}
	root, err := tlog.TreeHash(int64(len(recs)), reader)
	if err != nil {
		t.Fatal(err)
	}
	if root != head.RootHash {
		t.Fatalf("the tree's root is %v, recomputed %v", head.RootHash, root)
	}
	for i := range recs {
		proof, err := tlog.ProveRecord(int64(len(recs)), int64(i), l.Hashes())
		if err != nil {
			t.Fatal(err)
		}
		canonical, err := l.Canonical(uint64(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(proof, int64(len(recs)), head.RootHash, int64(i), ledger.LeafHash(canonical)); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
	}
	checkDocuments(t, documents, l.State())
}

// step applies what an entry says of before and after to the documents, by name.
func step(t testing.TB, documents map[string]map[string]any, e ledger.Entry) {
	t.Helper()
	parse := func(raw json.RawMessage) map[string]any {
		var m map[string]any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	before, after := parse(e.Before), parse(e.After)
	if strings.HasPrefix(e.Action, "webhook_") {
		stepWebhook(t, documents, e, before, after)
		return
	}
	document := documents[e.Model]
	if (before == nil) != (document == nil) {
		t.Fatalf("entry %d: before is %s, the model's document %v", e.Index, e.Before, document)
	}
	delete(documents, e.Model)
	if after == nil {
		return
	}
	if document == nil {
		document = make(map[string]any)
	}
	take(t, e, document, before)
	put(document, after)
	documents[document["name"].(string)] = document
}

// stepWebhook does the same for a webhook, whose document is kept by its id.
func stepWebhook(t testing.TB, documents map[string]map[string]any, e ledger.Entry, before, after map[string]any) {
	t.Helper()
	key := webhookPrefix + cmp.Or(text(after, "webhook_id"), text(before, "webhook_id"))
	document := documents[key]
	if (before == nil) != (document == nil) {
		t.Fatalf("entry %d: before is %s, the webhook's document %v", e.Index, e.Before, document)
	}
	delete(documents, key)
	if after == nil {
		return
	}
	if document == nil {
		document = make(map[string]any)
	}
	take(t, e, document, before)
	put(document, after)
	documents[key] = document
}

func text(m map[string]any, key string) string { s, _ := m[key].(string); return s }

func take(t testing.TB, e ledger.Entry, from, what map[string]any) {
	t.Helper()
	for k, v := range what {
		if table, ok := v.(map[string]any); ok {
			inner, _ := from[k].(map[string]any)
			take(t, e, inner, table)
			if len(inner) == 0 {
				delete(from, k)
			}
			continue
		}
		if from[k] != v {
			t.Fatalf("entry %d: %s was %v before, it says %v", e.Index, k, from[k], v)
		}
		delete(from, k)
	}
}

func put(into, what map[string]any) {
	for k, v := range what {
		if table, ok := v.(map[string]any); ok {
			inner, _ := into[k].(map[string]any)
			if inner == nil {
				inner = make(map[string]any)
				into[k] = inner
			}
			put(inner, table)
			continue
		}
		into[k] = v
	}
}

func checkDocuments(t testing.TB, documents map[string]map[string]any, st *catalog.State) {
	t.Helper()
	names := slices.Sorted(maps.Keys(documents))
	var want []string
	for w := range st.Webhooks() {
		want = append(want, webhookPrefix+w.ID)
		d := documents[webhookPrefix+w.ID]
		names, _ := d["events"].(map[string]any)
		got := fmt.Sprintln(text(d, "name"), text(d, "url"), text(d, "description"), text(d, "status"), len(names), d["last_updated_timestamp"])
		if is := fmt.Sprintln(w.Name, w.URL, w.Description, w.Status, len(w.Events), w.Updated); got != is {
			t.Fatalf("the entries lead to the webhook %v, the state is %v", got, is)
		}
	}
	for m := range st.Models() {
		want = append(want, m.Name)
		d := documents[m.Name]
		if d == nil {
			continue
		}
		aliases, _ := d["aliases"].(map[string]any)
		gates, _ := d["gates"].(map[string]any)
		got := fmt.Sprintln(d["id"], text(d, "description"), d["last_updated_timestamp"], d["next_version"], len(aliases), len(gates))
		is := fmt.Sprintln(m.ID, m.Description, m.Updated, m.Next, len(m.Aliases), len(m.Gates))
		versions, _ := d["versions"].(map[string]any)
		for v := range m.AllVersions() {
			dv, _ := versions[strconv.FormatUint(v.Number, 10)].(map[string]any)
			dt, _ := dv["tags"].(map[string]any)
			approval, _ := dv["approval"].(map[string]any)
			evaluations, _ := dv["evaluations"].(map[string]any)
			refused, _ := dv["refused"].(map[string]any)
			got += fmt.Sprintln(dv["current_stage"], text(dv, "description"), text(dv, "source"), dv["last_updated_timestamp"], len(dt),
				text(approval, "status"), len(evaluations), len(refused) > 0)
			is += fmt.Sprintln(v.Stage, v.Description, v.Source, v.Updated, len(v.Tags),
				v.Approval.Status(), len(v.Evaluations), v.Refused != nil)
		}
		if got != is {
			t.Fatalf("the entries lead to %v, the state is %v", got, is)
		}
	}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Fatalf("the entries lead to models %v, the state has %v", names, want)
	}
}
