package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
)

// writeAll writes events about a model at once.
func writeAll(t *testing.T, log *eventlog.Log, model string, list ...*events.Event) {
	t.Helper()
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
	defer lane.Close()
	_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		for _, e := range list {
			if err := b.Append(events.ModelSubject(model), events.New("/test", "tester", time.Now()), e, eventlog.Expect{}, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ready waits until the ledger has all that is in the log.
func (s *server) ready(t *testing.T) {
	t.Helper()
	eventually(t, "readiness", func() bool { return s.service.Ready(t.Context()) == nil })
}

// want fails the test unless an answer has the status, and its message the words.
func (s *server) want(what string, a answer, status int, words string) {
	s.t.Helper()
	if a.status != status || !strings.Contains(fmt.Sprint(a.body["message"]), words) {
		s.t.Errorf("%s: %d %.300v, want %d %q", what, a.status, a.body, status, words)
	}
}

// What a bound allows is taken, and one more is refused.
func TestBoundsOfNamesAndKeys(t *testing.T) {
	s := newServer(t)
	long := strings.Repeat("n", 1000)
	create := func(name string, headers ...string) answer {
		return s.send("POST", "registered-models/create", fields{"name": name}, headers...)
	}
	s.want("a name of 1000 bytes", create(long), 200, "")
	s.want("a name with a NUL", create("a\x00b"), 400, "NUL")
	s.want("a key of 255 bytes", create("m", "Idempotency-Key", strings.Repeat("k", 255)), 200, "")
	for name, words := range map[string]string{long + "n": "maximum length of 1000 bytes", "a\x00b": "NUL"} {
		s.want("a new name", s.send("POST", "registered-models/rename", fields{"name": "m", "new_name": name}), 400, words)
	}
	version := func(source string) answer {
		return s.send("POST", "model-versions/create", fields{"name": "m", "source": source})
	}
	source := "s3://b/" + strings.Repeat("s", 4096-len("s3://b/"))
	s.want("a source of 4096 bytes", version(source), 200, "")
	s.want("a source of 4097 bytes", version(source+"s"), 400, "maximum length of 4096 bytes")
	s.want("a comment of 1024 bytes", s.raw("POST", "/api/v1/models/m/versions/1/approval",
		fields{"status": "Approved", "comment": strings.Repeat("c", 1024)}, as("ada")...), 200, "")
}

func TestBoundsOfGates(t *testing.T) {
	g := newGuarded(t, 1)
	for i := range 20 {
		g.mustGate(fmt.Sprint("aliases/a", i), fields{"approvals": 1})
	}
	g.want("gate 21", g.gate("aliases/more", fields{"approvals": 1}), 400, "has 20 gates, which is the most")
	// Each part of a gate can change alone, also when there are as many as can be.
	g.want("more approvals", g.gate("aliases/a0", fields{"approvals": 2}), 200, "")
	tags := fields{}
	for i := range 20 {
		tags[fmt.Sprint("k", i)] = "v"
	}
	g.want("20 tags", g.gate("aliases/a0", fields{"approvals": 2, "required_tags": tags}), 200, "")
	tags["k0"] = "w"
	g.want("another tag", g.gate("aliases/a0", fields{"approvals": 2, "required_tags": tags}), 200, "")
	got := g.raw("GET", "/api/v1/models/m/gates/aliases/a0", nil).body
	if at(got, "approvals") != "2" || at(got, "required_tags", "k0") != "w" {
		t.Errorf("the gate is %v", got)
	}
	tags["more"] = "v"
	g.want("21 tags", g.gate("aliases/a0", fields{"required_tags": tags}), 400, "'required_tags': want at most 20")
	// A figure that an older version has is known.
	g.addVersion("m")
	g.want("a figure of the version before", g.gate("aliases/a0", fields{"conditions": []string{"metrics.recall > 0"}}), 200, "")
}

// A version is written whole with each change of it, so that it has a size that it
// cannot outgrow.
func TestBoundsOfApprovalsAndEvaluations(t *testing.T) {
	t.Parallel()
	g := newGuarded(t, 1, 1)
	var list []*events.Event
	for i := range 99 {
		list = append(list, &events.Event{Data: &events.Event_ApprovalSet{ApprovalSet: &events.ApprovalSet{
			Name: "m", Version: 1, Status: events.ApprovalStatus_APPROVAL_STATUS_APPROVED, Actor: fmt.Sprint("p", i),
		}}})
	}
	writeAll(t, g.log, "m", list...)
	g.ready(t)
	g.want("decision 100", g.approve(1, "p99", "Approved", ""), 200, "")
	g.want("decision 101", g.approve(1, "p100", "Approved", ""), 400, "has 100 decisions, which is the most")
	g.want("another decision of one who decided", g.approve(1, "p99", "Rejected", ""), 200, "")

	list = nil
	for range 499 {
		list = append(list, &events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: &events.EvaluationRecorded{
			Name: "m", Version: 1, Evaluation: "n", Metrics: []*events.EvaluationMetric{{Key: "f1", Value: 1}},
		}}})
	}
	writeAll(t, g.log, "m", list...)
	g.ready(t)
	one := fields{"name": "n", "metrics": fields{"f1": 2}}
	g.want("evaluation 500", g.evaluate(1, one), 200, "")
	g.want("evaluation 501", g.evaluate(1, one), 400, "has 500 evaluations, which is the most")

	list = nil
	for range 49 {
		e := &events.EvaluationRecorded{Name: "m", Version: 2, Evaluation: "n"}
		for i := range 200 {
			e.Metrics = append(e.Metrics, &events.EvaluationMetric{Key: fmt.Sprint("f", i), Value: 1})
		}
		list = append(list, &events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: e}})
	}
	writeAll(t, g.log, "m", list...)
	g.ready(t)
	last := fields{}
	for i := range 200 {
		last[fmt.Sprint("f", i)] = i
	}
	// A repeated request is answered with the evaluation that it made.
	path := "/api/v1/models/m/versions/2/evaluations"
	first := g.raw("POST", path, fields{"name": "n", "metrics": last}, "Idempotency-Key", "k")
	g.want("10000 figures", first, 200, "")
	g.want("10001 figures", g.evaluate(2, one), 400, "would have 10001 metrics")
	g.must("POST", "registered-models/set-tag", fields{"name": "m", "key": "k", "value": "v"})
	again := g.raw("POST", path, fields{"name": "n", "metrics": last}, "Idempotency-Key", "k")
	if g.want("repeated", again, 200, ""); at(again.body, "seq") != at(first.body, "seq") {
		t.Errorf("the repeated evaluation is %s, the first %s", at(again.body, "seq"), at(first.body, "seq"))
	}

	list = nil
	for i := range uint64(99) {
		list = append(list, &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
			Name: "m", Version: 3 + i, Source: "s3://b/m",
		}}})
	}
	writeAll(t, g.log, "m", list...)
	g.ready(t)
	compare := "/api/v1/models/m/evaluations"
	names := strings.Repeat("1,", 99) + "2"
	g.want("100 versions compared", g.raw("GET", compare, fields{"versions": names}), 200, "")
	g.want("101 versions compared", g.raw("GET", compare, fields{"versions": names + ",2"}), 400, "want at most 100")
	g.want("101 versions compared, not named", g.raw("GET", compare, nil), 400, "has 101 versions: name at most 100")
	g.must("DELETE", "model-versions/delete", fields{"name": "m", "version": "3"})
	g.want("100 versions compared, not named", g.raw("GET", compare, nil), 200, "")
}

