package query_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/proptest"
)

// wireSeries is a series of either form.
type wireSeries struct {
	RunID     string `json:"run_id"`
	MetricKey string `json:"metric_key"`
	Points    int
	X, Y      []json.RawMessage // of a raw one
	Column    []uint64
	Count     []int
	NaN       []int
	Infinity  []int
	NegInf    []int             `json:"negative_infinity"`
	FirstX    []json.RawMessage `json:"first_x"`
	First     []json.RawMessage
	LastX     []json.RawMessage `json:"last_x"`
	Last      []json.RawMessage
	MinX      []json.RawMessage `json:"min_x"`
	Min       []json.RawMessage
	MaxX      []json.RawMessage `json:"max_x"`
	Max       []json.RawMessage
	Mean      []json.RawMessage
	Smoothed  []json.RawMessage
}

type wireSeriesAnswer struct {
	Series []wireSeries
	Frame  struct {
		Axis     string
		From, To json.RawMessage
		Columns  int
		Width    uint64 `json:"column_width"`
		MoreRuns bool   `json:"more_runs"`
	}
}

func (f *fixture) postV1(path string, body any) *httptest.ResponseRecorder {
	f.t.Helper()
	text, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		if err != nil {
			f.t.Fatal(err)
		}
		text = string(b)
	}
	return f.do(httptest.NewRequest(http.MethodPost, "/api/v1"+path, strings.NewReader(text)))
}

func jsonNumber(v float64) string {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprintf("%q", map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0])
	}
	return string(b)
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }

// drawn is a point as it is drawn: x is an integer on an integral axis.
type drawn struct {
	x          *big.Float
	text       string // of x
	point      point
	wantColumn uint64
}

