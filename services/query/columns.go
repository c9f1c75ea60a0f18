package query

import (
	"context"
	"math"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
)

// coordinate is the type of the places on an axis.
type coordinate interface{ int64 | number }

// extent is what there is of a series in the range of a request.
type extent[X coordinate] struct {
	run       run
	key       string
	points    uint64
	low, high X
}

// pointSeries is a series whose points fit into the answer as they are, in the
// order of the axis.
type pointSeries[X coordinate] struct {
	RunID     string   `json:"run_id"`
	MetricKey string   `json:"metric_key"`
	Points    int      `json:"points"` // in the range
	X         []X      `json:"x"`
	Y         []number `json:"y"`
	Smoothed  []number `json:"smoothed,omitempty"`
}

// columnSeries is a series of which each column that has points shows the first
// and last one, and a lowest and a highest, exactly: M4 (Jugel et al., VLDB
// 2014). Drawn at one column a pixel these give the pixels of the whole series.
// They, and the mean, are of the finite values; a column that has none has null
// for them. An element of each list is about one column.
type columnSeries[X coordinate] struct {
	RunID     string    `json:"run_id"`
	MetricKey string    `json:"metric_key"`
	Points    uint64    `json:"points"` // in the range
	Column    []uint32  `json:"column"` // from 0
	Count     []uint64  `json:"count"`
	NaN       []uint64  `json:"nan"`
	Infinity  []uint64  `json:"infinity"`
	NegInf    []uint64  `json:"negative_infinity"`
	FirstX    []*X      `json:"first_x"`
	First     []*number `json:"first"`
	LastX     []*X      `json:"last_x"`
	Last      []*number `json:"last"`
	MinX      []*X      `json:"min_x"` // of the first of the lowest
	Min       []*number `json:"min"`
	MaxX      []*X      `json:"max_x"` // of the first of the highest
	Max       []*number `json:"max"`
	Mean      []*number `json:"mean"`
	// Smoothed is the smoothed series at the last finite point of each column.
	Smoothed []*number `json:"smoothed,omitempty"`
}

// grid divides a range of an axis into columns of one width. A column includes
// its lower end; of a float axis, the last one its upper end too.
type grid[X coordinate] struct {
	from, to X // included
	columns  int
	width    uint64 // of an integral axis
}

func newGrid[X coordinate](from, to X, columns int) grid[X] {
	g := grid[X]{from: from, to: to, columns: columns}
	if low, ok := any(from).(int64); ok {
		high, _ := any(to).(int64)
		// All integers of 64 bits are one more than the greatest.
		if g.width = (uint64(high)-uint64(low))/uint64(columns) + 1; g.width == 0 {
			g.width = math.MaxUint64
		}
	}
	return g
}

// column returns the expression for the column of x.
func (g grid[X]) column(st *statement) string {
	if g.columns == 1 || g.from == g.to {
		return "toUInt32(0)"
	}
	if g.width > 0 {
		low, _ := any(g.from).(int64)
		// The difference of two unsigned integers is a signed one in ClickHouse.
		return "toUInt32(intDiv(toUInt64(toUInt64(x) - " + st.bind("UInt64", uint64(low)) + "), " + st.bind("UInt64", g.width) + "))"
	}
	low, high := float64(any(g.from).(number)), float64(any(g.to).(number))
	last := st.bind("UInt32", g.columns-1)
	// Halves, so that the difference of two doubles is one.
	return "toUInt32(least(" + last + ", floor((x / 2 - " + st.bindFloat(low/2) + ") / " + st.bindFloat(high/2-low/2) + " * " + st.bind("UInt32", g.columns) + ")))"
}

// between returns the condition that a step is in the columns from and up to, see
// seriesTask.
func (g grid[X]) between(st *statement, from, to uint64) string {
	if to == 0 {
		return ""
	}
	condition := ""
	low, _ := any(g.from).(int64)
	high, _ := any(g.to).(int64)
	span := uint64(high) - uint64(low)
	if behind := from * g.width; behind > span {
		condition += " AND false" // the columns are as wide as a step, and more than there are steps
	} else if from > 0 {
		condition += " AND step >= " + st.bind("Int64", int64(uint64(low)+behind))
	}
	if behind := to * g.width; to < uint64(g.columns) && behind <= span {
		condition += " AND step < " + st.bind("Int64", int64(uint64(low)+behind))
	}
	return condition
}

