package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/chdb"
	"github.com/runledger/runledger/pkg/events"
)

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(eventually); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// load publishes runs with points, some of them repeated.
func (w *world) load(runs, messages int) error {
	for range runs {
		run := newRunID()
		entries := []entry{w.created(run)}
		for i := range messages {
			entries = append(entries, w.logged(run, series("loss", i*80, 100)...), w.logged(run, series("acc", i*100, 100)...))
		}
		if err := w.publish(entries); err != nil {
			return err
		}
	}
	return nil
}

func TestClickHouseIsKilledUnderLoad(t *testing.T) {
	t.Parallel()
	server, err := chdb.Start(t.Context(), chdb.Config{DataDir: t.TempDir(), MaxMemory: 2 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	conn, err := clickhouse.Open(server.Options())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := &world{t: t, conn: conn, opts: server.Options(), exp: "7"}
	w.nc, w.log = newLog(t)
	p, stop := w.start(func(c *Config) { c.FlushRows = 500 })
	until(t, "the projector is ready", func() bool { return p.Ready(t.Context()) == nil })
	for i := range 3 {
		loaded := make(chan error, 1)
		go func() { loaded <- w.load(8, 10) }()
		time.Sleep(time.Duration(rand.IntN(300)) * time.Millisecond)
		restarts := server.Restarts()
		if pid := server.Pid(); pid != 0 {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			until(t, fmt.Sprintf("restart %d of ClickHouse", i+1), func() bool { return server.Restarts() > restarts })
		}
		if err := <-loaded; err != nil {
			t.Fatal(err)
		}
	}
	w.wait()
	w.check()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}

func TestTablesAreRebuilt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.damaged = true
	if err := w.load(3, 5); err != nil {
		t.Fatal(err)
	}
	_, stop := w.start(nil)
	w.wait()
	w.check()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	drop := func() {
		if err := w.conn.Exec(t.Context(), "DROP DATABASE "+w.opts.Auth.Database+" SYNC"); err != nil {
			t.Fatal(err)
		}
	}
	drop()
	p, _ := w.start(nil)
	w.wait()
	w.check()
	// Also under a running projector, as soon as it has something to write.
	drop()
	if err := w.load(12, 2); err != nil {
		t.Fatal(err)
	}
	until(t, "the tables are rebuilt", func() bool { return p.Ready(t.Context()) == nil && w.compare() == nil })
}

func TestShorterLogIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.load(4, 3); err != nil {
		t.Fatal(err)
	}
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for name, events := range map[string]int{"empty": 0, "shorter": 1, "another": 40} {
		t.Run(name, func(t *testing.T) {
			other := &world{t: t, conn: w.conn, opts: w.opts, exp: w.exp}
			other.nc, other.log = newLog(t)
			if err := other.load(events, 1); err != nil {
				t.Fatal(err)
			}
			err := other.runToError(nil)
			if !errors.Is(err, ErrOtherLog) {
				t.Fatalf("got %v", err)
			}
			if name != "another" && !strings.Contains(err.Error(), "ends at sequence") {
				t.Fatalf("the error names no figures: %v", err)
			}
			t.Log(err)
		})
	}
	// The log that they were made from is still accepted.
	w.start(nil)
	w.wait()
	w.check()
}

// A stream that was empty when the tables were made is refused with the others, and
// leaves nothing, though it is the first to be looked at.
func TestOtherLogIsRefusedByAStreamThatWasEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := newRunID()
	for w.shardOf(run) != "RUNS_1" {
		run = newRunID()
	}
	w.mustPublish(w.created(run), w.logged(run, series("loss", 0, 100)...))
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	other := &world{t: t, conn: w.conn, opts: w.opts, exp: w.exp}
	other.nc, other.log = newLog(t)
	for w.shardOf(run) != "RUNS_0" {
		run = newRunID()
	}
	other.mustPublish(other.created(run), other.logged(run, series("loss", 0, 100)...))
	js, err := jetstream.New(other.nc)
	if err != nil {
		t.Fatal(err)
	}
	held, err := openLeases(t.Context(), js, 1, "ghost", time.Hour, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, stream := range other.log.Streams() {
		if stream == "RUNS_0" {
			continue
		}
		if _, err := held.kv.PutString(t.Context(), stream, `{"holder":"ghost","epoch":1,"ttl":3600000000000}`); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.runToError(nil); !errors.Is(err, ErrOtherLog) {
		t.Fatalf("got %v", err)
	}
	w.start(nil)
	w.wait()
	w.check()
}

func TestRowsBeyondTheLogAreRefusedWithoutACheckpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.load(4, 3); err != nil {
		t.Fatal(err)
	}
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Exec(t.Context(), "TRUNCATE TABLE checkpoints"); err != nil {
		t.Fatal(err)
	}
	other := &world{t: t, conn: w.conn, opts: w.opts, exp: w.exp}
	other.nc, other.log = newLog(t)
	if err := other.runToError(nil); !errors.Is(err, ErrOtherLog) {
		t.Fatalf("got %v", err)
	}
}