func drawnOrder(a, b drawn) int {
	value := func(v float64) float64 { return v }
	return cmp.Or(a.x.Cmp(b.x), cmp.Compare(a.point.step, b.point.step), cmp.Compare(a.point.timestamp, b.point.timestamp),
		cmp.Compare(b2i(math.IsNaN(a.point.value)), b2i(math.IsNaN(b.point.value))), cmp.Compare(value(a.point.value), value(b.point.value)))
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func exact(n int64) *big.Float { return new(big.Float).SetPrec(128).SetInt64(n) }

// A series by columns says exactly what a walk over its points says; a short one
// is the points themselves.
func TestSeriesSaysWhatItsPointsSay(t *testing.T) {
	f := newFixture(t)
	f.project()
	values := rapid.OneOf(rapid.SampledFrom([]float64{0, 1, -1, math.NaN(), math.Inf(1), math.Inf(-1), 1e300, 5e-324}), rapid.Float64Range(-10, 10))
	steps := rapid.OneOf(rapid.Int64Range(-5, 30), rapid.SampledFrom([]int64{math.MinInt64, math.MaxInt64, math.MaxInt64 - 1}), rapid.Int64Range(0, 2000))
	proptest.Check(t, func(rt *rapid.T) {
		runs := make([]testRun, rapid.SampledFrom([]int{1, 1, 2, 3}).Draw(rt, "runs"))
		for i := range runs {
			runs[i] = testRun{experiment: 1, start: rapid.Int64Range(0, 500).Draw(rt, "start")}
		}
		byRun := make(map[string][]point)
		narrow := rapid.Bool().Draw(rt, "narrow")
		lowest := rapid.SampledFrom([]int64{0, 0, math.MinInt64, math.MaxInt64 - 40}).Draw(rt, "lowest")
		for i := range runs {
			seen := map[string]bool{}
			n := rapid.IntRange(1, 60).Draw(rt, "points")
			var points []point
			for range n {
				p := point{key: "loss", value: values.Draw(rt, "value") + 0, timestamp: rapid.Int64Range(0, 1000).Draw(rt, "timestamp"), step: steps.Draw(rt, "step")}
				if narrow {
					p.step = lowest + rapid.Int64Range(0, 40).Draw(rt, "step")
				}
				if id := fmt.Sprint(p); !seen[id] {
					seen[id] = true
					points = append(points, p)
				}
			}
			runs[i].metrics = points[:1]
			runs[i] = runs[i].withDefaults()
			byRun[runs[i].id] = points
		}
		f.insert(runs...)
		for id, points := range byRun {
			// In parts that overlap, in the order in which they come.
			for part := range slices.Chunk(points, rapid.IntRange(1, 60).Draw(rt, "part")) {
				f.insertPoints(id, part...)
				if rapid.Bool().Draw(rt, "doubled") {
					f.insertPoints(id, part...) // by a second writer
				}
			}
		}
		columns := rapid.OneOf(rapid.IntRange(1, 12), rapid.IntRange(1, 2)).Draw(rt, "columns")
		axis := rapid.SampledFrom([]string{"step", "step", "time", "relative_time"}).Draw(rt, "axis")
		body := map[string]any{"metric_keys": []string{"loss"}, "columns": columns, "x": map[string]any{"axis": axis}}
		var ids []string
		for _, r := range runs {
			ids = append(ids, r.id)
		}
		body["run_ids"] = ids
		lo, hi := int64(math.MinInt64), int64(math.MaxInt64)
		if rapid.Bool().Draw(rt, "ranged") {
			lo = rapid.Int64Range(-10, 30).Draw(rt, "from")
			hi = lo + rapid.Int64Range(0, 600).Draw(rt, "length")
			body["range"] = map[string]any{"from": lo, "to": hi}
		}
		answer := decode[wireSeriesAnswer](t, f.postV1("/series", body))

		// What is expected, from the points.
		expected := make(map[string][]drawn)
		var least, most *big.Float
		for _, r := range runs {
			for _, p := range byRun[r.id] {
				x := map[string]int64{"step": p.step, "time": p.timestamp, "relative_time": p.timestamp - r.start}[axis]
				if x < lo || x > hi {
					continue
				}
				d := drawn{x: exact(x), text: fmt.Sprint(x), point: p}
				if least == nil || d.x.Cmp(least) < 0 {
					least = d.x
				}
				if most == nil || d.x.Cmp(most) > 0 {
					most = d.x
				}
				expected[r.id] = append(expected[r.id], d)
			}
		}
		if len(answer.Series) != len(expected) {
			rt.Fatalf("%d series, want %d: %v", len(answer.Series), len(expected), body)
		}
		if len(expected) == 0 {
			return
		}
		if _, ranged := body["range"]; ranged {
			least, most = exact(lo), exact(hi)
		}
		span := new(big.Float).Sub(most, least)
		if string(answer.Frame.From) != least.Text('f', 0) || string(answer.Frame.To) != most.Text('f', 0) {
			rt.Fatalf("from %s to %s, want %v to %v", answer.Frame.From, answer.Frame.To, least, most)
		}
		width := new(big.Int)
		span.Int(width)
		width.Div(width, big.NewInt(int64(columns))).Add(width, big.NewInt(1))
		for _, got := range answer.Series {
			points := expected[got.RunID]
			slices.SortFunc(points, drawnOrder)
			if got.Points != len(points) {
				rt.Fatalf("%d points, want %d", got.Points, len(points))
			}
			if len(points) <= 2*columns {
				checkRaw(rt, got, points)
				continue
			}
			for i := range points {
				offset, _ := new(big.Float).Sub(points[i].x, least).Int(nil)
				points[i].wantColumn = offset.Div(offset, width).Uint64()
			}
			checkColumns(rt, got, points)
		}
	})
}

func checkRaw(t *rapid.T, got wireSeries, points []drawn) {
	if len(got.X) != len(points) || len(got.Y) != len(points) || len(got.Column) != 0 {
		t.Fatalf("not the points themselves: %+v", got)
	}
	for i, p := range points {
		want := `"NaN"`
		if !math.IsNaN(p.point.value) {
			want = jsonNumber(p.point.value)
		}
		if string(got.X[i]) != p.text || !sameNumber(got.Y[i], want) {
			t.Fatalf("point %d is (%s, %s), want (%s, %s)", i, got.X[i], got.Y[i], p.text, want)
		}
	}
}

func sameNumber(got json.RawMessage, want string) bool {
	if string(got) == want {
		return true
	}
	var g, w float64
	return json.Unmarshal(got, &g) == nil && json.Unmarshal([]byte(want), &w) == nil && g == w
}

func checkColumns(t *rapid.T, got wireSeries, points []drawn) {
	var columns [][]drawn
	for _, p := range points {
		if n := len(columns); n == 0 || columns[n-1][0].wantColumn != p.wantColumn {
			columns = append(columns, nil)
		}
		columns[len(columns)-1] = append(columns[len(columns)-1], p)
	}
	if len(got.Column) != len(columns) {
		t.Fatalf("columns %v, want %d", got.Column, len(columns))
	}
	for i, c := range columns {
		var nan, inf, neg int
		var fin []drawn
		for _, p := range c {
			switch v := p.point.value; {
			case math.IsNaN(v):
				nan++
			case math.IsInf(v, 1):
				inf++
			case math.IsInf(v, -1):
				neg++
			default:
				fin = append(fin, p)
			}
		}
		if got.Column[i] != c[0].wantColumn || got.Count[i] != len(c) || got.NaN[i] != nan || got.Infinity[i] != inf || got.NegInf[i] != neg {
			t.Fatalf("column %d: %d with %d points, %d NaN, %d and %d infinities; want %d with %d, %d, %d, %d", i,
				got.Column[i], got.Count[i], got.NaN[i], got.Infinity[i], got.NegInf[i], c[0].wantColumn, len(c), nan, inf, neg)
		}
		if len(fin) == 0 {
			for _, field := range [][]json.RawMessage{got.FirstX, got.First, got.LastX, got.Last, got.MinX, got.Min, got.MaxX, got.Max, got.Mean} {
				if string(field[i]) != "null" {
					t.Fatalf("column %d has no finite value, and %s", i, field[i])
				}
			}
			continue
		}
		byValue := func(a, b drawn) int { return cmp.Compare(a.point.value, b.point.value) }
		lowest, highest := slices.MinFunc(fin, byValue), slices.MinFunc(fin, func(a, b drawn) int { return byValue(b, a) })
		for _, check := range []struct {
			name     string
			x, value json.RawMessage
			want     drawn
		}{
			{"first", got.FirstX[i], got.First[i], fin[0]},
			{"last", got.LastX[i], got.Last[i], fin[len(fin)-1]},
			{"min", got.MinX[i], got.Min[i], lowest},
			{"max", got.MaxX[i], got.Max[i], highest},
		} {
			if string(check.x) != check.want.text || !sameNumber(check.value, jsonNumber(check.want.point.value)) {
				t.Fatalf("column %d: %s is (%s, %s), want (%s, %v)", i, check.name, check.x, check.value, check.want.text, check.want.point.value)
			}
		}
		var sum, scale float64
		for _, p := range fin {
			sum += p.point.value / float64(len(fin))
			scale += math.Abs(p.point.value) / float64(len(fin))
		}
		var mean float64
		if err := json.Unmarshal(got.Mean[i], &mean); err != nil || math.Abs(mean-sum) > 1e-9*scale+1e-300 {
			t.Fatalf("column %d: mean %s, want %v", i, got.Mean[i], sum)
		}
	}
}

// A smoothed series is TensorBoard's, or the mean of the last points, at each
// point of a short series and at the end of each column of a long one, whatever
// part of it is looked at.
func TestSmoothedSeries(t *testing.T) {
	f := newFixture(t)
	f.project()
	const points = 3000
	run := testRun{experiment: 1}.withDefaults()
	var all []point
	for i := range points {
		p := point{key: "loss", step: int64(i), timestamp: int64(i), value: math.Sin(float64(i)/50) + float64(i%7)}
		if i%11 == 3 {
			p.value = math.NaN()
		}
		all = append(all, p)
	}
	run.metrics = all[:1]
	f.insert(run)
	f.insertPoints(run.id, all...)
	for _, weight := range []float64{0, 0.3, 0.6, 0.99, 0.9999} {
		// As TensorBoard does it, point by point.
		want := make([]float64, points)
		last, n := 0.0, 0.0
		for i, p := range all {
			want[i] = p.value
			if isFinite(p.value) {
				last = last*weight + (1-weight)*p.value
				n++
				debias := 1.0
				if weight != 1 {
					debias = 1 - math.Pow(weight, n)
				}
				want[i] = last / debias
			}
		}
		f.checkSmoothed(run.id, map[string]any{"method": "ema", "weight": weight}, want)
	}
	for _, size := range []int{1, 5, 100, 1000} {
		want := make([]float64, points)
		var seen []float64
		for i, p := range all {
			want[i] = p.value
			if isFinite(p.value) {
				seen = append(seen, p.value)
				sum := 0.0
				tail := seen[max(0, len(seen)-size):]
				for _, v := range tail {
					sum += v
				}
				want[i] = sum / float64(len(tail))
			}
		}
		f.checkSmoothed(run.id, map[string]any{"method": "mean", "points": size}, want)
	}
}

func (f *fixture) checkSmoothed(run string, smoothing map[string]any, want []float64) {
	f.t.Helper()
	for _, c := range []struct{ columns, from, to int }{{4000, 0, 2999}, {100, 0, 2999}, {37, 1234, 2500}, {1, 7, 9}} {
		body := map[string]any{
			"run_ids": []string{run}, "metric_keys": []string{"loss"}, "columns": c.columns, "smoothing": smoothing,
			"range": map[string]any{"from": c.from, "to": c.to},
		}
		got := decode[wireSeriesAnswer](f.t, f.postV1("/series", body)).Series[0]
		at := got.LastX
		if len(got.X) > 0 {
			at = got.X
		}
		if len(got.Smoothed) != len(at) || len(at) == 0 {
			f.t.Fatalf("%v: %d smoothed values at %d places", body, len(got.Smoothed), len(at))
		}
		for i := range at {
			var x int
			if err := json.Unmarshal(at[i], &x); err != nil {
				f.t.Fatal(err)
			}
			if !isFinite(want[x]) {
				continue
			}
			var value float64
			if err := json.Unmarshal(got.Smoothed[i], &value); err != nil || math.Abs(value-want[x]) > 1e-9*math.Max(1, math.Abs(want[x])) {
				f.t.Fatalf("%v: at %d it is %s, want %v", body, x, got.Smoothed[i], want[x])
			}
		}
	}
}

// raster is the pixels of a line.
type raster map[[2]int]bool

// line draws from one pixel to another as Bresenham does.
func (r raster) line(x0, y0, x1, y1 int) {
	dx, dy, sx, sy := max(x1-x0, x0-x1), -max(y1-y0, y0-y1), cmp.Compare(x1, x0), cmp.Compare(y1, y0)
	for e := dx + dy; ; {
		r[[2]int{x0, y0}] = true
		if x0 == x1 && y0 == y1 {
			return
		}
		if 2*e >= dy && x0 != x1 {
			e += dy
			x0 += sx
		} else {
			e += dx
			y0 += sy
		}
	}
}

func TestTimesBeyondInt64(t *testing.T) {
	f := newFixture(t)
	f.project()
	for _, c := range []struct {
		start, timestamp, want int64
	}{
		{1, math.MinInt64, math.MinInt64},
		{1, math.MinInt64 + 1, math.MinInt64},
		{1, math.MinInt64 + 2, math.MinInt64 + 1},
		{-1, math.MaxInt64, math.MaxInt64},
		{-1, math.MaxInt64 - 1, math.MaxInt64},
		{-2, math.MaxInt64 - 3, math.MaxInt64 - 1},
		{math.MinInt64, 0, math.MaxInt64},
		{math.MaxInt64, -2, math.MinInt64},
		{500, 700, 200},
	} {
		run := f.insert(testRun{experiment: 1, start: c.start, metrics: []point{{key: "loss"}}})[0]
		f.insertPoints(run.id, point{key: "loss", timestamp: c.timestamp})
		s := decode[wireSeriesAnswer](t, f.postV1("/series", map[string]any{
			"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "x": map[string]any{"axis": "relative_time"},
		})).Series[0]
		if got := fmt.Sprintf("%s", s.X); got != fmt.Sprintf("[%d]", c.want) {
			t.Errorf("%d since %d: %s, want %d", c.timestamp, c.start, got, c.want)
		}
	}
}

// A point that is there twice is one, also where a block of the answer ends between
// the two.
func TestPointsAtTheEndsOfBlocks(t *testing.T) {
	f := newFixture(t)
	f.project()
	const points = 70_000
	var ids []string
	for _, at := range []int{8192, 16384, 24576, 32768, 40960, 49152, 57344, 65409, 65505, 65536} {
		id := f.longSeries("loss", points)
		f.insert(testRun{id: id, experiment: 1, metrics: []point{{key: "loss"}}})
		// The two are in parts that stay apart, or one of them is gone.
		if err := f.conn.Exec(t.Context(), "INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx) SELECT run_id, key, step, timestamp, value, shard, seq, idx FROM metrics WHERE run_id = ? AND step = ?",
			testRun{id: id}.uuid(), at-1); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		body := map[string]any{"run_ids": []string{id}, "metric_keys": []string{"loss"}, "columns": 10}
		if s := decode[wireSeriesAnswer](t, f.postV1("/series", body)).Series[0]; s.Points != points {
			t.Errorf("%d points, want %d", s.Points, points)
		}
	}
}

// insertInParts writes the points of a series, of which any part may be rolled up.
func (f *fixture) insertInParts(t *rapid.T, run string, points []point) {
	for part := range slices.Chunk(points, rapid.IntRange((len(points)+2)/3, len(points)).Draw(t, "part")) {
		f.insertPoints(run, part...)
		if rapid.Bool().Draw(t, "doubled") {
			f.insertPoints(run, part[:1]...) // by a second writer
		}
		if rapid.Bool().Draw(t, "rolled up") {
			f.rollUp(run, part[0].key, rapid.IntRange(7, 50).Draw(t, "width"))
		}
	}
}

// What is drawn from blocks is what is drawn from points, on columns that begin
// with a block.
func TestSeriesOfBlocks(t *testing.T) {
	f := newFixture(t)
	f.project()
	fromBlocks := 0
	proptest.Check(t, func(rt *rapid.T) {
		run := testRun{experiment: 1}.withDefaults()
		value := rapid.OneOf(rapid.Float64Range(-10, 10), rapid.SampledFrom([]float64{math.NaN(), math.Inf(1), math.Inf(-1), 0, 7}))
		stride := rapid.SampledFrom([]int64{40, 3000, 1 << 50}).Draw(rt, "stride")
		first := rapid.SampledFrom([]int64{0, -3, -100 * stride, math.MinInt64, math.MaxInt64 - 400*stride}).Draw(rt, "first")
		seen := map[string]bool{}
		var points []point
		for range rapid.IntRange(50, 400).Draw(rt, "points") {
			p := point{
				key: "loss", step: first + rapid.Int64Range(0, 400).Draw(rt, "step")*stride + rapid.Int64Range(0, stride/40).Draw(rt, "off")/2,
				timestamp: rapid.Int64Range(0, 3).Draw(rt, "timestamp"), value: value.Draw(rt, "value") + 0, // -0 is 0
			}
			if id := fmt.Sprint(p); p.step >= first && !seen[id] {
				seen[id] = true
				points = append(points, p)
			}
		}
		run.metrics = points[:1]
		f.insert(run)
		f.insertInParts(rt, run.id, points)
		columns := rapid.IntRange(1, 20).Draw(rt, "columns")
		body := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "columns": columns}
		bounds := map[string]any{}
		least, most := int64(math.MinInt64), int64(math.MaxInt64)
		if rapid.Bool().Draw(rt, "from") {
			least = points[0].step
			bounds["from"] = least
		}
		if to := points[len(points)-1].step; to >= least && rapid.Bool().Draw(rt, "to") {
			most = to
			bounds["to"] = most
		}
		body["range"] = bounds
		answer := decode[wireSeriesAnswer](t, f.postV1("/series", body))
		var want []drawn
		lowest, highest := most, least
		for _, p := range points {
			if p.step >= least && p.step <= most {
				want = append(want, drawn{x: exact(p.step), text: fmt.Sprint(p.step), point: p})
				lowest, highest = min(lowest, p.step), max(highest, p.step)
			}
		}
		if bounds["from"] != nil {
			lowest = least
		}
		if bounds["to"] != nil {
			highest = most
		}
		slices.SortFunc(want, drawnOrder)
		got := answer.Series[0]
		if len(want) <= 2*columns {
			checkRaw(rt, got, want)
			return
		}
		var from, to int64
		if json.Unmarshal(answer.Frame.From, &from) != nil || json.Unmarshal(answer.Frame.To, &to) != nil {
			rt.Fatalf("the frame %+v", answer.Frame)
		}
		plain := (uint64(highest)-uint64(lowest))/uint64(columns) + 1
		width := answer.Frame.Width
		if to != highest || from > lowest || uint64(lowest)-uint64(from) >= plain/8+1 || width < plain || width-plain > plain/8+plain/8/uint64(columns)+1 {
			rt.Fatalf("columns of %d from %d to %d, for points from %d to %d and columns of %d", width, from, to, lowest, highest, plain)
		}
		if from != lowest || width != plain {
			fromBlocks++
		}
		for i, p := range want {
			want[i].wantColumn = (uint64(p.point.step) - uint64(from)) / width
		}
		if last := want[len(want)-1].wantColumn; last >= uint64(columns) {
			rt.Fatalf("column %d of %d", last, columns)
		}
		checkColumns(rt, got, want)
	})
	if fromBlocks == 0 {
		t.Error("no series was drawn from blocks")
	}
}

