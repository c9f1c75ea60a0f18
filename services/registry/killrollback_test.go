package registry_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
)

// childRepeat makes the killed process roll back, and says which rollbacks it is
// to ask for again.
const childRepeat = "RUNLEDGER_TEST_REPEAT"

// attempt is a rollback that was asked for, under a key of its own. Model is ""
// for the whole registry.
type attempt struct {
	key, model string
	to         int
}

func (a attempt) String() string { return fmt.Sprintf("%s|%s|%d", a.key, a.model, a.to) }

func parseAttempt(text string) (a attempt, ok bool) {
	parts := strings.Split(text, "|")
	if len(parts) != 3 {
		return a, false
	}
	to, err := strconv.Atoi(parts[2])
	return attempt{parts[0], parts[1], to}, err == nil
}

func (a attempt) send(s *server) answer {
	return s.rollback(a.model, fields{"to": a.to, "reason": "kill", "restore": true}, "Idempotency-Key", a.key)
}

// rollBackAgainAndAgain rolls back, reads the past and changes models until the
// process is killed. It prints each rollback before it is asked for, and what came
// of it.
func rollBackAgainAndAgain(s *server, repeat string) {
	ask := func(a attempt) {
		fmt.Printf("try %v\n", a)
		answer := a.send(s)
		if answer.status >= http.StatusInternalServerError {
			s.t.Fatalf("%v: %d %v", a, answer.status, answer.body)
		}
		fmt.Printf("told %v %d %v %v\n", a, answer.status, answer.body["first_seq"], answer.body["last_seq"])
	}
	fmt.Println("ready")
	for text := range strings.SplitSeq(repeat, "\n") {
		if a, ok := parseAttempt(text); ok {
			ask(a)
		}
	}
	moment := func() int { return max(1, int(s.size())-rand.IntN(60)) }
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				method, path, f := request(rand.IntN)
				if a := s.send(method, path, f); a.status >= http.StatusInternalServerError {
					s.t.Fatalf("%s %s %v: %d %v", method, path, f, a.status, a.body)
				}
				time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
			}
		})
	}
	for i := range 3 {
		wg.Go(func() {
			for n := 0; ; n++ {
				model := ""
				if i > 0 {
					model = fmt.Sprint("model ", rand.IntN(3))
				}
				if s.size() == 0 {
					time.Sleep(time.Millisecond)
				} else {
					ask(attempt{fmt.Sprintf("%d-%d-%d", os.Getpid(), i, n), model, moment()})
				}
			}
		})
	}
	wg.Go(func() {
		for {
			if s.size() == 0 {
				time.Sleep(time.Millisecond)
				continue
			}
			query := fields{"as_of": moment(), "max_results": 100}
			first, second := s.send("GET", "registered-models/search", query), s.send("GET", "registered-models/search", query)
			if first.status != http.StatusOK || !reflect.DeepEqual(first.body, second.body) {
				s.t.Fatalf("as of %v: %d %v, and then %v", query["as_of"], first.status, first.body, second.body)
			}
		}
	})
	wg.Wait()
}

// rollbacks is what a parent knows of the rollbacks of its children.
type rollbacks struct {
	attempts map[string]attempt
	told     map[string][2]string // the first and the last entry, of those that were done
	refused  map[string]bool
	pending  []attempt // of which the last child has told nothing
}

// kill starts a child and kills it after a while.
func (r *rollbacks) kill(t *testing.T, dir string, env ...string) {
	t.Helper()
	var repeat []string
	for _, a := range r.pending {
		repeat = append(repeat, a.String())
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(append(os.Environ(), childDir+"="+dir, childRepeat+"="+strings.Join(repeat, "\n")+"\n"), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var killer *time.Timer
	waiting := make(map[string]bool)
	for _, a := range r.pending {
		waiting[a.key] = true
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		what, rest, _ := strings.Cut(lines.Text(), " ")
		if what == "ready" {
			killer = time.AfterFunc(time.Duration(rand.IntN(400))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			continue
		}
		// A model's name has a space in it: what is told comes last.
		var told []string
		if what == "told" {
			parts := strings.Split(rest, " ")
			rest, told = strings.Join(parts[:len(parts)-3], " "), parts[len(parts)-3:]
		}
		a, ok := parseAttempt(rest)
		if !ok {
			continue
		}
		r.attempts[a.key] = a
		switch {
		case told == nil:
			waiting[a.key] = true
			continue
		case told[0] == "200":
			r.told[a.key] = [2]string{told[1], told[2]}
		default:
			r.refused[a.key] = true
		}
		delete(waiting, a.key)
	}
	if err := cmd.Wait(); err == nil || killer == nil || strings.Contains(stderr.String(), "panic") {
		t.Fatalf("the child ended by itself: %v\n%s", err, stderr.String())
	}
	r.pending = r.pending[:0]
	for key := range waiting {
		r.pending = append(r.pending, r.attempts[key])
	}
}

// Killed at any moment, a rollback is there as a whole or not at all, is done once
// however often it is asked for, and every moment is a fold of what was before it.
func TestKillRollbacks(t *testing.T) {
	t.Parallel()
	kills := defaultKills
	if text := os.Getenv(killsVariable); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("%s: %v", killsVariable, err)
		}
	}
	newRollbacks := func() *rollbacks {
		return &rollbacks{attempts: make(map[string]attempt), told: make(map[string][2]string), refused: make(map[string]bool)}
	}
	t.Run("with its log", func(t *testing.T) {
		t.Parallel()
		dir, r := t.TempDir(), newRollbacks()
		for range kills / 2 {
			r.kill(t, dir)
		}
		n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: filepath.Join(dir, "nats")})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = n.Close() }()
		r.check(t, openLog(t, n.Conn()), dir)
	})
	t.Run("alone", func(t *testing.T) {
		t.Parallel()
		dir, r := t.TempDir(), newRollbacks()
		n := startNATS(t, dir)
		for range kills - kills/2 {
			r.kill(t, dir, childNATS+"="+n.ClientURL())
		}
		nc, err := nats.Connect(n.ClientURL())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		r.check(t, openLog(t, nc), dir)
	})
}

