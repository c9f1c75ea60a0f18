package registry_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/pkg/proptest"
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
	for name, m := range models {
		s.readGuards(name, m, asOf)
	}
	return models
}

// readGuards adds the gates of a model, and the approvals and evaluations of its
// versions.
func (s *server) readGuards(name string, m *ledgertest.Model, asOf string) {
	s.t.Helper()
	get := func(path string) map[string]any {
		query := fields{}
		if asOf != "" {
			query["as_of"] = asOf
		}
		a := s.raw("GET", "/api/v1/models/"+url.PathEscape(name)+"/"+path, query)
		if a.status != http.StatusOK {
			s.t.Fatalf("%s of %q as of %q: %d %v", path, name, asOf, a.status, a.body)
		}
		return a.body
	}
	text := func(v any) string { s, _ := v.(string); return s }
	target := func(v any) (stage, alias string) {
		t := v.(map[string]any)
		return text(t["stage"]), text(t["alias"])
	}
	whole := func(v any) int64 { n, _ := v.(float64); return int64(n) }
	for _, item := range asList(get("gates")["gates"]) {
		g := item.(map[string]any)
		if m.Gates == nil {
			m.Gates = make(map[string]string)
		}
		stage, alias := target(g["target"])
		m.Gates[stage+"@"+alias] = fmt.Sprint(g["conditions"], g["required_tags"], g["approvals"])
	}
	for i, v := range m.Versions {
		if v == nil {
			continue
		}
		path := fmt.Sprint("versions/", i+1)
		approval := get(path + "/approval")
		if who := text(approval["requester"]); who != "" {
			v.Asked = who + ": " + text(approval["comment"])
		}
		for _, item := range asList(approval["decisions"]) {
			d := item.(map[string]any)
			if v.Said == nil {
				v.Said = make(map[string]string)
			}
			v.Said[text(d["actor"])] = fmt.Sprint(text(d["status"]), text(d["comment"]), whole(d["timestamp"]))
		}
		if r, ok := approval["refused"].(map[string]any); ok {
			stage, alias := target(r["target"])
			v.Refused = fmt.Sprint(uint64(whole(r["seq"])), stage, alias, text(r["requester"]), r["failures"])
		}
		for _, item := range asList(get(path + "/evaluations")["evaluations"]) {
			e := item.(map[string]any)
			set := e["dataset"].(map[string]any)
			v.Evaluations = append(v.Evaluations, fmt.Sprint(uint64(whole(e["seq"])), whole(e["time"]), text(e["name"]), e["metrics"],
				text(set["name"]), text(set["digest"]), text(e["evaluator"]), text(e["comment"])))
		}
	}
}

