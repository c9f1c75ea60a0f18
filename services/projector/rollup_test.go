package projector

import (
	"bytes"
	"errors"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/proptest"
)

// rolled returns how many blocks there are of a series, and up to where.
func (w *world) rolled(run, key string) (blocks, through uint64) {
	w.t.Helper()
	err := w.conn.QueryRow(w.t.Context(), "SELECT uniqExactIf(block, width > 0), maxIf(version, width = 0) FROM metric_rollups WHERE run_id = ? AND key = ? SETTINGS apply_mutations_on_fly = 1",
		uuid.MustParse(run), key).Scan(&blocks, &through)
	if err != nil {
		w.t.Fatal(err)
	}
	return blocks, through
}

// waitRolled returns when a series is rolled up to a sequence.
func (w *world) waitRolled(run, key string, through uint64) (blocks uint64) {
	w.t.Helper()
	for deadline := time.Now().Add(eventually); ; time.Sleep(10 * time.Millisecond) {
		blocks, at := w.rolled(run, key)
		if at >= through {
			return blocks
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%d blocks up to %d, want %d", blocks, at, through)
		}
	}
}

// under reports whether a goroutine is in a function of this package.
func under(t *testing.T, function string) bool {
	t.Helper()
	stacks := make([]byte, 1<<20)
	n := runtime.Stack(stacks, true)
	if n == len(stacks) {
		t.Fatal("there are too many goroutines to look at")
	}
	return bytes.Contains(stacks[:n], []byte("projector."+function+"("))
}

func rollEvery(points int) func(*Config) {
	return func(c *Config) { c.RollupPoints = points }
}

// The blocks of a series say what its points say, whatever order those come in,
// and wherever their writing ends.
func TestRollupsSayWhatThePointsSay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	proptest.Check(t, func(rt *rapid.T) {
		run := newRunID()
		w.mustPublish(w.created(run))
		value := rapid.OneOf(rapid.Float64Range(-10, 10), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, 3}))
		strides := rapid.SampledFrom([]int64{1, 1, 1, 10, 1 << 40})
		next := rapid.SampledFrom([]int64{0, -500, -500 << 40, math.MinInt64, math.MaxInt64 - 900}).Draw(rt, "first")
		var logged []events.Point
		var through uint64
		lives := rapid.IntRange(1, 3).Draw(rt, "lives")
		for range lives {
			var left atomic.Int64 // statements of any stream until one fails
			left.Store(rapid.Int64Range(0, 6).Draw(rt, "fails after"))
			_, stop := w.start(func(c *Config) {
				c.RollupPoints = 50
				c.failpoint = func(_, table string, _ bool) error {
					if table == string(tableRollups) && left.Add(-1) == 0 {
						return errors.New("lost")
					}
					return nil
				}
			})
			stopped := false
			defer func() { // two of one name must not run at a time
				if !stopped {
					_ = stop()
				}
			}()
			for range rapid.IntRange(1, 5).Draw(rt, "batches") {
				var points []events.Point
				stride := strides.Draw(rt, "stride")
				for range rapid.IntRange(1, 300).Draw(rt, "points") {
					points = append(points, events.Point{Key: "loss", Step: next, Timestamp: 7, Value: value.Draw(rt, "value")})
					if next <= math.MaxInt64-stride {
						next += stride
					}
				}
				for range rapid.IntRange(0, 3).Draw(rt, "late") {
					if len(logged) > 0 {
						p := logged[rapid.IntRange(0, len(logged)-1).Draw(rt, "of")]
						p.Timestamp, p.Value = rapid.Int64Range(0, 9).Draw(rt, "at"), value.Draw(rt, "value")
						points = append(points, p)
					}
				}
				logged = append(logged, points...)
				w.mustPublish(w.logged(run, points...))
				w.wait()
				if rapid.Bool().Draw(rt, "look") {
					// A roll-up is under way, or failed, or there was no need for one.
					for range 20 {
						if _, now := w.rolled(run, "loss"); now > through {
							through = now
							break
						}
						time.Sleep(5 * time.Millisecond)
					}
					if err := w.compare(); err != nil {
						rt.Fatal(err)
					}
				}
			}
			stopped = true
			if err := stop(); err != nil {
				rt.Fatal(err)
			}
		}
		if err := w.compare(); err != nil {
			rt.Fatal(err)
		}
	})
	var rolled uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT uniqExact(run_id) FROM metric_rollups WHERE width = 0").Scan(&rolled); err != nil || rolled == 0 {
		t.Errorf("%d series were rolled up, %v", rolled, err)
	}
}

