package registry_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

// logMetrics logs points of a run as ingest does.
func logMetrics(t testing.TB, log *eventlog.Log, run string, points ...events.Point) {
	t.Helper()
	stream, subject := log.RunSubject("1", run, events.KindMetric)
	appendEvent(t, log, stream, subject, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(run, points)}})
}

func appendEvent(t testing.TB, log *eventlog.Log, stream, subject string, e *events.Event) {
	t.Helper()
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(subject, events.New("/test", "tester", time.Now()), e, eventlog.Expect{}, nil)
	}); err != nil {
		t.Fatal(err)
	}
}

// as returns the headers of a request by somebody.
func as(user string) []string {
	return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"))}
}

// guarded is a registry with a model whose versions 1, 2, … have a run each, with
// the recall that is given.
type guarded struct {
	*server
	log  *eventlog.Log
	runs []string
}

func newGuarded(t testing.TB, recalls ...float64) *guarded {
	t.Helper()
	log := openLog(t, natstest.Start(t))
	g := &guarded{server: start(t, log, t.TempDir()), log: log}
	t.Cleanup(g.close)
	g.create("m")
	for i, recall := range recalls {
		run := fmt.Sprintf("%032x", i+1)
		addRun(t, log, run, "mlflow-artifacts:/1/"+run+"/artifacts")
		logMetrics(t, log, run, events.Point{Key: "recall", Step: 1, Value: recall / 2}, events.Point{Key: "recall", Step: 2, Value: recall})
		g.must("POST", "model-versions/create", fields{"name": "m", "source": "mlflow-artifacts:/1/" + run + "/artifacts/model", "run_id": run})
		g.runs = append(g.runs, run)
	}
	return g
}

func (g *guarded) gate(target string, f fields) answer {
	g.t.Helper()
	return g.raw("PUT", "/api/v1/models/m/gates/"+target, f)
}

func (g *guarded) mustGate(target string, f fields) {
	g.t.Helper()
	if a := g.gate(target, f); a.status != http.StatusOK {
		g.t.Fatalf("gate at %s %v: %d %v", target, f, a.status, a.body)
	}
}

func (g *guarded) toStage(version int, stage, user string, headers ...string) answer {
	g.t.Helper()
	return g.send("POST", "model-versions/transition-stage", fields{"name": "m", "version": fmt.Sprint(version), "stage": stage}, append(as(user), headers...)...)
}

func (g *guarded) toAlias(version int, alias, user string) answer {
	g.t.Helper()
	return g.send("POST", "registered-models/alias", fields{"name": "m", "version": fmt.Sprint(version), "alias": alias}, as(user)...)
}

func (g *guarded) approve(version int, user, status, comment string) answer {
	g.t.Helper()
	return g.raw("POST", fmt.Sprintf("/api/v1/models/m/versions/%d/approval", version), fields{"status": status, "comment": comment}, as(user)...)
}

func (g *guarded) evaluate(version int, f fields) answer {
	g.t.Helper()
	return g.raw("POST", fmt.Sprintf("/api/v1/models/m/versions/%d/evaluations", version), f, as("eve")...)
}

// expect fails the test unless the answer is a refusal that says all of this, and
// it is one more entry and nothing else, or is none.
func (g *guarded) expectRefused(what string, do func() answer, says ...string) {
	g.t.Helper()
	before, state := g.size(), fmt.Sprint(g.model("m"))
	a := do()
	if a.status != http.StatusForbidden || a.body["error_code"] != "PERMISSION_DENIED" {
		g.t.Fatalf("%s: %d %v", what, a.status, a.body)
	}
	for _, part := range says {
		if message := fmt.Sprint(a.body["message"]); !strings.Contains(message, part) {
			g.t.Errorf("%s: %q does not say %q", what, message, part)
		}
	}
	if after := g.size(); after != before+1 {
		g.t.Errorf("%s left %v entries", what, after-before)
	}
	if after := fmt.Sprint(g.model("m")); after != state {
		g.t.Errorf("%s changed the model from\n%s to\n%s", what, state, after)
	}
	entries := g.entries("m")
	if last := entries[len(entries)-1]; last["action"] != "promotion_refused" || !strings.Contains(fmt.Sprint(last["after"]), says[0]) {
		g.t.Errorf("%s: the last entry is %v", what, last)
	}
}

