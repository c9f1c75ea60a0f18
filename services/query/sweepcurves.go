package query

import (
	"strconv"

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
		return drawCurves[number](ec, s, &req, runs, more)
	}
	return drawCurves[int64](ec, s, &req, runs, more)
}

func drawCurves[X coordinate](ec echo.Context, s *Service, req *curvesRequest, runs []run, more bool) error {
	ctx := ec.Request().Context()
	if err := s.checkKeys(ctx, &req.seriesRequest, runs); err != nil {
		return err
	}
	groups, err := s.groupRuns(ctx, runs, req.GroupBy)
	if err != nil {
		return err
	}
	if n := len(groups) * len(req.MetricKeys) * *req.Columns; n > maxSeriesCells {
		return httpapi.InvalidField("columns", "%d groups with %d metrics in %d columns are more than %d: ask for fewer columns, metrics or groups", len(groups), len(req.MetricKeys), *req.Columns, maxSeriesCells)
	}
	extents, err := seriesExtents[X](ctx, s, &req.seriesRequest, runs)
	if err != nil {
		return err
	}
	g := gridOf(&req.seriesRequest, extents)
	out := newAnswer(ec, "curves")
	for _, key := range req.MetricKeys {
		curves := make([]curve, len(groups))
		for i, g := range groups {
			curves[i] = curve{Group: g.values, MetricKey: key, Runs: len(g.runs), Quantiles: make([][]number, len(req.Quantiles))}
		}
		if err := s.db.each(ctx, curvesStatement(req, key, groups, runs, g), func(scan func(...any) error) error {
			var at, column uint32
			var count uint64
			var mean, std, least, most float64
			var quantiles []float64
			if err := scan(&at, &column, &count, &mean, &std, &least, &most, &quantiles); err != nil {
				return err
			}
			c := &curves[at]
			c.Column, c.Count, c.Mean = append(c.Column, column), append(c.Count, count), append(c.Mean, number(mean))
			c.Std = append(c.Std, orNull(count > 1, number(std)))
			c.Min, c.Max = append(c.Min, number(least)), append(c.Max, number(most))
			for i, q := range quantiles {
				c.Quantiles[i] = append(c.Quantiles[i], number(q))
			}
			return nil
		}); err != nil {
			return err
		}
		for _, c := range curves {
			if err := out.item(c); err != nil {
				return err
			}
		}
	}
	return out.endWith("frame", seriesFrame[X]{
		Axis: req.X.Axis, From: g.from, To: g.to, Columns: g.columns, Width: g.width, MoreRuns: more,
	})
}

// curvesStatement returns the statement for what the groups have of a metric in
// the columns: of each run one value a column, and then of each group.
func curvesStatement[X coordinate](req *curvesRequest, key string, groups []runGroup, runs []run, g grid[X]) *statement {
	var ids []string
	var places []uint32
	for i, group := range groups {
		for _, r := range group.runs {
			ids, places = append(ids, r.id.String()), append(places, uint32(i))
		}
	}
	st := new(statement)
	points := req.seriesPoints(st, key, runs, true)
	aggregates := "count(), avg(v), stddevSampStable(v), min(v), max(v), "
	if len(req.Quantiles) == 0 {
		aggregates += "CAST([], 'Array(Float64)')"
	} else {
		aggregates += "quantilesExactInclusive("
		for i, q := range req.Quantiles {
			if i > 0 {
				aggregates += ", "
			}
			aggregates += st.bindFloat(q)
		}
		aggregates += ")(v)"
	}
	st.write("SELECT place, c, ", aggregates, " FROM (SELECT run_id, c, avg(value) AS v FROM (SELECT run_id, ", g.column(st), " AS c, value FROM (", points, ")",
		" WHERE isFinite(value)) GROUP BY run_id, c) AS p INNER JOIN (SELECT id AS run_id, place FROM (SELECT ", st.bind("Array(UUID)", ids), " AS id, ",
		st.bind("Array(UInt32)", places), " AS place) ARRAY JOIN id, place) AS g USING (run_id) GROUP BY place, c ORDER BY place, c")
	return st
}
