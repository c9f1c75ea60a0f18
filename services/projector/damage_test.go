package projector

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
	"github.com/runledger/runledger/pkg/watermark"
)

func TestBlocksThatAreLost(t *testing.T) {
	of := func(spans ...span) blocks {
		b := blocks{}
		for _, s := range spans {
			b.add("t/1", s)
		}
		return b
	}
	for _, test := range []struct {
		name     string
		was, now blocks
		lost     bool
	}{
		{"nothing there", of(), of(), false},
		{"nothing changed", of(span{1, 1}, span{2, 2}), of(span{1, 1}, span{2, 2}), false},
		{"merged", of(span{1, 1}, span{2, 2}), of(span{1, 2}), false},
		{"merged over a number of nobody", of(span{1, 1}, span{3, 3}), of(span{1, 3}), false},
		{"more", of(span{1, 2}), of(span{1, 2}, span{3, 9}), false},
		{"sources of a merge", of(span{1, 3}), of(span{1, 1}, span{2, 3}), false},
		{"last", of(span{1, 1}, span{2, 2}), of(span{1, 1}), true},
		{"first", of(span{1, 1}, span{2, 2}), of(span{2, 2}), true},
		{"middle", of(span{1, 3}), of(span{1, 1}, span{3, 3}), true},
		{"all", of(span{1, 3}), of(), true},
		{"all, and a new one", of(span{1, 3}), of(span{1, 1}), true},
		{"behind a number of nobody", of(span{1, 3}, span{5, 9}), of(span{1, 3}, span{6, 9}), true},
		{"other table", of(span{1, 3}), blocks{"t/2": {{1, 3}}}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.now.lost(test.was); (err != nil) != test.lost {
				t.Errorf("got %v", err)
			}
		})
	}
}

// everyTable publishes events that make rows in every table, a purge among them.
func (w *world) everyTable() (run string) {
	before, end, _ := w.purgeHistory()
	w.mustPublish(before...)
	w.mustPublish(end...)
	run = newRunID()
	w.mustPublish(
		w.created(run), w.logged(run, series("long", 0, 2000)...), w.artifact(run, "", "model.pkl", "run", false),
		entry{events.StreamExperiments, events.ExperimentSubject("7"), &events.Event{
			Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{ExperimentId: "7", Name: "seven"}},
		}},
	)
	return run
}

// partFiles is where a part of a table is.
type partFiles struct {
	table, directory string // with all of its parts
	parts            []string
}

// largest returns the files of a table's largest part, and of those that are still on
// disk though it was made of them.
func (w *world) largest(table tableName) partFiles {
	w.t.Helper()
	rows, err := w.conn.Query(context.Background(), `SELECT path FROM system.parts, (
		SELECT min_block_number AS low, max_block_number AS high FROM system.parts
		WHERE database = currentDatabase() AND table = $1 AND active ORDER BY rows DESC, bytes_on_disk DESC LIMIT 1
	) AS largest WHERE database = currentDatabase() AND table = $1 AND min_block_number >= low AND max_block_number <= high`, string(table))
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	at := partFiles{table: string(table)}
	for rows.Next() {
		var path string
		if err := rows.Scan(&path); err != nil {
			w.t.Fatal(err)
		}
		path = strings.TrimSuffix(path, "/")
		at.directory = filepath.Dir(path)
		at.parts = append(at.parts, filepath.Base(path))
	}
	if rows.Err() != nil || len(at.parts) == 0 {
		w.t.Fatalf("table %s has no parts: %v", table, rows.Err())
	}
	return at
}

// loaded changes files of a table while it is not loaded, as if the engine was stopped.
func (w *world) unloaded(table tableName, change func() error) {
	w.t.Helper()
	w.exec("DETACH TABLE " + string(table) + " SYNC")
	if err := change(); err != nil {
		w.t.Fatal(err)
	}
	w.exec("ATTACH TABLE " + string(table))
}

func (w *world) exec(statement string) {
	w.t.Helper()
	if err := w.conn.Exec(context.Background(), statement); err != nil {
		w.t.Fatalf("%s: %v", statement, err)
	}
}

