package query

import (
	"math"

	"github.com/google/uuid"
)

// pointSeries is a series whose points fit into the answer as they are, in the
// order of the axis.
type pointSeries[X coordinate] struct {
	runID, metricKey string
	x                []X
	y                []float64
	smoothed         []float64
}

// columnSeries is a series of which each column that has points shows the first
// and last one, and a lowest and a highest, exactly: M4 (Jugel et al., VLDB
// 2014). Drawn at one column a pixel these give the pixels of the whole series.
type columnSeries[X coordinate] struct {
	runID, metricKey string
	points           uint64 // in the range
	columns          []column[X]
}

// column is what a series has in one column. What is said of values is of the
// finite ones, and says nothing if there are none.
type column[X coordinate] struct {
	index                          uint32 // from 0
	points                         uint64
	nan, infinity, negative        uint64
	firstX, lastX, lowestX, mostX  X // the first of the lowest, and of the highest
	first, last, lowest, most, sum float64
	// smoothed is the smoothed series at the last finite point.
	smoothed float64
}

func (c *column[X]) finite() uint64 { return c.points - c.nan - c.infinity - c.negative }

func (c *column[X]) mean() float64 { return c.sum / float64(c.finite()) }

// add adds points behind those that are there.
func (c *column[X]) add(x []X, values []float64) {
	for i, v := range values {
		c.points++
		if v-v != 0 {
			c.addOdd(v)
			continue
		}
		if c.finite() == 1 {
			c.firstX, c.first, c.lowestX, c.lowest, c.mostX, c.most = x[i], v, x[i], v, x[i], v
		}
		c.lastX, c.last = x[i], v
		if v < c.lowest {
			c.lowestX, c.lowest = x[i], v
		}
		if v > c.most {
			c.mostX, c.most = x[i], v
		}
		c.sum += v
	}
}

func (c *column[X]) addOdd(v float64) {
	switch {
	case math.IsNaN(v):
		c.nan++
	case v > 0:
		c.infinity++
	default:
		c.negative++
	}
}

// rawPerColumn is up to how many points a column has, on average, when a series
// is answered as it is: columns would be longer.
const rawPerColumn = 2

// drawing takes the points of a series, in the order in which they are drawn.
type drawing[X coordinate] struct {
	run  uuid.UUID
	grid grid[X]
	raw  int // up to how many points are kept as they are
	// What is before the grid is only smoothed over: a smoothed series must not
	// depend on what of it is looked at.
	smoother *smoother // may be nil

	x       []X
	values  []float64
	columns []column[X]
	points  uint64
}

func (d *drawing[X]) add(x []X, values []float64) {
	for d.smoother != nil && len(x) > 0 && x[0] < d.grid.from {
		d.smoother.add(values[0])
		x, values = x[1:], values[1:]
	}
	if d.columns == nil {
		if len(d.x)+len(x) <= d.raw {
			d.x, d.values = append(d.x, x...), append(d.values, values...)
			return
		}
		d.draw(d.x, d.values)
		d.x, d.values = nil, nil
	}
	d.draw(x, values)
}

func (d *drawing[X]) draw(x []X, values []float64) {
	for len(x) > 0 {
		n := d.grid.leading(x)
		c := d.at(d.grid.column(x[0]))
		c.add(x[:n], values[:n])
		if d.smoother != nil {
			for _, v := range values[:n] {
				d.smoother.add(v)
			}
			c.smoothed = d.smoother.value()
		}
		d.points += uint64(n)
		x, values = x[n:], values[n:]
	}
}

// at returns the last column, which has the index.
func (d *drawing[X]) at(index uint32) *column[X] {
	if n := len(d.columns); n == 0 || d.columns[n-1].index != index {
		if d.columns == nil {
			d.columns = make([]column[X], 0, d.grid.columns)
		}
		d.columns = append(d.columns, column[X]{index: index})
	}
	return &d.columns[len(d.columns)-1]
}

// series returns what was drawn, nil if there was nothing.
func (d *drawing[X]) series(metricKey string) any {
	runID := formatRunID(d.run)
	switch {
	case d.columns != nil:
		return &columnSeries[X]{runID: runID, metricKey: metricKey, points: d.points, columns: d.columns}
	case len(d.x) > 0:
		s := &pointSeries[X]{runID: runID, metricKey: metricKey, x: d.x, y: d.values}
		if d.smoother != nil {
			s.smoothed = d.smoother.smooth(d.values)
		}
		return s
	default:
		return nil
	}
}
