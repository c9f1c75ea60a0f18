package query_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"
)

type wireEffects struct {
	Effects []struct {
		Name                    string
		Runs, Numbers, Distinct int
		Pearson, Spearman       *float64
		Importance              *float64
	}
	Runs    int
	LeftOut int `json:"left_out"`
}

// The numbers are those of SciPy (pearsonr, spearmanr) and NumPy for these runs.
func TestSweepImportance(t *testing.T) {
	f := newFixture(t)
	f.project()
	var runs []testRun
	for i, y := range []float64{3.1, 2.9, 2.5, 2.6, 2.0, 1.7, 1.9, 1.2, 1.0, 1.1, 0.4, 0.7} {
		r := testRun{
			experiment: 1, metrics: []point{{key: "loss", value: y}},
			params: map[string]string{"lr": fmt.Sprint(float64(i+1) / 10), "tie": fmt.Sprint(i/2 + 1), "model": []string{"a", "b", "c"}[i%3], "same": "1", "id": fmt.Sprint("run", i)},
		}
		if i < 5 {
			r.params["optimizer"] = "x"
		} else if i >= 8 {
			r.params["optimizer"] = "y"
		}
		runs = append(runs, r)
	}
	runs = append(runs, testRun{experiment: 1, params: map[string]string{"lr": "9"}, metrics: []point{{key: "loss", value: math.NaN()}}}, testRun{experiment: 1})
	f.insert(runs...)
	got := decode[wireEffects](t, f.postV1("/sweeps/importance", map[string]any{"experiment_ids": []string{"1"}, "objective": map[string]any{"metric_key": "loss"}}))
	if got.Runs != 12 || got.LeftOut != 2 {
		t.Errorf("%+v", got)
	}
	text := func(v *float64) string {
		if v == nil {
			return "null"
		}
		return fmt.Sprintf("%.10f", *v)
	}
	var lines []string
	for _, e := range got.Effects {
		lines = append(lines, fmt.Sprint(e.Name, " ", e.Runs, " ", e.Numbers, " ", e.Distinct, " ", text(e.Pearson), " ", text(e.Spearman), " ", text(e.Importance)))
	}
	want := []string{
		"params.optimizer 9 0 2 null null 0.8224598250",
		"params.lr 12 12 12 -0.9750677998 -0.9720279720 0.6587112172",
		"params.tie 12 12 6 -0.9754476535 -0.9753198200 0.6587112172",
		"params.model 12 0 3 null null 0.0000000000",
		"params.id 12 0 12 null null null",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%q, want\n%q", lines, want)
	}
}

func TestSweepCoordinates(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := f.insert(
		testRun{experiment: 1, name: "a", params: map[string]string{"lr": "0.5", "model": "mlp", "same": "1"}, tags: map[string]string{"team": "x"}, metrics: []point{{key: "loss", value: 1}}},
		testRun{experiment: 1, name: "b", params: map[string]string{"lr": "0.25", "model": "3", "same": "1"}, metrics: []point{{key: "loss", value: math.Inf(1)}}},
		testRun{experiment: 1, name: "c", params: map[string]string{"model": "cnn", "same": "1"}, metrics: []point{{key: "loss", value: 3}}},
	)
	ids := []string{runs[0].id, runs[1].id, runs[2].id}
	type wire struct {
		Runs []struct {
			RunName string `json:"run_name"`
		}
		Dimensions []struct {
			Name, Kind string
			Categories []string
			Values     []*float64
		}
		Objectives []struct{ Values []*float64 }
	}
	show := func(values []*float64) string {
		s := ""
		for _, v := range values {
			if v == nil {
				s += "- "
			} else {
				s += fmt.Sprint(*v, " ")
			}
		}
		return s
	}
	got := decode[wire](t, f.postV1("/sweeps/coordinates", map[string]any{"run_ids": ids, "objectives": []any{map[string]any{"metric_key": "loss"}}}))
	if len(got.Runs) != 3 || got.Runs[2].RunName != "c" || len(got.Dimensions) != 2 {
		t.Fatalf("%+v", got)
	}
	if d := got.Dimensions[0]; d.Name != "params.lr" || d.Kind != "number" || show(d.Values) != "0.5 0.25 - " {
		t.Errorf("%+v %s", d, show(d.Values))
	}
	if d := got.Dimensions[1]; d.Kind != "text" || !slices.Equal(d.Categories, []string{"3", "cnn", "mlp"}) || show(d.Values) != "2 0 1 " {
		t.Errorf("%+v %s", d, show(d.Values))
	}
	if s := show(got.Objectives[0].Values); s != "1 - 3 " {
		t.Error(s)
	}
	got = decode[wire](t, f.postV1("/sweeps/coordinates", map[string]any{"run_ids": ids, "dimensions": []string{"tags.team", "params.same"}}))
	if len(got.Dimensions) != 2 || show(got.Dimensions[0].Values) != "0 - - " || show(got.Dimensions[1].Values) != "1 1 1 " {
		t.Errorf("%+v", got)
	}
}