func (g *guarded) expectPassed(what string, a answer) {
	g.t.Helper()
	if a.status != http.StatusOK {
		g.t.Fatalf("%s: %d %v", what, a.status, a.body)
	}
}

func TestGateComparesFigures(t *testing.T) {
	g := newGuarded(t, 0.96, 0.91, 0.955, 0.94)
	g.mustGate("stages/Production", fields{"conditions": []string{"metrics.recall >= 0.93", "metrics.recall >= current - 1%"}})
	g.expectPassed("nothing there yet", g.toStage(1, "Production", "ada"))
	g.expectRefused("too low", func() answer { return g.toStage(2, "Production", "ada") },
		"metrics.recall is 0.91, want >= 0.93", "metrics.recall is 0.91, want >= 0.95", "current is 0.96", "Version 2 of 'm' cannot be promoted to stage Production")
	g.expectRefused("low beside what is there", func() answer { return g.toStage(4, "Production", "ada") }, "metrics.recall is 0.94, want >= 0.95")
	g.expectPassed("to another stage", g.toStage(2, "Staging", "ada"))
	g.expectPassed("close enough", g.toStage(3, "Production", "ada"))
	// Version 3 is the highest in the stage now.
	g.expectRefused("below both", func() answer { return g.toStage(4, "production", "ada") }, "current is 0.955")
	g.expectPassed("what is there stays", g.toStage(3, "Production", "ada"))

	g.mustGate("aliases/champion", fields{"conditions": []string{"metrics.recall > current"}})
	g.expectPassed("a free alias", g.toAlias(2, "champion", "ada"))
	g.expectPassed("better", g.toAlias(1, "champion", "ada"))
	g.expectRefused("worse", func() answer { return g.toAlias(3, "champion", "ada") }, "metrics.recall is 0.955, want > 0.96")
	g.expectPassed("another alias", g.toAlias(2, "challenger", "ada"))
	g.must("DELETE", "registered-models/alias", fields{"name": "m", "alias": "champion"})
	g.expectPassed("free again", g.toAlias(3, "champion", "ada"))

	if a := g.raw("DELETE", "/api/v1/models/m/gates/stages/Production", nil); a.status != http.StatusOK {
		t.Fatal(a)
	}
	g.expectPassed("without a gate", g.toStage(2, "Production", "ada"))
}

// What counts is the value that MLflow shows as the latest, at the time of the
// promotion.
func TestGateReadsTheLatestValues(t *testing.T) {
	g := newGuarded(t, 0.5)
	g.mustGate("stages/Production", fields{"conditions": []string{"metrics.recall >= 0.9"}})
	g.expectRefused("early", func() answer { return g.toStage(1, "Production", "ada") }, "metrics.recall is 0.5")
	logMetrics(t, g.log, g.runs[0], events.Point{Key: "recall", Step: 1, Timestamp: 99, Value: 1})
	g.expectRefused("an earlier step", func() answer { return g.toStage(1, "Production", "ada") }, "metrics.recall is 0.5")
	logMetrics(t, g.log, g.runs[0], events.Point{Key: "recall", Step: 3, Value: math.NaN()})
	g.expectRefused("NaN", func() answer { return g.toStage(1, "Production", "ada") }, "metrics.recall is NaN")
	logMetrics(t, g.log, g.runs[0], events.Point{Key: "recall", Step: 3, Value: 0.95}, events.Point{Key: "recall", Step: 3, Value: 0.85})
	g.expectPassed("the greatest of a step", g.toStage(1, "Production", "ada"))

	stream, meta := g.log.RunSubject("1", g.runs[0], events.KindMeta)
	appendEvent(t, g.log, stream, meta, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: g.runs[0]}}})
	g.expectPassed("out", g.toStage(1, "None", "ada"))
	g.expectRefused("a purged run", func() answer { return g.toStage(1, "Production", "ada") }, "the version has no metrics.recall")
}

