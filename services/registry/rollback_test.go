package registry_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
)

// read answers the whole registry from searches as of a moment, "" for now, in
// the naive form: without deleted versions.
func (s *server) read(asOf string) map[string]*ledgertest.Model {
	s.t.Helper()
	query := fields{"max_results": 1000}
	if asOf != "" {
		query["as_of"] = asOf
	}
	models := make(map[string]*ledgertest.Model)
	tags := func(of map[string]any) map[string]string {
		out := make(map[string]string)
		for _, t := range asList(of["tags"]) {
			tag := t.(map[string]any)
			out[fmt.Sprint(tag["key"])] = fmt.Sprint(tag["value"])
		}
		return out
	}
	millis := func(v any) int64 {
		n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
		if err != nil {
			s.t.Fatal(err)
		}
		return int64(n)
	}
	text := func(v any) string { s, _ := v.(string); return s }
	for _, item := range asList(s.must("GET", "registered-models/search", query)["registered_models"]) {
		m := item.(map[string]any)
		model := &ledgertest.Model{
			Created: millis(m["creation_timestamp"]), Updated: millis(m["last_updated_timestamp"]),
			Description: text(m["description"]), Tags: tags(m), Aliases: make(map[string]uint64),
		}
		for _, a := range asList(m["aliases"]) {
			alias := a.(map[string]any)
			model.Aliases[fmt.Sprint(alias["alias"])] = uint64(millis(alias["version"]))
		}
		models[fmt.Sprint(m["name"])] = model
	}
	for _, item := range asList(s.must("GET", "model-versions/search", query)["model_versions"]) {
		v := item.(map[string]any)
		m, n := models[fmt.Sprint(v["name"])], int(millis(v["version"]))
		for len(m.Versions) < n {
			m.Versions = append(m.Versions, nil)
		}
		m.Versions[n-1] = &ledgertest.Version{
			Created: millis(v["creation_timestamp"]), Updated: millis(v["last_updated_timestamp"]), Stage: text(v["current_stage"]),
			Description: text(v["description"]), Source: text(v["source"]), Tags: tags(v),
		}
	}
	return models
}

// shown takes away from a fold what no search shows.
func shown(models map[string]*ledgertest.Model) map[string]*ledgertest.Model {
	for _, m := range models {
		for i, v := range m.Versions {
			if v.Stage == catalog.StageDeleted {
				m.Versions[i] = nil
				continue
			}
			v.Location, v.UserID, v.RunID, v.RunLink, v.ModelID = "", "", "", "", ""
		}
		for len(m.Versions) > 0 && m.Versions[len(m.Versions)-1] == nil {
			m.Versions = m.Versions[:len(m.Versions)-1]
		}
		if len(m.Versions) == 0 {
			m.Versions = nil
		}
	}
	return models
}

func (s *server) rollback(model string, f fields, headers ...string) answer {
	s.t.Helper()
	path := "/api/v1/registry/rollback"
	if model != "" {
		path = "/api/v1/models/" + url.PathEscape(model) + "/rollback"
	}
	return s.raw("POST", path, f, headers...)
}

// fold folds the first n events with the registry's own code, which knows models
// by their ids.
func fold(t rapid.TB, recs []eventlog.Record) *catalog.State {
	st := catalog.Empty()
	for _, rec := range recs {
		next, _, err := st.Apply(rec.Seq, rec.Time, rec.Event)
		if err != nil {
			t.Fatal(err)
		}
		st = next
	}
	return st
}

// checkBack compares a model with what it was before a rollback to then.
func checkBack(t rapid.TB, now, then *catalog.Model) {
	if now.Description != then.Description || !maps.Equal(now.Tags, then.Tags) || !maps.Equal(now.Aliases, then.Aliases) {
		t.Fatalf("model %q is %+v, it was %+v", now.Name, now, then)
	}
	for v := range then.Versions() {
		back, ok := now.Version(v.Number)
		if !ok {
			t.Fatalf("version %d of %q is missing", v.Number, now.Name)
		}
		got, want := *back, *v
		got.Updated, want.Updated = 0, 0
		if len(got.Tags) == 0 && len(want.Tags) == 0 {
			got.Tags, want.Tags = nil, nil
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("version of %q is %+v, it was %+v", now.Name, got, want)
		}
	}
	for v := range now.Versions() {
		if old := then.AnyVersion(v.Number); old == nil && v.Stage != catalog.StageNone || old != nil && old.Deleted() {
			t.Fatalf("version %d of %q is in stage %s; then it was %+v", v.Number, now.Name, v.Stage, old)
		}
	}
}

