package query_test

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"testing"
)

type wireCurves struct {
	Curves []struct {
		Group     []*string
		MetricKey string `json:"metric_key"`
		Runs      int
		Column    []int
		Count     []int
		Mean      []wireNumber
		Std       []*wireNumber
		Min, Max  []wireNumber
		Quantiles [][]wireNumber
	}
	Frame struct {
		From, To int64
		Columns  int
		Width    int64 `json:"column_width"`
		MoreRuns bool  `json:"more_runs"`
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*max(1, math.Abs(a), math.Abs(b)) }

func textOf(values []*string) string {
	s := ""
	for _, v := range values {
		if v == nil {
			s += "-,"
		} else {
			s += *v + ","
		}
	}
	return s
}

// sweepOf writes runs with random histories: NaN, steps with several points, and
// runs that lack a parameter or end early.
func sweepOf(f *fixture, n int) ([]testRun, map[string][]point) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var runs []testRun
	points := make(map[string][]point)
	for i := range n {
		r := testRun{experiment: 1, name: fmt.Sprint("run-", i), start: int64(n - i), params: map[string]string{"depth": fmt.Sprint(8 + i%3)}, tags: map[string]string{"team": "t"}}
		if i%5 != 0 {
			r.params["lr"] = []string{"0.1", "0.02", "auto"}[i%3]
		}
		r = r.withDefaults()
		var own []point
		for step := range 20 + rnd.IntN(60) {
			for again := range 1 + step%7/6 {
				p := point{key: "loss", step: int64(step), timestamp: int64(1000*i + 10*step + again), value: rnd.NormFloat64()*3 + float64(step)}
				if rnd.IntN(15) == 0 {
					p.value = math.NaN()
				}
				own = append(own, p)
			}
		}
		r.metrics = []point{own[len(own)-1]}
		runs, points[r.id] = append(runs, r), own
	}
	runs = f.insert(runs...)
	for id, own := range points {
		f.insertPoints(id, own...)
	}
	return runs, points
}

// quantile is NumPy's default: linear between the two nearest.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func TestSweepCurvesAreWhatTheirPointsSay(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs, points := sweepOf(f, 23)
	levels := []float64{0, 0.1, 0.5, 0.9}
	for _, c := range []struct {
		columns  int
		from, to *int64
	}{{columns: 7}, {columns: 200}, {columns: 5, from: new(int64(10)), to: new(int64(31))}, {columns: 1}} {
		span := map[string]any{}
		if c.from != nil {
			span["from"], span["to"] = *c.from, *c.to
		}
		got := decode[wireCurves](t, f.postV1("/sweeps/curves", map[string]any{
			"experiment_ids": []string{"1"}, "metric_keys": []string{"loss"}, "group_by": []string{"params.lr", "params.depth"},
			"columns": c.columns, "quantiles": levels, "range": span,
		}))
		// Independently: what each run has in a column, by group.
		type cell struct {
			group  string
			column int
		}
		want := make(map[cell][]float64)
		size := make(map[string]int)
		for _, r := range runs {
			lr, ok := r.params["lr"]
			if !ok {
				lr = "-"
			}
			group := lr + "," + r.params["depth"] + ","
			size[group]++
			byColumn := make(map[int][]float64)
			for _, p := range points[r.id] {
				if !math.IsNaN(p.value) && p.step >= got.Frame.From && p.step <= got.Frame.To {
					column := int((p.step - got.Frame.From) / got.Frame.Width)
					byColumn[column] = append(byColumn[column], p.value)
				}
			}
			for column, values := range byColumn {
				sum := 0.0
				for _, v := range values {
					sum += v
				}
				want[cell{group, column}] = append(want[cell{group, column}], sum/float64(len(values)))
			}
		}
		seen := 0
		var order []string
		for _, curve := range got.Curves {
			group := textOf(curve.Group)
			order = append(order, group)
			if curve.Runs != size[group] {
				t.Errorf("group %s has %d runs, want %d", group, curve.Runs, size[group])
			}
			for i, column := range curve.Column {
				values := slices.Sorted(slices.Values(want[cell{group, column}]))
				seen++
				if len(values) == 0 || curve.Count[i] != len(values) {
					t.Fatalf("%s column %d: %d runs, want %d", group, column, curve.Count[i], len(values))
				}
				mean, squares := 0.0, 0.0
				for _, v := range values {
					mean += v / float64(len(values))
				}
				for _, v := range values {
					squares += (v - mean) * (v - mean)
				}
				ok := near(float64(curve.Mean[i]), mean) && near(float64(curve.Min[i]), values[0]) && near(float64(curve.Max[i]), values[len(values)-1])
				if len(values) == 1 {
					ok = ok && curve.Std[i] == nil
				} else {
					ok = ok && curve.Std[i] != nil && near(float64(*curve.Std[i]), math.Sqrt(squares/float64(len(values)-1)))
				}
				for q, level := range levels {
					ok = ok && near(float64(curve.Quantiles[q][i]), quantile(values, level))
				}
				if !ok {
					t.Errorf("%s column %d: mean %v of %v to %v, want of %v", group, column, curve.Mean[i], curve.Min[i], curve.Max[i], values)
				}
			}
		}
		if seen != len(want) {
			t.Errorf("%d cells, want %d", seen, len(want))
		}
		// Numbers as numbers, then text, then what is missing.
		if want := []string{"0.02,9,", "0.1,8,", "auto,10,", "-,8,", "-,9,", "-,10,"}; !slices.Equal(order, want) {
			t.Errorf("groups %q, want %q", order, want)
		}
	}
}