// The line through the columns has the pixels of the line through all points,
// spikes of one step included.
func TestColumnsHaveThePixelsOfThePoints(t *testing.T) {
	f := newFixture(t)
	f.project()
	const height = 60
	proptest.Check(t, func(rt *rapid.T) {
		run := testRun{experiment: 1}.withDefaults()
		columns := rapid.IntRange(1, 40).Draw(rt, "columns")
		n := rapid.IntRange(2*columns+1, 400).Draw(rt, "points")
		stepRange := rapid.SampledFrom([]int64{50, 1000, 1e15}).Draw(rt, "sparseness")
		byPoint := map[string]point{}
		for range n {
			p := point{key: "loss", step: rapid.Int64Range(-stepRange, stepRange).Draw(rt, "step"), timestamp: rapid.Int64Range(0, 3).Draw(rt, "timestamp"), value: rapid.Float64Range(0, 1).Draw(rt, "value")}
			if rapid.IntRange(0, 40).Draw(rt, "spike") == 0 {
				p.value = 50
			}
			byPoint[fmt.Sprint(p)] = p
		}
		var points []point
		for _, p := range byPoint {
			points = append(points, p)
		}
		run.metrics = points[:1]
		f.insert(run)
		f.insertInParts(rt, run.id, points)
		answer := decode[wireSeriesAnswer](t, f.postV1("/series", map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "columns": columns}))
		got := answer.Series[0]
		if len(points) <= 2*columns {
			return
		}
		slices.SortFunc(points, func(a, b point) int {
			return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.timestamp, b.timestamp), cmp.Compare(a.value, b.value))
		})
		lowest, highest := math.Inf(1), math.Inf(-1)
		for _, p := range points {
			lowest, highest = min(lowest, p.value), max(highest, p.value)
		}
		row := func(v float64) int { return int((v - lowest) / (highest - lowest + 1e-300) * (height - 1)) }
		var from int64
		if err := json.Unmarshal(answer.Frame.From, &from); err != nil {
			rt.Fatal(err)
		}
		column := func(step int64) int { return int(uint64(step-from) / answer.Frame.Width) }
		whole := raster{}
		for i := range points {
			p := points[max(0, i-1)]
			whole.line(column(p.step), row(p.value), column(points[i].step), row(points[i].value))
		}
		type vertex struct {
			step  int64
			order int
			value float64
		}
		var vertices []vertex
		for i := range got.Column {
			var at [4]vertex
			for j, field := range []struct{ x, value json.RawMessage }{
				{got.FirstX[i], got.First[i]}, {got.MinX[i], got.Min[i]}, {got.MaxX[i], got.Max[i]}, {got.LastX[i], got.Last[i]},
			} {
				if json.Unmarshal(field.x, &at[j].step) != nil || json.Unmarshal(field.value, &at[j].value) != nil {
					t.Fatalf("column %d: %s %s", i, field.x, field.value)
				}
				at[j].order = j
			}
			vertices = append(vertices, at[:]...)
		}
		drawn := raster{}
		for i, v := range vertices {
			u := vertices[max(0, i-1)]
			drawn.line(column(u.step), row(u.value), column(v.step), row(v.value))
		}
		if fmt.Sprint(drawn) != fmt.Sprint(whole) {
			rt.Fatalf("%d pixels of columns, %d of points", len(drawn), len(whole))
		}
	})
}

