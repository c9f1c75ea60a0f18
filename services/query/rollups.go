package query

import (
	"context"
	"errors"
	"math"
	"slices"
	"sort"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
)

const (
	// rollupColumns is how many blocks a column has at least, for blocks to be drawn
	// in place of points: columns begin and end with blocks, and so are up to an
	// eighth wider than they might be.
	rollupColumns = 8
	// leastBlock is how many steps a block has at least.
	leastBlock = 128
	// maxTouched bounds the blocks of a series that are read from its points, and
	// maxTouchedPoints these: with more, all of the points are.
	maxTouched       = 1000
	maxTouchedPoints = 4_000_000
)

// seriesID names a series.
type seriesID struct {
	run uuid.UUID
	key string
}

// rollup is what metric_rollups has of a series: blocks of 2^width steps, which
// have all points up to a sequence.
type rollup struct {
	width   int64
	version uint64
}

// layout is how series are drawn: on one grid, from blocks where a series has any.
type layout[X coordinate] struct {
	grid[X]
	rolled map[seriesID]rollup
}

// layoutOf returns how the series of a request are drawn. Of long series the
// columns are made of whole blocks: the first one may begin before the range,
// though no point from before it is drawn.
func layoutOf[X coordinate](ctx context.Context, s *Service, req *seriesRequest, runs []run) (layout[X], error) {
	if err := closeRange[X](ctx, s, req, runs); err != nil {
		return layout[X]{}, err
	}
	g := newGrid(coordinateOf[X](req.Range.From), coordinateOf[X](req.Range.To), *req.Columns)
	l := layout[X]{grid: g}
	if req.X.Axis != axisStep || req.Smoothing != nil || g.width < rollupColumns*leastBlock {
		return l, nil
	}
	var err error
	if l.rolled, err = s.rollups(ctx, req, runs, g.width/rollupColumns); err != nil || len(l.rolled) == 0 {
		return l, err
	}
	var unit uint64
	for _, r := range l.rolled {
		unit = max(unit, 1<<r.width)
	}
	from := int64(g.from) &^ int64(unit-1)
	aligned := newGrid(X(from), g.to, g.columns)
	if aligned.width > math.MaxUint64-unit {
		l.rolled = nil
		return l, nil
	}
	aligned.width = (aligned.width + unit - 1) &^ (unit - 1)
	l.grid = aligned
	return l, nil
}

// rollups returns those of the series that have blocks of up to widest steps.
func (s *Service) rollups(ctx context.Context, req *seriesRequest, runs []run, widest uint64) (map[seriesID]rollup, error) {
	var st statement
	st.write("SELECT run_id, toString(key), argMax(block, (version, block)), max(version) FROM metric_rollups WHERE run_id IN ", st.bindIDs(runs),
		" AND key IN ", st.bind("Array(String)", req.MetricKeys), " AND width = 0 GROUP BY run_id, key")
	rolled := make(map[seriesID]rollup)
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		var id seriesID
		var r rollup
		err := scan(&id.run, &id.key, &r.width, &r.version)
		if r.width < 63 && uint64(1)<<r.width <= widest {
			rolled[id] = r
		}
		return err
	})
	return rolled, err
}

// errRaw says that a series is better drawn from all of its points.
var errRaw = errors.New("draw the points")

// drawBlocks draws a series from its blocks, and from its points where a block has
// got points since, or is not all in the range. It returns errRaw if that are too
// many, or the series so few points that they are shown as they are.
func drawBlocks[X coordinate](ctx context.Context, s *Service, req *seriesRequest, id seriesID, l layout[X], raw int) (*drawing[X], error) {
	r := l.rolled[id]
	touched, err := s.touchedBlocks(ctx, req, id, r)
	if err != nil {
		return nil, err
	}
	x, values, err := touchedPoints[X](ctx, s, req, id, r, touched)
	if err != nil {
		return nil, err
	}
	d := &drawing[X]{run: id.run, grid: l.grid}
	// before draws the points before a step.
	before := func(step int64) {
		n := sort.Search(len(x), func(i int) bool { return int64(x[i]) >= step })
		d.draw(x[:n], values[:n])
		x, values = x[n:], values[n:]
	}
	err = s.eachBlock(ctx, req, id, r, func(block int64, c *column[int64]) {
		if _, ok := slices.BinarySearch(touched, block); ok {
			return
		}
		first := block << r.width
		before(first)
		d.at(d.grid.column(X(first))).merge(c)
		d.points += c.points
	})
	if err != nil {
		return nil, err
	}
	d.draw(x, values)
	if d.points <= uint64(raw) {
		return nil, errRaw
	}
	return d, nil
}