func TestGateWantsTags(t *testing.T) {
	g := newGuarded(t, 1)
	g.mustGate("stages/Staging", fields{"required_tags": fields{"owner": "", "validated": "yes"}})
	tag := func(key, value string) {
		g.must("POST", "model-versions/set-tag", fields{"name": "m", "version": "1", "key": key, "value": value})
	}
	g.expectRefused("no tags", func() answer { return g.toStage(1, "Staging", "ada") }, "the tag 'owner' is missing", "the tag 'validated' is missing")
	tag("owner", "ada")
	tag("validated", "no")
	g.expectRefused("another value", func() answer { return g.toStage(1, "Staging", "ada") }, "the tag 'validated' is 'no', want 'yes'")
	tag("validated", "yes")
	g.expectPassed("all tags", g.toStage(1, "Staging", "ada"))
}

func TestApprovals(t *testing.T) {
	g := newGuarded(t, 1)
	g.mustGate("stages/Production", fields{"approvals": 2})
	promote := func() answer { return g.toStage(1, "Production", "ada") }
	ok := func(a answer, status string) {
		t.Helper()
		if a.status != http.StatusOK || a.body["status"] != status {
			t.Fatalf("%d %v, want %s", a.status, a.body, status)
		}
	}
	g.expectRefused("nobody", promote, "0 of 2 approvals")
	ok(g.approve(1, "ada", "PendingManualApproval", "please look"), "PendingManualApproval")
	before := g.size()
	for name, a := range map[string]answer{
		"by the requester": g.approve(1, "ada", "Approved", ""),
		"by nobody":        g.raw("POST", "/api/v1/models/m/versions/1/approval", fields{"status": "Approved"}),
		"of no status":     g.approve(1, "bob", "Maybe", ""),
		"too long":         g.approve(1, "bob", "Approved", strings.Repeat("x", 1025)),
	} {
		if a.status != http.StatusBadRequest || a.body["error_code"] != "INVALID_PARAMETER_VALUE" {
			t.Errorf("an approval %s: %d %v", name, a.status, a.body)
		}
	}
	if a := g.approve(1, "ada", "Approved", ""); !strings.Contains(fmt.Sprint(a.body["message"]), "'status': ada asked for the approval of version 1") {
		t.Errorf("by the requester: %v", a.body)
	}
	if after := g.size(); after != before {
		t.Errorf("%v entries of what was refused", after-before)
	}
	ok(g.approve(1, "bob", "Approved", "fine"), "Approved")
	ok(g.approve(1, "bob", "Approved", "fine still"), "Approved")
	g.expectRefused("one", promote, "1 of 2 approvals")
	// Who promotes does not count, whoever asked.
	ok(g.approve(1, "cyd", "Approved", ""), "Approved")
	g.expectRefused("by one who approved", func() answer { return g.toStage(1, "Production", "cyd") }, "1 of 2 approvals")
	ok(g.approve(1, "dan", "Rejected", "wrong on night images"), "Rejected")
	g.expectRefused("rejected", promote, "dan rejected it: wrong on night images")
	ok(g.approve(1, "dan", "Approved", "was mistaken"), "Approved")
	ok(g.approve(1, "ada", "PendingManualApproval", "changed the threshold"), "PendingManualApproval")
	g.expectRefused("asked again", promote, "0 of 2 approvals")
	ok(g.approve(1, "bob", "Approved", ""), "Approved")
	ok(g.approve(1, "cyd", "Approved", ""), "Approved")
	g.expectPassed("two", promote())
	a := g.raw("GET", "/api/v1/models/m/versions/1/approval", nil)
	if a.body["requester"] != "ada" || len(a.body["decisions"].([]any)) != 2 || !strings.Contains(fmt.Sprint(a.body["refused"]), "0 of 2 approvals") {
		t.Errorf("approval: %v", a.body)
	}
	// As it was when dan had rejected it.
	for _, e := range g.entries("m") {
		if !strings.Contains(fmt.Sprint(e["after"]), "wrong on night images") || e["action"] != "approval_set" {
			continue
		}
		then := g.raw("GET", "/api/v1/models/m/versions/1/approval", fields{"as_of": fmt.Sprint(e["seq"])})
		if then.body["status"] != "Rejected" {
			t.Errorf("then: %v", then.body)
		}
	}
}

