package query

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

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
	to     *ipc.Writer
	rows   *array.RecordBuilder
	values int // in rows
}

func newArrowSeries[X coordinate](ec echo.Context, req *seriesRequest, frame seriesFrame[X]) (*arrowSeries[X], error) {
	text, err := json.Marshal(frame)
	if err != nil {
		return nil, err
	}
	metadata := arrow.NewMetadata([]string{"frame"}, []string{string(text)})
	schema := arrow.NewSchema(arrowFields(req), &metadata)
	return &arrowSeries[X]{
		to:   ipc.NewWriter(lateHead{ec, mimeArrow}, ipc.WithSchema(schema)),
		rows: array.NewRecordBuilder(memory.DefaultAllocator, schema),
	}, nil
}

// arrowFields returns the columns, whose metadata has the unit of the numbers
// that have one.
func arrowFields(req *seriesRequest) []arrow.Field {
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
		{Name: "run_id", Type: arrow.BinaryTypes.String},
		{Name: "metric_key", Type: arrow.BinaryTypes.String},
		{Name: "points", Type: arrow.PrimitiveTypes.Uint64},
	}
	list := func(of arrow.DataType, unit string, names ...string) {
		var metadata arrow.Metadata
		if unit != "" {
			metadata = arrow.NewMetadata([]string{"unit"}, []string{unit})
		}
		for _, name := range names {
			fields = append(fields, arrow.Field{Name: name, Type: arrow.ListOf(of), Nullable: true, Metadata: metadata})
		}
	}
	list(x, unit, "x")
	list(arrow.PrimitiveTypes.Float64, "", "y")
	list(arrow.PrimitiveTypes.Uint32, "", "column")
	list(arrow.PrimitiveTypes.Uint64, "points", "count", "nan", "infinity", "negative_infinity")
	list(x, unit, "first_x", "last_x", "min_x", "max_x")
	list(arrow.PrimitiveTypes.Float64, "", "first", "last", "min", "max", "mean")
	if req.Smoothing != nil {
		list(arrow.PrimitiveTypes.Float64, "", "smoothed")
	}
	return fields
}

func (a *arrowSeries[X]) item(v any) error {
	var row map[string]any
	switch s := v.(type) {
	case *pointSeries[X]:
		row = map[string]any{
			"run_id": s.RunID, "metric_key": s.MetricKey, "points": uint64(s.Points),
			"x": s.X, "y": s.Y, "smoothed": s.Smoothed,
		}
	case *columnSeries[X]:
		row = map[string]any{
			"run_id": s.RunID, "metric_key": s.MetricKey, "points": s.Points,
			"column": s.Column, "count": s.Count, "nan": s.NaN, "infinity": s.Infinity, "negative_infinity": s.NegInf,
			"first_x": s.FirstX, "last_x": s.LastX, "min_x": s.MinX, "max_x": s.MaxX,
			"first": s.First, "last": s.Last, "min": s.Min, "max": s.Max, "mean": s.Mean, "smoothed": s.Smoothed,
		}
	}
	for i, field := range a.rows.Schema().Fields() {
		a.values += appendArrow(a.rows.Field(i), row[field.Name])
	}
	if a.values < arrowBatchValues {
		return nil
	}
	return a.flush()
}

func (a *arrowSeries[X]) flush() error {
	batch := a.rows.NewRecordBatch()
	defer batch.Release()
	a.values = 0
	return a.to.Write(batch)
}

func (a *arrowSeries[X]) end() error {
	if a.values > 0 {
		if err := a.flush(); err != nil {
			return err
		}
	}
	return a.to.Close()
}

// appendArrow adds a member of a series to the column of its name, null for what
// is not there, and returns how many values that are.
func appendArrow(b array.Builder, v any) int {
	switch v := v.(type) {
	case string:
		b.(*array.StringBuilder).Append(v)
	case uint64:
		b.(*array.Uint64Builder).Append(v)
	case []uint32:
		listOf[*array.Uint32Builder](b).AppendValues(v, nil)
		return len(v)
	case []uint64:
		listOf[*array.Uint64Builder](b).AppendValues(v, nil)
		return len(v)
	case []int64:
		listOf[*array.Int64Builder](b).AppendValues(v, nil)
		return len(v)
	case []*int64:
		appendOrNull(listOf[*array.Int64Builder](b), v)
		return len(v)
	case []number:
		values := listOf[*array.Float64Builder](b)
		for _, n := range v {
			values.Append(float64(n))
		}
		return len(v)
	case []*number:
		appendOrNull(listOf[*array.Float64Builder](b), v)
		return len(v)
	default:
		b.AppendNull()
	}
	return 1
}

// listOf begins a list, and returns what takes its values.
func listOf[B array.Builder](b array.Builder) B {
	list := b.(*array.ListBuilder)
	list.Append(true)
	return list.ValueBuilder().(B)
}

func appendOrNull[N coordinate, T int64 | float64](b interface {
	Append(v T)
	AppendNull()
}, values []*N,
) {
	for _, v := range values {
		if v == nil {
			b.AppendNull()
			continue
		}
		b.Append(T(*v))
	}
}
