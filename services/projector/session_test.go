package projector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

// session runs do with a session of a stream that has found out where the tables are.
func (w *world) session(stream string, do func(context.Context, *session) error) error {
	w.t.Helper()
	p, err := New(w.t.Context(), w.config(nil))
	if err != nil {
		w.t.Fatal(err)
	}
	worker := p.workers[slices.IndexFunc(p.workers, func(w *worker) bool { return w.stream == stream })]
	return p.leases.under(w.t.Context(), stream, time.Second, func(string) {}, func(ctx context.Context, held *lease) error {
		s := &session{worker: worker, lease: held}
		if s.store, err = dial(ctx, w.opts, stream, held.epoch, nil); err != nil {
			return err
		}
		defer s.store.close()
		if err := s.recover(ctx); err != nil {
			return err
		}
		return do(ctx, s)
	})
}

// checkpoint returns up to where a stream is, as its checkpoint says.
func (w *world) checkpoint(stream string) (seq uint64) {
	w.t.Helper()
	if err := w.conn.QueryRow(w.t.Context(), "SELECT max(seq) FROM checkpoints WHERE stream = $1", stream).Scan(&seq); err != nil {
		w.t.Fatal(err)
	}
	return seq
}

// A session goes on where the last one ended, also if most tables have no rows.
func TestSessionGoesOnWhereTheTablesAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := newRunID()
	w.mustPublish(w.created(run), w.logged(run, series("loss", 0, 10)...))
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	stream := w.shardOf(run)
	if err := w.session(stream, func(_ context.Context, s *session) error {
		if s.watermark != 2 || s.target != 2 || s.fold.fresh != 2 {
			t.Errorf("goes on after %d of %d", s.watermark, s.target)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	records := func(s *session) {
		name := "changed"
		s.add(eventlog.Record{
			Stream: stream, Seq: 3, Subject: ofMeta(run), Attributes: events.New("/test", "tester", time.Now()),
			Event: &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Name: &name}}},
		})
	}
	for _, test := range []struct {
		name    string
		prepare func(context.Context, *session) error
		want    error // nil is any
	}{
		{"it has lost its lease", func(_ context.Context, s *session) error {
			past := time.Now().Add(-time.Second)
			s.lease.until.Store(&past)
			return nil
		}, errLeaseLost},
		{"another one has written", func(ctx context.Context, s *session) error {
			// Once more, and back again.
			return errors.Join(s.store.setCheckpoint(ctx, checkpoint{seq: 9, incarnation: s.incarnation}, s.held))
		}, nil},
		{"the tables have lost parts", func(_ context.Context, s *session) error {
			s.held = blocks{"metrics/gone": {{1, 1}}}
			return nil
		}, nil},
	} {
		if err := w.session(stream, func(ctx context.Context, s *session) error {
			records(s)
			if err := s.project(ctx); err != nil {
				return err
			}
			if err := test.prepare(ctx, s); err != nil {
				return err
			}
			before := w.checkpoint(stream)
			if test.want != nil {
				// The checkpoint needs the lease too.
				if err := s.record(ctx, s.watermark+5); !errors.Is(err, test.want) {
					t.Errorf("%s, and it writes the checkpoint: %v", test.name, err)
				}
			}
			if err := s.write(ctx); err == nil || !errors.Is(err, test.want) && test.want != nil {
				t.Errorf("%s, and it goes on: %v", test.name, err)
			}
			if at := w.checkpoint(stream); at != before {
				t.Errorf("%s, and the checkpoint is %d, before it was %d", test.name, at, before)
			}
			return nil
		}); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		var names uint64
		if err := w.conn.QueryRow(t.Context(), "SELECT count() FROM runs WHERE name = 'changed'").Scan(&names); err != nil {
			t.Fatal(err)
		}
		if names > 0 && test.name != "the tables have lost parts" { // the rows come before the checkpoint, which says what counts
			t.Errorf("%s, and it writes rows", test.name)
		}
		w.exec("DELETE FROM checkpoints WHERE seq = 9")
	}
}

// A batch is written when it is full, in rows or in bytes, or when a reader waits for
// its end, and not before.
func TestSessionWritesABatchWhenItIsFullOrWanted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := newRunID()
	stream := w.shardOf(run)
	param := func(value string) entry {
		return w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{
			RunId: run, Parameters: []*events.Parameter{{Key: "p", Value: value}},
		}}})
	}
	p, _ := w.start(func(c *Config) { c.FlushAge, c.FlushRows, c.FlushBytes = 10*eventually, 3, 1000 })
	flushes := func(reason string) int {
		t.Helper()
		families, err := p.config.Registerer.(prometheus.Gatherer).Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if f.GetName() != "runledger_projector_flushes_total" {
				continue
			}
			for _, m := range f.GetMetric() {
				is := 0
				for _, l := range m.GetLabel() {
					if l.GetValue() == stream || l.GetValue() == reason {
						is++
					}
				}
				if is == 2 {
					return int(m.GetCounter().GetValue())
				}
			}
		}
		return 0
	}
	reaches := func(seq uint64, reason string, n int) {
		t.Helper()
		until(t, fmt.Sprintf("the checkpoint is %d", seq), func() bool { return w.checkpoint(stream) == seq })
		until(t, fmt.Sprintf("%d batches for %s", n, reason), func() bool { return flushes(reason) == n })
	}
	until(t, "the projector is ready", func() bool { return p.Ready(t.Context()) == nil })
	w.mustPublish(w.created(run))
	w.wait()
	reaches(1, flushWanted, 1)
	w.mustPublish(param("1"), w.logged(run, series("loss", 0, 2)...))
	reaches(3, flushSize, 1)
	w.mustPublish(param(strings.Repeat("x", 1000)))
	reaches(4, flushSize, 2)
	w.mustPublish(param("2"), param("3"))
	w.wait()
	reaches(6, flushWanted, 2)
	if n := flushes(flushAge); n > 0 {
		t.Errorf("%d batches were written for their age", n)
	}
}

