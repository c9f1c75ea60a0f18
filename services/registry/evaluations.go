package registry

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

const (
	maxEvaluations       = 500 // of a version
	maxEvaluationMetrics = 200
	// maxEvaluated bounds the figures of all evaluations of a version: each change of
	// a version writes the whole of it.
	maxEvaluated      = 10_000
	maxEvaluationText = 250 // bytes of a name
	maxCompared       = 100 // versions
)

// evaluationRequest is the body of POST …/evaluations.
type evaluationRequest struct {
	Name      string              `json:"name"`
	Metrics   map[string]*float64 `json:"metrics"` // nil is null, which is no number
	Dataset   evaluatedDataset    `json:"dataset"`
	Evaluator string              `json:"evaluator"` // the actor without it
	Comment   string              `json:"comment"`
}

type evaluatedDataset struct {
	Name   string `json:"name"`
	Digest string `json:"digest"`
}

// evaluationAnswer is an evaluation, as the API shows it.
type evaluationAnswer struct {
	Seq       uint64             `json:"seq"`  // of its entry
	Time      int64              `json:"time"` // milliseconds since the Unix epoch
	Name      string             `json:"name"`
	Metrics   map[string]float64 `json:"metrics"`
	Dataset   evaluatedDataset   `json:"dataset"`
	Evaluator string             `json:"evaluator"`
	Comment   string             `json:"comment"`
}

func showEvaluation(e catalog.Evaluation) evaluationAnswer {
	return evaluationAnswer{e.Seq, e.Time, e.Name, e.Metrics, evaluatedDataset{e.DatasetName, e.DatasetDigest}, e.Evaluator, e.Comment}
}

func (r *evaluationRequest) check() error {
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"name", r.Name, maxEvaluationText},
		{"dataset.name", r.Dataset.Name, maxEvaluationText},
		{"dataset.digest", r.Dataset.Digest, maxEvaluationText},
		{"evaluator", r.Evaluator, maxEvaluationText},
		{"comment", r.Comment, maxComment},
	} {
		if len(f.value) > f.most {
			return httpapi.InvalidField(f.name, "want at most %d bytes", f.most)
		}
	}
	if r.Name == "" {
		return httpapi.InvalidField("name", "name the evaluation")
	}
	if len(r.Metrics) == 0 || len(r.Metrics) > maxEvaluationMetrics {
		return httpapi.InvalidField("metrics", "want 1 to %d metrics", maxEvaluationMetrics)
	}
	for key, value := range r.Metrics {
		if key == "" || len(key) > maxEvaluationText {
			return httpapi.InvalidField("metrics", "want keys of 1 to %d bytes", maxEvaluationText)
		}
		if value == nil {
			return httpapi.InvalidField("metrics."+key, "want a number.")
		}
	}
	return nil
}

func (s *Service) recordEvaluation(c echo.Context) error {
	name, version := versionPath(c)
	var req evaluationRequest
	if err := httpapi.DecodeBody(c, &req); err != nil {
		return err
	}
	if err := req.check(); err != nil {
		return err
	}
	recorded := &events.EvaluationRecorded{
		Name: name, Evaluation: req.Name, DatasetName: req.Dataset.Name, DatasetDigest: req.Dataset.Digest,
		Evaluator: cmp.Or(req.Evaluator, actor(c)), Comment: req.Comment,
	}
	for _, key := range slices.Sorted(maps.Keys(req.Metrics)) {
		recorded.Metrics = append(recorded.Metrics, &events.EvaluationMetric{Key: key, Value: *req.Metrics[key]})
	}
	out, err := s.do(c, command{
		action: "evaluation_recorded", model: name,
		decide: func(st *catalog.State) (*events.Event, error) {
			_, v, err := findVersion(st, name, version)
			if err != nil {
				return nil, err
			}
			if len(v.Evaluations) >= maxEvaluations {
				return nil, apierr.Errorf(apierr.InvalidParameterValue, "Version %d of '%s' has %d evaluations, which is the most", v.Number, name, maxEvaluations)
			}
			figures := len(req.Metrics)
			for _, e := range v.Evaluations {
				figures += len(e.Metrics)
			}
			if figures > maxEvaluated {
				return nil, httpapi.InvalidField("metrics", "the evaluations of version %d of '%s' would have %d metrics, the most is %d", v.Number, name, figures, maxEvaluated)
			}
			recorded.Version = v.Number
			return &events.Event{Data: &events.Event_EvaluationRecorded{EvaluationRecorded: recorded}}, nil
		},
	})
	if err != nil {
		return err
	}
	_, v, err := findVersion(out.state, name, version)
	if err != nil {
		return err
	}
	seq := out.state.Seq()
	if out.done != nil {
		seq = out.done.Seq
	}
	for _, e := range v.Evaluations {
		if e.Seq == seq {
			return mlflow.WriteJSON(c.Response(), showEvaluation(e))
		}
	}
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Version %d of '%s' was deleted and restored since", v.Number, name)
}