// A series is rolled up as it grows, and a late point changes its block.
func TestRollupsFollow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, stop := w.start(rollEvery(1000))
	run := newRunID()
	w.mustPublish(w.created(run), w.logged(run, series("loss", 0, 999)...), w.logged(run, series("short", 0, 10)...))
	w.wait()
	if blocks, through := w.rolled(run, "loss"); blocks != 0 || through != 0 {
		t.Fatalf("%d blocks up to %d of a short series", blocks, through)
	}
	w.mustPublish(w.logged(run, series("loss", 999, 19_001)...))
	if blocks := w.waitRolled(run, "loss", 4); blocks != 157 { // 20 000 steps of 128
		t.Errorf("%d blocks of 20 000 points", blocks)
	}
	w.check()
	late := events.Point{Key: "loss", Step: 5, Timestamp: 1, Value: 1e9}
	w.mustPublish(w.logged(run, append(series("loss", 20_000, 1000), late)...))
	if blocks := w.waitRolled(run, "loss", 5); blocks != 165 {
		t.Errorf("%d blocks of 21 000 points", blocks)
	}
	w.check()
	var highest float64
	if err := w.conn.QueryRow(t.Context(), "SELECT max(max) FROM metric_rollups FINAL").Scan(&highest); err != nil || highest != 1e9 {
		t.Errorf("the late point is not there: %v, %v", highest, err)
	}
	// 0 has the late point, 156 was not full, the others are new.
	var again []int64
	if err := w.conn.QueryRow(t.Context(), "SELECT arraySort(groupArrayIf(block, version = 5 AND width > 0)) FROM metric_rollups FINAL").Scan(&again); err != nil ||
		!slices.Equal(again, []int64{0, 156, 157, 158, 159, 160, 161, 162, 163, 164}) {
		t.Errorf("the blocks %v were summed up, %v", again, err)
	}
	if blocks, _ := w.rolled(run, "short"); blocks != 0 {
		t.Errorf("%d blocks of a short series", blocks)
	}
	// What is not due yet is when the projector starts again.
	w.mustPublish(w.logged(run, series("loss", 21_000, 500)...))
	w.wait()
	if _, through := w.rolled(run, "loss"); through != 5 {
		t.Errorf("rolled up to %d after 500 points", through)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	_, stop = w.start(rollEvery(1000))
	if blocks := w.waitRolled(run, "loss", 6); blocks != 168 {
		t.Errorf("%d blocks of 21 500 points", blocks)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	// Tables that are older than their roll-ups get them.
	if err := w.conn.Exec(t.Context(), "TRUNCATE TABLE metric_rollups"); err != nil {
		t.Fatal(err)
	}
	w.start(rollEvery(1000))
	if blocks := w.waitRolled(run, "loss", 6); blocks != 168 {
		t.Errorf("%d blocks after they were lost", blocks)
	}
	w.check()
}

// A roll-up says that it has the points that were there before it read them, and no
// later ones: whoever draws the series would miss those.
func TestRollupIsAsOldAsItsPoints(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	var armed atomic.Bool
	armed.Store(true)
	w.start(func(c *Config) {
		c.RollupPoints = 100
		c.failpoint = func(_, table string, done bool) error {
			if table == string(tableRollups) && !done && armed.CompareAndSwap(true, false) {
				close(begun)
				<-goOn
			}
			return nil
		}
	})
	run := newRunID()
	w.mustPublish(w.created(run), w.logged(run, series("loss", 0, 200)...))
	select {
	case <-begun:
	case <-time.After(eventually):
		t.Fatal("nothing is rolled up")
	}
	// Too few for another roll-up, and far from the blocks that are being written.
	w.mustPublish(w.logged(run, series("loss", 1_000_000, 50)...))
	w.wait()
	release()
	w.waitRolled(run, "loss", 1)
	if _, through := w.rolled(run, "loss"); through != 2 {
		t.Errorf("rolled up to %d, and the points behind 2 came later", through)
	}
	w.check()
}

// A roll-up whose end is not known ends the session: the next one ends what may still
// run, and does it again.
func TestRollupWhoseEndIsNotKnownIsDoneAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var armed atomic.Bool
	armed.Store(true)
	w.start(func(c *Config) {
		c.RollupPoints = 100
		c.failpoint = func(_, table string, done bool) error {
			if table == string(tableRollups) && done && armed.CompareAndSwap(true, false) {
				return errUnsettled
			}
			return nil
		}
	})
	run := newRunID()
	w.mustPublish(w.created(run), w.logged(run, series("loss", 0, 200)...))
	w.wait()
	w.waitRolled(run, "loss", 1)
	w.check()
	var epoch uint64
	if err := w.conn.QueryRow(t.Context(), "SELECT max(epoch) FROM checkpoints WHERE stream = $1", w.shardOf(run)).Scan(&epoch); err != nil || epoch < 2 {
		t.Errorf("it was done again in the epoch %d, %v", epoch, err)
	}
}