func TestSweepParetoAndProgress(t *testing.T) {
	f := newFixture(t)
	f.project()
	rnd := rand.New(rand.NewPCG(3, 4))
	var runs []testRun
	for i := range 60 {
		at := int64(rnd.IntN(1000))
		r := testRun{experiment: 1, start: int64(i), metrics: []point{
			{key: "loss", value: float64(rnd.IntN(12)), timestamp: at}, {key: "accuracy", value: float64(rnd.IntN(12)), timestamp: at},
		}}
		if i%10 == 0 {
			r.metrics[1].value = math.NaN()
		}
		runs = append(runs, r)
	}
	runs = f.insert(runs...)
	got := decode[struct {
		Runs []struct {
			RunID  string `json:"run_id"`
			Values []float64
			Front  bool
		}
		LeftOut int `json:"left_out"`
	}](t, f.postV1("/sweeps/pareto", map[string]any{"experiment_ids": []string{"1"}, "objectives": []any{
		map[string]any{"metric_key": "loss"}, map[string]any{"metric_key": "accuracy", "goal": "maximize"},
	}}))
	if len(got.Runs) != 54 || got.LeftOut != 6 {
		t.Fatalf("%d runs, %d left out", len(got.Runs), got.LeftOut)
	}
	front := 0
	for _, r := range got.Runs {
		want := true
		for _, o := range runs {
			loss, accuracy := o.metrics[0].value, o.metrics[1].value
			if loss <= r.Values[0] && accuracy >= r.Values[1] && (loss < r.Values[0] || accuracy > r.Values[1]) {
				want = false
			}
		}
		if r.Front != want {
			t.Errorf("%+v: front %v", r, want)
		}
		front += b2i(r.Front)
	}
	if front == 0 || front == len(got.Runs) {
		t.Errorf("%d of the runs are in front", front)
	}

	progress := decode[struct {
		Best []struct {
			RunID     string `json:"run_id"`
			Value     float64
			Timestamp int64
		}
		Runs int
	}](t, f.postV1("/sweeps/progress", map[string]any{"experiment_ids": []string{"1"}, "objective": map[string]any{"metric_key": "loss"}}))
	if progress.Runs != 60 || len(progress.Best) == 0 {
		t.Fatalf("%+v", progress)
	}
	// At any time the last entry until then is the least value until then.
	for at := range int64(1000) {
		want, have := math.Inf(1), math.Inf(1)
		for _, r := range runs {
			if r.metrics[0].timestamp <= at {
				want = min(want, r.metrics[0].value)
			}
		}
		for _, b := range progress.Best {
			if b.Timestamp <= at {
				have = b.Value
			}
		}
		if have != want {
			t.Fatalf("at %d: %v, want %v", at, have, want)
		}
	}
}

// A selection that finds nothing, and places at the ends of what a step can be,
// are answered.
func TestSweepsAtTheEdges(t *testing.T) {
	f := newFixture(t)
	f.project()
	run := f.insert(testRun{experiment: 1, params: map[string]string{"lr": "1e400"}, metrics: []point{{key: "loss", value: 1e308}}})[0]
	f.insertPoints(run.id, point{key: "loss", step: math.MinInt64, value: -1e308}, point{key: "loss", step: math.MaxInt64, value: 1e308})
	for path, more := range map[string]map[string]any{
		"curves": {"metric_keys": []string{"loss"}}, "top": {"objective": map[string]any{"metric_key": "loss", "at": "max"}}, "coordinates": {},
		"importance": {"objective": map[string]any{"metric_key": "loss"}}, "progress": {"objective": map[string]any{"metric_key": "loss"}},
	} {
		more["run_ids"] = []string{run.id}
		if w := f.postV1("/sweeps/"+path, more); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
		delete(more, "run_ids")
		more["experiment_ids"] = []string{"77"}
		if w := f.postV1("/sweeps/"+path, more); w.Code != http.StatusOK && w.Code != http.StatusNotFound {
			t.Errorf("%s of no runs: %d %s", path, w.Code, w.Body)
		}
	}
}