// checkAllBack does so for every model, of which none is missing.
func checkAllBack(t rapid.TB, now, then *catalog.State) {
	for m := range then.Models() {
		back := now.ModelByID(m.ID)
		if back == nil {
			t.Fatalf("model %q is missing", m.Name)
		}
		checkBack(t, back, m)
	}
	for m := range now.Models() {
		if then.ModelByID(m.ID) == nil && m.ID <= then.Seq() {
			t.Fatalf("model %q is there, though it was deleted then", m.Name)
		}
	}
}

func TestAnyMomentIsAFoldAndARollbackGoesBackToIt(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	rapid.Check(t, func(t *rapid.T) {
		pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
		for range 5 + pick(15) {
			method, path, f := request(pick)
			s.send(method, path, f)
		}
		recs := readAll(s.t, log)
		size := len(recs)
		if size == 0 {
			return
		}
		// Moments of this round, mostly.
		moment := func() int { return max(1, size-pick(40)) }
		for range 3 {
			n := moment()
			if got, want := s.read(strconv.Itoa(n)), shown(ledgertest.Fold(recs[:n])); !reflect.DeepEqual(got, want) {
				ledgertest.Equal(s.t, fmt.Sprint("as of ", n), got, want)
			}
		}
		n := moment()
		then, before := fold(t, recs[:n]), fold(t, recs)
		model := ""
		if pick(2) == 0 {
			model = fmt.Sprint("model ", pick(3))
		}
		request := fields{"to": n, "restore": pick(3) > 0, "reason": "back"}
		dry := maps.Clone(request)
		dry["dry_run"] = true
		first := s.rollback(model, dry)
		if got := len(readAll(s.t, log)); got != size {
			t.Fatalf("a dry run wrote %d events", got-size)
		}
		a := s.rollback(model, request)
		if a.status != first.status || a.status == http.StatusOK && !reflect.DeepEqual(a.body["changes"], first.body["changes"]) {
			t.Fatalf("dry run: %d %v, rollback: %d %v", first.status, first.body, a.status, a.body)
		}
		recs = readAll(s.t, log)
		if a.status != http.StatusOK {
			if len(recs) != size {
				t.Fatalf("refused with %v, and wrote %d events", a.body, len(recs)-size)
			}
			return
		}
		checkBatch(t, recs[size:], a, "back")
		now := fold(t, recs)
		if m, ok := now.Model(model); ok {
			checkBack(t, m, then.ModelByID(m.ID))
		} else {
			checkAllBack(t, now, then)
		}
		// And back again.
		a = s.rollback("", fields{"to": size, "reason": "forth", "restore": true})
		if a.status != http.StatusOK {
			t.Fatalf("rollback of a rollback: %v", a.body)
		}
		all := readAll(s.t, log)
		checkBatch(t, all[len(recs):], a, "forth")
		after := fold(t, all)
		checkAllBack(t, after, before)
		if got := slices.Collect(after.Models()); len(got) != before.Len() {
			t.Fatalf("%d models, there were %d", len(got), before.Len())
		}
	})
	s.close()
	checkLedger(t, s.dir, readAll(t, log))
	*s = *start(t, log, s.dir)
}

// checkBatch checks that the events of a rollback say whose they are.
func checkBatch(t rapid.TB, recs []eventlog.Record, a answer, reason string) {
	if changes := asList(a.body["changes"]); len(changes) != len(recs) {
		t.Fatalf("%d events for the changes %v", len(recs), changes)
	}
	for _, rec := range recs {
		if rec.Reason != reason || rec.RequestID == "" || rec.RequestID != recs[0].RequestID || !rec.Time.Equal(recs[0].Time) ||
			!strings.HasPrefix(rec.Source, "/runledger/registry/rollback?to=") {
			t.Fatalf("event of a rollback: %+v", rec.Attributes)
		}
	}
	if len(recs) > 0 && (a.body["first_entry"] != float64(recs[0].Seq) || a.body["last_entry"] != float64(recs[len(recs)-1].Seq)) {
		t.Fatalf("%v, the events are %d to %d", a.body, recs[0].Seq, recs[len(recs)-1].Seq)
	}
}

var _ = httpapi.HeaderAsOf
var _ = time.Now