func TestEvaluations(t *testing.T) {
	g := newGuarded(t, 1, 1)
	record := func(version int, f fields) map[string]any {
		t.Helper()
		a := g.evaluate(version, f)
		if a.status != http.StatusOK {
			t.Fatalf("%v: %d %v", f, a.status, a.body)
		}
		return a.body
	}
	if a := g.gate("stages/Production", fields{"conditions": []string{"evaluations.night.f1 >= 0.8"}}); a.status != http.StatusBadRequest ||
		!strings.Contains(fmt.Sprint(a.body["message"]), "'conditions.0': unknown metric evaluations.night.f1") {
		t.Errorf("a gate on what nobody evaluated: %d %v", a.status, a.body)
	}
	night := fields{"name": "night", "digest": "d1"}
	first := record(1, fields{"name": "night", "metrics": fields{"f1": 0.75, "recall": 0.5}, "dataset": night, "comment": "first"})
	if first["evaluator"] != "eve" || first["seq"] == nil {
		t.Errorf("recorded %v", first)
	}
	g.mustGate("stages/Production", fields{"conditions": []string{"evaluations.night.f1 >= 0.8", "evaluations.f1 >= current"}})
	g.expectRefused("low", func() answer { return g.toStage(1, "Production", "ada") }, "evaluations.night.f1 is 0.75, want >= 0.8")
	g.expectRefused("not evaluated", func() answer { return g.toStage(2, "Production", "ada") }, "the version has no evaluations.night.f1")
	record(1, fields{"name": "night", "metrics": fields{"f1": 0.85}, "dataset": night, "evaluator": "CI"})
	record(1, fields{"name": "day", "metrics": fields{"f1": 0.99}})
	g.expectPassed("again", g.toStage(1, "Production", "ada"))
	record(2, fields{"name": "night", "metrics": fields{"f1": 0.875}, "dataset": fields{"name": "night", "digest": "d2"}})
	g.expectRefused("below the last of version 1", func() answer { return g.toStage(2, "Production", "ada") }, "evaluations.f1 is 0.875, want >= 0.99")

	list := g.raw("GET", "/api/v1/models/m/versions/1/evaluations", nil).body["evaluations"].([]any)
	if len(list) != 3 || list[0].(map[string]any)["comment"] != "first" || list[1].(map[string]any)["evaluator"] != "CI" {
		t.Errorf("evaluations %v", list)
	}
	then := g.raw("GET", "/api/v1/models/m/versions/1/evaluations", fields{"as_of": fmt.Sprint(first["seq"])}).body["evaluations"].([]any)
	if len(then) != 1 {
		t.Errorf("then %v", then)
	}
	got := g.raw("GET", "/api/v1/models/m/evaluations", fields{"versions": "1,2"}).body
	want := `map[metrics:[` +
		`map[datasets:[map[digest: name:] <nil>] differences:[0 <nil>] evaluation:day metric:f1 values:[0.99 <nil>]] ` +
		`map[datasets:[map[digest:d1 name:night] map[digest:d2 name:night]] differences:[0 0.025000000000000022] evaluation:night metric:f1 values:[0.85 0.875]] ` +
		`map[datasets:[map[digest:d1 name:night] <nil>] differences:[0 <nil>] evaluation:night metric:recall values:[0.5 <nil>]]] versions:[1 2]]`
	if fmt.Sprint(got) != want {
		t.Errorf("compared\n%v, want\n%s", got, want)
	}
	before := g.size()
	many := fields{}
	for i := range 201 {
		many[fmt.Sprint(i)] = 1
	}
	for name, f := range map[string]fields{
		"name":           {"metrics": fields{"a": 1}},
		"metrics":        {"name": "x"},
		"metrics.a":      {"name": "x", "metrics": fields{"a": "NaN"}},
		"metrics.loss":   {"name": "x", "metrics": fields{"loss": nil}},
		"'metrics.90%s'": {"name": "x", "metrics": fields{"90%s": nil}},
		"evaluator":      {"name": "x", "metrics": fields{"a": 1}, "evaluator": strings.Repeat("e", 251)},
		"dataset.digest": {"name": "x", "metrics": fields{"a": 1}, "dataset": fields{"digest": strings.Repeat("e", 251)}},
		"data":           {"name": "x", "metrics": fields{"a": 1}, "data": 1},
		"'metrics'":      {"name": "x", "metrics": many},
	} {
		if a := g.evaluate(1, f); a.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(a.body["message"]), name) {
			t.Errorf("%v: %d %v", name, a.status, a.body)
		}
	}
	for path, status := range map[string]int{"/api/v1/models/m/versions/9/evaluations": 404, "/api/v1/models/no/versions/1/evaluations": 404, "/api/v1/models/m/versions/x/evaluations": 400} {
		if a := g.raw("POST", path, fields{"name": "x", "metrics": fields{"a": 1}}); a.status != status {
			t.Errorf("%s: %d %v", path, a.status, a.body)
		}
	}
	if after := g.size(); after != before {
		t.Errorf("%v entries of what was refused", after-before)
	}
}

