package test

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	defaultKills  = 20
	verifyTimeout = 10 * time.Minute
)

// current is the client of the server that runs now.
type current struct{ atomic.Pointer[client] }

func (c *current) get() *client { return c.Load() }

// TestNothingAcknowledgedIsLostOrDoubledWhenKilledAgainAndAgain kills the whole
// process tree at random moments while it is written to, start-up included. Of
// every five kills one leaves the engine to notice by itself.
func TestNothingAcknowledgedIsLostOrDoubledWhenKilledAgainAndAgain(t *testing.T) {
	const (
		writers, modelers = 6, 2
		maxStart          = 300 * time.Millisecond
		minUptime         = 300 * time.Millisecond // once up
		maxUptime         = 2 * time.Second
	)
	kills := int(setting(t, "RUNLEDGER_TORTURE_KILLS", defaultKills))
	s := seed(t)
	rng := newRand(s, -1)
	dir := t.TempDir()
	begin := time.Now()

	var server current
	server.Store(newClient("http://127.0.0.1:1")) // where nobody answers
	work := startWorkload(t, server.get, s, writers, modelers, 0)
	starting := 0
	for i := range kills {
		p := launch(t, "up", "--data", dir, "--listen", "127.0.0.1:0")
		uptime := minUptime + time.Duration(rng.Int64N(int64(maxUptime-minUptime)))
		if rng.IntN(3) == 0 {
			// During the start, wherever that is.
			time.Sleep(time.Duration(rng.Int64N(int64(maxStart))))
			if !p.publish(t, &server, 0) {
				starting++
			}
		} else {
			p.publish(t, &server, startTimeout)
			time.Sleep(uptime)
		}
		select {
		case <-p.exited:
			t.Fatalf("kill %d: the program ended by itself (%s):\n%s", i, p.cmd.ProcessState, p.stderr.tail(4<<10))
		default:
		}
		if i%5 == 4 {
			p.killAlone(t)
		} else {
			p.kill(t)
		}
		p.mustNotRebuild(t)
	}
	t.Logf("%d kills in %v, %d of them before the program was up", kills, time.Since(begin).Round(time.Millisecond), starting)

	p := launch(t, "up", "--data", dir, "--listen", "127.0.0.1:0")
	p.publish(t, &server, startTimeout)
	p.awaitReady(t)
	work.stop()
	t.Log(&work.counts)
	work.verify(t, server.get())
	p.awaitProjected(t)
	p.stop(t, syscall.SIGTERM)
	p.mustNotRebuild(t)
	verifyTables(t, dir)
}

// mustNotRebuild fails the test if the program has taken its tables for damaged.
func (p *program) mustNotRebuild(t *testing.T) {
	t.Helper()
	if text := p.stderr.String(); strings.Contains(text, "tables are damaged") {
		t.Fatalf("tables are built again that nobody has damaged:\n%s", p.stderr.tail(4<<10))
	}
}

