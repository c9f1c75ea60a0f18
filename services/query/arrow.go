package query

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"
)

// mimeArrow is the media type of Arrow's streaming format
// (https://www.iana.org/assignments/media-types/application/vnd.apache.arrow.stream).
const mimeArrow = "application/vnd.apache.arrow.stream"

// arrowBatchValues is how many values a record batch has before it is written:
// a batch of one short series would be mostly its own head.
const arrowBatchValues = 1 << 16

// prefersArrow reports whether a client asks for Arrow, and not rather for JSON
// (RFC 9110, section 12.5.1).
func prefersArrow(h http.Header) bool {
	var arrow, other float64
	for part := range strings.SplitSeq(strings.Join(h.Values(echo.HeaderAccept), ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		quality := 1.0
		if q, ok := params["q"]; ok {
			if quality, err = strconv.ParseFloat(q, 64); err != nil {
				continue
			}
		}
		switch kind {
		case mimeArrow:
			arrow = quality
		case echo.MIMEApplicationJSON:
			other = quality
		}
	}
	return arrow > 0 && arrow >= other
}

// arrowSeries writes series as a stream of Arrow record batches: a row is a
// series, its columns have the names of the members of the JSON answer, and each
// list of that is a list. What a series has not, by its form, is null. The
// schema's metadata has the frame.
type arrowSeries[X coordinate] struct {
	members []columnMember[X]

	mu     sync.Mutex
	to     *ipc.Writer
	rows   *array.RecordBuilder
	values int // in rows
}

func newArrowSeries[X coordinate](ec echo.Context, req *seriesRequest, frame seriesFrame[X]) (*arrowSeries[X], error) {
	text, err := json.Marshal(frame)
	if err != nil {
		return nil, err
	}
	members := columnMembers[X](req)
	metadata := arrow.NewMetadata([]string{"frame"}, []string{string(text)})
	schema := arrow.NewSchema(arrowFields(req, members), &metadata)
	return &arrowSeries[X]{
		members: members,
		to:      ipc.NewWriter(lateHead{ec, mimeArrow}, ipc.WithSchema(schema)),
		rows:    array.NewRecordBuilder(memory.DefaultAllocator, schema),
	}, nil
}

// The columns before those of the members. The smoothed points and columns share
// the last one.
const (
	arrowRunID = iota
	arrowMetricKey
	arrowPoints
	arrowX
	arrowY
	arrowMembers
)

// arrowFields returns the columns, whose metadata has the unit of the numbers
// that have one.
func arrowFields[X coordinate](req *seriesRequest, members []columnMember[X]) []arrow.Field {
	var x arrow.DataType = arrow.PrimitiveTypes.Int64
	var unit string
	switch req.X.Axis {
	case axisTime, axisRelative:
		unit = "milliseconds"
	case axisMetric:
		x = arrow.PrimitiveTypes.Float64
	default:
		unit = "steps"
	}
	fields := []arrow.Field{
		arrowRunID:     {Name: "run_id", Type: arrow.BinaryTypes.String},
		arrowMetricKey: {Name: "metric_key", Type: arrow.BinaryTypes.String},
		arrowPoints:    {Name: "points", Type: arrow.PrimitiveTypes.Uint64},
	}
	list := func(name string, of arrow.DataType, unit string) {
		var metadata arrow.Metadata
		if unit != "" {
			metadata = arrow.NewMetadata([]string{"unit"}, []string{unit})
		}
		fields = append(fields, arrow.Field{Name: name, Type: arrow.ListOf(of), Nullable: true, Metadata: metadata})
	}
	list("x", x, unit)
	list("y", arrow.PrimitiveTypes.Float64, "")
	for _, m := range members {
		switch {
		case m.name == "column":
			list(m.name, arrow.PrimitiveTypes.Uint32, "")
		case m.count != nil:
			list(m.name, arrow.PrimitiveTypes.Uint64, "points")
		case m.place != nil:
			list(m.name, x, unit)
		default:
			list(m.name, arrow.PrimitiveTypes.Float64, "")
		}
	}
	return fields
}

func (a *arrowSeries[X]) item(v any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch s := v.(type) {
	case *pointSeries[X]:
		a.head(s.runID, s.metricKey, uint64(len(s.x)))
		a.places(arrowX, s.x)
		a.floats(arrowY, s.y)
		for i, m := range a.members {
			if m.name == "smoothed" {
				a.floats(arrowMembers+i, s.smoothed)
				continue
			}
			a.rows.Field(arrowMembers + i).AppendNull()
		}
		a.values += 2 * len(s.x)
	case *columnSeries[X]:
		a.head(s.runID, s.metricKey, s.points)
		a.rows.Field(arrowX).AppendNull()
		a.rows.Field(arrowY).AppendNull()
		for i, m := range a.members {
			a.columns(arrowMembers+i, m, s.columns)
		}
		a.values += len(a.members) * len(s.columns)
	}
	if a.values < arrowBatchValues {
		return nil
	}
	return a.flush()
}

func (a *arrowSeries[X]) head(runID, metricKey string, points uint64) {
	a.rows.Field(arrowRunID).(*array.StringBuilder).Append(runID)
	a.rows.Field(arrowMetricKey).(*array.StringBuilder).Append(metricKey)
	a.rows.Field(arrowPoints).(*array.Uint64Builder).Append(points)
}

func (a *arrowSeries[X]) places(field int, x []X) {
	switch x := any(x).(type) {
	case []int64:
		listOf[*array.Int64Builder](a.rows.Field(field)).AppendValues(x, nil)
	case []float64:
		a.floats(field, x)
	}
}

func (a *arrowSeries[X]) floats(field int, values []float64) {
	listOf[*array.Float64Builder](a.rows.Field(field)).AppendValues(values, nil)
}

func (a *arrowSeries[X]) columns(field int, m columnMember[X], columns []column[X]) {
	switch {
	case m.name == "column":
		appendColumns(listOf[*array.Uint32Builder](a.rows.Field(field)), columns, false, func(c *column[X]) uint32 { return c.index })
	case m.count != nil:
		appendColumns(listOf[*array.Uint64Builder](a.rows.Field(field)), columns, false, m.count)
	case m.value != nil:
		appendColumns(listOf[*array.Float64Builder](a.rows.Field(field)), columns, true, m.value)
	default:
		if to, ok := any(m.place).(func(*column[X]) int64); ok {
			appendColumns(listOf[*array.Int64Builder](a.rows.Field(field)), columns, true, to)
		} else if to, ok := any(m.place).(func(*column[X]) float64); ok {
			appendColumns(listOf[*array.Float64Builder](a.rows.Field(field)), columns, true, to)
		}
	}
}

// appendColumns adds what is said of each column, or null for those without
// finite values.
func appendColumns[X coordinate, T any](b interface {
	Append(v T)
	AppendNull()
	Reserve(n int)
}, columns []column[X], ofFinite bool, of func(*column[X]) T,
) {
	b.Reserve(len(columns))
	for i := range columns {
		if ofFinite && columns[i].finite() == 0 {
			b.AppendNull()
			continue
		}
		b.Append(of(&columns[i]))
	}
}

func (a *arrowSeries[X]) flush() error {
	batch := a.rows.NewRecordBatch()
	defer batch.Release()
	a.values = 0
	return a.to.Write(batch)
}

func (a *arrowSeries[X]) end() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.values > 0 {
		if err := a.flush(); err != nil {
			return err
		}
	}
	return a.to.Close()
}

// listOf begins a list, and returns what takes its values.
func listOf[B array.Builder](b array.Builder) B {
	list := b.(*array.ListBuilder)
	list.Append(true)
	return list.ValueBuilder().(B)
}
