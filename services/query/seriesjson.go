package query

import (
	"bytes"
	"io"
	"math"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// columnMember is a list of an answer, of which each element is about one column.
// One of the functions is set; those of places and values say nothing of a column
// without finite values.
type columnMember[X coordinate] struct {
	name  string
	count func(c *column[X]) uint64
	place func(c *column[X]) X
	value func(c *column[X]) float64
}

// columnMembers returns the lists, in their order.
func columnMembers[X coordinate](req *seriesRequest) []columnMember[X] {
	type c = column[X]
	members := []columnMember[X]{
		{name: "column", count: func(c *c) uint64 { return uint64(c.index) }},
		{name: "count", count: func(c *c) uint64 { return c.points }},
		{name: "nan", count: func(c *c) uint64 { return c.nan }},
		{name: "infinity", count: func(c *c) uint64 { return c.infinity }},
		{name: "negative_infinity", count: func(c *c) uint64 { return c.negative }},
		{name: "first_x", place: func(c *c) X { return c.firstX }},
		{name: "first", value: func(c *c) float64 { return c.first }},
		{name: "last_x", place: func(c *c) X { return c.lastX }},
		{name: "last", value: func(c *c) float64 { return c.last }},
		{name: "min_x", place: func(c *c) X { return c.lowestX }},
		{name: "min", value: func(c *c) float64 { return c.lowest }},
		{name: "max_x", place: func(c *c) X { return c.mostX }},
		{name: "max", value: func(c *c) float64 { return c.most }},
		{name: "mean", value: (*c).mean},
	}
	if req.Smoothing != nil {
		members = append(members, columnMember[X]{name: "smoothed", value: func(c *c) float64 { return c.smoothed }})
	}
	return members
}

// jsonSeries writes series as JSON. That is most of the work of a long answer:
// its numbers are appended to a buffer, without a step of the encoder for each.
type jsonSeries[X coordinate] struct {
	members []columnMember[X]
	frame   seriesFrame[X]

	mu   sync.Mutex
	to   io.Writer
	some bool
}

func (j *jsonSeries[X]) item(v any) error {
	var b []byte
	switch s := v.(type) {
	case *pointSeries[X]:
		b = s.appendJSON(b)
	case *columnSeries[X]:
		b = s.appendJSON(b, j.members)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	head := `,`
	if !j.some {
		j.some, head = true, `{"series":[`
	}
	if _, err := io.WriteString(j.to, head); err != nil {
		return err
	}
	_, err := j.to.Write(b)
	return err
}

func (j *jsonSeries[X]) end() error {
	frame, err := json.Marshal(j.frame)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	var b bytes.Buffer
	if !j.some {
		b.WriteString(`{"series":[`)
	}
	b.WriteString(`],"frame":`)
	b.Write(frame)
	b.WriteByte('}')
	_, err = b.WriteTo(j.to)
	return err
}

func appendHead(b []byte, runID, metricKey string, points uint64) []byte {
	b = append(b, `{"run_id":`...)
	b = appendText(b, runID)
	b = append(b, `,"metric_key":`...)
	b = appendText(b, metricKey)
	b = append(b, `,"points":`...)
	return strconv.AppendUint(b, points, 10)
}

func (s *pointSeries[X]) appendJSON(b []byte) []byte {
	b = appendHead(b, s.runID, s.metricKey, uint64(len(s.x)))
	b = appendList(b, "x", len(s.x), func(b []byte, i int) []byte { return appendPlace(b, s.x[i]) })
	b = appendList(b, "y", len(s.y), func(b []byte, i int) []byte { return appendNumber(b, s.y[i]) })
	if s.smoothed != nil {
		b = appendList(b, "smoothed", len(s.smoothed), func(b []byte, i int) []byte { return appendNumber(b, s.smoothed[i]) })
	}
	return append(b, '}')
}

func (s *columnSeries[X]) appendJSON(b []byte, members []columnMember[X]) []byte {
	b = appendHead(b, s.runID, s.metricKey, s.points)
	for _, m := range members {
		b = appendList(b, m.name, len(s.columns), func(b []byte, i int) []byte {
			switch c := &s.columns[i]; {
			case m.count != nil:
				return strconv.AppendUint(b, m.count(c), 10)
			case c.finite() == 0:
				return append(b, "null"...)
			case m.place != nil:
				return appendPlace(b, m.place(c))
			default:
				return appendNumber(b, m.value(c))
			}
		})
	}
	return append(b, '}')
}

func appendList(b []byte, name string, n int, element func(b []byte, i int) []byte) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, i)
	}
	return append(b, ']')
}

func appendText(b []byte, text string) []byte {
	b, _ = jsontext.AppendQuote(b, text) // what is not UTF-8 is written as U+FFFD
	return b
}

func appendPlace[X coordinate](b []byte, x X) []byte {
	if n, ok := any(x).(int64); ok {
		return strconv.AppendInt(b, n, 10)
	}
	return appendNumber(b, float64(x))
}

// appendNumber writes a number as number does.
func appendNumber(b []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && abs < 1e-6 || abs >= 1e21 {
		format = 'e'
	}
	return strconv.AppendFloat(b, f, format, -1, 64)
}