// guardRequest is any command at gates, approvals and evaluations, by somebody.
func guardRequest(pick func(n int) int) (method, path string, f fields, user string) {
	path = fmt.Sprint("/api/v1/models/model%20", pick(3), "/")
	target := []string{"gates/stages/Staging", "gates/stages/Production", "gates/aliases/k0", "gates/aliases/k1"}[pick(4)]
	version := fmt.Sprint("versions/", 1+pick(4))
	user = []string{"ada", "bob"}[pick(2)]
	switch pick(6) {
	case 0:
		return "PUT", path + target, fields{"required_tags": fields{fmt.Sprint("k", pick(2)): ""}, "approvals": pick(2)}, user
	case 1:
		return "DELETE", path + target, fields{}, user
	case 2:
		return "POST", path + version + "/evaluations", fields{"name": fmt.Sprint("e", pick(2)), "metrics": fields{"f1": pick(9)}, "dataset": fields{"digest": "d"}}, user
	}
	status := []string{catalog.ApprovalPending, catalog.ApprovalApproved, catalog.ApprovalRejected}[pick(3)]
	return "POST", path + version + "/approval", fields{"status": status, "comment": fmt.Sprint("t", pick(3))}, user
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

// fold folds events with the registry's own code, which knows models by their ids.
func fold(t rapid.TB, recs []eventlog.Record) *catalog.State {
	return statesOf(t, recs)[len(recs)]
}

// statesOf returns the states before the first event and after each.
func statesOf(t rapid.TB, recs []eventlog.Record) []*catalog.State {
	states := []*catalog.State{catalog.Empty()}
	for i, rec := range recs {
		next, _, err := states[i].Apply(rec.Seq, rec.Time, rec.Event)
		if err != nil {
			t.Fatal(err)
		}
		states = append(states, next)
	}
	return states
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
		got.Approval, got.Evaluations, got.Refused = nil, nil, nil
		want.Approval, want.Evaluations, want.Refused = nil, nil, nil
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

// checkGuardsStay checks that a rollback leaves gates, and the approvals and
// evaluations of the versions that it does not restore or delete.
func checkGuardsStay(t rapid.TB, now, before *catalog.State) {
	for m := range before.Models() {
		after := now.ModelByID(m.ID)
		if after == nil {
			continue // it is deleted again
		}
		if !reflect.DeepEqual(after.Gates, m.Gates) {
			t.Fatalf("the gates of %q are %+v, they were %+v", m.Name, after.Gates, m.Gates)
		}
		for v := range m.Versions() {
			if is, ok := after.Version(v.Number); ok &&
				(!reflect.DeepEqual(is.Approval, v.Approval) || !reflect.DeepEqual(is.Evaluations, v.Evaluations) || !reflect.DeepEqual(is.Refused, v.Refused)) {
				t.Fatalf("version %d of %q is %+v, it was %+v", v.Number, m.Name, is, v)
			}
		}
	}
}

func TestAnyMomentIsAFoldAndARollbackGoesBackToIt(t *testing.T) {
	t.Parallel()
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	done := make(map[string]int)
	var recs []eventlog.Record
	states := []*catalog.State{catalog.Empty()} // by number of entries
	readOn := func() {
		for rec, err := range log.Read(s.t.Context(), events.StreamRegistry, "", uint64(len(recs))+1, 0) {
			if err != nil {
				s.t.Fatal(err)
			}
			next, _, err := states[len(recs)].Apply(rec.Seq, rec.Time, rec.Event)
			if err != nil {
				s.t.Fatal(err)
			}
			recs, states = append(recs, rec), append(states, next)
		}
	}
	proptest.Check(t, func(t *rapid.T) {
		// Rapid's numbers are mostly small, and so most of its histories create.
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), uint64(len(recs))))
		pick := random.IntN
		for range 5 + pick(25) {
			if pick(5) == 0 {
				method, path, f, user := guardRequest(pick)
				s.raw(method, path, f, as(user)...)
				continue
			}
			method, path, f := request(pick)
			switch {
			case pick(3) == 0:
				method, path, f = "POST", "model-versions/create", fields{"name": fmt.Sprint("model ", pick(3)), "source": "s3://b/m"}
			case path == "registered-models/delete" && pick(3) > 0:
				method, path, f = "POST", "registered-models/create", fields{"name": f["name"]}
			}
			s.send(method, path, f)
		}
		readOn()
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
		then, before := states[n], states[len(recs)]
		model := ""
		if pick(2) == 0 {
			model = fmt.Sprint("model ", pick(3))
		}
		request := fields{"to": n, "restore": pick(10) > 0, "reason": "back"}
		dry := maps.Clone(request)
		dry["dry_run"] = true
		first := s.rollback(model, dry)
		if readOn(); len(recs) != size {
			t.Fatalf("a dry run wrote %d events", len(recs)-size)
		}
		a := s.rollback(model, request)
		if a.status != first.status || a.status == http.StatusOK && !reflect.DeepEqual(a.body["changes"], first.body["changes"]) {
			t.Fatalf("dry run: %d %v, rollback: %d %v", first.status, first.body, a.status, a.body)
		}
		readOn()
		if a.status != http.StatusOK {
			if len(recs) != size {
				t.Fatalf("refused with %v, and wrote %d events", a.body, len(recs)-size)
			}
			return
		}
		checkBatch(t, recs[size:], a, "back")
		for _, change := range asList(a.body["changes"]) {
			done[fmt.Sprint(change.(map[string]any)["what"])]++
		}
		now := states[len(recs)]
		checkGuardsStay(t, now, before)
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
		back := len(recs)
		readOn()
		checkBatch(t, recs[back:], a, "forth")
		after := states[len(recs)]
		checkAllBack(t, after, before)
		if got := slices.Collect(after.Models()); len(got) != before.Len() {
			t.Fatalf("%d models, there were %d", len(got), before.Len())
		}
	})
	t.Log("changes by rollbacks:", done)
	guarded := make(map[string]int)
	for _, rec := range recs {
		switch kind := events.Type(rec.Event); kind {
		case "runledger.gate_set", "runledger.gate_deleted", "runledger.promotion_refused", "runledger.approval_set", "runledger.evaluation_recorded":
			guarded[kind]++
		}
	}
	if len(guarded) != 5 {
		t.Errorf("of gates there were only %v", guarded)
	}
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
	if len(recs) > 0 && (a.body["first_seq"] != float64(recs[0].Seq) || a.body["last_seq"] != float64(recs[len(recs)-1].Seq)) {
		t.Fatalf("%v, the events are %d to %d", a.body, recs[0].Seq, recs[len(recs)-1].Seq)
	}
}

