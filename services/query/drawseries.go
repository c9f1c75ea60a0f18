package query

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
)

// drawSeries answers a request for the series of runs.
func drawSeries[X coordinate](ec echo.Context, s *Service, req *seriesRequest, runs []run, more bool) error {
	ctx := ec.Request().Context()
	n, err := s.countSeries(ctx, req, runs)
	if err != nil {
		return err
	}
	if n**req.Columns > maxSeriesCells {
		return httpapi.InvalidField("columns", "%d series of %d columns are more than %d: ask for fewer columns, runs or keys", n, *req.Columns, maxSeriesCells)
	}
	l, err := layoutOf[X](ctx, s, req, runs)
	if err != nil {
		return err
	}
	out, err := newSeriesAnswer(ec, req, seriesFrame[X]{
		Axis: req.X.Axis, From: l.from, To: l.to, Columns: l.columns, Width: l.width, MoreRuns: more,
	})
	if err != nil {
		return err
	}
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	for _, key := range req.MetricKeys {
		for _, part := range parts(runs) {
			group.Go(func() error {
				return eachDrawing(ctx, s, req, key, part, l, rawPerColumn*l.columns, func(d *drawing[X]) error {
					return out.item(d.series(key))
				})
			})
		}
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return out.end()
}

// parts divides runs between the statements of a request, so that each has its own
// part of the table: ClickHouse orders UUIDs by their second half.
func parts(runs []run) [][]run {
	runs = slices.SortedFunc(slices.Values(runs), func(a, b run) int {
		return cmp.Or(slices.Compare(a.id[8:], b.id[8:]), slices.Compare(a.id[:8], b.id[:8]))
	})
	return slices.Collect(slices.Chunk(runs, max(1, (len(runs)+connsPerRequest-1)/connsPerRequest)))
}

// eachDrawing visits the series of a metric of runs, one after the other, as they
// are drawn; those of up to raw points as they are.
func eachDrawing[X coordinate](ctx context.Context, s *Service, req *seriesRequest, key string, runs []run, l layout[X], raw int, visit func(*drawing[X]) error) error {
	var rest []run
	for _, r := range runs {
		id := seriesID{r.id, key}
		if _, ok := l.rolled[id]; !ok {
			rest = append(rest, r)
			continue
		}
		d, err := drawBlocks(ctx, s, req, id, l, raw)
		switch {
		case errors.Is(err, errRaw):
			rest = append(rest, r)
		case err != nil:
			return err
		default:
			if err := visit(d); err != nil {
				return err
			}
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return eachDrawingOfPoints(ctx, s, req, key, rest, l.grid, raw, visit)
}

// eachDrawingOfPoints is eachDrawing for series that are drawn from their points.
func eachDrawingOfPoints[X coordinate](ctx context.Context, s *Service, req *seriesRequest, key string, runs []run, g grid[X], raw int, visit func(*drawing[X]) error) error {
	from := req.Range.From
	if req.Smoothing != nil {
		from = nil
	}
	within := func(st *statement) string { return req.within(st, from, req.Range.To) }
	out := drawings[X]{visit: visit, begin: func(run uuid.UUID) *drawing[X] {
		d := &drawing[X]{run: run, grid: g, raw: raw}
		if req.Smoothing != nil {
			d.smoother = &smoother{smoothing: *req.Smoothing}
		}
		return d
	}}
	if req.X.Axis == axisStep {
		var again []run
		err := eachStep(ctx, s, key, runs, within, out.add, func(id uuid.UUID) {
			again = append(again, run{id: id})
			out.drop(id)
		})
		if err == nil {
			err = out.end()
		}
		if err != nil || len(again) == 0 {
			return err
		}
		runs = again
	}
	if err := eachPoints(ctx, s, req, key, runs, within, out.add); err != nil {
		return err
	}
	return out.end()
}

// drawings takes the points of several series, one series after the other, and
// visits each that has any.
type drawings[X coordinate] struct {
	begin   func(run uuid.UUID) *drawing[X]
	visit   func(*drawing[X]) error
	current *drawing[X] // which may get more points, or nil
}

func (d *drawings[X]) add(run uuid.UUID, x []X, values []float64) error {
	if d.current == nil || d.current.run != run {
		if err := d.end(); err != nil {
			return err
		}
		d.current = d.begin(run)
	}
	d.current.add(x, values)
	return nil
}

// drop forgets what there is of a series.
func (d *drawings[X]) drop(run uuid.UUID) {
	if d.current != nil && d.current.run == run {
		d.current = nil
	}
}

// end visits the last series.
func (d *drawings[X]) end() error {
	last := d.current
	d.current = nil
	if last == nil || len(last.x)+len(last.columns) == 0 {
		return nil
	}
	return d.visit(last)
}

// countSeries returns how many series there are of the metrics and runs, and
// RESOURCE_DOES_NOT_EXIST where there is no run, and for a metric that none has.
func (s *Service) countSeries(ctx context.Context, req *seriesRequest, runs []run) (int, error) {
	if len(runs) == 0 {
		return 0, apierr.Errorf(apierr.ResourceDoesNotExist, "The search finds no runs")
	}
	wanted := req.MetricKeys
	if req.X.Axis == axisMetric {
		wanted = append(slices.Clone(wanted), req.X.MetricKey)
	}
	var st statement
	st.write("SELECT toString(key), uniqExact(run_id) FROM latest_metrics WHERE ", st.ofRuns(runs),
		" AND key IN ", st.bind("Array(String)", wanted), " GROUP BY key")
	series := make(map[string]uint64)
	err := s.db.each(ctx, &st, func(scan func(...any) error) error {
		var key string
		var n uint64
		err := scan(&key, &n)
		series[key] = n
		return err
	})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, key := range wanted {
		if series[key] == 0 {
			return 0, noSuchMetric(key)
		}
	}
	for _, key := range req.MetricKeys {
		n += int(series[key])
	}
	return n, nil
}

// closeRange gives an end that the range of a request leaves open the place of the
// first or last point. What is logged meanwhile has no column.
func closeRange[X coordinate](ctx context.Context, s *Service, req *seriesRequest, runs []run) error {
	from, to := req.Range.From, req.Range.To
	if from != nil && to != nil {
		return nil
	}
	low, high, err := extent[X](ctx, s, req, runs)
	if err != nil {
		return err
	}
	// Without points the extent is zero, which may be outside of the range.
	if from != nil {
		low = coordinateOf[X](from)
		high = max(low, high)
	}
	if to != nil {
		high = coordinateOf[X](to)
		low = min(low, high)
	}
	req.Range.From, req.Range.To = placeOf(low), placeOf(high)
	return nil
}

func placeOf[X coordinate](x X) *axisValue {
	v := &axisValue{number: float64(x)}
	if n, ok := any(x).(int64); ok {
		v.exact = &n
	}
	return v
}

// extent returns the first and last place of any of the series in the range, zero
// when there are no points.
func extent[X coordinate](ctx context.Context, s *Service, req *seriesRequest, runs []run) (low, high X, err error) {
	var mu sync.Mutex
	some := false
	group, ctx := newTasks(ctx)
	group.SetLimit(connsPerRequest)
	for _, key := range req.MetricKeys {
		for _, part := range parts(runs) {
			group.Go(func() error {
				st := extentStatement(req, key, part)
				return s.db.each(ctx, st, func(scan func(...any) error) error {
					var n uint64
					var first, last X
					if err := scan(&n, &first, &last); err != nil || n == 0 {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					if !some {
						low, high, some = first, last, true
					}
					low, high = min(low, first), max(high, last)
					return nil
				})
			})
		}
	}
	err = group.Wait()
	return low, high, err
}

// extentStatement returns the statement for the number of points, which is right
// if it is none, and the least and greatest place.
func extentStatement(req *seriesRequest, key string, runs []run) *statement {
	st := new(statement)
	points := req.seriesPoints(st, key, runs, req.within(st, req.Range.From, req.Range.To))
	if len(runs) > 1 || req.X.Axis != axisStep {
		st.write("SELECT count(), min(x), max(x) FROM (", points, ")")
		return st
	}
	// Both ends of one series are found by the order of the table.
	st.write("SELECT toUInt64(first IS NOT NULL), ifNull(first, toInt64(0)), ifNull(last, toInt64(0)) FROM (SELECT",
		" (SELECT min(x) FROM (", points, " ORDER BY run_id, key, step LIMIT 1)) AS first,",
		" (SELECT max(x) FROM (", points, " ORDER BY run_id DESC, key DESC, step DESC LIMIT 1)) AS last)")
	return st
}

func coordinateOf[X coordinate](v *axisValue) X {
	var x X
	switch p := any(&x).(type) {
	case *int64:
		*p = *v.exact
	case *float64:
		*p = v.number
	}
	return x
}

func orNull[T any](there bool, v T) *T {
	if !there {
		return nil
	}
	return &v
}

// seriesWriter writes series to a client in one format, in any order, and the
// frame. It can be used by several goroutines.
type seriesWriter interface {
	item(v any) error // a *pointSeries or a *columnSeries
	end() error
}

// newSeriesAnswer returns an answer in the format that the client asks for.
func newSeriesAnswer[X coordinate](ec echo.Context, req *seriesRequest, frame seriesFrame[X]) (seriesWriter, error) {
	ec.Response().Header().Add(echo.HeaderVary, echo.HeaderAccept)
	if prefersArrow(ec.Request().Header) {
		return newArrowSeries(ec, req, frame)
	}
	return &jsonSeries[X]{to: lateHead{ec, echo.MIMEApplicationJSON}, members: columnMembers[X](req), frame: frame}, nil
}

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
