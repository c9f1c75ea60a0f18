package query_test

import (
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/proptest"
	"github.com/runledger/runledger/services/query"
)

type (
	wireRunMetric struct {
		wireMetric
		RunID string `json:"run_id"`
	}
	wireRunMetrics struct{ Metrics []wireRunMetric }
)

func (w wireRunMetrics) of(run string) (points []point) {
	for _, m := range w.Metrics {
		if m.RunID == run {
			points = append(points, point{m.Key, float64(m.Value), m.Timestamp, m.Step})
		}
	}
	return points
}

const (
	intervalPath = "/metrics/get-history-bulk-interval"
	bulkPath     = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
)

func (f *fixture) bulk(args ...string) (status int, body string) {
	w := f.do(f.request(bulkPath, args...))
	return w.Code, w.Body.String()
}

func byStep(a, b point) int {
	a.timestamp, a.step, b.timestamp, b.step = a.step, a.timestamp, b.step, b.timestamp
	return comparePoints(a, b)
}

// sample is what MLflow's SQL store does: the first row of each NTILE, and the
// last row in the place of the last one when the sample is full without it.
func sample(points []point, limit int) []point {
	if len(points) == 0 {
		return nil
	}
	var rows []point
	size, longer := len(points)/limit, len(points)%limit
	for at, part := 0, 0; part < limit && at < len(points); part++ {
		rows = append(rows, points[at])
		at += size
		if part < longer {
			at++
		}
	}
	if last := points[len(points)-1]; comparePoints(rows[len(rows)-1], last) != 0 {
		if len(rows) >= limit {
			rows[len(rows)-1] = last
		} else {
			rows = append(rows, last)
		}
	}
	return rows
}

func TestHistoryInterval(t *testing.T) {
	f := newFixture(t)
	f.project()
	few := rapid.SampledFrom([]float64{0, 1, -1, math.NaN(), inf, 0.1})
	proptest.Check(t, func(t *rapid.T) {
		runs := []string{newRunID(), newRunID(), newRunID()}
		points := map[string][]point{}
		for _, run := range runs[:2] {
			p := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) point {
				return point{"k", few.Draw(t, "value"), rapid.Int64Range(0, 3).Draw(t, "timestamp"), rapid.Int64Range(-9, 9).Draw(t, "step")}
			}), 1, 60).Draw(t, "points")
			f.insertPoints(run, p...)
			f.insertPoints(run, point{"other", 1, 1, 1}, p[0])
			slices.SortFunc(p, byStep)
			points[run] = slices.CompactFunc(p, func(a, b point) bool { return byStep(a, b) == 0 })
		}
		limit := rapid.IntRange(1, 70).Draw(t, "limit")
		args := []string{"metric_key", "k", "max_results", strconv.Itoa(limit), "run_ids", runs[0], "run_ids", runs[2], "run_ids", runs[1], "run_ids", "no-run"}
		from, to := int64(math.MinInt64), int64(math.MaxInt64)
		if rapid.Bool().Draw(t, "bounded") {
			from = rapid.Int64Range(-10, 5).Draw(t, "from")
			to = from + rapid.Int64Range(0, 9).Draw(t, "length")
			args = append(args, "start_step", strconv.FormatInt(from, 10), "end_step", strconv.FormatInt(to, 10))
		}
		got := decode[wireRunMetrics](f.t, f.get(intervalPath, args...))
		for _, run := range runs {
			want := sample(slices.DeleteFunc(slices.Clone(points[run]), func(p point) bool { return p.step < from || p.step > to }), limit)
			if !slices.EqualFunc(got.of(run), want, func(a, b point) bool { return comparePoints(a, b) == 0 }) {
				t.Fatalf("%d of %v:\ngot  %v\nwant %v", limit, points[run], got.of(run), want)
			}
		}
		if !slices.IsSortedFunc(got.Metrics, func(a, b wireRunMetric) int {
			return slices.Index(runs, a.RunID) - slices.Index(runs, b.RunID)
		}) {
			t.Fatalf("runs out of order: %v", got)
		}
	})
}

// A sample reaches over many blocks of the table, and parts of it, and does so in
// less memory than the points of the series would take.
func TestHistoryIntervalOfALongSeries(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.MaxMemory = 64 << 20 })
	f.project()
	const points = 5_300_001
	run := f.longSeries("loss", points)
	all := make([]point, points)
	for i := range all {
		all[i] = point{"loss", 0, historyStart + int64(i)*10, int64(i)}
	}
	for _, limit := range []int{1, 2, 7, 2500} {
		got := decode[wireRunMetrics](t, f.get(intervalPath, "run_ids", run, "metric_key", "loss", "max_results", strconv.Itoa(limit))).of(run)
		if !slices.EqualFunc(got, sample(all, limit), func(a, b point) bool { return a.step == b.step && a.timestamp == b.timestamp }) {
			t.Errorf("limit %d: %d points %.500v", limit, len(got), got)
		}
	}
}

func TestHistoryIntervalRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := newRunID()
	seeDocs := " See the API docs for more information about request parameters."
	many := []string{"metric_key", "k"}
	for range 101 {
		many = append(many, "run_ids", run)
	}
	if w := f.get(intervalPath, many[:202]...); w.Code != 200 || strings.TrimSpace(w.Body.String()) != "{}" {
		t.Errorf("100 runs: %d %s", w.Code, w.Body)
	}
	for _, c := range []struct {
		message string
		args    []string
	}{
		{"Missing value for required parameter 'run_ids'." + seeDocs, nil},
		{"Missing value for required parameter 'metric_key'." + seeDocs, []string{"run_ids", run}},
		{"GetMetricHistoryBulkInterval request must specify at most 100 run_ids. Received 101 run_ids." + seeDocs, many},
		{"max_results must be between 1 and 2500." + seeDocs, []string{"run_ids", run, "metric_key", "k", "max_results", "0"}},
		{"max_results must be between 1 and 2500." + seeDocs, []string{"run_ids", run, "metric_key", "k", "max_results", "2501"}},
		{`Invalid value "x" for parameter 'max_results' supplied:  Hint: Value was of type 'str'.` + seeDocs, []string{"run_ids", run, "metric_key", "k", "max_results", "x"}},
		{`Invalid value "x" for parameter 'start_step' supplied:  Hint: Value was of type 'str'.` + seeDocs, []string{"run_ids", run, "metric_key", "k", "start_step", "x"}},
		{"If either start step or end step are specified, both must be specified.", []string{"run_ids", run, "metric_key", "k", "start_step", "1"}},
		{"end_step must be greater than start_step. Found start_step=3 and end_step=2.", []string{"run_ids", run, "metric_key", "k", "start_step", "3", "end_step", "2"}},
	} {
		wantError(t, f.get(intervalPath, c.args...), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.message)
	}
}

func TestHistoryBulk(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := []string{newRunID(), newRunID()}
	slices.Sort(runs)
	f.insertPoints(runs[0], point{"a b", math.NaN(), 3, 0}, point{"a b", 1, 1, 7}, point{"other", 1, 1, 1})
	f.insertPoints(runs[1], point{"a b", -inf, 2, 0}, point{"a b", 0.5, 1, 0}, point{"a b", inf, 3, 0}, point{"a b", 1e16, 4, 0})
	line := func(run, value, timestamp, step string) string {
		return `{"key":"a b","run_id":"` + run + `","step":` + step + `,"timestamp":` + timestamp + `,"value":` + value + `}`
	}
	want := []string{
		line(runs[0], "1.0", "1", "7"), line(runs[0], "NaN", "3", "0"), line(runs[1], "0.5", "1", "0"), line(runs[1], "-Infinity", "2", "0"),
		line(runs[1], "Infinity", "3", "0"), line(runs[1], "1e+16", "4", "0"),
	}
	for _, c := range []struct {
		limit string
		n     int
	}{{"", 6}, {"0", 0}, {"1", 1}, {"2", 2}, {"3", 3}, {"6", 6}, {"99999999999", 6}} {
		args := []string{"run_id", runs[1], "run_id", runs[0], "run_id", runs[1], "run_id", "no-run", "metric_key", "a b"}
		if c.limit != "" {
			args = append(args, "max_results", c.limit)
		}
		if status, body := f.bulk(args...); status != 200 || body != `{"metrics":[`+strings.Join(want[:c.n], ",")+`]}` {
			t.Errorf("max_results %q: %d %s", c.limit, status, body)
		}
	}
	many := []string{"metric_key", "k"}
	for range 101 {
		many = append(many, "run_id", runs[0])
	}
	for _, c := range []struct {
		message string
		args    []string
	}{
		{"GetMetricHistoryBulk request must specify at least one run_id.", nil},
		{"GetMetricHistoryBulk request cannot specify more than 100 run_ids. Received 101 run_ids.", many},
		{"GetMetricHistoryBulk request must specify a metric_key.", []string{"run_id", runs[0]}},
		{"Invalid value -1 for parameter 'max_results' supplied. It must not be negative.", []string{"run_id", runs[0], "metric_key", "k", "max_results", "-1"}},
	} {
		wantError(t, f.do(f.request(bulkPath, c.args...)), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.message)
	}
}

// The bulk history is cut off where MLflow cuts it off.
func TestHistoryBulkIsBounded(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.longSeries("loss", 30_000)
	status, body := f.bulk("run_id", run, "metric_key", "loss")
	if n := strings.Count(body, "run_id"); status != 200 || n != 25_000 {
		t.Errorf("%d, %d points", status, n)
	}
}

// A page ends where it must, whatever timestamps have to do with steps.
func TestMetricHistoryWhereTimestampsDoNotGrowWithSteps(t *testing.T) {
	f := newFixture(t)
	f.project()
	const n = 60
	for name, timestamp := range map[string]func(i int64) int64{
		"falling":     func(i int64) int64 { return n - i },
		"the same":    func(int64) int64 { return 5 },
		"interleaved": func(i int64) int64 { return i/7 + i%7*n },
		"scattered":   func(i int64) int64 { return i * 37 % 23 },
		"outlier":     func(i int64) int64 { return i + n*max(0, 1-i) },
	} {
		run := newRunID()
		points := make([]point, n)
		for i := range points {
			points[i] = point{"k", float64(i % 3), timestamp(int64(i)), int64(i)}
		}
		f.insertPoints(run, points...)
		slices.SortFunc(points, comparePoints)
		for _, size := range []int{1, 4, 7, n - 1, n} {
			got, _ := f.history(run, "k", size)
			if !slices.EqualFunc(got, points, func(w wireMetric, p point) bool {
				return comparePoints(point{"k", float64(w.Value), w.Timestamp, w.Step}, p) == 0
			}) {
				t.Errorf("%s, pages of %d: got %v, want %v", name, size, got, points)
			}
		}
	}
}