func TestRollback(t *testing.T) {
	s := newPast(t) // 1 to 6, where entry 6 deletes version 1
	s.must("PATCH", "model-versions/update", fields{"name": "m", "version": "2", "description": "worse"})
	s.addVersion("m")
	s.must("POST", "registered-models/alias", fields{"name": "m", "alias": "champion", "version": "3"})
	s.must("POST", "model-versions/transition-stage", fields{"name": "m", "version": "3", "stage": "Production"})
	a := s.rollback("m", fields{"to": 5, "reason": "worse"})
	if a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "version 1 of 'm'") || s.size() != 10 {
		t.Fatalf("a version that was deleted: %d %v, %v entries", a.status, a.body, s.size())
	}
	a = s.rollback("m", fields{"to": "5", "reason": "worse", "restore": true}, "X-Request-Id", "r-1", httpapi.HeaderReason, "not this")
	const want = `{"changes":[` +
		`{"from":"deleted","model":"m","to":"restored","version":"1","what":"version"},` +
		`{"from":"worse","model":"m","to":null,"version":"2","what":"description"},` +
		`{"from":"Production","model":"m","to":"None","version":"3","what":"stage"},` +
		`{"from":"3","key":"champion","model":"m","to":"1","what":"alias"}],` +
		`"dry_run":false,"first_seq":11,"last_seq":14,"seq":10,"to":5}`
	if got := toJSON(t, a.body); got != want {
		t.Fatalf("\n got %s\nwant %s", got, want)
	}
	v := s.must("GET", "registered-models/alias", fields{"name": "m", "alias": "champion"})["model_version"].(map[string]any)
	if v["version"] != "1" || v["source"] != "s3://bucket/model" || v["current_stage"] != "Production" {
		t.Errorf("the version is %v", v)
	}
	if v := s.version("m", "3"); v["current_stage"] != "None" {
		t.Errorf("a version made since is %v", v)
	}
	for _, e := range s.entries("m")[10:] {
		if e["reason"] != "worse" || e["request_id"] != "r-1" || e["source"] != "/runledger/registry/rollback?to=5" {
			t.Errorf("an entry of the rollback is %v", e)
		}
	}
	if next := s.addVersion("m"); next != "4" {
		t.Errorf("the next version is %s", next)
	}
	if a := s.rollback("m", fields{"to": 14, "reason": "again"}); toJSON(t, a.body["changes"]) != "[]" || a.body["first_seq"] != 0.0 {
		t.Errorf("nothing to roll back: %v", a.body)
	}
}