// check compares what children did and were told with the log, and asks for
// what they were told nothing of again.
func (r *rollbacks) check(t *testing.T, log *eventlog.Log, dir string) {
	t.Helper()
	s := start(t, log, filepath.Join(dir, "ledger"))
	s.size()
	before := groups(t, readAll(t, log))
	for _, a := range r.pending {
		first := a.send(s)
		again := a.send(s)
		if first.status != again.status || !reflect.DeepEqual(first.body["last_seq"], again.body["last_seq"]) {
			t.Errorf("%v: %d %v, and then %d %v", a, first.status, first.body, again.status, again.body)
		}
		if g, ok := before[a.key]; ok && (first.status != http.StatusOK || fmt.Sprint(first.body["first_seq"]) != strconv.Itoa(g.first)) {
			t.Errorf("%v was done by entry %d: %d %v", a, g.first, first.status, first.body)
		}
	}
	recs := readAll(t, log)
	states := statesOf(t, recs)
	done := groups(t, recs)
	for key, g := range done {
		a, ok := r.attempts[key]
		if !ok || r.refused[key] {
			t.Errorf("%s was not asked for, or was refused, and is there", key)
			continue
		}
		checkWhole(t, a, states[g.first-1], states[g.last], states[a.to])
	}
	for key, told := range r.told {
		g := done[key]
		if fmt.Sprint(g.first, g.last) != told[0]+" "+told[1] {
			t.Errorf("%v was told as %v, and is at %d to %d", r.attempts[key], told, g.first, g.last)
		}
	}
	for range 20 {
		n := 1 + rand.IntN(len(recs))
		ledgertest.Equal(t, fmt.Sprint("as of ", n), s.read(strconv.Itoa(n)), shown(ledgertest.Fold(recs[:n])))
	}
	s.close()
	checkLedger(t, filepath.Join(dir, "ledger"), recs)
	t.Logf("%d rollbacks asked for, %d done, %d refused, %d cut off in the end; %d entries", len(r.attempts), len(done), len(r.refused), len(r.pending), len(recs))
	if len(done) == 0 {
		t.Error("nothing was rolled back")
	}
}

// group has the events of one rollback.
type group struct{ first, last int }

// groups returns the rollbacks of a log by their keys. The events of one are next
// to each other.
func groups(t *testing.T, recs []eventlog.Record) map[string]group {
	t.Helper()
	found := make(map[string]group)
	for i, rec := range recs {
		if !strings.HasPrefix(rec.Source, "/runledger/registry/rollback") {
			continue
		}
		g, ok := found[rec.IdempotencyKey]
		if !ok {
			g.first = i + 1
		} else if g.last != i || recs[i-1].RequestID != rec.RequestID || !recs[i-1].More {
			t.Errorf("entry %d of rollback %s comes after entry %d", i+1, rec.IdempotencyKey, g.last)
		}
		g.last = i + 1
		found[rec.IdempotencyKey] = g
	}
	return found
}

// checkWhole checks that a rollback led to what was then.
func checkWhole(t *testing.T, a attempt, before, after, then *catalog.State) {
	t.Helper()
	if a.model == "" {
		checkAllBack(t, after, then)
		return
	}
	m, ok := before.Model(a.model)
	if !ok {
		m, ok = then.Model(a.model)
	}
	if !ok || after.ModelByID(m.ID) == nil || then.ModelByID(m.ID) == nil {
		t.Errorf("%v: there is no such model", a)
		return
	}
	checkBack(t, after.ModelByID(m.ID), then.ModelByID(m.ID))
}