func TestSeriesOverAnotherMetric(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := testRun{experiment: 1}.withDefaults()
	var points []point
	for i := range 100 {
		points = append(points, point{key: "loss", step: int64(i), timestamp: int64(i), value: float64(i)})
		if i%2 == 0 {
			points = append(points, point{key: "epoch", step: int64(i), timestamp: 1, value: 9}, point{key: "epoch", step: int64(i), timestamp: 2, value: float64(-i) / 4})
		}
	}
	points = append(points, point{key: "epoch", step: 1, value: math.NaN()}, point{key: "epoch", step: 3, value: math.Inf(1)})
	run.metrics = []point{points[0], {key: "epoch"}}
	f.insert(run)
	f.insertPoints(run.id, points...)
	body := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "x": map[string]any{"axis": "metric", "metric_key": "epoch"}}
	got := decode[wireSeriesAnswer](t, f.postV1("/series", body))
	if s := got.Series[0]; len(s.X) != 50 || string(s.X[0]) != "-24.5" || string(s.Y[0]) != "98" || string(s.X[49]) != "0" || string(s.Y[49]) != "0" {
		t.Errorf("%+v", s)
	}
	body["columns"] = 4
	got = decode[wireSeriesAnswer](t, f.postV1("/series", body))
	s := got.Series[0]
	if fmt.Sprint(s.Column) != "[0 1 2 3]" || s.Points != 50 || fmt.Sprintf("%s", s.First) != "[98 72 48 24]" || fmt.Sprintf("%s", s.LastX) != "[-18.5 -12.5 -6.5 0]" {
		t.Errorf("%+v", s)
	}
	if _, ok := decode[struct{ Frame map[string]any }](t, f.postV1("/series", body)).Frame["column_width"]; ok {
		t.Error("the columns of a float axis have a width in integers")
	}
	if string(got.Frame.From) != "-24.5" || string(got.Frame.To) != "0" || got.Frame.Axis != "metric" {
		t.Errorf("%+v", got.Frame)
	}
}