// seriesPoints returns the query for the points of a metric of runs in a part of
// the axis: run_id, x, step, timestamp and value.
func (r *seriesRequest) seriesPoints(st *statement, key string, runs []run, final bool) string {
	ids := make([]string, len(runs))
	for i, run := range runs {
		ids[i] = run.id.String()
	}
	bound := st.bind("Array(UUID)", ids)
	table := "metrics"
	if final {
		table += " FINAL"
	}
	of := func(key string) string {
		return " FROM " + table + " WHERE run_id IN " + bound + " AND key = " + st.bind("String", key)
	}
	switch r.X.Axis {
	case axisTime:
		return "SELECT run_id, timestamp AS x, step, timestamp, value" + of(key) + r.within(st, "timestamp")
	case axisRelative:
		starts := make([]int64, len(runs))
		for i, run := range runs {
			starts[i] = run.info.StartTime
		}
		return "SELECT run_id, timestamp - started AS x, step, timestamp, value FROM (SELECT run_id, step, timestamp, value" + of(key) + ") AS m" +
			" INNER JOIN (SELECT id AS run_id, started FROM (SELECT " + bound + " AS id, " + st.bind("Array(Int64)", starts) + " AS started) ARRAY JOIN id, started) AS s" +
			" USING (run_id) WHERE 1" + r.within(st, "x")
	case axisMetric:
		return "SELECT run_id, x, step, timestamp, value FROM (SELECT run_id, step, timestamp, value" + of(key) + ") AS m" +
			" INNER JOIN (SELECT run_id, step, argMax(value, (timestamp, value)) AS x" + of(r.X.MetricKey) + " GROUP BY run_id, step) AS o" +
			" USING (run_id, step) WHERE isFinite(x)" + r.within(st, "x")
	default:
		return "SELECT run_id, step AS x, step, timestamp, value" + of(key) + r.within(st, "step")
	}
}

// within returns the condition that a place is in the range that was asked for.
func (r *seriesRequest) within(st *statement, x string) string {
	bind := func(v *axisValue) string {
		if r.X.Axis == axisMetric {
			return st.bindFloat(v.number)
		}
		return st.bind("Int64", *v.exact)
	}
	condition := ""
	if from := r.Range.From; from != nil {
		condition += " AND " + x + " >= " + bind(from)
	}
	if to := r.Range.To; to != nil {
		condition += " AND " + x + " <= " + bind(to)
	}
	if before := r.Range.before; before != nil {
		condition += " AND " + x + " < " + bind(before)
	}
	return condition
}

// inOrder returns the points of a query in the order in which they are drawn.
func (r *seriesRequest) inOrder(points string) string {
	order := " ORDER BY run_id, x, step, timestamp, value"
	if r.X.Axis == axisStep {
		// The order of the table, which needs no sorting.
		order = " ORDER BY run_id, key, step, timestamp, value"
	}
	return points + order
}

// oneThread keeps the order of the points for what aggregates them. Two
// statements at a time use two cores.
const oneThread = " SETTINGS max_threads = 1, use_skip_indexes_if_final_exact_mode = 0"

// drawSeries answers a request for the series of runs.
func drawSeries[X coordinate](ec echo.Context, s *Service, req *seriesRequest, runs []run, more bool) error {
	ctx := ec.Request().Context()
	if err := s.checkKeys(ctx, req, runs); err != nil {
		return err
	}
	extents, err := seriesExtents[X](ctx, s, req, runs)
	if err != nil {
		return err
	}
	if n := len(extents); n**req.Columns > maxSeriesCells {
		return httpapi.InvalidField("columns", "%d series of %d columns are more than %d: ask for fewer columns, runs or keys", n, *req.Columns, maxSeriesCells)
	}
	g := gridOf(req, extents)
	out, err := newSeriesAnswer(ec, req, seriesFrame[X]{
		Axis: req.X.Axis, From: g.from, To: g.to, Columns: g.columns, Width: g.width, MoreRuns: more,
	})
	if err != nil {
		return err
	}
	tasks := seriesTasks(extents, *req.Columns)
	draw := drawTasks[X]
	if len(extents) == 1 && !tasks[0].raw && req.X.Axis == axisStep && req.Smoothing == nil && g.columns >= connsPerRequest {
		draw = drawParts[X]
	}
	if err := draw(ctx, s, req, tasks, g, out.item); err != nil {
		return err
	}
	return out.end()
}

// drawTasks passes on series, two statements at a time.
func drawTasks[X coordinate](ctx context.Context, s *Service, req *seriesRequest, tasks []seriesTask[X], g grid[X], item func(any) error) error {
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	for _, task := range tasks {
		group.Go(func() error {
			if task.raw {
				return rawSeries(ctx, s, req, task, item)
			}
			return gridSeries(ctx, s, req, task, g, func(c *columnSeries[X]) error { return item(c) })
		})
	}
	return group.Wait()
}

