package foldcheck

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
)

// seriesID names the points of one metric of a run.
type seriesID struct {
	run uuid.UUID
	key string
}

// block is what metric_rollups says of the points of a block.
type block struct {
	Points, NaN, Infinity, Negative       uint64
	FirstStep, LastStep, MinStep, MaxStep int64
	First, Last, Min, Max                 float64
	firstPlace, lastPlace                 place // of several points at a step
	version                               uint64
	sum                                   float64
	dirty, finite                         bool
}

// place orders the points of a step.
type place struct {
	timestamp int64
	value     float64
}

func (p place) before(o place) bool {
	return p.timestamp < o.timestamp || p.timestamp == o.timestamp && p.value < o.value
}

type rollup struct {
	width   uint8
	version uint64
	blocks  map[int64]block // of that width, by their rows
	points  map[int64]block // by the points
}

// compareRollups tells whether the blocks of each series up to its watermark are
// what its points in metrics say.
func compareRollups(ctx context.Context, conn driver.Conn) error {
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"apply_mutations_on_fly": 1}))
	series := map[seriesID]*rollup{}
	get := func(id seriesID) *rollup {
		if series[id] == nil {
			series[id] = &rollup{blocks: map[int64]block{}, points: map[int64]block{}}
		}
		return series[id]
	}
	// The watermarks first: blocks may be written meanwhile.
	err := each(ctx, conn, "SELECT run_id, CAST(key, 'String'), block, version FROM metric_rollups WHERE width = 0", func(rows driver.Rows) error {
		var id seriesID
		var width int64
		var version uint64
		err := rows.Scan(&id.run, &id.key, &width, &version)
		if r := get(id); version > r.version || version == r.version && uint8(width) > r.width {
			r.width, r.version = uint8(width), version
		}
		return err
	})
	if err != nil {
		return err
	}
	err = each(ctx, conn, `SELECT run_id, CAST(key, 'String'), width, block, version, points, nans, infinities, negatives,
		first_step, first, last_step, last, min_step, min, max_step, max, sum FROM metric_rollups WHERE width > 0`, func(rows driver.Rows) error {
		var id seriesID
		var width uint8
		var at int64
		var b block
		err := rows.Scan(&id.run, &id.key, &width, &at, &b.version, &b.Points, &b.NaN, &b.Infinity, &b.Negative,
			&b.FirstStep, &b.First, &b.LastStep, &b.Last, &b.MinStep, &b.Min, &b.MaxStep, &b.Max, &b.sum)
		if r := get(id); r.width == width && b.version >= r.blocks[at].version {
			r.blocks[at] = b
		}
		return err
	})
	if err != nil {
		return err
	}
	err = each(ctx, conn, "SELECT run_id, CAST(key, 'String'), step, timestamp, value, seq FROM metrics FINAL ORDER BY run_id, key, step", func(rows driver.Rows) error {
		var id seriesID
		var step, timestamp int64
		var value float64
		var seq uint64
		err := rows.Scan(&id.run, &id.key, &step, &timestamp, &value, &seq)
		if r := series[id]; r != nil {
			at := step >> r.width
			b := r.points[at]
			b.add(step, timestamp, value)
			b.dirty = b.dirty || seq > r.version
			r.points[at] = b
		}
		return err
	})
	if err != nil {
		return err
	}
	var errs []error
	for id, r := range series {
		if len(r.points) == 0 {
			errs = append(errs, fmt.Errorf("metric_rollups has %q of run %s, metrics has not", id.key, id.run))
		}
		for at := range r.blocks {
			if r.points[at].Points == 0 {
				errs = append(errs, fmt.Errorf("metric_rollups has of %q of run %s, block %d of width %d, metrics has no point of it", id.key, id.run, at, r.width))
			}
		}
		for at, want := range r.points {
			if got := r.blocks[at]; r.width > 0 && !want.dirty && !got.says(want) {
				errs = append(errs, fmt.Errorf("metric_rollups has of %q of run %s, block %d of width %d up to %d:\n%+v\nwant\n%+v", id.key, id.run, at, r.width, r.version, got, want))
			}
		}
	}
	return errors.Join(errs[:min(shown, len(errs))]...)
}

// says tells whether the block is what the points of want are. What was summed up
// in another order is another sum.
func (b block) says(want block) bool {
	sameSum := b.sum == want.sum || math.IsNaN(b.sum) && math.IsNaN(want.sum) || math.Abs(b.sum-want.sum) <= 1e-9*max(1, math.Abs(want.sum))
	return sameSum && b.comparable() == want.comparable()
}

// comparable returns what must be equal.
func (b block) comparable() block {
	b.version, b.sum, b.dirty, b.finite = 0, 0, false, false
	b.firstPlace, b.lastPlace = place{}, place{}
	return b
}

// add adds a point. Steps come in order, times and values of a step do not.
func (b *block) add(step, timestamp int64, value float64) {
	b.Points++
	switch {
	case math.IsNaN(value):
		b.NaN++
		return
	case math.IsInf(value, 1):
		b.Infinity++
		return
	case math.IsInf(value, -1):
		b.Negative++
		return
	}
	at := place{timestamp, value}
	if !b.finite || step == b.FirstStep && at.before(b.firstPlace) {
		b.FirstStep, b.First, b.firstPlace = step, value, at
	}
	if !b.finite || step > b.LastStep || b.lastPlace.before(at) {
		b.LastStep, b.Last, b.lastPlace = step, value, at
	}
	if !b.finite || value < b.Min {
		b.MinStep, b.Min = step, value
	}
	if !b.finite || value > b.Max {
		b.MaxStep, b.Max = step, value
	}
	b.finite = true
	b.sum += value
}

func each(ctx context.Context, conn driver.Conn, query string, scan func(driver.Rows) error) (err error) {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return fmt.Errorf("read metric_rollups: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read metric_rollups: %w", err)
		}
	}
	return rows.Err()
}