// move renames the directories of parts.
func (p partFiles) move(from, to string) error {
	var errs []error
	for _, part := range p.parts {
		errs = append(errs, os.Rename(filepath.Join(from, part), filepath.Join(to, part)))
	}
	return errors.Join(errs...)
}

// flip changes a byte of the values of a part.
func (p partFiles) flip() error {
	for _, part := range p.parts {
		path := filepath.Join(p.directory, part, "data.bin")
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		content[len(content)/2] ^= 0x10
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// recover begins a session of a stream, and ends it.
func (w *world) recover(stream string) error {
	w.t.Helper()
	return w.session(stream, func(context.Context, *session) error { return nil })
}

// Whichever table loses a part while nothing runs, it is missed by the next session,
// however it was merged since the last checkpoint. What deletes and merges do is no loss.
func TestLostPartOfAnyTableIsMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := w.everyTable()
	p, stop := w.start(rollEvery(1000))
	until(t, "the projector is ready", func() bool { return p.Ready(t.Context()) == nil })
	last, err := w.log.LastSeq(t.Context(), w.shardOf(run))
	if err != nil {
		t.Fatal(err)
	}
	w.waitRolled(run, "long", min(last, 1))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	away := t.TempDir()
	var guarded []string // the tables that a part cannot leave because it is empty
	if err := w.conn.QueryRow(t.Context(), "SELECT arraySort(groupArray(name)) FROM system.tables WHERE database = currentDatabase() AND engine_full LIKE '%remove_empty_parts = 0%'").
		Scan(&guarded); err != nil {
		t.Fatal(err)
	}
	if all := slices.Sorted(slices.Values(names(allTables))); !slices.Equal(guarded, all) {
		t.Fatalf("the tables are %v, those whose empty parts stay %v", all, guarded)
	}
	for _, merged := range []bool{false, true} {
		for _, table := range allTables {
			if merged {
				w.exec(fmt.Sprintf("OPTIMIZE TABLE %s FINAL", table))
			}
		}
		if err := w.recover(w.shardOf(run)); err != nil {
			t.Fatalf("merged %v, and nothing is lost: %v", merged, err)
		}
		for _, table := range allTables {
			if table == tableCheckpoints && !merged {
				continue // the last one alone is no loss: the tables say how far they are
			}
			lost := w.largest(table)
			w.unloaded(table, func() error { return lost.move(lost.directory, away) })
			err := w.recover(w.shardOf(run))
			if _, ok := errors.AsType[*damageError](err); !ok {
				t.Errorf("merged %v, %s of table %s is lost: got %v", merged, lost.parts, table, err)
			}
			w.unloaded(table, func() error { return lost.move(away, lost.directory) })
			if err := w.recover(w.shardOf(run)); err != nil {
				t.Fatalf("merged %v, %s of table %s is back: %v", merged, lost.parts, table, err)
			}
		}
	}
	w.check()
}

// A part whose rows are all deleted is no loss, nor is what merges make of it.
func TestEmptyPartIsNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, stop := w.start(nil)
	run, other := newRunID(), newRunID()
	for w.shardOf(other) != w.shardOf(run) {
		other = newRunID()
	}
	for _, entries := range [][]entry{
		{w.created(other), w.logged(other, series("loss", 0, 10)...)},
		{w.created(run), w.logged(run, series("loss", 0, 10)...)},
		{w.logged(other, series("loss", 10, 10)...)},
		{
			w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}}),
			w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: run}}}),
		},
	} {
		w.mustPublish(entries...)
		w.wait()
	}
	until(t, "the run's part is empty", func() bool {
		var n uint64
		err := w.conn.QueryRow(t.Context(), "SELECT count() FROM system.parts WHERE database = currentDatabase() AND active AND rows = 0").Scan(&n)
		return err == nil && n > 0
	})
	for _, table := range allTables {
		w.exec(fmt.Sprintf("OPTIMIZE TABLE %s FINAL", table))
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := w.recover(w.shardOf(run)); err != nil {
		t.Error(err)
	}
	w.mustPublish(w.logged(other, series("loss", 20, 10)...))
	w.start(nil)
	w.wait()
	w.check()
}

