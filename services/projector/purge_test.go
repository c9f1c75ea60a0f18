package projector

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

// purgeHistory returns the events of a run before its end, and those of its end,
// with another run's between them.
func (w *world) purgeHistory() (before, end []entry, run string) {
	other := newRunID()
	run = newRunID()
	for w.shardOf(run) != w.shardOf(other) {
		run = newRunID()
	}
	status := events.RunStatus_RUN_STATUS_FINISHED
	meta := func(run string, e *events.Event) entry { return w.ofRun(run, events.KindMeta, e) }
	everything := func(run string, from int) []entry {
		return []entry{
			w.logged(run, series("loss", from, 20)...),
			w.logged(run, events.Point{Key: "acc", Step: int64(from), Link: &events.MetricLink{ModelId: "m-" + run}}),
			meta(run, &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{
				RunId: run, Parameters: []*events.Parameter{{Key: fmt.Sprint("p", from), Value: "1"}},
			}}}),
			meta(run, &events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: &events.RunInputsLogged{
				RunId: run, Datasets: []*events.DatasetInput{{Name: fmt.Sprint("d", from), Digest: "1"}}, ModelIds: []string{"m"},
			}}}),
			meta(run, &events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: run, Status: &status}}}),
		}
	}
	before = append(before, w.created(other), w.created(run))
	before = append(before, everything(other, 0)...)
	before = append(before, everything(run, 0)...)
	// The last rows of every table but runs are those of the run.
	end = append(end, everything(other, 10)...)
	end = append(end, everything(run, 10)...)
	end = append(end,
		meta(run, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}}),
		meta(run, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: run}}}),
		meta(run, &events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{
			Owner: &events.ArtifactsPurged_RunId{RunId: run}, Files: 1, Bytes: 2,
		}}}),
	)
	// Rows of others after the purge, in every table.
	end = append(end, everything(other, 30)...)
	end = append(end, w.artifact(other, "", "after", "run", false))
	model := "m-" + newRunID()
	for stream, _ := w.log.LoggedModelSubject("7", model); stream != w.shardOf(run); stream, _ = w.log.LoggedModelSubject("7", model) {
		model = "m-" + newRunID()
	}
	end = append(end, w.ofModel(model, &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{
		ModelId: model, ExperimentId: "7", Name: "m",
	}}}))
	return before, end, run
}

func (w *world) shardOf(run string) string {
	stream, _ := w.log.RunSubject("7", run, events.KindMeta)
	return stream
}

// Wherever the projector is lost around a purge, and however the batches are cut
// then, nothing of the run is left and nothing of the other is lost.
func TestProjectorIsLostAroundAPurge(t *testing.T) {
	t.Parallel()
	const first, small = 10_000, 30 // rows of a batch before and after the loss
	steps := 1
	w := newWorld(t) // with other runs at each step
	// Each statement has a step before and one after it, which is as good as the
	// one before the next.
	for step := 0; step < steps; step += 2 {
		t.Run(fmt.Sprint("step ", step), func(t *testing.T) {
			before, end, run := w.purgeHistory()
			w.mustPublish(before...)
			_, stop := w.start(nil)
			w.wait()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			w.mustPublish(end...)
			var mu sync.Mutex
			n := 0
			lost := make(chan struct{})
			_, stop = w.start(func(c *Config) {
				// One batch, up to where caughtUpSoon waits.
				c.FlushRows, c.FlushAge = first, eventually
				c.failpoint = func(stream, _ string, _ bool) error {
					if stream != w.shardOf(run) {
						return nil
					}
					mu.Lock()
					defer mu.Unlock()
					if n++; n == step+1 {
						close(lost)
					}
					if n > step {
						return errCrash // and this life is over
					}
					return nil
				}
			})
			select {
			case <-lost:
			case <-w.caughtUpSoon():
			}
			if err := stop(); err != nil && !errors.Is(err, errCrash) {
				t.Fatal(err)
			}
			mu.Lock()
			steps = max(steps, step+3) // until a life has no such step
			if n <= step {
				steps = 0
			}
			mu.Unlock()
			_, stop = w.start(func(c *Config) { c.FlushRows = small })
			w.wait()
			w.check()
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			w.mustReachBeyond(run)
		})
	}
}

