package query_test

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/runledger/runledger/pkg/filter"
	"github.com/runledger/runledger/pkg/proptest"
)

// comparePoints is the order of a history: NaN after every other value.
func comparePoints(a, b point) int {
	return cmp.Or(cmp.Compare(a.timestamp, b.timestamp), cmp.Compare(a.step, b.step), compareFloats(a.value, b.value))
}

func compareFloats(a, b float64) int {
	if math.IsNaN(a) || math.IsNaN(b) {
		return boolToInt(math.IsNaN(a)) - boolToInt(math.IsNaN(b))
	}
	return cmp.Compare(a, b)
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Lookup lets the filter package judge a run held in memory.
func (r testRun) Lookup(entity filter.Entity, key string) (filter.Value, bool) {
	switch entity {
	case filter.Metric:
		for _, m := range r.metrics {
			if m.key == key {
				return filter.FloatValue(m.value), true
			}
		}
		return filter.Value{}, false
	case filter.Param:
		v, ok := r.params[key]
		return filter.StringValue(v), ok
	case filter.Tag:
		v, ok := r.tags[key]
		return filter.StringValue(v), ok
	case filter.Dataset:
		return filter.Value{}, false
	}
	switch key {
	case "run_id":
		return filter.StringValue(r.id), true
	case "run_name":
		return filter.StringValue(r.name), true
	case "user_id":
		return filter.StringValue(r.user), true
	case "status":
		return filter.StringValue(r.status), true
	case "artifact_uri":
		return filter.StringValue(r.artifactURI), true
	case "start_time":
		return filter.IntValue(r.start), true
	case "end_time":
		return filter.IntValue(r.end), r.hasEnd()
	}
	panic("unknown attribute " + key)
}

// compareBy is the order of two runs by one clause: missing last, NaN before
// that, in both directions.
func compareBy(o filter.Order, a, b testRun) int {
	x, okX := a.Lookup(o.Entity, o.Key)
	y, okY := b.Lookup(o.Entity, o.Key)
	if !okX || !okY {
		return boolToInt(!okX) - boolToInt(!okY)
	}
	if nanX, nanY := math.IsNaN(x.Float), math.IsNaN(y.Float); nanX || nanY {
		return boolToInt(nanX) - boolToInt(nanY)
	}
	c := cmp.Or(cmp.Compare(x.Float, y.Float), cmp.Compare(x.Int, y.Int), strings.Compare(x.Str, y.Str))
	if o.Desc {
		return -c
	}
	return c
}

// naive is the answer of a search, worked out run by run.
func naive(runs []testRun, experiments []string, view string, expr filter.Expr, orders []filter.Order) []string {
	orders = append(slices.Clip(orders), filter.Order{Key: "start_time", Desc: true}, filter.Order{Key: "run_id"})
	var found []testRun
	for _, r := range runs {
		if slices.Contains(experiments, fmt.Sprint(r.experiment)) && (view == "ALL" || r.deleted == (view == "DELETED_ONLY")) && filter.Match(expr, r) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b testRun) int {
		for _, o := range orders {
			if c := compareBy(o, a, b); c != 0 {
				return c
			}
		}
		return 0
	})
	var ids []string
	for _, r := range found {
		ids = append(ids, r.id)
	}
	return ids
}