func TestGatesThatCannotBe(t *testing.T) {
	g := newGuarded(t, 1)
	before := g.size()
	long := slices.Repeat([]string{"metrics.recall > 0"}, 21)
	for name, c := range map[string]struct {
		target string
		fields fields
		status int
		says   string
	}{
		"nothing":            {"stages/Production", fields{}, 400, "nothing would be refused"},
		"no such stage":      {"stages/Prod", fields{"approvals": 1}, 400, "Invalid Model Version stage"},
		"the stage None":     {"stages/None", fields{"approvals": 1}, 400, "Stage None"},
		"a reserved alias":   {"aliases/latest", fields{"approvals": 1}, 400, "latest"},
		"no condition":       {"stages/Production", fields{"conditions": []string{"metrics.recall > 0", "recall > 0"}}, 400, "'conditions.1': want metrics.<key>"},
		"an unknown metric":  {"stages/Production", fields{"conditions": []string{"metrics.f1 > 0"}}, 400, "'conditions.0': unknown metric metrics.f1"},
		"too many":           {"stages/Production", fields{"conditions": long}, 400, "'conditions': want at most 20"},
		"negative approvals": {"stages/Production", fields{"approvals": -1}, 400, "'approvals': want 0 to 20"},
		"too many approvals": {"stages/Production", fields{"approvals": 1000}, 400, "'approvals': want 0 to 20"},
		"a bad tag":          {"stages/Production", fields{"required_tags": fields{"": "x"}}, 400, "'required_tags'"},
		"a long tag":         {"stages/Production", fields{"required_tags": fields{"a": strings.Repeat("x", 1025)}}, 400, "'required_tags': want values of at most 1024 bytes"},
		"a misspelt field":   {"stages/Production", fields{"approval": 1}, 400, "Unknown field 'approval'"},
		"another type":       {"stages/Production", fields{"conditions": "metrics.recall > 0"}, 400, "'conditions': want a list"},
	} {
		if a := g.gate(c.target, c.fields); a.status != c.status || !strings.Contains(fmt.Sprint(a.body["message"]), c.says) {
			t.Errorf("%s: %d %v, want %d %q", name, a.status, a.body, c.status, c.says)
		}
	}
	if a := g.raw("PUT", "/api/v1/models/no/gates/stages/Production", fields{"approvals": 1}); a.status != 404 {
		t.Errorf("of no model: %d %v", a.status, a.body)
	}
	if a := g.raw("DELETE", "/api/v1/models/m/gates/stages/Production", nil); a.status != 404 {
		t.Errorf("delete of no gate: %d %v", a.status, a.body)
	}
	if a := g.raw("GET", "/api/v1/models/m/gates/stages/Production", nil); a.status != 404 {
		t.Errorf("no gate: %d %v", a.status, a.body)
	}
	if after := g.size(); after != before {
		t.Errorf("%v entries of what was refused", after-before)
	}
	g.create("empty")
	if a := g.raw("PUT", "/api/v1/models/empty/gates/stages/Production", fields{"conditions": []string{"metrics.f1 > 0"}}); a.status != 200 {
		t.Errorf("before there are versions: %d %v", a.status, a.body)
	}
	g.mustGate("stages/Production", fields{"conditions": []string{"metrics.recall > 0"}})
	size := g.size()
	g.mustGate("stages/Production", fields{"conditions": []string{" metrics.recall > 0 "}})
	if after := g.size(); after != size {
		t.Error("the same gate again is an entry")
	}
	g.must("POST", "registered-models/rename", fields{"name": "m", "new_name": "n"})
	gates := g.raw("GET", "/api/v1/models/n/gates", nil).body["gates"].([]any)
	if len(gates) != 1 || fmt.Sprint(gates[0]) != "map[approvals:0 conditions:[metrics.recall > 0] required_tags:map[] target:map[stage:Production]]" {
		t.Errorf("gates after a new name: %v", gates)
	}
}