func TestRollbackOfADeletedModel(t *testing.T) {
	s := newServer(t)
	s.create("m") // 1
	s.addVersion("m")
	s.must("POST", "registered-models/alias", fields{"name": "m", "alias": "a", "version": "1"}) // 3
	s.addVersion("m")
	s.must("DELETE", "registered-models/delete", fields{"name": "m"}) // 5
	s.create("other")                                                 // 6
	if a := s.rollback("m", fields{"to": 3, "reason": "r"}); a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "Registered Model 'm'") {
		t.Fatalf("a model that was deleted: %d %v", a.status, a.body)
	}
	if a := s.rollback("", fields{"to": 3, "reason": "r"}); a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "Registered Model 'm', 1 in all") {
		t.Fatalf("a model that was deleted: %d %v", a.status, a.body)
	}
	if a := s.rollback("m", fields{"to": 3, "reason": "r", "restore": true}); a.status != http.StatusOK {
		t.Fatalf("%d %v", a.status, a.body)
	}
	m := s.model("m")
	if toJSON(t, m["aliases"]) != `[{"alias":"a","version":"1"}]` || len(asList(m["latest_versions"])) != 1 {
		t.Errorf("the model is %v", m)
	}
	// Version 2 was made since, and deleted with the model.
	if next := s.addVersion("m"); next != "3" {
		t.Errorf("the next version is %s", next)
	}
	if a := s.rollback("m", fields{"to": 4, "reason": "r", "restore": true}); a.status != http.StatusOK || s.version("m", "2")["source"] != "s3://bucket/model" {
		t.Errorf("%d %v", a.status, a.body)
	}
	if got := len(s.entries("m")); got != 5+3+1+1 {
		t.Errorf("%d entries in the model's history", got)
	}
	// Another model that has the name now is not to be replaced.
	s.must("DELETE", "registered-models/delete", fields{"name": "m"})
	s.create("m")
	size := s.size()
	if a := s.rollback("", fields{"to": 4, "reason": "r", "restore": true}); a.body["error_code"] != "RESOURCE_ALREADY_EXISTS" || !strings.Contains(toJSON(t, a.body), "'m'") {
		t.Errorf("the name is taken: %d %v", a.status, a.body)
	}
	if a := s.rollback("m", fields{"to": 4, "reason": "r"}); a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "'m' did not exist as of entry 4") {
		t.Errorf("another model: %d %v", a.status, a.body)
	}
	if s.size() != size {
		t.Errorf("%v entries, there were %v", s.size(), size)
	}
}

func TestRollbacksThatAreRefused(t *testing.T) {
	s := newPast(t)
	s.create("late")                                                                               // 7
	s.must("POST", "registered-models/rename", fields{"name": "late", "new_name": "latest model"}) // 8
	for _, test := range []struct {
		model  string
		fields fields
		status int
		want   string
	}{
		{"m", fields{"reason": "r"}, 400, "parameter 'to'"},
		{"m", fields{"to": nil, "reason": "r"}, 400, "parameter 'to'"},
		{"m", fields{"to": true, "reason": "r"}, 400, "parameter 'to'"},
		{"m", fields{"to": []int{1}, "reason": "r"}, 400, "parameter 'to'"},
		{"m", fields{"to": 2}, 400, "parameter 'reason'"},
		{"m", fields{"to": 2, "reason": " "}, 400, "parameter 'reason'"},
		{"m", fields{"to": 2, "reason": strings.Repeat("r", 1025)}, 400, "'reason' exceeds"},
		{"m", fields{"to": 2, "reason": 1}, 400, "field 'reason'"},
		{"m", fields{"to": 2, "reason": "r", "dry_run": "yes"}, 400, "field 'dry_run'"},
		{"m", fields{"to": 2, "reason": "r", "force": true}, 400, "Unknown field 'force'"},
		{"nobody", fields{"to": 2, "reason": "r"}, 404, "nobody"},
		{"latest model", fields{"to": 6, "reason": "r"}, 400, "'latest model' did not exist as of entry 6. Entry 7 created it"},
		{"late", fields{"to": 7, "reason": "r"}, 400, "'late' is called 'latest model' now"},
		{"a/b", fields{"to": 2, "reason": "r"}, 400, "name"},
	} {
		a := s.rollback(test.model, test.fields)
		if a.status != test.status || !strings.Contains(toJSON(t, a.body), test.want) {
			t.Errorf("%s %.80v: %d %v, want %q", test.model, test.fields, a.status, a.body, test.want)
		}
	}
	if s.size() != 8 {
		t.Errorf("%v entries", s.size())
	}
}