// publish directs the workload at p once it is up, and tells whether it is
// within the timeout. A timeout of 0 asks only whether it is up already;
// otherwise it has to be.
func (p *program) publish(t *testing.T, server *current, timeout time.Duration) bool {
	t.Helper()
	if timeout == 0 {
		url := bannerURL.FindString(p.stdout.String())
		if url != "" {
			server.Store(newClient(url))
		}
		return url != ""
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	url, err := p.url(ctx)
	if err != nil {
		t.Fatal(err)
	}
	server.Store(newClient(url))
	return true
}

var lagMetric = regexp.MustCompile(`(?m)^runledger_projector_lag_events\{.*\} (\S+)$`)

// awaitProjected waits until the tables have the whole log. Nobody writes.
func (p *program) awaitProjected(t *testing.T) {
	t.Helper()
	c := p.client(t)
	said := ""
	eventually(t, startTimeout, func() string { return "the tables lag behind the log: " + said }, func(ctx context.Context) bool {
		status, body, err := c.get(ctx, "/metrics")
		if err != nil || status != http.StatusOK {
			said = fmt.Sprint(status, " ", err)
			return false
		}
		lags := lagMetric.FindAllStringSubmatch(string(body), -1)
		said = fmt.Sprint(lags)
		for _, lag := range lags {
			if lag[1] != "0" {
				return false
			}
		}
		return len(lags) > 0
	})
}

func TestVerificationFindsWhatIsLostDoubledHalfOrForeign(t *testing.T) {
	points := func(steps ...int64) (metrics []metric) {
		for _, s := range steps {
			metrics = append(metrics, metric{Key: "loss", Step: s, Timestamp: s, Value: number(s)})
		}
		return metrics
	}
	book := func() *runBook {
		return &runBook{
			id: "id", name: "name", created: acked, progress: newRegister(""), status: newRegister("RUNNING"), lifecycle: newRegister("active"),
			operations: []*operation{
				{what: "first", outcome: acked, points: points(1, 2), params: []pair{{"p", "1"}}},
				{what: "second", outcome: doubtful, points: points(3, 4), tags: []pair{{"t", "1"}}},
				{what: "third", outcome: refused, points: points(5), params: []pair{{"p", "2"}}},
			},
		}
	}
	read := func(latest int64) run {
		var r run
		r.Info.RunName, r.Info.Status, r.Info.LifecycleStage = "name", "RUNNING", "active"
		r.Data.Metrics = points(latest)
		r.Data.Params = []pair{{"p", "1"}}
		r.Data.Tags = []pair{{"first", "name"}}
		return r
	}
	for name, test := range map[string]struct {
		points []metric
		latest int64
		change func(*run)
		want   string // part of a finding; "": there is none
	}{
		"doubtful not there": {points: points(1, 2), latest: 2},
		"doubtful there":     {points: points(1, 2, 3, 4), latest: 4, change: func(r *run) { r.Data.Tags = append(r.Data.Tags, pair{"t", "1"}) }},
		"point lost":         {points: points(2), latest: 2, want: "first was acknowledged, and 2 of its 3 parts are there"},
		"parameter lost":     {points: points(1, 2), latest: 2, change: func(r *run) { r.Data.Params = nil }, want: "first was acknowledged"},
		"point doubled":      {points: points(1, 2, 2), latest: 2, want: "there 2 times"},
		"half a batch":       {points: points(1, 2, 3), latest: 3, want: "in part: 1 of 3"},
		"batch without tag":  {points: points(1, 2, 3, 4), latest: 4, want: "in part: 2 of 3"},
		"refused":            {points: points(1, 2, 5), latest: 5, want: "third was refused, and 1 of its 2 parts are there"},
		"foreign point":      {points: points(1, 2, 9), latest: 9, want: "was never written"},
		"foreign tag":        {points: points(1, 2), latest: 2, change: func(r *run) { r.Data.Tags = append(r.Data.Tags, pair{"x", "y"}) }, want: "was never written"},
		"parameter changed":  {points: points(1, 2), latest: 2, change: func(r *run) { r.Data.Params[0].Value = "2" }, want: "third was refused"},
		"wrong latest point": {points: points(1, 2), latest: 1, want: "its latest point"},
		"wrong status":       {points: points(1, 2), latest: 2, change: func(r *run) { r.Info.Status = "FINISHED" }, want: "status of run"},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(test.latest)
			if test.change != nil {
				test.change(&r)
			}
			got := strings.Join(book().check(r, test.points), "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("findings: got %q, want %q", got, test.want)
			}
		})
	}

	runs := func(ids ...string) (found []run) {
		for _, id := range ids {
			var r run
			r.Info.RunID, r.Info.RunName = id, "name"
			found = append(found, r)
		}
		return found
	}
	for name, test := range map[string]struct {
		created outcome
		found   []run
		wrong   bool
	}{
		"acknowledged":                {created: acked, found: runs("id")},
		"acknowledged, lost":          {created: acked, wrong: true},
		"acknowledged, another":       {created: acked, found: runs("other"), wrong: true},
		"acknowledged, doubled":       {created: acked, found: runs("id", "other"), wrong: true},
		"in doubt, not there":         {created: doubtful},
		"in doubt, there":             {created: doubtful, found: runs("id")},
		"in doubt, doubled":           {created: doubtful, found: runs("id", "other"), wrong: true},
		"refused, there all the same": {created: refused, found: runs("id"), wrong: true},
	} {
		t.Run("run "+name, func(t *testing.T) {
			b := book()
			b.created = test.created
			if got := checkRuns([]*runBook{b}, test.found); (len(got) > 0) != test.wrong {
				t.Errorf("findings: got %q, want some: %t", got, test.wrong)
			}
		})
	}

	for name, test := range map[string]struct {
		reasons []string
		wrong   bool
	}{
		"all there":     {reasons: []string{"a", "b", "c"}},
		"doubt dropped": {reasons: []string{"a", "c"}},
		"lost":          {reasons: []string{"a", "b"}, wrong: true},
		"doubled":       {reasons: []string{"a", "b", "c", "c"}, wrong: true},
		"doubt doubled": {reasons: []string{"a", "b", "b", "c"}, wrong: true},
		"reordered":     {reasons: []string{"c", "a"}, wrong: true},
		"foreign":       {reasons: []string{"a", "c", "x"}, wrong: true},
		"refused":       {reasons: []string{"a", "c", "d"}, wrong: true},
	} {
		t.Run("ledger "+name, func(t *testing.T) {
			m := &modeler{changes: []change{{"a", acked}, {"b", doubtful}, {"c", acked}, {"d", refused}}}
			var entries []historyEntry
			for _, why := range test.reasons {
				entries = append(entries, historyEntry{Reason: why})
			}
			if got := m.check(entries); (len(got) > 0) != test.wrong {
				t.Errorf("findings: got %q, want some: %t", got, test.wrong)
			}
		})
	}
}