// A refused request that is sent again gets the same refusal, and leaves nothing.
func TestRefusalIsIdempotent(t *testing.T) {
	g := newGuarded(t, 0.5)
	g.mustGate("stages/Production", fields{"conditions": []string{"metrics.recall > 0.9"}})
	first := g.toStage(1, "Production", "ada", "Idempotency-Key", "k1")
	logMetrics(t, g.log, g.runs[0], events.Point{Key: "recall", Step: 9, Value: 1})
	size := g.size()
	again := g.toStage(1, "Production", "ada", "Idempotency-Key", "k1")
	if first.status != http.StatusForbidden || again.status != first.status || !maps.Equal(first.body, again.body) {
		t.Errorf("first %v, again %v", first, again)
	}
	if after := g.size(); after != size {
		t.Errorf("%v entries of the repeated request", after-size)
	}
	for what, other := range map[string]answer{
		"stage": g.toStage(1, "Staging", "ada", "Idempotency-Key", "k1"),
		"alias": g.send("POST", "registered-models/alias", fields{"name": "m", "version": "1", "alias": "a"}, "Idempotency-Key", "k1"),
	} {
		if other.status != http.StatusBadRequest || !strings.Contains(fmt.Sprint(other.body["message"]), "was used before, for version 1 of 'm' and stage Production") {
			t.Errorf("another %s under the same key: %d %v", what, other.status, other.body)
		}
	}
	g.expectPassed("another request", g.toStage(1, "Production", "ada", "Idempotency-Key", "k2"))
	if a := g.toStage(1, "Production", "ada", "Idempotency-Key", "k2"); a.status != http.StatusOK {
		t.Errorf("repeated: %v", a)
	}
}

// Many promote at once through two processes to a gate that lets only better ones
// pass: each that passed was better than the one that was there.
func TestPromotionsRace(t *testing.T) {
	recalls := []float64{0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8}
	g := newGuarded(t, recalls...)
	other := &guarded{server: start(t, g.log, t.TempDir())}
	t.Cleanup(other.close)
	g.mustGate("aliases/champion", fields{"conditions": []string{"metrics.recall > current"}})
	var wg sync.WaitGroup
	for i := range recalls {
		wg.Go(func() {
			for a := (answer{status: 429}); a.status == 429 || a.status == 503; {
				a = []*guarded{g, other}[i%2].toAlias(i+1, "champion", "ada")
			}
		})
	}
	wg.Wait()
	best, refused, passed := 0.0, 0, 0
	for _, e := range g.entries("m") {
		switch e["action"] {
		case "alias_set":
			passed++
			var version int
			if _, err := fmt.Sscan(fmt.Sprint(e["version"]), &version); err != nil {
				t.Fatal(err)
			}
			if recall := recalls[version-1]; recall <= best {
				t.Errorf("entry %v promoted %v after %v", e["seq"], recall, best)
			} else {
				best = recall
			}
		case "promotion_refused":
			refused++
		}
	}
	if passed+refused != len(recalls) || best != 0.8 {
		t.Errorf("%d passed, %d refused, the best is %v", passed, refused, best)
	}
}