// drawParts passes on the one series there is. Its columns are divided between the
// statements: by steps, which are the order of the table, each reads its own part.
func drawParts[X coordinate](ctx context.Context, s *Service, req *seriesRequest, tasks []seriesTask[X], g grid[X], item func(any) error) error {
	var parts [connsPerRequest]*columnSeries[X]
	group, ctx := newTasks(ctx)
	for i := range parts {
		part := tasks[0]
		part.from, part.to = uint64(i*g.columns/len(parts)), uint64((i+1)*g.columns/len(parts))
		group.Go(func() error {
			return gridSeries(ctx, s, req, part, g, func(c *columnSeries[X]) error {
				parts[i] = c
				return nil
			})
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	var all *columnSeries[X]
	for _, part := range parts {
		switch {
		case part == nil:
		case all == nil:
			all = part
		default:
			all.add(part)
		}
	}
	if all == nil {
		return nil
	}
	return item(all)
}

// add appends the columns behind those of a series.
func (c *columnSeries[X]) add(o *columnSeries[X]) {
	c.Points += o.Points
	c.Column, c.Count = append(c.Column, o.Column...), append(c.Count, o.Count...)
	c.NaN, c.Infinity, c.NegInf = append(c.NaN, o.NaN...), append(c.Infinity, o.Infinity...), append(c.NegInf, o.NegInf...)
	c.FirstX, c.LastX = append(c.FirstX, o.FirstX...), append(c.LastX, o.LastX...)
	c.MinX, c.MaxX = append(c.MinX, o.MinX...), append(c.MaxX, o.MaxX...)
	c.First, c.Last = append(c.First, o.First...), append(c.Last, o.Last...)
	c.Min, c.Max = append(c.Min, o.Min...), append(c.Max, o.Max...)
	c.Mean = append(c.Mean, o.Mean...)
}

// checkKeys returns RESOURCE_DOES_NOT_EXIST for a metric that none of the runs
// has.
func (s *Service) checkKeys(ctx context.Context, req *seriesRequest, runs []run) error {
	wanted := req.MetricKeys
	if req.X.Axis == axisMetric {
		wanted = append(slices.Clone(wanted), req.X.MetricKey)
	}
	var st statement
	st.write("SELECT DISTINCT toString(key) FROM latest_metrics WHERE ", st.ofRuns(runs), " AND key IN ", st.bind("Array(String)", wanted))
	known := make(map[string]bool)
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		var key string
		err := scan(&key)
		known[key] = true
		return err
	})
	if err != nil {
		return err
	}
	for _, key := range wanted {
		if !known[key] {
			return noSuchMetric(key)
		}
	}
	return nil
}

// seriesExtents returns the series that have points in the range.
func seriesExtents[X coordinate](ctx context.Context, s *Service, req *seriesRequest, runs []run) ([]extent[X], error) {
	if len(runs)*len(req.MetricKeys) == 1 && req.X.Axis == axisStep {
		return stepExtent[X](ctx, s, req, runs[0])
	}
	byID := make(map[uuid.UUID]run, len(runs))
	for _, r := range runs {
		byID[r.id] = r
	}
	var mu sync.Mutex
	var extents []extent[X]
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	for _, key := range req.MetricKeys {
		group.Go(func() error {
			// A point that is there twice changes neither end, and little of how many
			// there are.
			var st statement
			points := req.seriesPoints(&st, key, runs, false)
			st.write("SELECT run_id, count(), min(x), max(x) FROM (", points, ") GROUP BY run_id")
			return s.db.each(ctx, &st, func(scan func(...any) error) error {
				x := extent[X]{key: key}
				var id uuid.UUID
				if err := scan(&id, &x.points, scanTo(&x.low), scanTo(&x.high)); err != nil {
					return err
				}
				x.run = byID[id]
				mu.Lock()
				defer mu.Unlock()
				extents = append(extents, x)
				return nil
			})
		})
	}
	return extents, group.Wait()
}

// stepExtent returns the one series by steps, if it has points in the range. Both
// its ends are found by the order of the table, and its points are counted as far
// as it matters for how it is drawn.
func stepExtent[X coordinate](ctx context.Context, s *Service, req *seriesRequest, r run) ([]extent[X], error) {
	var st statement
	points := req.seriesPoints(&st, req.MetricKeys[0], []run{r}, false)
	enough := st.bind("UInt64", rawPerColumn**req.Columns+1)
	st.write("SELECT (SELECT count() FROM (", points, " LIMIT ", enough, ")),",
		" (SELECT min(x) FROM (", points, " ORDER BY run_id, key, step LIMIT 1)),",
		" (SELECT max(x) FROM (", points, " ORDER BY run_id DESC, key DESC, step DESC LIMIT 1))")
	x := extent[X]{run: r, key: req.MetricKeys[0]}
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		return scan(&x.points, scanTo(&x.low), scanTo(&x.high))
	})
	if err != nil || x.points == 0 {
		return nil, err
	}
	return []extent[X]{x}, nil
}

