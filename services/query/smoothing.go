package query

import (
	"context"
	"math"
	"strconv"

	"github.com/google/uuid"
)

// smoother smooths a series, point by point or part by part.
type smoother struct {
	smoothing
	// TensorBoard's exponential moving average begins at zero, and is divided by
	// how much of the weight is there yet (tensorboard,
	// tensorboard/components/vz_line_chart2/line-chart.ts, resmoothDataset).
	last   float64
	points uint64
	// window holds the last finite values, of which next is the oldest.
	window []float64
	next   int
}

const (
	methodEMA  = "ema"
	methodMean = "mean"
)

// addPart adds a part of a series: how many finite values it has, and what
// tailOf has of them.
func (m *smoother) addPart(points uint64, tail []float64) {
	if m.Method == methodEMA {
		m.last = m.last*math.Pow(*m.Weight, float64(points)) + tail[0]
		m.points += points
		return
	}
	for _, v := range tail {
		if len(m.window) < *m.Points {
			m.window = append(m.window, v)
			continue
		}
		m.window[m.next] = v
		m.next = (m.next + 1) % *m.Points
	}
}

// tailOf returns the expression for what the smoothing needs of the values of a
// part in their order: their average as it were if the part began at zero, or
// the last values.
func (s *smoothing) tailOf(value, place string) string {
	switch {
	case s.Method == methodMean:
		return "arrayMap(t -> t.2, arraySort(t -> t.1, groupArrayLast(" + strconv.Itoa(*s.Points) + ")((" + place + ", " + value + "))))"
	case *s.Weight == 0:
		return "[anyLast(" + value + ")]"
	default:
		// ClickHouse's average halves a weight within so many places.
		half := strconv.FormatFloat(-math.Ln2/math.Log(*s.Weight), 'g', -1, 64)
		return "[exponentialMovingAverage(" + half + ")(" + value + ", " + place + ")]"
	}
}

// value returns what the smoothed series is at the last point.
func (m *smoother) value() float64 {
	if m.Method == methodEMA {
		if *m.Weight == 0 {
			return m.last
		}
		return m.last / -math.Expm1(float64(m.points)*math.Log(*m.Weight))
	}
	var sum float64
	for _, v := range m.window {
		sum += v
	}
	return sum / float64(len(m.window))
}

// smooth returns the smoothed series at each of the next points. A value that is
// not finite stays what it is, and leaves the others alone.
func (m *smoother) smooth(values []number) []number {
	out := make([]number, len(values))
	for i, v := range values {
		if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
			out[i] = v
			continue
		} else if m.Method == methodEMA {
			m.addPart(1, []float64{(1 - *m.Weight) * f})
		} else {
			m.addPart(1, []float64{f})
		}
		out[i] = number(m.value())
	}
	return out
}

// eachTail visits the parts of the series of a task, in order: the run, a part's
// number, and what a smoother adds. part is the expression for the number.
func eachTail[X coordinate](ctx context.Context, s *Service, req *seriesRequest, task seriesTask[X], st *statement, part string, visit func(id uuid.UUID, part int64, points uint64, tail []float64)) error {
	points := req.inOrder(req.seriesPoints(st, task.key, task.runs, true))
	st.write("SELECT run_id, part, count(), ", req.Smoothing.tailOf("value", "place"), " FROM (SELECT run_id, value, rowNumberInAllBlocks() AS place, ", part,
		" AS part FROM (SELECT run_id, x, value FROM (", points, ") WHERE isFinite(value))) GROUP BY run_id, part ORDER BY run_id, part", oneThread)
	return s.db.each(ctx, st, func(scan func(...any) error) error {
		var id uuid.UUID
		var number int64
		var n uint64
		var tail []float64
		if err := scan(&id, &number, &n, &tail); err != nil {
			return err
		}
		visit(id, number, n, tail)
		return nil
	})
}

// smoothersBefore returns for each run of a task a smoother that has seen the
// points before the range: what a smoothed series is at a place must not depend
// on what of it is looked at.
func smoothersBefore[X coordinate](ctx context.Context, s *Service, req *seriesRequest, task seriesTask[X]) (map[uuid.UUID]*smoother, error) {
	if req.Smoothing == nil {
		return nil, nil
	}
	smoothers := make(map[uuid.UUID]*smoother, len(task.runs))
	for _, r := range task.runs {
		smoothers[r.id] = &smoother{smoothing: *req.Smoothing}
	}
	if req.Range.From == nil {
		return smoothers, nil
	}
	before := *req
	before.Range = &seriesRange{before: req.Range.From}
	var st statement
	err := eachTail(ctx, s, &before, task, &st, "toInt64(0)", func(id uuid.UUID, _ int64, points uint64, tail []float64) {
		smoothers[id].addPart(points, tail)
	})
	return smoothers, err
}

// smoothedColumns returns the smoothed series at the last finite point of each
// column, by run and column.
func smoothedColumns[X coordinate](ctx context.Context, s *Service, req *seriesRequest, task seriesTask[X], g grid[X]) (map[uuid.UUID]map[uint32]float64, error) {
	smoothers, err := smoothersBefore(ctx, s, req, task)
	if err != nil || smoothers == nil {
		return nil, err
	}
	columns := make(map[uuid.UUID]map[uint32]float64, len(task.runs))
	for _, r := range task.runs {
		columns[r.id] = make(map[uint32]float64)
	}
	var st statement
	err = eachTail(ctx, s, req, task, &st, "toInt64("+g.column(&st)+")", func(id uuid.UUID, column int64, points uint64, tail []float64) {
		smoothers[id].addPart(points, tail)
		columns[id][uint32(column)] = smoothers[id].value()
	})
	return columns, err
}