func (s *Service) listEvaluations(c echo.Context) error {
	v, err := s.versionAsOf(c)
	if err != nil {
		return err
	}
	evaluations := []evaluationAnswer{}
	for _, e := range v.Evaluations {
		evaluations = append(evaluations, showEvaluation(e))
	}
	return mlflow.WriteJSON(c.Response(), struct {
		Evaluations []evaluationAnswer `json:"evaluations"` // the oldest first
	}{evaluations})
}

// comparison is what the versions have of one metric of one evaluation: of the
// last one that has it.
type comparison struct {
	Evaluation  string     `json:"evaluation"`
	Metric      string     `json:"metric"`
	Values      []*float64 `json:"values"`      // one for each version, null without one
	Differences []*float64 `json:"differences"` // from that of the first version
	// Datasets says of each version on what it was evaluated: figures of different
	// data cannot be compared.
	Datasets []*evaluatedDataset `json:"datasets"`
}

// compareEvaluations answers with the evaluations of several versions side by
// side.
func (s *Service) compareEvaluations(c echo.Context) error {
	st, m, err := s.modelAsOf(c)
	if err != nil {
		return err
	}
	versions, err := comparedVersions(c, st, m)
	if err != nil {
		return err
	}
	type row struct{ evaluation, metric string }
	rows := make(map[row]*comparison)
	for i, v := range versions {
		for _, e := range v.Evaluations {
			for key, value := range e.Metrics {
				at := row{e.Name, key}
				if rows[at] == nil {
					rows[at] = &comparison{
						Evaluation: e.Name, Metric: key, Values: make([]*float64, len(versions)),
						Differences: make([]*float64, len(versions)), Datasets: make([]*evaluatedDataset, len(versions)),
					}
				}
				rows[at].Values[i], rows[at].Datasets[i] = &value, &evaluatedDataset{e.DatasetName, e.DatasetDigest}
			}
		}
	}
	answer := struct {
		Versions []string      `json:"versions"`
		Metrics  []*comparison `json:"metrics"`
	}{[]string{}, []*comparison{}}
	for _, v := range versions {
		answer.Versions = append(answer.Versions, strconv.FormatUint(v.Number, 10))
	}
	for _, at := range slices.SortedFunc(maps.Keys(rows), func(a, b row) int {
		return cmp.Or(cmp.Compare(a.evaluation, b.evaluation), cmp.Compare(a.metric, b.metric))
	}) {
		r := rows[at]
		for i, value := range r.Values {
			if value != nil && r.Values[0] != nil {
				if difference := *value - *r.Values[0]; !math.IsInf(difference, 0) {
					r.Differences[i] = &difference
				}
			}
		}
		answer.Metrics = append(answer.Metrics, r)
	}
	return mlflow.WriteJSON(c.Response(), answer)
}

// comparedVersions returns the versions that a request names, all of a model that
// has not too many when it names none.
func comparedVersions(c echo.Context, st *catalog.State, m *catalog.Model) ([]*catalog.Version, error) {
	text := c.QueryParam("versions")
	if text == "" {
		versions := slices.Collect(m.Versions())
		if len(versions) > maxCompared {
			return nil, apierr.Errorf(apierr.InvalidParameterValue,
				"Registered Model '%s' has %d versions: name at most %d in parameter 'versions', as in versions=1,2", m.Name, len(versions), maxCompared)
		}
		return versions, nil
	}
	names := strings.Split(text, ",")
	if len(names) > maxCompared {
		return nil, apierr.Errorf(apierr.InvalidParameterValue, "Invalid value for parameter 'versions' supplied: want at most %d", maxCompared)
	}
	var versions []*catalog.Version
	for _, name := range names {
		_, v, err := findVersion(st, m.Name, name)
		if err != nil {
			return nil, err
		}
		versions = append(versions, v)
	}
	return versions, nil
}
