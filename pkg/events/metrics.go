package events

import (
	"fmt"
	"iter"
	"math"
)

// Point is one metric point. A point is a member of a set of its run: see
// Point.Identity.
type Point struct {
	Key       string
	Value     float64
	Timestamp int64 // milliseconds since the Unix epoch
	Step      int64
	Link      *MetricLink // nil: not a metric of a logged model
}

// Identity is what makes two points of a run the same one. NaN equals NaN,
// whatever its bits, and 0 equals -0.
type Identity struct {
	Key       string
	Timestamp int64
	Step      int64
	Value     uint64 // bits, see ValueBits
}

// Identity returns the identity of p.
func (p Point) Identity() Identity {
	return Identity{Key: p.Key, Timestamp: p.Timestamp, Step: p.Step, Value: ValueBits(p.Value)}
}

// ValueBits returns bits that are equal for values that are the same point
// value: one NaN, one zero.
func ValueBits(v float64) uint64 {
	switch {
	case v != v:
		return math.Float64bits(math.NaN())
	case v == 0:
		return 0
	default:
		return math.Float64bits(v)
	}
}

// MaxPoints is the largest number of points in one event: with the shortest
// possible encoding it stays well below MaxPayload.
const MaxPoints = 4096

// NewMetricsLogged packs points, at most MaxPoints, into columns. A NaN is
// stored as the canonical one.
func NewMetricsLogged(runID string, points []Point) *MetricsLogged {
	m := &MetricsLogged{
		RunId:           runID,
		KeyIndex:        make([]uint32, len(points)),
		StepDeltas:      make([]int64, len(points)),
		TimestampDeltas: make([]int64, len(points)),
		Values:          make([]float64, len(points)),
	}
	index := make(map[string]uint32)
	links := make(map[link]uint32)
	var step, timestamp int64
	for i, p := range points {
		k, ok := index[p.Key]
		if !ok {
			k = uint32(len(m.Keys))
			index[p.Key] = k
			m.Keys = append(m.Keys, p.Key)
		}
		m.KeyIndex[i] = k
		m.StepDeltas[i] = p.Step - step
		m.TimestampDeltas[i] = p.Timestamp - timestamp
		m.Values[i] = p.Value
		if p.Value != p.Value {
			m.Values[i] = math.NaN()
		}
		step, timestamp = p.Step, p.Timestamp
		if p.Link == nil {
			continue
		}
		id := link{p.Link.GetModelId(), p.Link.GetDatasetName(), p.Link.GetDatasetDigest()}
		if links[id] == 0 {
			m.Links = append(m.Links, p.Link)
			links[id] = uint32(len(m.Links))
		}
		if m.LinkIndex == nil {
			m.LinkIndex = make([]uint32, len(points))
		}
		m.LinkIndex[i] = links[id]
	}
	return m
}

// link is a MetricLink that can be a key.
type link struct{ model, dataset, digest string }

// Validate reports columns of unequal length and indices out of range, as
// ErrCorrupt.
func (m *MetricsLogged) Validate() error {
	n := len(m.GetValues())
	if len(m.GetKeyIndex()) != n || len(m.GetStepDeltas()) != n || len(m.GetTimestampDeltas()) != n {
		return fmt.Errorf("metric columns of %d keys, %d steps, %d timestamps, %d values: %w",
			len(m.GetKeyIndex()), len(m.GetStepDeltas()), len(m.GetTimestampDeltas()), n, ErrCorrupt)
	}
	for _, k := range m.GetKeyIndex() {
		if int(k) >= len(m.GetKeys()) {
			return fmt.Errorf("metric key index %d of %d keys: %w", k, len(m.GetKeys()), ErrCorrupt)
		}
	}
	if len(m.GetLinkIndex()) != n && len(m.GetLinkIndex()) != 0 {
		return fmt.Errorf("metric columns of %d links, %d values: %w", len(m.GetLinkIndex()), n, ErrCorrupt)
	}
	for _, l := range m.GetLinkIndex() {
		if int(l) > len(m.GetLinks()) {
			return fmt.Errorf("metric link index %d of %d links: %w", l, len(m.GetLinks()), ErrCorrupt)
		}
	}
	return nil
}

// Points yields each point with its place in the event. The event must be
// valid, as those that Decode returns are.
func (m *MetricsLogged) Points() iter.Seq2[int, Point] {
	return func(yield func(int, Point) bool) {
		var step, timestamp int64
		for i, v := range m.GetValues() {
			step += m.GetStepDeltas()[i]
			timestamp += m.GetTimestampDeltas()[i]
			p := Point{Key: m.GetKeys()[m.GetKeyIndex()[i]], Value: v, Timestamp: timestamp, Step: step}
			if len(m.GetLinkIndex()) > 0 && m.GetLinkIndex()[i] > 0 {
				p.Link = m.GetLinks()[m.GetLinkIndex()[i]-1]
			}
			if !yield(i, p) {
				return
			}
		}
	}
}
