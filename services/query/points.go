package query

import (
	"context"
	"math"
	"sort"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"
)

// seriesPoints returns the query for the points of a metric of runs in a part of
// the axis: run_id, x, timestamp, value, and step where x is not that. A point may
// be there twice.
func (r *seriesRequest) seriesPoints(st *statement, key string, runs []run, within string) string {
	bound := st.bindIDs(runs)
	of := func(key string) string {
		return " FROM metrics WHERE run_id IN " + bound + " AND key = " + st.bind("String", key)
	}
	switch r.X.Axis {
	case axisTime:
		return "SELECT run_id, timestamp AS x, step, timestamp, value" + of(key) + within
	case axisRelative:
		starts := make([]int64, len(runs))
		for i, run := range runs {
			starts[i] = run.info.StartTime
		}
		return "SELECT run_id, " + sinceStart + " AS x, step, timestamp, value FROM (SELECT run_id, step, timestamp, value" + of(key) + ") AS m" +
			" INNER JOIN (SELECT id AS run_id, started FROM (SELECT " + bound + " AS id, " + st.bind("Array(Int64)", starts) + " AS started) ARRAY JOIN id, started) AS s" +
			" USING (run_id) WHERE 1" + within
	case axisMetric:
		return "SELECT run_id, x, step, timestamp, value FROM (SELECT run_id, step, timestamp, value" + of(key) + ") AS m" +
			" INNER JOIN (SELECT run_id, step, argMax(value, (timestamp, value)) AS x" + of(r.X.MetricKey) + " GROUP BY run_id, step) AS o" +
			" USING (run_id, step) WHERE isFinite(x)" + within
	default:
		return "SELECT run_id, step AS x, timestamp, value" + of(key) + within
	}
}

// bindIDs binds the ids of runs.
func (s *statement) bindIDs(runs []run) string {
	ids := make([]string, len(runs))
	for i, run := range runs {
		ids[i] = run.id.String()
	}
	return s.bind("Array(UUID)", ids)
}

// sinceStart is the time of a point since the start of its run, or the end of int64
// that it is beyond.
const sinceStart = "multiIf(started > 0 AND timestamp < toInt64(-9223372036854775808) + started, toInt64(-9223372036854775808)," +
	" started < 0 AND timestamp > toInt64(9223372036854775807) + started, toInt64(9223372036854775807), timestamp - started)"

// within returns the condition that a place is in a range of the axis, either end
// of which may be nil.
func (r *seriesRequest) within(st *statement, from, to *axisValue) string {
	x := map[axisName]string{axisStep: "step", axisTime: "timestamp"}[r.X.Axis]
	if x == "" {
		x = "x"
	}
	bind := func(v *axisValue) string {
		if r.X.Axis == axisMetric {
			return st.bindFloat(v.number)
		}
		return st.bind("Int64", *v.exact)
	}
	condition := ""
	if from != nil {
		condition += " AND " + x + " >= " + bind(from)
	}
	if to != nil {
		condition += " AND " + x + " <= " + bind(to)
	}
	return condition
}

// pointColumns is a block of points as it is read.
type pointColumns[X coordinate] struct {
	axis      axisName
	run       proto.ColUUID
	integers  proto.ColInt64 // the places, one of the two
	floats    proto.ColFloat64
	steps     proto.ColInt64 // unless they are the places
	timestamp proto.ColInt64
	value     proto.ColFloat64
}

func (c *pointColumns[X]) results() proto.Results {
	results := proto.Results{{Name: "run_id", Data: &c.run}, {Name: "x", Data: &c.integers}}
	switch c.axis {
	case axisMetric:
		results[1].Data = &c.floats
		fallthrough
	case axisTime, axisRelative:
		results = append(results, proto.ResultColumn{Name: "step", Data: &c.steps})
	}
	return append(results, proto.ResultColumn{Name: "timestamp", Data: &c.timestamp}, proto.ResultColumn{Name: "value", Data: &c.value})
}

func (c *pointColumns[X]) places() []X {
	if x, ok := any([]float64(c.floats)).([]X); ok {
		return x
	}
	x, _ := any([]int64(c.integers)).([]X)
	return x
}

func (c *pointColumns[X]) step() []int64 {
	if c.axis == axisStep {
		return c.integers
	}
	return c.steps
}