// Tables that are damaged are built again, and readers do not take them for fresh
// meanwhile.
func TestDamagedTablesAreBuiltAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.damaged = true
	run := w.everyTable()
	_, stop := w.start(rollEvery(1000))
	w.wait()
	for _, test := range []struct {
		name    string
		running bool
		damage  func()
		fails   string // a statement that says so
	}{
		{"lost part", false, func() {
			lost := w.largest(tableMetrics)
			w.unloaded(tableMetrics, func() error { return lost.move(lost.directory, t.TempDir()) })
		}, ""},
		{"flipped byte", true, func() {
			w.exec("OPTIMIZE TABLE metrics FINAL")
			if err := w.largest(tableMetrics).flip(); err != nil {
				t.Fatal(err)
			}
		}, "SELECT sum(value) FROM metrics"},
		{"flipped byte that nobody has read", false, func() {
			w.exec("OPTIMIZE TABLE metrics FINAL")
			if err := w.largest(tableMetrics).flip(); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"part that cannot be loaded", true, func() {
			bad := w.largest(tableRuns)
			w.unloaded(tableRuns, func() error {
				var errs []error
				for _, part := range bad.parts {
					errs = append(errs, os.WriteFile(filepath.Join(bad.directory, part, "checksums.txt"), []byte("none"), 0o600))
				}
				return errors.Join(errs...)
			})
		}, ""},
		{"lost table", false, func() { w.exec("DROP TABLE run_attributes SYNC") }, ""},
		{"lost checkpoints", false, func() {
			w.exec("OPTIMIZE TABLE checkpoints FINAL")
			lost := w.largest(tableCheckpoints)
			w.unloaded(tableCheckpoints, func() error { return lost.move(lost.directory, t.TempDir()) })
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			reader, err := watermark.NewReader(w.nc)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if err := reader.Wait(t.Context(), w.shardOf(run), 1); err != nil {
				t.Fatal(err)
			}
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if !test.running {
				test.damage()
			}
			var p *Projector
			p, stop = w.start(rollEvery(1000))
			if test.running {
				until(t, "the projector is ready", func() bool { return p.Ready(t.Context()) == nil })
				test.damage()
			}
			if test.fails != "" {
				if err := w.conn.Exec(t.Context(), test.fails); !chconn.IsDamage(err) {
					t.Errorf("reading the damaged part: %v", err)
				}
				if err := watermark.ReportDamage(w.nc, "a read failed"); err != nil {
					t.Fatal(err)
				}
			}
			until(t, "the tables are built again", func() bool { return rebuilds(t, p) == 1 && p.Ready(t.Context()) == nil })
			w.wait()
			w.check()
			w.waitRolled(run, "long", 1)
			if reader.Lowered() == 0 {
				t.Error("readers were not told")
			}
			until(t, "the damaged tables are dropped", func() bool { return w.aside() == 0 })
			until(t, "it says that it is done", func() bool { return p.rebuilding.Load() == nil && w.gauge(p, "runledger_projector_rebuilding") == 0 })
		})
	}
}

// gauge returns what a projector says of itself.
func (w *world) gauge(p *Projector, name string) float64 {
	w.t.Helper()
	families, err := p.config.Registerer.(prometheus.Gatherer).Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	w.t.Fatalf("there is no %s", name)
	return 0
}

