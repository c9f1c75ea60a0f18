package query

import "math"

// smoother smooths a series, point by point.
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

// add adds a value, unless it is not finite: that leaves the others alone.
func (m *smoother) add(v float64) {
	switch {
	case v-v != 0:
	case m.Method == methodEMA:
		m.last = m.last**m.Weight + (1-*m.Weight)*v
		m.points++
	case len(m.window) < *m.Points:
		m.window = append(m.window, v)
	default:
		m.window[m.next] = v
		m.next = (m.next + 1) % *m.Points
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
// not finite stays what it is.
func (m *smoother) smooth(values []float64) []float64 {
	out := make([]float64, len(values))
	for i, v := range values {
		if m.add(v); v-v != 0 {
			out[i] = v
			continue
		}
		out[i] = m.value()
	}
	return out
}