func TestARollbackIsDoneOnce(t *testing.T) {
	s := newPast(t)
	request := fields{"to": 5, "reason": "r", "restore": true}
	first := s.rollback("m", request, httpapi.HeaderIdempotencyKey, "k")
	s.must("DELETE", "registered-models/alias", fields{"name": "m", "alias": "champion"})
	second := s.rollback("m", request, httpapi.HeaderIdempotencyKey, "k")
	if first.status != http.StatusOK || toJSON(t, first.body) != toJSON(t, second.body) || s.size() != 9 {
		t.Errorf("first %v\nthen %v, %v entries", first.body, second.body, s.size())
	}
	for _, a := range []answer{
		s.rollback("m", fields{"to": 4, "reason": "r", "restore": true}, httpapi.HeaderIdempotencyKey, "k"),
		s.send("POST", "registered-models/create", fields{"name": "n"}, httpapi.HeaderIdempotencyKey, "k"),
	} {
		if a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "used before") {
			t.Errorf("the key of another request: %d %v", a.status, a.body)
		}
	}
}

// So is one that brings a deleted model back, after which the model's last event
// is no longer its deletion.
func TestARollbackThatRestoresAModelIsDoneOnce(t *testing.T) {
	s := newServer(t)
	s.create("m")
	s.addVersion("m")
	s.must("DELETE", "registered-models/delete", fields{"name": "m"})
	request := fields{"to": 2, "reason": "r", "restore": true}
	first := s.rollback("m", request, httpapi.HeaderIdempotencyKey, "k")
	s.addVersion("m")
	second := s.rollback("m", request, httpapi.HeaderIdempotencyKey, "k")
	if first.status != http.StatusOK || toJSON(t, first.body) != toJSON(t, second.body) || s.size() != 6 {
		t.Errorf("first %v\nthen %v, %v entries", first.body, second.body, s.size())
	}
}

func TestAChangeInBetweenIsNotOverwritten(t *testing.T) {
	s := newPast(t)
	for _, model := range []string{"m", ""} {
		request := fields{"to": 4, "restore": true, "dry_run": true, "reason": "r"}
		dry := s.rollback(model, request)
		s.must("POST", "registered-models/set-tag", fields{"name": "m", "key": "since" + model, "value": "v"})
		size := s.size()
		delete(request, "dry_run")
		seq := dry.header.Get(httpapi.HeaderSeq)
		a := s.rollback(model, request, httpapi.HeaderExpectSeq, seq)
		if a.status != http.StatusConflict || a.body["error_code"] != "RESOURCE_CONFLICT" || s.size() != size || seq != fmt.Sprint(dry.body["seq"]) {
			t.Errorf("%q: %d %v, %v entries, the sequence was %s", model, a.status, a.body, s.size(), seq)
		}
	}
	if tags := toJSON(t, s.model("m")["tags"]); !strings.Contains(tags, "since") {
		t.Errorf("tags %s", tags)
	}
}