var (
	drawText = rapid.SampledFrom([]string{"", "a", "A", "ab", "aB", "b", `a\b`, "a%", "a_", "ä", "Ä", "äb", "日本", "a\nb", "10", "9", "%", `\`, "😀", "a b"})
	drawKey  = rapid.SampledFrom([]string{"k", "K", "a/b", "k.k", "ü"})
	drawReal = rapid.SampledFrom([]float64{0, math.Copysign(0, -1), 1, -1, 0.1, 0.1 + 1e-17, 0.30000000000000004, 1e300, 5e-324, math.NaN(), inf, -inf})
)

func drawRun(t *rapid.T) testRun {
	r := testRun{
		id:          newRunID(),
		experiment:  rapid.Uint64Range(1, 3).Draw(t, "experiment"),
		name:        drawText.Draw(t, "name"),
		user:        drawText.Draw(t, "user"),
		status:      rapid.SampledFrom([]string{"RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"}).Draw(t, "status"),
		start:       rapid.Int64Range(0, 3).Draw(t, "start"),
		end:         rapid.Int64Range(0, 3).Draw(t, "end"),
		ended:       rapid.Bool().Draw(t, "ended"),
		artifactURI: drawText.Draw(t, "uri"),
		deleted:     rapid.IntRange(0, 4).Draw(t, "deleted") == 0,
		params:      rapid.MapOfN(drawKey, drawText, 0, 4).Draw(t, "params"),
		tags:        rapid.MapOfN(drawKey, drawText, 0, 4).Draw(t, "tags"),
	}
	metrics := rapid.MapOfN(drawKey, drawReal, 0, 4).Draw(t, "metrics")
	for _, key := range slices.Sorted(maps.Keys(metrics)) {
		r.metrics = append(r.metrics, point{key: key, value: metrics[key], timestamp: 1, step: 1})
	}
	return r
}

func drawComparison(t *rapid.T, runs []testRun) string {
	key := "`" + drawKey.Draw(t, "key") + "`"
	number := rapid.SampledFrom([]string{" = ", " != ", " < ", " <= ", " > ", " >= "})
	literal := rapid.SampledFrom([]string{"0", "1", "-1", "0.1", "0.30000000000000004", "1e300", "1e999", "-1e999", "2", "5e-324"})
	text := func() string {
		op := rapid.SampledFrom([]string{" = ", " != ", " LIKE ", " ILIKE "}).Draw(t, "op")
		return op + `"` + pattern(t) + `"`
	}
	switch rapid.IntRange(0, 7).Draw(t, "kind") {
	case 0, 1:
		return "metrics." + key + number.Draw(t, "op") + literal.Draw(t, "value")
	case 2:
		return "params." + key + text()
	case 3:
		return "tags." + key + text()
	case 4:
		entity := rapid.SampledFrom([]string{"params.", "tags."}).Draw(t, "entity")
		return entity + key + rapid.SampledFrom([]string{" IS NULL", " IS NOT NULL"}).Draw(t, "null")
	case 5:
		name := rapid.SampledFrom([]string{"run_name", "user_id", "status", "artifact_uri", "run_id"}).Draw(t, "attribute")
		return "attributes." + name + text()
	case 6:
		name := rapid.SampledFrom([]string{"start_time", "end_time", "created"}).Draw(t, "attribute")
		return "attributes." + name + number.Draw(t, "op") + rapid.SampledFrom([]string{"0", "1", "2", "1.5", "2.0"}).Draw(t, "value")
	default:
		id := rapid.SampledFrom(runs).Draw(t, "run").id
		return "run_id " + rapid.SampledFrom([]string{"=", "!=", "LIKE"}).Draw(t, "op") + " '" + id + "'"
	}
}

// pattern is a text or an SQL pattern, without a quote.
func pattern(t *rapid.T) string {
	s := drawText.Draw(t, "text")
	s += rapid.SampledFrom([]string{"", "", "%", "_", "%b", "_b"}).Draw(t, "wildcard")
	// A backslash before the closing quote would be taken for its escape.
	return strings.TrimSuffix(s, `\`)
}

func drawOrders(t *rapid.T) []string {
	entity := rapid.SampledFrom([]string{"metrics.`k`", "metrics.`a/b`", "params.`k`", "tags.`K`", "start_time", "end_time", "status", "run_name", "run_id", "user_id"})
	var orders []string
	for _, e := range rapid.SliceOfNDistinct(entity, 0, 3, rapid.ID).Draw(t, "order") {
		orders = append(orders, e+rapid.SampledFrom([]string{"", " ASC", " DESC"}).Draw(t, "direction"))
	}
	return orders
}

// Any search of any runs finds, over any pages, what a naive evaluation finds.
func TestSearchRunsProperty(t *testing.T) {
	t.Attr("covers", "search-order")
	t.Attr("covers", "search-missing")
	f := newFixture(t)
	f.project()
	proptest.Check(t, func(t *rapid.T) {
		for _, table := range []string{"runs", "run_attributes", "latest_metrics"} {
			if err := f.conn.Exec(f.t.Context(), "TRUNCATE TABLE "+table); err != nil {
				t.Fatal(err)
			}
		}
		runs := rapid.SliceOfN(rapid.Custom(drawRun), 1, 25).Draw(t, "runs")
		// Two parts a table, the second with new rows of some runs of the first.
		half := len(runs) / 2
		old := slices.Clone(runs[:half])
		for i := range old {
			old[i].name, old[i].status, old[i].deleted = "old", "KILLED", !old[i].deleted
			old[i].metrics = slices.Clone(old[i].metrics)
			for j := range old[i].metrics {
				old[i].metrics[j].value = 7
			}
			old[i].params, old[i].tags = outdated(old[i].params), outdated(old[i].tags)
		}
		f.insertRows(old)
		f.insertRows(runs)
		for range 6 {
			var comparisons []string
			for range rapid.IntRange(0, 3).Draw(t, "comparisons") {
				comparisons = append(comparisons, drawComparison(t, runs))
			}
			text := strings.Join(comparisons, " AND ")
			expr, err := filter.ParseRuns(text)
			if err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			clauses := drawOrders(t)
			orders, err := filter.ParseRunOrder(clauses)
			if err != nil {
				t.Fatalf("%s: %v", clauses, err)
			}
			experiments := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"1", "2", "3", "4"}), 1, 4, rapid.ID).Draw(t, "experiments")
			view := rapid.SampledFrom([]string{"ACTIVE_ONLY", "DELETED_ONLY", "ALL"}).Draw(t, "view")
			got := f.searchAll(map[string]any{
				"experiment_ids": experiments, "filter": text, "order_by": clauses, "run_view_type": view,
				"max_results": rapid.IntRange(1, 30).Draw(t, "page"),
			})
			want := naive(runs, experiments, view, expr, orders)
			if !slices.Equal(got, want) {
				t.Fatalf("filter %q, order %q, view %s, experiments %v:\ngot  %v\nwant %v", text, clauses, view, experiments, got, want)
			}
		}
	})
}

// outdated returns other values of the same keys.
func outdated(values map[string]string) map[string]string {
	old := make(map[string]string, len(values))
	for key := range values {
		old[key] = "old"
	}
	return old
}

// Runs that are written while a client pages neither repeat nor hide one that
// was there at the first page.
func TestSearchRunsPagesWhileRunsAreWritten(t *testing.T) {
	t.Attr("covers", "search-paging")
	f := newFixture(t)
	f.project()
	proptest.Check(t, func(t *rapid.T) {
		if err := f.conn.Exec(f.t.Context(), "TRUNCATE TABLE runs"); err != nil {
			t.Fatal(err)
		}
		draw := func(n int) []testRun {
			runs := rapid.SliceOfN(rapid.Custom(drawRun), n, n).Draw(t, "runs")
			for i := range runs {
				runs[i].experiment, runs[i].deleted = 1, false
			}
			return runs
		}
		before := draw(12)
		f.insertRows(before)
		body := map[string]any{"experiment_ids": []string{"1"}, "order_by": drawOrders(t), "max_results": 4}
		seen := make(map[string]int)
		for range maxPages {
			page := decode[wireRuns](f.t, f.post("/runs/search", body))
			for _, id := range page.ids() {
				seen[id]++
			}
			if page.NextPageToken == "" {
				break
			}
			body["page_token"] = page.NextPageToken
			if len(seen) < 24 {
				f.insertRows(draw(2))
			}
		}
		for _, r := range before {
			if seen[r.id] != 1 {
				t.Fatalf("run %s was seen %d times, ordered by %v", r.id, seen[r.id], body["order_by"])
			}
		}
		for id, n := range seen {
			if n > 1 {
				t.Fatalf("run %s was seen %d times", id, n)
			}
		}
	})
}