// Nothing of a purged run is left, nor comes back: not of one that is purged before
// it is rolled up, nor of one whose roll-up has begun.
func TestRollupsOfAPurgedRun(t *testing.T) {
	w := newWorld(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	var armed atomic.Bool
	release := sync.OnceFunc(func() { close(goOn) })
	defer release()
	var purging, wentOn atomic.Bool
	w.start(func(c *Config) {
		c.RollupPoints = 100
		c.failpoint = func(_, table string, done bool) error {
			if table != string(tableRollups) && purging.Load() {
				wentOn.Store(true)
			}
			if table == string(tableRollups) && done && armed.CompareAndSwap(true, false) {
				close(begun)
				<-goOn
			}
			return nil
		}
	})
	purge := func(run string) []entry {
		return []entry{
			w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: run}}}),
			w.ofRun(run, events.KindMeta, &events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: run}}}),
		}
	}
	between := newRunID()
	w.mustPublish(w.created(between), w.logged(between, series("loss", 0, 20_000)...))
	w.wait()
	w.waitRolled(between, "loss", 1)
	// The first and the last block, each in a statement, and then the watermark.
	late := append(series("loss", 0, 100), series("loss", 19_900, 100)...)
	for i := range late {
		late[i].Timestamp = 1
	}
	armed.Store(true)
	w.mustPublish(w.logged(between, late...))
	select {
	case <-begun:
	case <-time.After(eventually):
		t.Fatal("nothing is rolled up")
	}
	purging.Store(true)
	w.mustPublish(purge(between)...)
	// A purge that does not wait goes on to the inserts of its batch.
	until(t, "the purge waits", func() bool { return wentOn.Load() || under(t, "(*rollups).abandon") })
	release()
	w.wait()
	// A stream rolls up one series after the other.
	ofStream := func() string {
		for {
			if run := newRunID(); w.shardOf(run) == w.shardOf(between) {
				return run
			}
		}
	}
	atOnce, kept := ofStream(), ofStream()
	w.mustPublish(append([]entry{w.created(atOnce), w.logged(atOnce, series("loss", 0, 200)...)}, purge(atOnce)...)...)
	w.wait()
	w.mustPublish(w.created(kept), w.logged(kept, series("loss", 0, 200)...))
	w.waitRolled(kept, "loss", 1)
	w.check()
	var runs []uuid.UUID
	if err := w.conn.QueryRow(t.Context(), "SELECT groupUniqArray(run_id) FROM metric_rollups SETTINGS apply_mutations_on_fly = 1").Scan(&runs); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(runs, []uuid.UUID{uuid.MustParse(kept)}) {
		t.Errorf("roll-ups of the runs %v, want those of %s", runs, kept)
	}
}

// Blocks that are far apart do not have a statement each, and each block has one.
func TestRangesOfManyBlocks(t *testing.T) {
	for _, apart := range []int64{1, blockGap, blockGap + 1, 1 << 40} {
		var blocks []int64
		for i := range int64(20_001) {
			blocks = append(blocks, (i-10_000)*apart)
		}
		ranges := rangesOf(blocks, leastWidth)
		if len(ranges) > maxRanges {
			t.Errorf("%d ranges of blocks that are %d apart", len(ranges), apart)
		}
		at := 0
		for i, r := range ranges {
			if i > 0 && r.low <= ranges[i-1].high {
				t.Fatalf("range %d begins at %d, the one before ends at %d", i, r.low, ranges[i-1].high)
			}
			for ; at < len(blocks) && blocks[at]<<leastWidth+127 <= r.high; at++ {
				if blocks[at]<<leastWidth < r.low {
					t.Fatalf("block %d, %d apart, is in no range", blocks[at], apart)
				}
			}
		}
		if at != len(blocks) {
			t.Errorf("%d of %d blocks, %d apart, are in a range", at, len(blocks), apart)
		}
	}
	if got := rangesOf(nil, leastWidth); got != nil {
		t.Errorf("%v of no blocks", got)
	}
}

func TestBlocksOfStatements(t *testing.T) {
	for _, c := range []struct {
		name     string
		from, to int64
		width    int
		want     []steps
	}{
		{"one", 0, 0, 7, []steps{{0, 127}}},
		{"negative", -2, -1, 7, []steps{{-256, -1}}},
		{"all there are", -1, 0, 63, []steps{{math.MinInt64, math.MaxInt64}}},
		{"the last", math.MaxInt64 >> 7, math.MaxInt64 >> 7, 7, []steps{{math.MaxInt64 - 127, math.MaxInt64}}},
		{"too many for one", 0, statementBlocks, 7, []steps{{0, statementBlocks<<7 - 1}, {statementBlocks << 7, statementBlocks<<7 + 127}}},
	} {
		if got := inStatements(nil, c.from, c.to, c.width); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