type wireTop struct {
	Groups []struct {
		Group        []*string
		Runs, Ranked int
		Top          []struct {
			RunID     string `json:"run_id"`
			Value     float64
			Step      int64
			Timestamp int64
		}
	}
	MoreRuns bool `json:"more_runs"`
}

// reachedBy is what a run reached, by a walk over its points.
func reachedBy(points []point, at string, step int64) (best point, ok bool) {
	before := func(a, b point) int {
		return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.timestamp, b.timestamp))
	}
	for _, p := range points {
		if math.IsNaN(p.value) || at == "step" && p.step != step {
			continue
		}
		better := map[string]bool{
			"min": p.value < best.value || p.value == best.value && before(p, best) < 0, "max": p.value > best.value || p.value == best.value && before(p, best) < 0,
			"step": p.timestamp > best.timestamp,
		}[at]
		if !ok || better {
			best, ok = p, true
		}
	}
	return best, ok
}

func TestSweepTop(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs, points := sweepOf(f, 23)
	for _, at := range []string{"last", "min", "max", "step"} {
		for _, goal := range []string{"minimize", "maximize"} {
			objective := map[string]any{"metric_key": "loss", "at": at, "goal": goal}
			if at == "step" {
				objective["step"] = 33
			}
			got := decode[wireTop](t, f.postV1("/sweeps/top", map[string]any{"experiment_ids": []string{"1"}, "objective": objective, "group_by": []string{"params.depth"}, "k": 3}))
			if len(got.Groups) != 3 {
				t.Fatalf("%+v", got)
			}
			for i, g := range got.Groups {
				type ranked struct {
					id string
					p  point
				}
				var want []ranked
				for _, r := range runs {
					if r.params["depth"] != strconv.Itoa(8+i) {
						continue
					}
					p, ok := reachedBy(points[r.id], at, 33)
					if at == "last" {
						p = r.metrics[0]
						ok = !math.IsNaN(p.value)
					}
					if ok {
						want = append(want, ranked{r.id, p})
					}
				}
				slices.SortFunc(want, func(a, b ranked) int {
					if goal == "maximize" {
						a, b = b, a
					}
					return cmp.Compare(a.p.value, b.p.value)
				})
				if g.Ranked != len(want) || textOf(g.Group) != strconv.Itoa(8+i)+"," || len(g.Top) != min(3, len(want)) {
					t.Errorf("%s %s: %+v, want %d", at, goal, g, len(want))
					continue
				}
				for j, r := range g.Top {
					if w := want[j]; r.RunID != w.id || r.Value != w.p.value || r.Step != w.p.step || r.Timestamp != w.p.timestamp {
						t.Errorf("%s %s %d: %+v, want %+v", at, goal, j, r, w)
					}
				}
			}
		}
	}
	all := decode[wireTop](t, f.postV1("/sweeps/top", map[string]any{"experiment_ids": []string{"1"}, "objective": map[string]any{"metric_key": "loss"}}))
	if len(all.Groups) != 1 || len(all.Groups[0].Top) != 1 || all.Groups[0].Runs != 23 {
		t.Errorf("%+v", all)
	}
}

func TestSweepRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	f.insert(testRun{experiment: 1, metrics: []point{{key: "loss"}}})
	const in, loss = `{"experiment_ids":["1"],`, `"objective":{"metric_key":"loss"}`
	for _, c := range []struct{ path, body, want string }{
		{"curves", in + `"metric_keys":["loss"],"quantiles":[1.5]}`, "Invalid value for field 'quantiles.0': want 0 to 1"},
		{"curves", in + `"metric_keys":["loss"],"quantiles":[0,0,0,0,0,0,0,0,0,0]}`, "Invalid value for field 'quantiles': want at most 9"},
		{"curves", in + `"metric_keys":["loss"],"group_by":["lr"]}`, "Invalid value for field 'group_by.0': want params.<key> or tags.<key>"},
		{"curves", in + `"metric_keys":["loss"],"group_by":["params.a","params.a"]}`, "Invalid value for field 'group_by.1': it is there twice"},
		{"curves", in + `"metric_keys":["loss"],"smoothing":{"method":"ema","weight":0.5}}`, "Invalid value for field 'smoothing'"},
		{"curves", in + `"metric_keys":["loss"],"columns":4001}`, "Invalid value for field 'columns': want 1 to 4000"},
		{"curves", in + `"metric_keys":["loss"],"range":{"from":9223372036854775807,"to":-9223372036854775808}}`, "Invalid value for field 'range': from is after to"},
		{"top", in + `"objective":{}}`, "Invalid value for field 'objective.metric_key': name a metric"},
		{"top", in + `"objective":{"metric_key":"loss","at":"best"}}`, "Invalid value for field 'objective.at': want last, min, max or step"},
		{"top", in + `"objective":{"metric_key":"loss","at":"step"}}`, "Invalid value for field 'objective.step'"},
		{"top", in + `"objective":{"metric_key":"loss","goal":"up"}}`, "Invalid value for field 'objective.goal'"},
		{"top", in + loss + `,"k":101}`, "Invalid value for field 'k': want 1 to 100"},
		{"pareto", in + `"objectives":[{"metric_key":"loss"}]}`, "Invalid value for field 'objectives': want 2 to 8"},
		{"pareto", in + `"objectives":[{"metric_key":"loss"},{}]}`, "Invalid value for field 'objectives.1.metric_key'"},
		{"coordinates", in + `"dimensions":["x"]}`, "Invalid value for field 'dimensions.0'"},
		{"importance", in + loss + `,"attributes":["params."]}`, "Invalid value for field 'attributes.0'"},
		{"progress", `{` + loss + `}`, "Invalid value for field 'run_ids': name runs"},
	} {
		wantError(t, f.postV1("/sweeps/"+c.path, c.body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.want)
	}
	for path, body := range map[string]string{
		"curves": in + `"metric_keys":["none"]}`, "top": in + `"objective":{"metric_key":"none"}}`, "importance": in + `"objective":{"metric_key":"none"}}`,
		"pareto": in + `"objectives":[{"metric_key":"loss"},{"metric_key":"none"}]}`, "progress": in + `"objective":{"metric_key":"none","at":"min"}}`,
	} {
		wantError(t, f.postV1("/sweeps/"+path, body), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "None of the runs has a metric 'none'")
	}
}