// scanTo returns a place of the type that the driver fills.
func scanTo[X coordinate](x *X) any {
	if f, ok := any(x).(*number); ok {
		return (*float64)(f)
	}
	return x
}

// gridOf returns the columns of a request: of the range that was asked for, or of
// the data where an end was left open.
func gridOf[X coordinate](req *seriesRequest, extents []extent[X]) grid[X] {
	var from, to X
	for i, x := range extents {
		if i == 0 || x.low < from {
			from = x.low
		}
		if i == 0 || x.high > to {
			to = x.high
		}
	}
	if v := req.Range.From; v != nil {
		from = coordinateOf[X](v)
	}
	if v := req.Range.To; v != nil {
		to = coordinateOf[X](v)
	}
	return newGrid(from, max(from, to), *req.Columns)
}

func coordinateOf[X coordinate](v *axisValue) X {
	var x X
	switch p := any(&x).(type) {
	case *int64:
		*p = *v.exact
	case *number:
		*p = number(v.number)
	}
	return x
}

// seriesTask is what one statement answers: series of one metric, all of them by
// their points or all by columns.
type seriesTask[X coordinate] struct {
	key  string
	runs []run
	raw  bool
	// The columns from and up to, without that one; all of them when to is 0. Only
	// for the axis of steps.
	from, to uint64
}

// rawPerColumn is up to how many points a column has, on average, when a series
// is answered as it is: columns would be longer.
const rawPerColumn = 2

// seriesTasks divides the work between two statements at a time.
func seriesTasks[X coordinate](extents []extent[X], columns int) []seriesTask[X] {
	type kind struct {
		key string
		raw bool
	}
	byKind := make(map[kind][]run)
	for _, x := range extents {
		k := kind{x.key, x.points <= rawPerColumn*uint64(columns)}
		byKind[k] = append(byKind[k], x.run)
	}
	var tasks []seriesTask[X]
	for k, runs := range byKind {
		slices.SortFunc(runs, func(a, b run) int { return slices.Compare(a.id[:], b.id[:]) })
		for part := range slices.Chunk(runs, max(1, (len(runs)+connsPerRequest-1)/connsPerRequest)) {
			tasks = append(tasks, seriesTask[X]{key: k.key, runs: part, raw: k.raw})
		}
	}
	return tasks
}