// What was damaged first is kept until the tables have caught up: it may have rows that
// the log has lost. Tables that another projector has replaced are left alone.
func TestTablesAreSetAsideOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := New(t.Context(), w.config(nil))
	if err != nil {
		t.Fatal(err)
	}
	st, err := dial(t.Context(), w.opts, "", 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	var firsts uint64
	for _, name := range []string{"first", "second"} {
		if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
			t.Fatal(err)
		}
		if err := p.rebuild(t.Context(), &damageError{"of tables that are gone", errors.New("damaged")}); err != nil {
			t.Fatal(err)
		}
		if err := st.complete(t.Context()); err != nil {
			t.Fatalf("tables that are not damaged were set aside: %v", err)
		}
		w.exec(fmt.Sprintf("INSERT INTO runs (name) VALUES ('%s')", name))
		if err := st.setAside(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, ok := errors.AsType[*damageError](st.complete(t.Context())); !ok {
			t.Error("the tables are still there")
		}
	}
	if err := w.conn.QueryRow(t.Context(), "SELECT countIf(name = 'first') FROM runs"+asideSuffix).Scan(&firsts); err != nil || firsts != 1 {
		t.Errorf("%d rows are left of what was set aside first, %v", firsts, err)
	}
	if n := w.aside(); n != uint64(len(allTables)+1) {
		t.Errorf("%d tables are set aside, want all", n)
	}
	if err := tables.Migrate(t.Context(), w.opts, nil); err != nil {
		t.Fatal(err)
	}
	st.stream = "RUNS_0"
	if err := st.setCheckpoint(t.Context(), checkpoint{seq: 5, incarnation: "x"}, blocks{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		ends map[string]uint64
		want bool
	}{
		{map[string]uint64{"RUNS_0": 5, "RUNS_1": 0}, true},
		{map[string]uint64{"RUNS_0": 6}, false},
		{map[string]uint64{"RUNS_0": 5, "RUNS_1": 1}, false},
	} {
		if got, err := st.reached(t.Context(), test.ends); err != nil || got != test.want {
			t.Errorf("%v are reached: %v, %v", test.ends, got, err)
		}
	}
}

// Nobody projects any stream while the tables are replaced.
func TestReplacementHasEveryLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, err := New(t.Context(), w.config(nil))
	if err != nil {
		t.Fatal(err)
	}
	held := 0
	if err := p.underAll(t.Context(), p.workers, func(ctx context.Context) error {
		for _, stream := range w.log.Streams() {
			entry, err := p.leases.kv.Get(ctx, stream)
			if err != nil {
				return fmt.Errorf("the lease of %s: %w", stream, err)
			}
			if strings.Contains(string(entry.Value()), `"holder":"`+p.leases.holder+`"`) {
				held++
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if held != len(w.log.Streams()) || held == 0 {
		t.Errorf("%d leases of %d were held", held, len(w.log.Streams()))
	}
}

// Damage that one of several projectors finds is mended by it, for the streams of the
// others as well.
func TestDamageIsMendedForAllProjectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.damaged = true
	if err := w.load(6, 2); err != nil {
		t.Fatal(err)
	}
	var all []*Projector
	for i := range 3 {
		p, _ := w.start(func(c *Config) {
			c.HolderID = fmt.Sprint("projector ", i)
		})
		all = append(all, p)
		until(t, "the projector is ready", func() bool { return p.Ready(t.Context()) == nil })
	}
	w.wait()
	lost := w.largest(tableMetrics)
	w.unloaded(tableMetrics, func() error { return lost.move(lost.directory, t.TempDir()) })
	until(t, "the tables are built again", func() bool {
		return w.aside() == 0 && rebuilds(t, all[0])+rebuilds(t, all[1])+rebuilds(t, all[2]) == 1 && w.compare() == nil
	})
}

// aside returns how many tables are set aside.
func (w *world) aside() (n uint64) {
	w.t.Helper()
	err := w.conn.QueryRow(w.t.Context(), "SELECT count() FROM system.tables WHERE database = currentDatabase() AND endsWith(name, $1)", asideSuffix).Scan(&n)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

// Damaged tables that were made from another log are not given up for what this one
// has.
func TestDamagedTablesOfAnotherLogAreKept(t *testing.T) {
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
	lost := w.largest(tableMetrics)
	w.unloaded(tableMetrics, func() error { return lost.move(lost.directory, t.TempDir()) })
	w.exec("TRUNCATE TABLE checkpoints")
	other := &world{t: t, conn: w.conn, opts: w.opts, exp: w.exp, damaged: true}
	other.nc, other.log = newLog(t)
	if err := other.load(1, 1); err != nil {
		t.Fatal(err)
	}
	if err := other.runToError(nil); !errors.Is(err, ErrOtherLog) {
		t.Fatalf("got %v", err)
	}
	if n := w.aside(); n > 0 {
		t.Errorf("%d tables were set aside", n)
	}
}
