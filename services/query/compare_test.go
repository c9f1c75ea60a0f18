package query_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

type wireCompared []struct {
	Key     string
	Differs bool
	Values  []struct {
		Value any
		Size  int64
		Runs  []int
	}
}

type wireComparison struct {
	Runs []struct {
		RunID string `json:"run_id"`
	}
	MoreRuns                                                    bool `json:"more_runs"`
	Parameters, Metrics, Environment, Tags, Datasets, Artifacts wireCompared
}

// line is what a key has, as text.
func (c wireCompared) line(key string) string {
	for _, k := range c {
		if k.Key == key {
			s := fmt.Sprint(k.Differs)
			for _, v := range k.Values {
				s += fmt.Sprint(" ", v.Value, v.Runs)
			}
			return s
		}
	}
	return "none"
}

func TestCompareSaysWhatDiffers(t *testing.T) {
	f := newFixture(t)
	f.project()
	runs := f.insert(
		testRun{
			experiment: 1, params: map[string]string{"lr": "0.1", "depth": "3"}, tags: map[string]string{"mlflow.source.git.commit": "abc", "team": "x"},
			metrics: []point{{key: "loss", value: 1}, {key: "odd", value: math.NaN()}, {key: "zero"}},
		},
		testRun{
			experiment: 1, params: map[string]string{"lr": "0.2", "depth": "3"}, tags: map[string]string{"mlflow.source.git.commit": "def", "team": "x"},
			metrics: []point{{key: "loss", value: 2}, {key: "odd", value: math.NaN()}, {key: "zero", value: math.Copysign(0, -1)}},
		},
		testRun{experiment: 2, params: map[string]string{"lr": "0.1", "depth": "3", "extra": ""}, tags: map[string]string{"team": "x"}, metrics: []point{{key: "odd", value: math.NaN()}, {key: "zero"}}},
	)
	f.batch("INSERT INTO artifacts (run_id, model_id, store_path, path, size, sha256, content_type, actor, uploaded_at, deleted, shard, seq)", func(b driver.Batch) error {
		for i, r := range runs {
			for path, sum := range map[string]string{"same.txt": "s", "model.bin": string(rune('a' + i))} {
				if err := b.Append(r.id, "", "1/"+r.id+"/"+path, path, uint64(10), strings.Repeat(sum, 32), "", "", time.Now(), uint8(0), uint16(0), f.seq.Add(1)); err != nil {
					return err
				}
			}
		}
		return nil
	})
	f.batch("INSERT INTO run_datasets (experiment_id, run_id, name, digest, tags, shard, seq)", func(b driver.Batch) error {
		for i, r := range runs[:2] {
			if err := b.Append(r.experiment, r.uuid(), "iris", fmt.Sprint("d", i), map[string]string{"mlflow.data.context": "train"}, uint16(0), f.seq.Add(1)); err != nil {
				return err
			}
		}
		return nil
	})
	ids := []string{runs[0].id, runs[1].id, runs[2].id}
	got := decode[wireComparison](t, f.postV1("/runs/compare", map[string]any{"run_ids": ids}))
	for i, r := range got.Runs {
		if r.RunID != ids[i] {
			t.Errorf("run %d is %s", i, r.RunID)
		}
	}
	hexOf := func(c string) string { return strings.Repeat(fmt.Sprintf("%x", c), 32) }
	for _, c := range []struct {
		of        wireCompared
		key, want string
	}{
		{got.Parameters, "lr", "true 0.1 [0 2] 0.2 [1]"},
		{got.Parameters, "depth", "false 3 [0 1 2]"},
		{got.Parameters, "extra", "true  [2]"},
		{got.Metrics, "loss", "true 1 [0] 2 [1]"},
		{got.Metrics, "odd", "false NaN [0 1 2]"},
		{got.Metrics, "zero", "false 0 [0 1 2]"},
		{got.Environment, "mlflow.source.git.commit", "true abc [0] def [1]"},
		{got.Tags, "mlflow.source.git.commit", "none"},
		{got.Tags, "team", "false x [0 1 2]"},
		{got.Datasets, "train/iris", "true d0 [0] d1 [1]"},
		{got.Artifacts, "same.txt", "false " + hexOf("s") + " [0 1 2]"},
		{got.Artifacts, "model.bin", "true " + hexOf("a") + " [0] " + hexOf("b") + " [1] " + hexOf("c") + " [2]"},
	} {
		if line := strings.ReplaceAll(c.of.line(c.key), "[", " ["); strings.Join(strings.Fields(line), " ") != strings.Join(strings.Fields(c.want), " ") {
			t.Errorf("%s: %s, want %s", c.key, line, c.want)
		}
	}
	got = decode[wireComparison](t, f.postV1("/runs/compare", map[string]any{"run_ids": ids, "differences_only": true}))
	if len(got.Parameters) != 2 || len(got.Metrics) != 1 || len(got.Tags) != 0 || len(got.Artifacts) != 1 {
		t.Errorf("%+v", got)
	}
	got = decode[wireComparison](t, f.postV1("/runs/compare", map[string]any{"experiment_ids": []string{"1"}, "max_runs": 1}))
	if len(got.Runs) != 1 || !got.MoreRuns {
		t.Errorf("%+v", got)
	}
	got = decode[wireComparison](t, f.postV1("/runs/compare", map[string]any{"experiment_ids": []string{"3"}}))
	if len(got.Runs) != 0 || got.Parameters == nil {
		t.Errorf("%+v", got)
	}
}

func TestCompareRefuses(t *testing.T) {
	f := newFixture(t)
	f.project()
	many := make([]string, 201)
	for _, c := range []struct {
		body any
		want string
	}{
		{map[string]any{"run_ids": many}, "Invalid value for field 'run_ids': want at most 200 runs"},
		{map[string]any{"experiment_ids": []string{"1"}, "max_runs": 201}, "Invalid value for field 'max_runs': want 1 to 200"},
		{map[string]any{}, "Invalid value for field 'run_ids': name runs"},
		{map[string]any{"experiment_ids": []string{"1"}, "only": true}, "Unknown field 'only'"},
	} {
		wantError(t, f.postV1("/runs/compare", c.body), http.StatusBadRequest, "INVALID_PARAMETER_VALUE", c.want)
	}
	wantError(t, f.postV1("/runs/compare", map[string]any{"run_ids": []string{newRunID()}}), http.StatusNotFound, "RESOURCE_DOES_NOT_EXIST", "Run with id=")
}