// A key is for one command at one model, and a command under it is done once, also
// when it is asked for several times at once.
func TestAnIdempotencyKeyIsForOneCommand(t *testing.T) {
	s := newServer(t)
	s.create("a")
	s.create("b")
	update := func(model string) answer {
		return s.send("PATCH", "registered-models/update", fields{"name": model, "description": "d"}, "Idempotency-Key", "update")
	}
	s.want("the first", update("a"), 200, "")
	s.want("of another model", update("b"), 400, "was used before, for registered_model_updated of 'a'")

	// A rollback's is for one moment, and one model or all.
	back := func(model string, to int) answer {
		return s.rollback(model, fields{"to": to, "reason": "r"}, "Idempotency-Key", "back")
	}
	s.want("a rollback", back("a", 2), 200, "")
	s.want("to another moment", back("a", 3), 400, "was used before")
	s.want("of another model", back("b", 2), 400, "was used before")

	for round := range 5 {
		before := s.size()
		key := fmt.Sprint("at once ", round)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				a := s.send("POST", "model-versions/create", fields{"name": "a", "source": "s3://b/m"}, "Idempotency-Key", key)
				if a.status != http.StatusOK && a.status != http.StatusTooManyRequests {
					t.Errorf("%d %v", a.status, a.body)
				}
			})
		}
		wg.Wait()
		if after := s.size(); after != before+1 {
			t.Errorf("asked 16 times under one key, it was done %v times", after-before)
		}
	}
}

// A log that has another event where the ledger ends is not the ledger's, though it
// began with the same: it was restored from an older copy and has gone on.
func TestALogThatWentAnotherWayIsRefused(t *testing.T) {
	begin := func() *eventlog.Log {
		log := openLog(t, natstest.Start(t))
		lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
		defer lane.Close()
		attributes := events.New("/test", "tester", time.Now())
		attributes.ID = "00000000-0000-4000-8000-000000000001"
		if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(events.ModelSubject("m"), attributes, created("m"), eventlog.Expect{}, nil)
		}); err != nil {
			t.Fatal(err)
		}
		return log
	}
	dir := filepath.Join(t.TempDir(), "ledger")
	log, other := begin(), begin()
	s := start(t, log, dir)
	s.create("n")
	s.close()
	write(t, other, time.Now(), "o", created("o"))
	write(t, other, time.Now(), "p", created("p"))
	if _, err := registry.New(t.Context(), registry.Config{Log: other, Dir: dir}); err == nil || !strings.Contains(err.Error(), "event 2 is") {
		t.Errorf("opened beside another log: %v", err)
	}
}
