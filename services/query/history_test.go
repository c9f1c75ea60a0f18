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

func (f *fixture) history(runID, key string, pageSize int) (points []wireMetric, pages int) {
	f.t.Helper()
	args := []string{"run_id", runID, "run_uuid", runID, "metric_key", key}
	if pageSize > 0 {
		args = append(args, "max_results", strconv.Itoa(pageSize))
	}
	token := ""
	for {
		page := decode[wireHistory](f.t, f.get("/metrics/get-history", append(slices.Clip(args), "page_token", token)...))
		points = append(points, page.Metrics...)
		pages++
		if token = page.NextPageToken; token == "" {
			return points, pages
		}
		if pages == maxPages {
			f.t.Fatalf("more than %d pages of %s", maxPages, key)
		}
	}
}

func TestMetricHistory(t *testing.T) {
	f := newFixture(t)
	f.project()
	nan := math.NaN()
	run := newRunID()
	f.insertPoints(run,
		point{"loss", 3, 20, -5}, point{"loss", nan, 10, 1}, point{"loss", inf, 10, 1}, point{"loss", -inf, 10, 1}, point{"loss", 2, 10, 1},
		point{"loss", 1, 10, 1}, point{"loss", 1, 10, 0}, point{"loss", 0, 10, math.MinInt64}, point{"loss", 5, 5, math.MaxInt64},
		point{"loss", math.SmallestNonzeroFloat64, 10, 1}, point{"other", 1, 1, 1})
	// Points that are logged again change nothing.
	f.insertPoints(run, point{"loss", nan, 10, 1}, point{"loss", 2, 10, 1}, point{"loss", math.Copysign(0, -1), 10, math.MinInt64})

	want := []string{
		"5/" + strconv.Itoa(math.MaxInt64) + "/5", "10/" + strconv.Itoa(math.MinInt64) + "/0", "10/0/1", "10/1/-Inf", "10/1/5e-324", "10/1/1",
		"10/1/2", "10/1/+Inf", "10/1/NaN", "20/-5/3",
	}
	for _, size := range []int{0, 1, 2, 3, 9, 10, 11, 25000, math.MaxInt} {
		points, pages := f.history(run, "loss", size)
		var got []string
		for _, p := range points {
			got = append(got, strconv.FormatInt(p.Timestamp, 10)+"/"+strconv.FormatInt(p.Step, 10)+"/"+strconv.FormatFloat(float64(p.Value), 'g', -1, 64))
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d:\ngot  %v\nwant %v", size, got, want)
		}
		wantPages := 1
		if size > 0 && size < len(want) {
			wantPages = (len(want) + size - 1) / size
		}
		if pages != wantPages {
			t.Errorf("%d pages of %d, want %d", pages, size, wantPages)
		}
	}
	for _, args := range [][]string{
		{"run_id", newRunID(), "metric_key", "loss"},
		{"run_id", run, "metric_key", "nope"},
		{"run_id", "x", "metric_key", "loss"},
		{"run_id", run, "metric_key", "' OR 1=1 --"},
	} {
		if w := f.get("/metrics/get-history", args...); w.Code != http.StatusOK || strings.TrimSpace(w.Body.String()) != "{}" {
			t.Errorf("%v: %d %s", args, w.Code, w.Body)
		}
	}
}

func TestMetricHistoryRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := newRunID()
	f.insertPoints(run, point{"a", 1, 1, 1}, point{"a", 2, 2, 2}, point{"b", 1, 1, 1})
	first := decode[wireHistory](t, f.get("/metrics/get-history", "run_id", run, "metric_key", "a", "max_results", "1"))
	for _, c := range []struct {
		message string
		args    []string
	}{
		{"Missing value for required parameter 'run_id'.", nil},
		{"Missing value for required parameter 'metric_key'.", []string{"run_id", run}},
		{"Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer.", []string{"run_id", run, "metric_key", "a", "max_results", "0"}},
		{"Invalid page token, could not base64-decode", []string{"run_id", run, "metric_key", "a", "page_token", "abc"}},
		{"Invalid page token, parsed value=", []string{"run_id", run, "metric_key", "b", "page_token", first.NextPageToken}},
		{"Invalid page token, parsed value=", []string{"run_id", newRunID(), "metric_key", "a", "page_token", first.NextPageToken}},
	} {
		wantError(t, f.get("/metrics/get-history", c.args...), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.message)
	}
}

// Any history comes back whole and in order, whatever the size of the pages.
func TestMetricHistoryPages(t *testing.T) {
	f := newFixture(t)
	f.project()
	few := rapid.SampledFrom([]float64{0, 1, -1, math.NaN(), inf, -inf, 0.1, 0.1 + 1e-17, math.MaxFloat64})
	proptest.Check(t, func(t *rapid.T) {
		run := newRunID()
		points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) point {
			return point{"k", few.Draw(t, "value"), rapid.Int64Range(0, 3).Draw(t, "timestamp"), rapid.Int64Range(-2, 2).Draw(t, "step")}
		}), 1, 40).Draw(t, "points")
		f.insertPoints(run, points...)
		slices.SortFunc(points, comparePoints)
		points = slices.CompactFunc(points, func(a, b point) bool { return comparePoints(a, b) == 0 })
		got, _ := f.history(run, "k", rapid.IntRange(0, 9).Draw(t, "page"))
		if !slices.EqualFunc(got, points, func(w wireMetric, p point) bool {
			return comparePoints(point{"k", float64(w.Value), w.Timestamp, w.Step}, p) == 0
		}) {
			t.Fatalf("got %v, want %v", got, points)
		}
	})
}

// A history of any length comes whole, in one answer if that is asked for.
func TestMetricHistoryOfALongSeries(t *testing.T) {
	f := newFixture(t, func(c *query.Config) { c.MaxMemory = 128 << 20 })
	f.project()
	const points = 700_001
	run := f.longSeries("loss", points)
	for _, limit := range []int{0, 510_000} {
		want := points
		args := []string{"run_id", run, "metric_key", "loss"}
		if limit > 0 {
			want = limit
			args = append(args, "max_results", strconv.Itoa(limit))
		}
		page := decode[wireHistory](t, f.get("/metrics/get-history", args...))
		if len(page.Metrics) != want || (page.NextPageToken != "") != (limit > 0) {
			t.Fatalf("limit %d: %d points, next page %q", limit, len(page.Metrics), page.NextPageToken)
		}
		for i, m := range page.Metrics {
			if m.Step != int64(i) || m.Timestamp != historyStart+int64(i)*10 {
				t.Fatalf("limit %d: point %d is %v", limit, i, m)
			}
		}
	}
}