// pointIdentity is what makes a point one of its own among those of a metric.
type pointIdentity struct {
	run             uuid.UUID
	step, timestamp int64
	value           float64
}

func (c *pointColumns[X]) identity(row int) pointIdentity {
	return pointIdentity{c.run[row], c.step()[row], c.timestamp[row], c.value[row]}
}

func (p pointIdentity) is(o pointIdentity) bool {
	return p.step == o.step && p.timestamp == o.timestamp && p.run == o.run &&
		(p.value == o.value || math.IsNaN(p.value) && math.IsNaN(o.value))
}

// once keeps one of the points that are there twice, which are neighbours, and
// returns how many are left. last is the last point of the block before, and then
// of this one.
func (c *pointColumns[X]) once(rows int, last *pointIdentity) int {
	x, step := c.places(), c.step()
	kept := 0
	for i := range rows {
		// Most points differ by their step from the one before.
		if i == 0 || step[i] == step[i-1] {
			this := c.identity(i)
			if i > 0 {
				*last = c.identity(i - 1)
			}
			if this.is(*last) {
				continue
			}
		}
		c.run[kept], x[kept], c.value[kept] = c.run[i], x[i], c.value[i]
		kept++
	}
	*last = c.identity(rows - 1)
	return kept
}

// eachPoints visits the points of a metric of runs that meet a condition, in the
// order of the runs and then that in which they are drawn, some of a run at a
// time, each once. The slices are valid until visit returns.
//
// The table may have a point twice until its parts are merged. Here these are
// neighbours, which costs less to see than FINAL.
func eachPoints[X coordinate](ctx context.Context, s *Service, req *seriesRequest, key string, runs []run, within func(*statement) string, visit func(id uuid.UUID, x []X, values []float64) error) error {
	var st statement
	points := req.seriesPoints(&st, key, runs, within(&st))
	order := " ORDER BY run_id, x, step, timestamp, value"
	if req.X.Axis == axisStep {
		// The order of the table, which needs no sorting.
		order = " ORDER BY run_id, key, step, timestamp, value"
	}
	st.write(points, order, oneThread)
	c := pointColumns[X]{axis: req.X.Axis}
	var last pointIdentity // of no run
	return s.db.blocks(ctx, &st, c.results(), func(rows int) error {
		return eachRun(c.run[:c.once(rows, &last)], c.places(), c.value, visit)
	})
}

// oneThread keeps to the order of what is read: two statements at a time use two
// cores.
const oneThread = " SETTINGS max_threads = 1"

// eachRun visits the points of each run in a block.
func eachRun[X coordinate](runs []uuid.UUID, x []X, values []float64, visit func(id uuid.UUID, x []X, values []float64) error) error {
	for from := 0; from < len(runs); {
		to := from + sort.Search(len(runs)-from, func(i int) bool { return runs[from+i] != runs[from] })
		if err := visit(runs[from], x[from:to], values[from:to]); err != nil {
			return err
		}
		from = to
	}
	return nil
}

// eachStep is eachPoints for the axis of steps, without the times of the points,
// which are half of what else is read. They matter where a step has several points:
// of a run that has one it calls repeated, and does not visit the rest.
func eachStep[X coordinate](ctx context.Context, s *Service, key string, runs []run, within func(*statement) string, visit func(id uuid.UUID, x []X, values []float64) error, repeated func(id uuid.UUID)) error {
	var st statement
	st.write("SELECT run_id, step AS x, value FROM metrics WHERE run_id IN ", st.bindIDs(runs), " AND key = ", st.bind("String", key), within(&st),
		" ORDER BY run_id, key, step", oneThread)
	c := pointColumns[X]{axis: axisStep}
	results := proto.Results{{Name: "run_id", Data: &c.run}, {Name: "x", Data: &c.integers}, {Name: "value", Data: &c.value}}
	var last, dropped uuid.UUID // of no run
	var lastX X
	return s.db.blocks(ctx, &st, results, func(int) error {
		return eachRun(c.run, c.places(), c.value, func(id uuid.UUID, x []X, values []float64) error {
			if id == dropped {
				return nil
			}
			again := id == last && x[0] == lastX
			for i := 1; i < len(x) && !again; i++ {
				again = x[i] == x[i-1]
			}
			if again {
				dropped = id
				repeated(id)
				return nil
			}
			last, lastX = id, x[len(x)-1]
			return visit(id, x, values)
		})
	})
}