// merge adds points behind those that are there.
func (c *column[X]) merge(o *column[int64]) {
	had := c.finite()
	c.points += o.points
	c.nan, c.infinity, c.negative = c.nan+o.nan, c.infinity+o.infinity, c.negative+o.negative
	if o.finite() == 0 {
		return
	}
	if had == 0 {
		c.firstX, c.first = X(o.firstX), o.first
	}
	if had == 0 || o.lowest < c.lowest {
		c.lowestX, c.lowest = X(o.lowestX), o.lowest
	}
	if had == 0 || o.most > c.most {
		c.mostX, c.most = X(o.mostX), o.most
	}
	c.lastX, c.last = X(o.lastX), o.last
	c.sum += o.sum
}

// touchedBlocks returns the blocks that are not what they were when the series was
// rolled up, or of which the range has not all, in order.
func (s *Service) touchedBlocks(ctx context.Context, req *seriesRequest, id seriesID, r rollup) ([]int64, error) {
	var st statement
	st.write("SELECT DISTINCT bitShiftRight(step, ", st.bind("UInt8", r.width), ") AS block FROM metrics WHERE run_id = ", st.bind("UUID", id.run.String()), " AND key = ", st.bind("String", id.key),
		" AND seq > ", st.bind("UInt64", r.version), req.within(&st, req.Range.From, req.Range.To), " LIMIT ", st.bind("UInt64", maxTouched+1))
	var touched []int64
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		var block int64
		err := scan(&block)
		touched = append(touched, block)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(touched) > maxTouched {
		return nil, errRaw
	}
	touched = append(touched, *req.Range.From.exact>>r.width, *req.Range.To.exact>>r.width)
	slices.Sort(touched)
	return slices.Compact(touched), nil
}

// touchedPoints returns the points of blocks that are in the range, in order.
func touchedPoints[X coordinate](ctx context.Context, s *Service, req *seriesRequest, id seriesID, r rollup, touched []int64) (x []X, values []float64, err error) {
	within := func(st *statement) string {
		condition := req.within(st, req.Range.From, req.Range.To) + " AND ("
		for i := 0; i < len(touched); {
			to := i
			for to+1 < len(touched) && touched[to+1] == touched[to]+1 {
				to++
			}
			if i > 0 {
				condition += " OR "
			}
			last := touched[to]<<r.width + (1<<r.width - 1)
			condition += "step BETWEEN " + st.bind("Int64", touched[i]<<r.width) + " AND " + st.bind("Int64", last)
			i = to + 1
		}
		return condition + ")"
	}
	err = eachPoints(ctx, s, req, id.key, []run{{id: id.run}}, within, func(_ uuid.UUID, places []X, v []float64) error {
		if len(x)+len(places) > maxTouchedPoints {
			return errRaw
		}
		x, values = append(x, places...), append(values, v...)
		return nil
	})
	return x, values, err
}

// eachBlock visits the blocks of a series that have steps of the range, in order.
func (s *Service) eachBlock(ctx context.Context, req *seriesRequest, id seriesID, r rollup, visit func(block int64, c *column[int64])) error {
	var st statement
	st.write("SELECT block, points, nans, infinities, negatives, first_step, first, last_step, last, min_step, min, max_step, max, sum",
		" FROM metric_rollups WHERE run_id = ", st.bind("UUID", id.run.String()), " AND key = ", st.bind("String", id.key), " AND width = ", st.bind("UInt8", r.width),
		" AND block BETWEEN ", st.bind("Int64", *req.Range.From.exact>>r.width), " AND ", st.bind("Int64", *req.Range.To.exact>>r.width),
		// The last row of a block is that of its greatest version.
		" ORDER BY run_id, key, width, block, version", oneThread)
	var block, firstX, lastX, lowestX, mostX proto.ColInt64
	var points, nan, infinity, negative proto.ColUInt64
	var first, last, lowest, most, sum proto.ColFloat64
	var at int64
	var current *column[int64]
	flush := func() {
		if current != nil {
			visit(at, current)
		}
	}
	err := s.db.blocks(ctx, &st, proto.Results{
		{Name: "block", Data: &block},
		{Name: "points", Data: &points},
		{Name: "nans", Data: &nan},
		{Name: "infinities", Data: &infinity},
		{Name: "negatives", Data: &negative},
		{Name: "first_step", Data: &firstX},
		{Name: "first", Data: &first},
		{Name: "last_step", Data: &lastX},
		{Name: "last", Data: &last},
		{Name: "min_step", Data: &lowestX},
		{Name: "min", Data: &lowest},
		{Name: "max_step", Data: &mostX},
		{Name: "max", Data: &most},
		{Name: "sum", Data: &sum},
	}, func(rows int) error {
		for i := range rows {
			if current == nil || block[i] != at {
				flush()
				at = block[i]
			}
			current = &column[int64]{
				points: points[i], nan: nan[i], infinity: infinity[i], negative: negative[i],
				firstX: firstX[i], first: first[i], lastX: lastX[i], last: last[i],
				lowestX: lowestX[i], lowest: lowest[i], mostX: mostX[i], most: most[i], sum: sum[i],
			}
		}
		return nil
	})
	if err == nil {
		flush()
	}
	return err
}