// mustReachBeyond fails the test unless every table of the run's stream has a row
// beyond the run's last event. Without one in a single table, the watermark of that table
// alone makes the next session meet the purge again, and deletes that come
// at the wrong time go unnoticed.
func (w *world) mustReachBeyond(run string) {
	w.t.Helper()
	stream, subject := w.log.RunSubject("7", run, events.KindMeta)
	_, last, err := w.log.LastFor(w.t.Context(), stream, subject)
	if err != nil {
		w.t.Fatal(err)
	}
	st, err := dial(w.t.Context(), w.opts, stream, 0, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer st.close()
	for _, table := range tablesOf(stream) {
		seq, err := st.maxSeq(w.t.Context(), table, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if seq <= last {
			w.t.Errorf("purgeHistory has no row of others for %s after the purge: the last is of %d, the run ends at %d", table, seq, last)
		}
	}
}

// caughtUpSoon returns a channel that is closed when every stream is projected.
func (w *world) caughtUpSoon() <-chan struct{} {
	done := make(chan struct{})
	go func() { // ends with the wait, which is bounded
		defer close(done)
		_ = w.caughtUp()
	}()
	return done
}

// The rows of a run that is purged are deleted by the engine, not only hidden,
// and from the copies in the order of runs as well.
func TestPurgedRowsAreDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before, end, purged := w.purgeHistory()
	w.mustPublish(before...)
	w.start(nil)
	w.wait()
	rows := func(from string) (n uint64) {
		t.Helper()
		if err := w.conn.QueryRow(t.Context(), fmt.Sprintf("SELECT count() FROM %s WHERE replaceAll(toString(run_id), '-', '') = $1", from), purged).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	var tables []string
	for _, table := range tablesOfRuns {
		tables = append(tables, string(table))
	}
	for _, table := range []tableName{tableAttributes, tableLatest} {
		// A part that is merged has the copy, even if it is merged alone.
		if err := w.conn.Exec(t.Context(), fmt.Sprintf("OPTIMIZE TABLE %s FINAL", table)); err != nil {
			t.Fatal(err)
		}
		copied := fmt.Sprintf("mergeTreeProjection(currentDatabase(), %s, by_run)", table)
		if rows(copied) == 0 {
			t.Fatalf("%s has no copy of the run's rows", table)
		}
		tables = append(tables, copied)
	}
	w.mustPublish(end...)
	w.wait()
	w.check()
	for _, table := range tables {
		until(t, "the rows are gone from "+table, func() bool { return rows(table) == 0 })
	}
}

// The engine forgets one of two deletes that are begun on a table in the same
// moment: streams must not begin theirs so, in one process and in two.
func TestStreamsPurgeAtOnce(t *testing.T) {
	t.Parallel()
	const streams, runs = 4, 25 // runs of a stream, each purged by itself
	w := newWorld(t)
	if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
		t.Fatal(err)
	}
	if err := w.conn.Exec(t.Context(), "INSERT INTO metrics (run_id, key) SELECT toUUID(leftPad(toString(number), 32, '0')), 'loss' FROM numbers($1)", streams*runs+purgeChunk+1); err != nil {
		t.Fatal(err)
	}
	var projectors [2]*Projector
	for i := range projectors {
		// Nobody renews the leases of this test.
		projectors[i] = &Projector{leases: testLeases(t, w.log.JetStream(), fmt.Sprint("projector ", i), time.Hour)}
	}
	var purging errgroup.Group
	for n := range streams {
		name := fmt.Sprint("RUNS_", n)
		p := projectors[n%2]
		held, err := p.leases.acquire(t.Context(), name, time.Second, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		st, err := dial(t.Context(), w.opts, name, held.epoch, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer st.close()
		s := &session{worker: &worker{Projector: p, stream: name}, lease: held, store: st, fold: &folder{}}
		s.roll = newRollups(s)
		purging.Go(func() error {
			for i := range runs {
				id, err := uuid.Parse(fmt.Sprintf("%032d", n*runs+i))
				if err != nil {
					return err
				}
				s.fold.purged = []*run{{id: id}}
				if err := s.purge(t.Context()); err != nil {
					return err
				}
			}
			if n > 0 {
				return nil
			}
			// The rest at once, which is more than one statement takes.
			s.fold.purged = nil
			for i := range purgeChunk + 1 {
				id, err := uuid.Parse(fmt.Sprintf("%032d", streams*runs+i))
				if err != nil {
					return err
				}
				s.fold.purged = append(s.fold.purged, &run{id: id})
			}
			return s.purge(t.Context())
		})
	}
	if err := purging.Wait(); err != nil {
		t.Fatal(err)
	}
	until(t, "the deletes are carried out", func() bool {
		var n uint64
		err := w.conn.QueryRow(t.Context(), "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done").Scan(&n)
		return err == nil && n == 0
	})
	var left uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT count() FROM metrics").Scan(&left); err != nil || left > 0 {
		t.Errorf("%d rows are left, %v", left, err)
	}
}
