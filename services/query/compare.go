package query

import (
	"context"
	"encoding/hex"
	"math"
	"slices"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

// maxComparedRuns bounds the runs of a comparison.
const maxComparedRuns = 200

// compareRequest is the body of POST /api/v1/runs/compare.
type compareRequest struct {
	runSelection
	// DifferencesOnly leaves out what all runs have alike.
	DifferencesOnly bool `json:"differences_only"`
}

// comparedRun is a run of a comparison.
type comparedRun struct {
	RunID        string           `json:"run_id"`
	ExperimentID string           `json:"experiment_id"`
	RunName      string           `json:"run_name"`
	Status       mlflow.RunStatus `json:"status"`
	StartTime    int64            `json:"start_time"` // milliseconds since the Unix epoch
	EndTime      int64            `json:"end_time"`   // likewise, 0 while there is none
}

// comparison is the answer of POST /api/v1/runs/compare. Its size grows with
// what the runs have, not with runs times keys.
type comparison struct {
	Runs        []comparedRun `json:"runs"`
	MoreRuns    bool          `json:"more_runs"` // than max_runs
	Parameters  []compared    `json:"parameters"`
	Metrics     []compared    `json:"metrics"`     // the latest values
	Environment []compared    `json:"environment"` // the tags that say what ran where: source, commit, user
	Tags        []compared    `json:"tags"`        // all others
	Datasets    []compared    `json:"datasets"`    // the digests, by context and name
	Artifacts   []compared    `json:"artifacts"`   // the digests, by path
}

// compared is what the runs have under one key. They differ unless all of them
// have the same.
type compared struct {
	Key     string          `json:"key"`
	Differs bool            `json:"differs"`
	Values  []comparedValue `json:"values"` // a run that none of them names has none
}

// comparedValue is a value and the runs that have it, as places in the list of
// runs.
type comparedValue struct {
	Value any   `json:"value"`
	Size  int64 `json:"size,omitzero"` // of an artifact, in bytes
	Runs  []int `json:"runs"`
}

func (r *compareRequest) check() error {
	switch {
	case len(r.RunIDs) > maxComparedRuns:
		return httpapi.InvalidField("run_ids", "want at most %d runs", maxComparedRuns)
	case r.MaxRuns != nil && *r.MaxRuns > maxComparedRuns:
		return httpapi.InvalidField("max_runs", "want 1 to %d", maxComparedRuns)
	}
	return r.runSelection.check()
}

// compareRuns answers POST /api/v1/runs/compare.
func (s *Service) compareRuns(ec echo.Context) error {
	var req compareRequest
	runs, more, leave, err := s.decodeSelection(ec, &req)
	if err != nil {
		return err
	}
	defer leave()
	ctx := ec.Request().Context()
	answer := comparison{Runs: make([]comparedRun, len(runs)), MoreRuns: more}
	for i, r := range runs {
		answer.Runs[i] = comparedRun{r.info.RunID, r.info.ExperimentID, r.info.RunName, r.info.Status, r.info.StartTime, r.info.EndTime}
	}
	var full []mlflow.Run
	var tooMany bool
	artifacts := newComparer(len(runs))
	if len(runs) > 0 {
		if full, tooMany, err = s.fetch(ctx, runs); err != nil {
			return err
		}
		tooManyArtifacts, err := s.compareArtifacts(ctx, runs, artifacts)
		if err != nil {
			return err
		}
		if tooMany || tooManyArtifacts {
			return apierr.Errorf(apierr.InvalidParameterValue,
				"The runs have more than %d metrics, parameters and tags, %d data sets or %d artifacts: compare fewer runs", maxFetchedRows, maxFetchedDatasets, maxFetchedRows)
		}
	}
	params, metrics, environment, tags, datasets := newComparer(len(runs)), newComparer(len(runs)), newComparer(len(runs)), newComparer(len(runs)), newComparer(len(runs))
	for i, r := range full {
		for _, p := range r.Data.Params {
			params.add(p.Key, p.Value, comparedValue{Value: p.Value}, i)
		}
		for _, m := range r.Data.Metrics {
			metrics.add(m.Key, metricIdentity(m.Value), comparedValue{Value: number(m.Value)}, i)
		}
		for _, t := range r.Data.Tags {
			to := tags
			if isEnvironment(t.Key) {
				to = environment
			}
			to.add(t.Key, t.Value, comparedValue{Value: t.Value}, i)
		}
		if r.Inputs == nil {
			continue
		}
		for _, d := range r.Inputs.DatasetInputs {
			key := d.Dataset.Name
			for _, t := range d.Tags {
				if t.Key == mlflow.TagDatasetContext {
					key = t.Value + "/" + key
				}
			}
			datasets.add(key, d.Dataset.Digest, comparedValue{Value: d.Dataset.Digest}, i)
		}
	}
	only := req.DifferencesOnly
	answer.Parameters, answer.Metrics, answer.Environment = params.list(only), metrics.list(only), environment.list(only)
	answer.Tags, answer.Datasets, answer.Artifacts = tags.list(only), datasets.list(only), artifacts.list(only)
	return mlflow.WriteJSON(ec.Response(), answer)
}

// metricIdentity returns what equals that of another value if the two are the same
// number, or both no number.
func metricIdentity(v float64) any {
	if math.IsNaN(v) {
		return "NaN"
	}
	return v
}

// isEnvironment reports whether a tag is one of those that MLflow's client sets
// to say what ran, and who ran it.
func isEnvironment(tag string) bool {
	if tag == "mlflow.user" {
		return true
	}
	return slices.ContainsFunc([]string{"mlflow.source.", "mlflow.git.", "mlflow.project.", "mlflow.docker."}, func(prefix string) bool {
		return strings.HasPrefix(tag, prefix)
	})
}

// compareArtifacts adds the runs' own artifacts, and reports whether there are
// more than maxFetchedRows.
func (s *Service) compareArtifacts(ctx context.Context, runs []run, to *comparer) (tooMany bool, err error) {
	ids, index := make([]string, len(runs)), make(map[string]int, len(runs))
	for i, r := range runs {
		ids[i], index[r.info.RunID] = r.info.RunID, i
	}
	var st statement
	st.write("SELECT run_id, path, size, sha256 FROM artifacts FINAL WHERE run_id IN ", st.bind("Array(String)", ids), " AND model_id = ''")
	return s.db.some(ctx, &st, maxFetchedRows, func(scan func(...any) error) error {
		var id, path, sum string
		var size uint64
		if err := scan(&id, &path, &size, &sum); err != nil {
			return err
		}
		to.add(path, sum, comparedValue{Value: hex.EncodeToString([]byte(sum)), Size: int64(size)}, index[id])
		return nil
	})
}

// comparer gathers what runs have under keys.
type comparer struct {
	runs  int
	byKey map[string]map[any]*comparedValue // by what makes values the same
}

func newComparer(runs int) *comparer {
	return &comparer{runs: runs, byKey: make(map[string]map[any]*comparedValue)}
}

// add says that a run has a value, which is the same as others of its identity.
func (c *comparer) add(key string, identity any, value comparedValue, run int) {
	if c.byKey[key] == nil {
		c.byKey[key] = make(map[any]*comparedValue)
	}
	v := c.byKey[key][identity]
	if v == nil {
		v = &value
		c.byKey[key][identity] = v
	}
	if !slices.Contains(v.Runs, run) {
		v.Runs = append(v.Runs, run)
	}
}

// list returns the keys in order, each with its values in the order of the first
// run that has them.
func (c *comparer) list(differencesOnly bool) []compared {
	list := []compared{}
	for key, values := range c.byKey {
		k := compared{Key: key}
		for _, v := range values {
			slices.Sort(v.Runs)
			k.Differs = k.Differs || len(v.Runs) != c.runs
			k.Values = append(k.Values, *v)
		}
		if differencesOnly && !k.Differs {
			continue
		}
		slices.SortFunc(k.Values, func(a, b comparedValue) int { return slices.Compare(a.Runs, b.Runs) })
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b compared) int { return strings.Compare(a.Key, b.Key) })
	return list
}