func TestSeriesOfASearch(t *testing.T) {
	f := newFixture(t)
	f.project()
	var runs []testRun
	for i := range 5 {
		r := testRun{experiment: 7, start: int64(i), params: map[string]string{"lr": fmt.Sprint(i)}, metrics: []point{{key: "loss", value: float64(i)}}}
		runs = append(runs, r)
	}
	for _, r := range f.insert(runs...) {
		f.insertPoints(r.id, point{key: "loss", step: 1, value: 2})
	}
	body := map[string]any{"experiment_ids": []string{"7"}, "filter": "params.lr != '0'", "order_by": []string{"metrics.loss DESC"}, "max_runs": 3, "metric_keys": []string{"loss"}}
	got := decode[wireSeriesAnswer](t, f.postV1("/series", body))
	var ids []string
	for _, s := range got.Series {
		ids = append(ids, s.RunID)
	}
	want := []string{runs[4].id, runs[3].id, runs[2].id}
	slices.Sort(ids)
	slices.Sort(want)
	if !slices.Equal(ids, want) || !got.Frame.MoreRuns {
		t.Errorf("runs %v, want %v; more %v", ids, want, got.Frame.MoreRuns)
	}
	body["filter"] = "params.lr = 'none'"
	wantError(t, f.postV1("/series", body), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "The search finds no runs")
}

func TestSeriesRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})[0]
	f.insertPoints(run.id, point{key: "loss"})
	ids := `"run_ids":["` + run.id + `"]`
	for _, c := range []struct{ body, want string }{
		{``, "The request body is not valid JSON, at byte 0"},
		{`{"run_ids":`, "The request body is not valid JSON, at byte "},
		{`[]`, "The request body must be a JSON object."},
		{`{}`, "Invalid value for field 'run_ids': name runs"},
		{`{"runs":[]}`, "Unknown field 'runs' in the request body."},
		{`{"run_ids":"x"}`, "Invalid value for field 'run_ids': want a list."},
		{`{"run_ids":[1]}`, "Invalid value for field 'run_ids.0': want a string."},
		{`{` + ids + `,"filter":"x"}`, "Invalid value for field 'run_ids': it does not go with"},
		{`{` + ids + `}`, "Invalid value for field 'metric_keys': want 1 to 50 keys"},
		{`{` + ids + `,"metric_keys":[""]}`, "Invalid value for field 'metric_keys': a key is empty"},
		{`{` + ids + `,"metric_keys":["loss"],"columns":0}`, "Invalid value for field 'columns': want 1 to 4000"},
		{`{` + ids + `,"metric_keys":["loss"],"columns":4001}`, "Invalid value for field 'columns': want 1 to 4000"},
		{`{` + ids + `,"metric_keys":["loss"],"columns":1.5}`, "Invalid value for field 'columns': want an integer"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":2,"to":1}}`, "Invalid value for field 'range': from is after to"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":9223372036854775807,"to":9223372036854775806}}`, "Invalid value for field 'range': from is after to"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":9223372036854775808}}`, "Invalid value for field 'range.from': want an integer of 64 bits"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"to":1.5}}`, "Invalid value for field 'range.to': want an integer"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"to":"1"}}`, "Invalid value for field 'range.to': want "},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"epoch"}}`, "Invalid value for field 'x.axis': want step, time, relative_time or metric"},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"metric"}}`, "Invalid value for field 'x.metric_key'"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"ema"}}`, "Invalid value for field 'smoothing.weight'"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"ema","weight":1}}`, "Invalid value for field 'smoothing.weight'"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"mean","points":1001}}`, "Invalid value for field 'smoothing.points': want 1 to 1000"},
		{`{"experiment_ids":["1"],"max_runs":1001,"metric_keys":["loss"]}`, "Invalid value for field 'max_runs': want 1 to 1000"},
		{`{"experiment_ids":["1"],"filter":"x","metric_keys":["loss"]}`, "Invalid value for field 'filter': Invalid"},
		{`{"run_ids":["` + strings.Repeat("x", 1<<20) + `"]}`, "The request body must be at most 1048576 bytes."},
		{`{` + ids + `,"metric_keys":["loss"],"columns":-1}`, "Invalid value for field 'columns': want 1 to 4000"},
		{`{` + ids + `,"metric_keys":["loss"],"columns":99999999999999999999}`, "Invalid value for field 'columns': want an integer"},
		{`{` + ids + `,"metric_keys":["loss"],"columns":1,"columns":2}`, "The request body is not valid JSON, at byte "},
		{`{` + ids + `,"metric_keys":["loss"]} x`, "The request body is not valid JSON, at byte "},
		{`{` + ids + `,"metric_keys":["loss"` + strings.Repeat(`,"loss"`, 50) + `]}`, "Invalid value for field 'metric_keys': want 1 to 50 keys"},
		{`{` + ids + `,"metric_keys":["loss"],"range":5}`, "Invalid value for field 'range': want an object"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"form":1}}`, "Unknown field 'range.form' in the request body."},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":NaN}}`, "The request body is not valid JSON, at byte "},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":"NaN"}}`, "Invalid value for field 'range.from': want an integer of 64 bits"},
		{`{` + ids + `,"metric_keys":["loss"],"range":{"from":-9223372036854775809}}`, "Invalid value for field 'range.from': want an integer of 64 bits"},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"metric","metric_key":"loss"},"range":{"to":"NaN"}}`, "Invalid value for field 'range.to': want a number that a double can hold"},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"metric","metric_key":"loss"},"range":{"to":1e999}}`, "Invalid value for field 'range.to': want a number that a double can hold"},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"metric","metric_key":"loss"},"range":{"from":1e308,"to":-1e308}}`, "Invalid value for field 'range': from is after to"},
		{`{` + ids + `,"metric_keys":["loss"],"x":{"axis":"step","metric_key":"loss"}}`, "Invalid value for field 'x.metric_key'"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{}}`, "Invalid value for field 'smoothing.method': want ema or mean"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"ema","weight":"NaN"}}`, "Invalid value for field 'smoothing.weight': want a number"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"ema","weight":-0.1}}`, "Invalid value for field 'smoothing.weight': want a number from 0"},
		{`{` + ids + `,"metric_keys":["loss"],"smoothing":{"method":"mean","points":0}}`, "Invalid value for field 'smoothing.points': want 1 to 1000"},
		{`{"run_ids":["` + run.id + strings.Repeat(`","`+run.id, 1000) + `"],"metric_keys":["loss"]}`, "Invalid value for field 'run_ids': want at most 1000 runs"},
		{`{"experiment_ids":["1"],"max_runs":0,"metric_keys":["loss"]}`, "Invalid value for field 'max_runs': want 1 to 1000"},
		{`{"experiment_ids":["1.5"],"metric_keys":["loss"]}`, "Invalid value for field 'experiment_ids.0': Invalid experiment ID '1.5'"},
		{`{"experiment_ids":["1"],"order_by":["x"],"metric_keys":["loss"]}`, "Invalid value for field 'order_by': Invalid attribute key 'x'"},
		{`{"experiment_ids":["1"],"filter":"` + strings.Repeat("(", 1<<16+1) + `","metric_keys":["loss"]}`, "Invalid value for field 'filter': Invalid filter: 65537 bytes long, the limit is 65536"},
		{strings.Repeat("[", 100_000), "The request body must be a JSON object."},
	} {
		wantError(t, f.postV1("/series", c.body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.want)
	}
	long := strings.Repeat("k", 100_000)
	w := f.postV1("/series", `{`+ids+`,"metric_keys":["`+long+`"]}`)
	wantError(t, w, http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "None of the runs has a metric 'kkk")
	if w.Body.Len() > 1000 {
		t.Errorf("an answer of %d bytes to an unknown key", w.Body.Len())
	}
	wantError(t, f.postV1("/series", `{"run_ids":["\u0000"],"metric_keys":["loss"]}`), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Run with id=\x00 not found")
	wantError(t, f.postV1("/series", `{"experiment_ids":["77"],"metric_keys":["loss"]}`), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "The search finds no runs")
	wantError(t, f.postV1("/series", `{"run_ids":["x"],"metric_keys":["loss"]}`), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Run with id=x not found")
	wantError(t, f.postV1("/series", `{"run_ids":["`+newRunID()+`"],"metric_keys":["loss"]}`), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Run with id=")
	wantError(t, f.postV1("/series", `{`+ids+`,"metric_keys":["loss","none"]}`), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "None of the runs has a metric 'none'")
}

// The steps at both ends of int64 are found, by either end of a range too.
func TestSeriesAtTheEndsOfInt64(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})[0]
	f.insertPoints(run.id, point{key: "loss", step: math.MinInt64, value: 1}, point{key: "loss", value: 2}, point{key: "loss", step: math.MaxInt64, value: 3})
	for _, c := range []struct {
		from, to any
		columns  int
		want     string
	}{
		{nil, nil, 4000, "[1 2 3]"},
		{math.MinInt64, math.MaxInt64, 2, "[1 2 3]"},
		{math.MinInt64, math.MaxInt64, 1, "[1] to [3]"},
		{nil, nil, 1, "[1] to [3]"},
		{math.MaxInt64, nil, 4000, "[3]"},
		{math.MaxInt64, math.MaxInt64, 1, "[3]"},
		{nil, math.MinInt64, 1, "[1]"},
		{math.MinInt64, math.MaxInt64 - 1, 2, "[1 2]"},
	} {
		body := map[string]any{"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "columns": c.columns, "range": map[string]any{"from": c.from, "to": c.to}}
		s := decode[wireSeriesAnswer](t, f.postV1("/series", body)).Series[0]
		got := fmt.Sprintf("%s", s.Y)
		if len(s.Y) == 0 {
			got = fmt.Sprintf("%s to %s", s.First, s.Last)
		}
		if got != c.want {
			t.Errorf("from %v to %v by %d columns: %s, want %s", c.from, c.to, c.columns, got, c.want)
		}
	}
}

// Where there are no points, the frame still has the ends that were asked for.
func TestFrameOfNoPoints(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})[0]
	f.insertPoints(run.id, point{key: "loss", step: 3, value: 1}, point{key: "loss", step: 9, value: 2})
	for _, c := range []struct{ from, to, wantFrom, wantTo any }{
		{nil, -5, -5, -5},
		{12, nil, 12, 12},
		{4, 8, 4, 8},
		{-7, -5, -7, -5},
	} {
		answer := decode[wireSeriesAnswer](t, f.postV1("/series", map[string]any{
			"run_ids": []string{run.id}, "metric_keys": []string{"loss"}, "range": map[string]any{"from": c.from, "to": c.to},
		}))
		if len(answer.Series) > 0 {
			t.Errorf("from %v to %v: %d series", c.from, c.to, len(answer.Series))
		}
		if got, want := fmt.Sprintf("%s %s", answer.Frame.From, answer.Frame.To), fmt.Sprint(c.wantFrom, " ", c.wantTo); got != want {
			t.Errorf("from %v to %v: the frame is %s, want %s", c.from, c.to, got, want)
		}
	}
}

// More columns than an answer may have are refused, whatever they are of.
func TestSeriesOfTooManyColumns(t *testing.T) {
	f := newFixture(t)
	f.project()
	var keys []string
	var points []point
	for i := range 50 {
		keys = append(keys, fmt.Sprint("m", i))
		points = append(points, point{key: keys[i]})
	}
	var ids []string
	for range 11 {
		run := f.insert(testRun{experiment: 1, metrics: points})[0]
		f.insertPoints(run.id, points...)
		ids = append(ids, run.id)
	}
	body := map[string]any{"run_ids": ids, "metric_keys": keys, "columns": 4000}
	wantError(t, f.postV1("/series", body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE",
		"Invalid value for field 'columns': 550 series of 4000 columns are more than 2000000")
	body["run_ids"] = ids[1:]
	if got := decode[wireSeriesAnswer](t, f.postV1("/series", body)); len(got.Series) != 500 {
		t.Errorf("%d series", len(got.Series))
	}
}

// A filter that a million runs match gives so many of them as were asked for,
// and says that there are more.
func TestSeriesOfAMillionRuns(t *testing.T) {
	f := newFixture(t)
	f.project()
	manyRuns(f, 1, 1_000_000, 1)
	if err := f.conn.Exec(t.Context(), `INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx)
		SELECT run_id, key, step, timestamp, value, shard, seq, 0 FROM latest_metrics FINAL`); err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"experiment_ids": []string{"1"}, "metric_keys": []string{"m0"}, "filter": "params.p0 != 'x'", "order_by": []string{"metrics.m0 DESC"}}
	if got := decode[wireSeriesAnswer](t, f.postV1("/series", body)); len(got.Series) != 100 || !got.Frame.MoreRuns {
		t.Errorf("%d series, more %v", len(got.Series), got.Frame.MoreRuns)
	}
	body["max_runs"] = 3
	var want, values []float64
	if err := f.conn.QueryRow(t.Context(), "SELECT arraySlice(arrayReverseSort(groupArray(value)), 1, 3) FROM metrics").Scan(&want); err != nil {
		t.Fatal(err)
	}
	for _, s := range decode[wireSeriesAnswer](t, f.postV1("/series", body)).Series {
		var value float64
		if err := json.Unmarshal(s.Y[0], &value); err != nil {
			t.Fatal(err)
		}
		values = append(values, value)
	}
	slices.Sort(values)
	slices.Reverse(values)
	if !slices.Equal(values, want) {
		t.Errorf("the greatest are %v, want %v", values, want)
	}
	body["max_runs"] = 1001
	wantError(t, f.postV1("/series", body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", "Invalid value for field 'max_runs': want 1 to 1000")
}