// Two processes change and roll back the same models at the same time. A
// rollback either rests on the last event before it, or is refused.
func TestRollbacksRace(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	servers := []*server{start(t, log, t.TempDir()), start(t, log, t.TempDir())}
	for _, name := range []string{"m", "n"} {
		servers[0].create(name)
		servers[0].addVersion(name)
		servers[0].addVersion(name)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var rollbacks []answer
	for _, s := range servers {
		wg.Go(func() {
			for i := range 40 {
				s.send("POST", "registered-models/alias", fields{"name": "m", "alias": "a", "version": strconv.Itoa(1 + i%2)})
				s.send("POST", "registered-models/set-tag", fields{"name": "n", "key": "k", "value": strconv.Itoa(i)})
			}
		})
		wg.Go(func() {
			for i := range 40 {
				a := s.rollback([]string{"m", ""}[i%2], fields{"to": 6, "reason": "race"})
				mu.Lock()
				rollbacks = append(rollbacks, a)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	recs := readAll(t, log)
	outcomes := make(map[int]int)
	for _, a := range rollbacks {
		outcomes[a.status]++
		if a.status != http.StatusOK && a.status != http.StatusConflict {
			t.Errorf("%d %v", a.status, a.body)
		}
		changes := asList(a.body["changes"])
		if a.status != http.StatusOK || len(changes) == 0 {
			continue
		}
		first, last := int(a.body["first_seq"].(float64)), int(a.body["last_seq"].(float64))
		checkBatch(t, recs[first-1:last], a, "race")
		// What the difference was computed on was still so.
		before, seq := fold(t, recs[:first-1]), uint64(a.body["seq"].(float64))
		if m, _ := before.Model("m"); m.Last != seq && before.Seq() != seq {
			t.Errorf("a rollback at entry %d was computed on event %d, the last were %d and %d", first, seq, m.Last, before.Seq())
		}
	}
	t.Log("rollbacks by status:", outcomes)
	if outcomes[http.StatusOK] == 0 || outcomes[http.StatusConflict] == 0 {
		t.Error("there was no race")
	}
	for _, s := range servers {
		s.close()
		checkLedger(t, s.dir, recs)
	}
}

// modelTags returns n events that give the model m other tags for each n.
func modelTags(n int) []*events.Event {
	list := make([]*events.Event, n)
	for i := range list {
		list[i] = &events.Event{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{
			Name: "m", Tag: &events.Tag{Key: fmt.Sprintf("%d of %d", i, n), Value: "v"},
		}}}
	}
	return list
}

func TestARollbackThatIsTooLarge(t *testing.T) {
	t.Parallel()
	log := openLog(t, natstest.Start(t))
	writeAll(t, log, "m", append([]*events.Event{created("m")}, modelTags(1)...)...)
	writeAll(t, log, "m", modelTags(eventlog.MaxEvents)...)
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.ready(t)
	size := s.size()
	a := s.rollback("m", fields{"to": 1, "reason": "r"})
	if a.status != http.StatusBadRequest || !strings.Contains(toJSON(t, a.body), "501 changes") || s.size() != size {
		t.Errorf("%d %v, %v entries", a.status, a.body, s.size())
	}
	a = s.rollback("m", fields{"to": 2, "reason": "r"})
	if a.status != http.StatusOK || len(asList(a.body["changes"])) != eventlog.MaxEvents || len(asList(s.model("m")["tags"])) != 1 {
		t.Errorf("%d %.200v", a.status, a.body)
	}
}

func TestARollbackOfTooManyBytes(t *testing.T) {
	const n = 9
	log := openLog(t, natstest.Start(t))
	writeAll(t, log, "m", created("m"))
	update := func(version uint64, description string) *events.Event {
		return &events.Event{Data: &events.Event_ModelVersionUpdated{ModelVersionUpdated: &events.ModelVersionUpdated{Name: "m", Version: version, Description: description}}}
	}
	for i := range uint64(n) {
		writeAll(t, log, "m", &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
			Name: "m", Version: i + 1, Source: "s3://b/m", Description: strings.Repeat("d", 1_000_000),
		}}})
	}
	for i := range uint64(n) {
		writeAll(t, log, "m", update(i+1, ""))
	}
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.ready(t)
	s.want("9 descriptions of 1 MB", s.rollback("m", fields{"to": n + 1, "reason": "r"}), http.StatusBadRequest, "too large to be done at once: 9 changes")
	s.want("8 descriptions of 1 MB", s.rollback("m", fields{"to": n + 2, "reason": "r"}), http.StatusOK, "")
}

// Who reads while a rollback is made, here or elsewhere, sees it as a whole.
func TestARollbackIsSeenAsAWhole(t *testing.T) {
	t.Parallel()
	const tags = 400 // more than is applied at a time
	log := openLog(t, natstest.Start(t))
	servers := []*server{start(t, log, t.TempDir()), start(t, log, t.TempDir())}
	for _, s := range servers {
		t.Cleanup(s.close)
	}
	s := servers[0]
	s.create("m")
	writeAll(t, log, "m", modelTags(tags)...)
	s.ready(t)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() {
			for {
				if n := len(asList(servers[i].model("m")["tags"])); n != 0 && n != tags {
					t.Errorf("%d of %d tags", n, tags)
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for range 3 {
		to := s.size()
		if a := s.rollback("m", fields{"to": 1, "reason": "r"}); a.status != http.StatusOK {
			t.Errorf("%d %v", a.status, a.body)
		}
		if a := s.rollback("m", fields{"to": to, "reason": "r"}); a.status != http.StatusOK {
			t.Errorf("%d %v", a.status, a.body)
		}
	}
	close(done)
	wg.Wait()
}