// rawSeries passes on series as they are.
func rawSeries[X coordinate](ctx context.Context, s *Service, req *seriesRequest, task seriesTask[X], item func(any) error) error {
	smoothers, err := smoothersBefore(ctx, s, req, task)
	if err != nil {
		return err
	}
	var st statement
	st.write("SELECT run_id, x, value FROM (", req.inOrder(req.seriesPoints(&st, task.key, task.runs, true)), ")", oneThread)
	var current *pointSeries[X]
	var of uuid.UUID
	flush := func() error {
		if current == nil {
			return nil
		}
		current.Points = len(current.X)
		if req.Smoothing != nil {
			current.Smoothed = smoothers[of].smooth(current.Y)
		}
		return item(current)
	}
	err = s.db.each(ctx, &st, func(scan func(...any) error) error {
		var id uuid.UUID
		var x X
		var y float64
		if err := scan(&id, scanTo(&x), &y); err != nil {
			return err
		}
		if current == nil || id != of {
			if err := flush(); err != nil {
				return err
			}
			of, current = id, &pointSeries[X]{RunID: formatRunID(id), MetricKey: task.key}
		}
		current.X, current.Y = append(current.X, x), append(current.Y, number(y))
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// gridSeries passes on series by columns.
func gridSeries[X coordinate](ctx context.Context, s *Service, req *seriesRequest, task seriesTask[X], g grid[X], item func(*columnSeries[X]) error) error {
	smoothed, err := smoothedColumns(ctx, s, req, task, g)
	if err != nil {
		return err
	}
	var st statement
	points := req.inOrder(req.seriesPoints(&st, task.key, task.runs, true) + g.between(&st, task.from, task.to))
	st.write("SELECT run_id, c, count(), countIf(isNaN(value)), countIf(value = inf), countIf(value = -inf), countIf(finite) > 0,",
		" anyIf(x, finite), anyIf(value, finite), anyLastIf(x, finite), anyLastIf(value, finite),",
		" argMinIf(x, value, finite), minIf(value, finite), argMaxIf(x, value, finite), maxIf(value, finite), avgIf(value, finite)",
		" FROM (SELECT run_id, x, value, isFinite(value) AS finite, ", g.column(&st), " AS c FROM (", points, ")) GROUP BY run_id, c ORDER BY run_id, c", oneThread)
	var current *columnSeries[X]
	var of uuid.UUID
	flush := func() error {
		if current == nil {
			return nil
		}
		return item(current)
	}
	err = s.db.each(ctx, &st, func(scan func(...any) error) error {
		var (
			id                                 uuid.UUID
			column                             uint32
			count, nan, infinity, negative     uint64
			finite                             bool
			firstX, lastX, minX, maxX          X
			first, last, lowest, highest, mean float64
		)
		if err := scan(&id, &column, &count, &nan, &infinity, &negative, &finite, scanTo(&firstX), &first, scanTo(&lastX), &last,
			scanTo(&minX), &lowest, scanTo(&maxX), &highest, &mean); err != nil {
			return err
		}
		if current == nil || id != of {
			if err := flush(); err != nil {
				return err
			}
			of, current = id, &columnSeries[X]{RunID: formatRunID(id), MetricKey: task.key}
		}
		c := current
		c.Points += count
		c.Column, c.Count = append(c.Column, column), append(c.Count, count)
		c.NaN, c.Infinity, c.NegInf = append(c.NaN, nan), append(c.Infinity, infinity), append(c.NegInf, negative)
		c.FirstX, c.LastX = append(c.FirstX, orNull(finite, firstX)), append(c.LastX, orNull(finite, lastX))
		c.MinX, c.MaxX = append(c.MinX, orNull(finite, minX)), append(c.MaxX, orNull(finite, maxX))
		c.First, c.Last = append(c.First, orNull(finite, number(first))), append(c.Last, orNull(finite, number(last)))
		c.Min, c.Max = append(c.Min, orNull(finite, number(lowest))), append(c.Max, orNull(finite, number(highest)))
		c.Mean = append(c.Mean, orNull(finite, number(mean)))
		if req.Smoothing != nil {
			value, ok := smoothed[id][column]
			c.Smoothed = append(c.Smoothed, orNull(ok, number(value)))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

func orNull[T any](there bool, v T) *T {
	if !there {
		return nil
	}
	return &v
}

// seriesWriter writes series to a client in one format, and the frame.
type seriesWriter interface {
	item(v any) error // a *pointSeries or a *columnSeries
	end() error
}

// seriesAnswer writes series to a client, in any order.
type seriesAnswer struct {
	mu sync.Mutex
	seriesWriter
}

// newSeriesAnswer returns an answer in the format that the client asks for.
func newSeriesAnswer[X coordinate](ec echo.Context, req *seriesRequest, frame seriesFrame[X]) (*seriesAnswer, error) {
	ec.Response().Header().Add(echo.HeaderVary, echo.HeaderAccept)
	if prefersArrow(ec.Request().Header) {
		w, err := newArrowSeries(ec, req, frame)
		return &seriesAnswer{seriesWriter: w}, err
	}
	list := newAnswer(ec, "series")
	list.empty = true
	return &seriesAnswer{seriesWriter: jsonSeries[X]{list, frame}}, nil
}

func (a *seriesAnswer) item(v any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seriesWriter.item(v)
}

// jsonSeries writes series as JSON.
type jsonSeries[X coordinate] struct {
	*answer
	frame seriesFrame[X]
}

func (j jsonSeries[X]) end() error { return j.endWith("frame", j.frame) }

// seriesFrame is what the answer says of its columns: what was drawn over, from
// where to where, and how wide each is.
type seriesFrame[X coordinate] struct {
	Axis     axisName `json:"axis"`
	From     X        `json:"from"`
	To       X        `json:"to"`
	Columns  int      `json:"columns"`
	Width    uint64   `json:"column_width,omitzero"` // of an integral axis
	MoreRuns bool     `json:"more_runs"`             // than max_runs
}
