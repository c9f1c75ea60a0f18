package query

import (
	"context"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/httpapi"
)

const maxQuantiles = 9

// curvesRequest is the body of POST /api/v1/sweeps/curves.
type curvesRequest struct {
	seriesRequest
	GroupBy   []attribute `json:"group_by"`
	Quantiles []float64   `json:"quantiles"` // 0.25, 0.5 and 0.75 without it
}

// curve is a metric of the runs of a group. The runs are aligned by columns of
// the axis: a run has one value in a column, the mean of its finite points
// there, and is not counted where it has none. An element of each list is about
// one column that has runs.
type curve struct {
	Group     []*string  `json:"group"` // the values of group_by, null where the runs have none
	MetricKey string     `json:"metric_key"`
	Runs      int        `json:"runs"`   // in the group
	Column    []uint32   `json:"column"` // from 0
	Count     []uint64   `json:"count"`  // runs with a value
	Mean      []number   `json:"mean"`
	Std       []*number  `json:"std"` // of a sample: over count-1; null for one run
	Min       []number   `json:"min"`
	Max       []number   `json:"max"`
	Quantiles [][]number `json:"quantiles"` // a list for each of them, interpolated linearly
}

func (r *curvesRequest) check() error {
	if r.Smoothing != nil {
		return httpapi.InvalidField("smoothing", "curves of groups are not smoothed")
	}
	if err := r.seriesRequest.check(); err != nil {
		return err
	}
	if err := checkAttributes("group_by", r.GroupBy, maxGroupBy); err != nil {
		return err
	}
	if r.Quantiles == nil {
		r.Quantiles = []float64{0.25, 0.5, 0.75}
	}
	if len(r.Quantiles) > maxQuantiles {
		return httpapi.InvalidField("quantiles", "want at most %d", maxQuantiles)
	}
	for i, q := range r.Quantiles {
		if !(q >= 0 && q <= 1) {
			return httpapi.InvalidField("quantiles."+strconv.Itoa(i), "want 0 to 1")
		}
	}
	return nil
}

// sweepCurves answers POST /api/v1/sweeps/curves.
func (s *Service) sweepCurves(ec echo.Context) error {
	var req curvesRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	if req.X.Axis == axisMetric {
		return drawCurves[float64](ec, s, &req, runs, more)
	}
	return drawCurves[int64](ec, s, &req, runs, more)
}

func drawCurves[X coordinate](ec echo.Context, s *Service, req *curvesRequest, runs []run, more bool) error {
	ctx := ec.Request().Context()
	if _, err := s.countSeries(ctx, &req.seriesRequest, runs); err != nil {
		return err
	}
	groups, err := s.groupRuns(ctx, runs, req.GroupBy)
	if err != nil {
		return err
	}
	if n := len(groups) * len(req.MetricKeys) * *req.Columns; n > maxSeriesCells {
		return httpapi.InvalidField("columns", "%d groups with %d metrics in %d columns are more than %d: ask for fewer columns, metrics or groups", len(groups), len(req.MetricKeys), *req.Columns, maxSeriesCells)
	}
	l, err := layoutOf[X](ctx, s, &req.seriesRequest, runs)
	if err != nil {
		return err
	}
	out := newAnswer(ec, "curves")
	for _, key := range req.MetricKeys {
		curves, err := curvesOf(ctx, s, req, key, groups, runs, l)
		if err != nil {
			return err
		}
		for _, c := range curves {
			if err := out.item(c); err != nil {
				return err
			}
		}
	}
	return out.endWith("frame", seriesFrame[X]{
		Axis: req.X.Axis, From: l.from, To: l.to, Columns: l.columns, Width: l.width, MoreRuns: more,
	})
}

// curvesOf returns what the groups have of a metric in the columns: of each run
// one value a column, and then of each group.
func curvesOf[X coordinate](ctx context.Context, s *Service, req *curvesRequest, key string, groups []runGroup, runs []run, l layout[X]) ([]curve, error) {
	place := make(map[uuid.UUID]int, len(runs))
	values := make([]map[uint32][]float64, len(groups)) // by column
	for i, group := range groups {
		values[i] = make(map[uint32][]float64)
		for _, r := range group.runs {
			place[r.id] = i
		}
	}
	var mu sync.Mutex
	tasks, ctx := newTasks(ctx)
	for _, part := range parts(runs) {
		tasks.Go(func() error {
			return eachDrawing(ctx, s, &req.seriesRequest, key, part, l, 0, func(d *drawing[X]) error {
				mu.Lock()
				defer mu.Unlock()
				of := values[place[d.run]]
				for i := range d.columns {
					if c := &d.columns[i]; c.finite() > 0 {
						of[c.index] = append(of[c.index], c.mean())
					}
				}
				return nil
			})
		})
	}
	if err := tasks.Wait(); err != nil {
		return nil, err
	}
	curves := make([]curve, len(groups))
	for i, group := range groups {
		curves[i] = curve{Group: group.values, MetricKey: key, Runs: len(group.runs), Quantiles: make([][]number, len(req.Quantiles))}
		for _, column := range slices.Sorted(maps.Keys(values[i])) {
			curves[i].add(column, values[i][column], req.Quantiles)
		}
	}
	return curves, nil
}

// add adds a column, in which runs have values.
func (c *curve) add(column uint32, values []float64, quantiles []float64) {
	slices.Sort(values)
	n := len(values)
	mean, std := meanAndStd(values)
	c.Column, c.Count, c.Mean = append(c.Column, column), append(c.Count, uint64(n)), append(c.Mean, number(mean))
	c.Std = append(c.Std, orNull(n > 1, number(std)))
	c.Min, c.Max = append(c.Min, number(values[0])), append(c.Max, number(values[n-1]))
	for i, q := range quantiles {
		c.Quantiles[i] = append(c.Quantiles[i], number(quantileOf(values, q)))
	}
}

// meanAndStd returns the mean, and the standard deviation of a sample: NaN of one
// value.
func meanAndStd(values []float64) (mean, std float64) {
	for _, v := range values {
		mean += v
	}
	mean /= float64(len(values))
	var squares float64
	for _, v := range values {
		squares += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(squares / float64(len(values)-1))
}

// quantileOf returns a quantile of sorted values, interpolated linearly between
// those that are nearest: definition 7 of Hyndman and Fan, The American
// Statistician 50 (1996).
func quantileOf(sorted []float64, q float64) float64 {
	at, part := math.Modf(q * float64(len(sorted)-1))
	i := int(at)
	if part == 0 {
		return sorted[i]
	}
	return sorted[i]*(1-part) + sorted[i+1]*part
}