func TestCorruptEventStopsItsStream(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(w *world, run string){
		"corrupt": func(w *world, run string) {
			if _, err := w.log.JetStream().Publish(t.Context(), events.ExperimentSubject("8"), []byte("no event")); err != nil {
				t.Fatal(err)
			}
		},
		"unprojectable": func(w *world, run string) {
			w.mustPublish(entry{events.StreamExperiments, events.ExperimentSubject("8"), &events.Event{
				Data: &events.Event_ExperimentDeleted{ExperimentDeleted: &events.ExperimentDeleted{ExperimentId: "8"}},
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p, stop := w.start(nil)
			run := newRunID()
			w.mustPublish(w.created(run), entry{events.StreamExperiments, events.ExperimentSubject("7"), &events.Event{
				Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{ExperimentId: "7", Name: "before"}},
			}})
			bad(w, run)
			w.mustPublish(entry{events.StreamExperiments, events.ExperimentSubject("9"), &events.Event{
				Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{ExperimentId: "9", Name: "behind"}},
			}})
			stops := func() {
				t.Helper()
				until(t, "the stream stops", func() bool {
					err := p.Ready(t.Context())
					return err != nil && strings.Contains(err.Error(), "EXPERIMENTS sequence 2")
				})
			}
			stops()
			var n uint64
			if err := w.conn.QueryRow(t.Context(), "SELECT groupBitXor(experiment_id) FROM experiments FINAL").Scan(&n); err != nil {
				t.Fatal(err)
			}
			if n != 7 {
				t.Fatalf("the experiments are %d, want the one before the bad event", n)
			}
			// The other streams go on.
			w.mustPublish(w.logged(run, series("loss", 0, 10)...))
			until(t, "metrics arrive", func() bool {
				var points uint64
				return w.conn.QueryRow(t.Context(), "SELECT count() FROM metrics").Scan(&points) == nil && points == 10
			})
			// A restart does not pass over the event.
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			p, _ = w.start(nil)
			stops()
		})
	}
}

// A projector that stands still between the check of its lease and an insert
// loses its streams, and its insert comes to nothing.
func TestStoppedWriterIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const ttl = 600 * time.Millisecond
	run := newRunID()
	stream, _ := w.log.RunSubject("7", run, events.KindMetric)
	w.mustPublish(w.created(run))
	var once sync.Once
	stuck, release := make(chan struct{}), make(chan struct{})
	zombie, stopZombie := w.start(func(c *Config) {
		c.HolderID, c.LeaseTTL = "zombie", ttl
		c.failpoint = func(s, table string, done bool) error {
			if s == stream && table == string(tableMetrics) && !done {
				once.Do(func() {
					close(stuck)
					<-release
				})
			}
			return nil
		}
	})
	until(t, "the first projector is ready", func() bool { return zombie.Ready(t.Context()) == nil })
	// Its lease is taken away, as if it had not renewed it for long.
	w.mustPublish(w.logged(run, series("loss", 0, 1000)...))
	<-stuck
	kv, err := w.log.JetStream().KeyValue(t.Context(), leaseBucket)
	if err != nil {
		t.Fatal(err)
	}
	w.steal(kv, stream)
	heir, _ := w.start(func(c *Config) { c.HolderID, c.LeaseTTL = "heir", ttl })
	var points uint64
	until(t, "the second projector writes", func() bool {
		return w.conn.QueryRow(t.Context(), "SELECT count() FROM metrics").Scan(&points) == nil && points == 1000
	})
	close(release)
	w.mustPublish(w.logged(run, series("loss", 500, 1000)...))
	if err := stopZombie(); err != nil {
		t.Fatal(err)
	}
	until(t, "the second projector has every stream", func() bool { return heir.Ready(t.Context()) == nil })
	w.wait()
	w.check()
	var epoch uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT epoch FROM checkpoints FINAL WHERE stream = $1", stream).Scan(&epoch); err != nil {
		t.Fatal(err)
	}
	if epoch < 3 {
		t.Fatalf("epoch %d after three holders", epoch)
	}
}

// steal gives a stream's lease to a projector that does not exist, so that the
// next one takes it after its time, when the former holder has noticed.
func (w *world) steal(kv jetstream.KeyValue, stream string) {
	w.t.Helper()
	for {
		entry, err := kv.Get(w.t.Context(), stream)
		if err != nil {
			w.t.Fatal(err)
		}
		_, err = kv.Update(w.t.Context(), stream, []byte(`{"holder":"ghost","epoch":2,"ttl":600000000}`), entry.Revision())
		if err == nil {
			return
		}
		if !isTaken(err) {
			w.t.Fatal(err)
		}
	}
}

// The stale holder's insert, when nothing stops it, doubles rows that are the
// same, and the engine collapses them.
func TestTwoWritersMakeTheSameRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.load(2, 4); err != nil {
		t.Fatal(err)
	}
	_, stop := w.start(nil)
	w.wait()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// The second writer begins as if it had read the tables before the first.
	if err := w.conn.Exec(t.Context(), "CREATE DATABASE "+w.opts.Auth.Database+"_2"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.conn.Exec(context.Background(), "DROP DATABASE "+w.opts.Auth.Database+"_2 SYNC"); err != nil {
			t.Error(err)
		}
	}()
	second := *w.opts
	second.Auth.Database += "_2"
	_, stop = w.start(func(c *Config) { c.ClickHouse, c.FlushRows = &second, 30 })
	until(t, "the second writer is done", func() bool {
		var same uint8
		err := w.conn.QueryRow(t.Context(), "SELECT (SELECT sum(seq) FROM checkpoints FINAL) = (SELECT sum(seq) FROM "+second.Auth.Database+".checkpoints FINAL)").Scan(&same)
		return err == nil && same == 1
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, table := range tablesOf(events.RunsStream(0)) {
		for _, q := range []string{
			"INSERT INTO %s SELECT * FROM %s_2.%s",
			"OPTIMIZE TABLE %s FINAL",
		} {
			args := []any{table, w.opts.Auth.Database, table}
			if strings.HasPrefix(q, "OPTIMIZE") {
				args = args[:1]
			}
			if err := w.conn.Exec(t.Context(), fmt.Sprintf(q, args...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.check()
}
