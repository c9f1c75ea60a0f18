package query_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
)

const mimeArrow = "application/vnd.apache.arrow.stream"

func (f *fixture) postArrow(body any, accept string) *httptest.ResponseRecorder {
	f.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/api/v1/series", strings.NewReader(string(text)))
	r.Header.Set("Accept", accept)
	return f.do(r)
}

// arrowAnswer is what a reader of Arrow finds in an answer: of each series the
// columns that are not null, with lists as []any.
type arrowAnswer struct {
	schema  *arrow.Schema
	batches int
	series  map[string]map[string]any
}

func readArrow(t *testing.T, w *httptest.ResponseRecorder) arrowAnswer {
	t.Helper()
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != mimeArrow {
		t.Fatalf("status %d, %s: %.300s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	r, err := ipc.NewReader(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Release()
	got := arrowAnswer{schema: r.Schema(), series: map[string]map[string]any{}}
	for r.Next() {
		got.batches++
		batch := r.RecordBatch()
		for row := range int(batch.NumRows()) {
			series := map[string]any{}
			for i, column := range batch.Columns() {
				if name := batch.ColumnName(i); !column.IsNull(row) {
					series[name] = arrowValue(t, column, row)
				}
			}
			got.series[fmt.Sprint(series["run_id"], "/", series["metric_key"])] = series
		}
	}
	if r.Err() != nil {
		t.Fatal(r.Err())
	}
	return got
}

func arrowValue(t *testing.T, column arrow.Array, row int) any {
	if column.IsNull(row) {
		return nil
	}
	switch c := column.(type) {
	case *array.String:
		return c.Value(row)
	case *array.Uint64:
		return c.Value(row)
	case *array.Uint32:
		return c.Value(row)
	case *array.Int64:
		return c.Value(row)
	case *array.Float64:
		return c.Value(row)
	case *array.List:
		from, to := c.ValueOffsets(row)
		list := make([]any, 0, to-from)
		for i := from; i < to; i++ {
			list = append(list, arrowValue(t, c.ListValues(), int(i)))
		}
		return list
	}
	t.Fatalf("a column of type %v", column.DataType())
	return nil
}

// asJSON returns what JSON says of a value that Arrow has, if it is the same.
func asJSON(got, want any) any {
	switch v := got.(type) {
	case []any:
		list, _ := want.([]any)
		if len(list) != len(v) {
			return fmt.Sprint(len(v), " values: ", v)
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = asJSON(v[i], list[i])
		}
		return out
	case float64:
		// A number of JSON, or the word for one that it has not.
		if f, err := strconv.ParseFloat(fmt.Sprint(want), 64); err == nil &&
			(math.Float64bits(f) == math.Float64bits(v) || math.IsNaN(f) && math.IsNaN(v)) {
			return want
		}
		return v
	case nil, string:
		return v
	default:
		return json.Number(fmt.Sprint(v))
	}
}

// sameInBoth asks for series as JSON and as Arrow, and checks that they agree.
func (f *fixture) sameInBoth(t *testing.T, body map[string]any) arrowAnswer {
	t.Helper()
	var want struct {
		Series []map[string]any
		Frame  json.RawMessage
	}
	dec := json.NewDecoder(f.postV1("/series", body).Body)
	dec.UseNumber()
	if err := dec.Decode(&want); err != nil {
		t.Fatal(err)
	}
	got := readArrow(t, f.postArrow(body, mimeArrow))
	if i := got.schema.Metadata().FindKey("frame"); i < 0 || got.schema.Metadata().Values()[i] != string(want.Frame) {
		t.Errorf("%v: metadata %v, want frame %s", body, got.schema.Metadata(), want.Frame)
	}
	if len(got.series) != len(want.Series) {
		t.Errorf("%v: %d series, want %d", body, len(got.series), len(want.Series))
	}
	for _, series := range want.Series {
		id := fmt.Sprint(series["run_id"], "/", series["metric_key"])
		values := map[string]any{}
		for name, v := range got.series[id] {
			values[name] = asJSON(v, series[name])
		}
		if !reflect.DeepEqual(values, series) {
			t.Errorf("%v: %s is %v, want %v", body, id, values, series)
		}
	}
	return got
}

// Arrow has the series of JSON, number by number.
func TestArrowHasWhatJSONHas(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := testRun{experiment: 1, start: 5, metrics: []point{{key: "loss"}, {key: "short"}, {key: "epoch"}}}.withDefaults()
	f.insert(run)
	points := []point{
		{key: "short", step: math.MinInt64, timestamp: 1, value: math.Copysign(0, -1)},
		{key: "short", step: -1, timestamp: 2, value: math.NaN()},
		{key: "short", step: math.MaxInt64, timestamp: 1 << 53, value: math.MaxFloat64},
		{key: "short", step: math.MaxInt64 - 1, timestamp: 1<<53 + 1, value: 5e-324},
		{key: "short", step: 0, timestamp: 9, value: -inf},
	}
	for i := range int64(300) {
		value := math.Sin(float64(i)) / 3
		if i%7 == 0 {
			value = []float64{math.NaN(), inf, -inf}[i%3]
		}
		if i >= 100 && i < 150 {
			value = math.NaN() // whole columns of it
		}
		points = append(points, point{key: "loss", step: i*i - 100, timestamp: 1_700_000_000_000 + i, value: value},
			point{key: "epoch", step: i*i - 100, timestamp: 7, value: float64(i) / 10})
	}
	f.insertPoints(run.id, points...)
	for _, axis := range []map[string]any{{"axis": "step"}, {"axis": "time"}, {"axis": "relative_time"}, {"axis": "metric", "metric_key": "epoch"}} {
		for _, columns := range []int{1, 30, 4000} {
			for _, smoothing := range []any{nil, map[string]any{"method": "ema", "weight": 0.6}, map[string]any{"method": "mean", "points": 3}} {
				body := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss", "short"}, "columns": columns, "x": axis, "smoothing": smoothing}
				f.sameInBoth(t, body)
			}
		}
	}
	// No series has a point there.
	none := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "range": map[string]any{"from": -9000, "to": -8000}}
	if got := f.sameInBoth(t, none); len(got.series) != 0 || got.schema.NumFields() == 0 {
		t.Errorf("%+v", got)
	}
}

// A long answer is more than one batch.
func TestArrowComesInBatches(t *testing.T) {
	f := newFixture(t)
	f.project()
	var ids []string
	for range 5 {
		id := f.longSeries("loss", 10_000)
		f.insert(testRun{id: id, experiment: 1, metrics: []point{{key: "loss"}}})
		ids = append(ids, id)
	}
	got := f.sameInBoth(t, map[string]any{"run_ids": ids, "metric_keys": []string{"loss"}, "columns": 4000})
	if got.batches != 3 {
		t.Errorf("%d batches of 5 series", got.batches)
	}
}

func TestArrowSaysUnits(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})[0]
	f.insertPoints(run.id, point{key: "loss"})
	for axis, want := range map[string][2]string{
		"step": {"int64", "steps"}, "time": {"int64", "milliseconds"}, "relative_time": {"int64", "milliseconds"}, "metric": {"float64", ""},
	} {
		x := map[string]any{"axis": axis}
		if axis == "metric" {
			x["metric_key"] = "loss"
		}
		got := readArrow(t, f.postArrow(map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "x": x}, mimeArrow))
		for _, name := range []string{"x", "first_x", "last_x", "min_x", "max_x"} {
			field := got.schema.Field(slices.IndexFunc(got.schema.Fields(), func(f arrow.Field) bool { return f.Name == name }))
			unit, _ := field.Metadata.GetValue("unit")
			if of := field.Type.(*arrow.ListType).Elem().String(); of != want[0] || unit != want[1] {
				t.Errorf("over %s, %s is of %s in %q, want %s in %q", axis, name, of, unit, want[0], want[1])
			}
		}
	}
}