// What an earlier session has under way is ended before the next one looks at the tables,
// and an earlier delete before the next one.
func TestSessionEndsStatementsOfAnEarlierOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
		t.Fatal(err)
	}
	w.exec("CREATE TABLE slow (n UInt8, slept UInt8 MATERIALIZED sleepEachRow(0.1)) ENGINE = MergeTree ORDER BY n")
	earlier, err := dial(t.Context(), w.opts, "RUNS_0", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer earlier.close()
	running := func(what string) {
		t.Helper()
		until(t, "it runs: "+what, func() bool {
			var n uint64
			err := w.conn.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE startsWith(query_id, $1) AND query LIKE $2", earlier.database, what+"%").Scan(&n)
			return err == nil && n == 1
		})
	}
	var group errgroup.Group
	group.Go(func() error {
		column := make(proto.ColUInt8, 25)
		if err := earlier.insert(t.Context(), "slow", proto.Input{{Name: "n", Data: &column}}); err == nil {
			return errors.New("the insert has gone on to its end")
		}
		return nil
	})
	running("INSERT INTO ")
	if err := w.session("RUNS_0", func(context.Context, *session) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	// A delete that is still to be begun, of another stream.
	ctx := clickhouse.Context(t.Context(), clickhouse.WithQueryID(earlier.database+"RUNS_1/"+purgeMark+"x"),
		clickhouse.WithSettings(clickhouse.Settings{"max_block_size": 1}))
	group.Go(func() error {
		if err := w.conn.Exec(ctx, "SELECT sleepEachRow(0.1) FROM numbers(100) FORMAT Null"); err == nil {
			return errors.New("the delete has gone on to its end")
		}
		return nil
	})
	running("SELECT sleepEachRow")
	if err := w.session("RUNS_0", func(ctx context.Context, s *session) error {
		s.roll = newRollups(s)
		s.fold.purged = []*run{{}}
		return s.purge(ctx)
	}); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// A stream is ready when it has caught up, or is somebody else's, and not while it fails.
func TestWorkerIsReadyWhenItHasCaughtUp(t *testing.T) {
	t.Parallel()
	_, log := newLog(t)
	p := &Projector{config: Config{Log: log}, leases: testLeases(t, log.JetStream(), "a", time.Hour), metrics: newInstruments(nil)}
	w := &worker{Projector: p, stream: "RUNS_0"}
	failed := errors.New("failed")
	for _, test := range []struct {
		name   string
		status status
		want   error
	}{
		{"nothing is known", status{}, errCatchingUp},
		{"on its way", status{watermark: 5}, errCatchingUp},
		{"caught up", status{watermark: 5, caughtUp: true}, nil},
		{"somebody else's", status{holder: "b"}, nil},
		{"failed after it had caught up", status{caughtUp: true, err: failed}, failed},
		{"halted", status{caughtUp: true, halted: true, err: failed}, failed},
	} {
		w.status = test.status
		if err := w.ready(t.Context()); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	w.status = status{}
	w.progress(3, true)
	w.progress(4, false) // the log has grown
	if err := w.ready(t.Context()); err != nil {
		t.Errorf("behind again: %v", err)
	}
	// Another one has it now; when that has gone, the way begins anew.
	if _, err := testLeases(t, log.JetStream(), "b", time.Hour).acquire(t.Context(), w.stream, time.Second, func(string) {}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var held errgroup.Group
	held.Go(func() error { return w.hold(ctx) })
	until(t, "it waits", func() bool { return w.get().holder == "b" })
	if w.get().caughtUp {
		t.Error("it has caught up with what another one projects")
	}
	cancel()
	if err := held.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestConfigThatCannotBe(t *testing.T) {
	whole := Config{Log: new(eventlog.Log), Conn: new(nats.Conn), ClickHouse: &clickhouse.Options{Addr: []string{"127.0.0.1:1"}}}
	for name, change := range map[string]func(*Config){
		"no log":            func(c *Config) { c.Log = nil },
		"no connection":     func(c *Config) { c.Conn = nil },
		"no ClickHouse":     func(c *Config) { c.ClickHouse = nil },
		"no address":        func(c *Config) { c.ClickHouse = new(clickhouse.Options) },
		"too many rows":     func(c *Config) { c.FlushRows = maxFlushRows + 1 },
		"less than no rows": func(c *Config) { c.FlushRows = -1 },
	} {
		c := whole
		change(&c)
		if p, err := New(t.Context(), c); err == nil {
			t.Errorf("%s: %v", name, p)
		}
	}
}

// Credentials that are refused do not become right by waiting.
func TestRunEndsWhenTheCredentialsAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	opts := *w.opts
	opts.Auth.Username = "nobody"
	if err := w.runToError(func(c *Config) { c.ClickHouse = &opts }); !chconn.Denied(err) {
		t.Errorf("got %v", err)
	}
}