func TestWhoGetsArrow(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})[0]
	f.insertPoints(run.id, point{key: "loss"})
	body := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}}
	for accept, want := range map[string]string{
		"":                                    "application/json",
		"*/*":                                 "application/json",
		"text/html":                           "application/json",
		"no media type,,;":                    "application/json",
		mimeArrow:                             mimeArrow,
		"Application/Vnd.Apache.Arrow.Stream": mimeArrow,
		"text/html, " + mimeArrow + ";q=0.5, */*":        mimeArrow,
		mimeArrow + ";q=0":                               "application/json",
		mimeArrow + ";q=x":                               "application/json",
		"application/json," + mimeArrow:                  mimeArrow,
		"application/json," + mimeArrow + ";q=0.9":       "application/json",
		"application/json;q=0.1," + mimeArrow + ";q=0.2": mimeArrow,
	} {
		w := f.postArrow(body, accept)
		if got := w.Header().Get("Content-Type"); w.Code != http.StatusOK || got != want || w.Header().Get("Vary") != "Accept" {
			t.Errorf("Accept: %s: status %d, %s, Vary: %s; want %s", accept, w.Code, got, w.Header().Get("Vary"), want)
		}
	}
	// An error is JSON for everyone.
	body["columns"] = 0
	wantError(t, f.postArrow(body, mimeArrow), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid value for field 'columns'")
	body["columns"], body["metric_keys"] = 1, []string{"none"}
	wantError(t, f.postArrow(body, mimeArrow), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "None of the runs has a metric 'none'")
}
