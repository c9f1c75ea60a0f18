package query

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

// What is shown from the log itself: experiments, and runs of few events. A
// client that begins its work depends on neither the projector nor ClickHouse.
const (
	// maxLoggedEvents and maxLoggedPoints bound the events of such a run, and its
	// points.
	maxLoggedEvents = 200
	maxLoggedPoints = 50_000
)

// loggedExperiments are the experiments as the log has them.
type loggedExperiments struct {
	log   *eventlog.Log
	bound time.Duration
	turn  chan struct{} // holds a value while one request has what is below

	experiments fold.Experiments
	seq         uint64 // of the last event that is folded in
}

func newLoggedExperiments(log *eventlog.Log, bound time.Duration) *loggedExperiments {
	return &loggedExperiments{log: log, bound: bound, turn: make(chan struct{}, 1), experiments: fold.NewExperiments()}
}

// read shows the experiments as the log has them now, and returns up to which
// event. look must keep nothing of them. What a request that runs out of time has
// read, the next one need not.
func (x *loggedExperiments) read(ctx context.Context, look func(*fold.Experiments)) (eventlog.Position, error) {
	bounded, cancel := context.WithTimeout(ctx, x.bound)
	defer cancel()
	select {
	case x.turn <- struct{}{}:
		defer func() { <-x.turn }()
	case <-bounded.Done():
		return eventlog.Position{}, cmp.Or(ctx.Err(), error(apierr.Errorf(apierr.TemporarilyUnavailable,
			"The experiments are being read from the log, try again").WithRetryAfter(retryAfter)))
	}
	for rec, err := range x.log.Read(bounded, events.StreamExperiments, "", x.seq+1, 0) {
		if err != nil {
			return eventlog.Position{}, cmp.Or(ctx.Err(), err)
		}
		x.experiments.Apply(rec.Attributes, rec.Event)
		x.seq = rec.Seq
	}
	look(&x.experiments)
	return eventlog.Position{Stream: events.StreamExperiments, Seq: x.seq}, nil
}

// answerExperiment answers with the experiment that find finds.
func (s *Service) answerExperiment(ec echo.Context, find func(*fold.Experiments) (*fold.Experiment, bool), notFound error) error {
	var found *mlflow.Experiment
	at, err := s.experiments.read(ec.Request().Context(), func(x *fold.Experiments) {
		if e, ok := find(x); ok {
			shown := e.Show()
			found = &shown
		}
	})
	if err != nil {
		return err
	}
	tellWatermark(ec, []eventlog.Position{at})
	if found == nil {
		return notFound
	}
	return mlflow.WriteJSON(ec.Response(), mlflow.ExperimentResponse{Experiment: *found})
}

// loggedRun is the fold of all events of a run.
type loggedRun struct {
	fold.Run
	metrics map[string]events.Point // the latest of each key
	points  int
	inputs  mlflow.RunInputs
	outputs mlflow.RunOutputs
}

func (r *loggedRun) apply(a events.Attributes, e *events.Event) {
	r.Apply(a, e)
	switch d := e.GetData().(type) {
	case *events.Event_MetricsLogged:
		for _, p := range d.MetricsLogged.Points() {
			r.points++
			if was, ok := r.metrics[p.Key]; !ok || later(p, was) {
				r.metrics[p.Key] = p
			}
		}
	case *events.Event_RunInputsLogged:
		for _, in := range d.RunInputsLogged.GetDatasets() {
			input := mlflow.DatasetInput{Dataset: mlflow.Dataset{
				Name: in.GetName(), Digest: in.GetDigest(), SourceType: in.GetSourceType(), Source: in.GetSource(),
				Schema: in.GetSchema(), Profile: in.GetProfile(),
			}}
			tags := make(map[string]string)
			for _, t := range in.GetTags() {
				tags[t.GetKey()] = t.GetValue()
			}
			input.Tags = fold.Tags(tags)
			r.inputs.DatasetInputs = append(slices.DeleteFunc(r.inputs.DatasetInputs, func(was mlflow.DatasetInput) bool {
				return was.Dataset.Name == in.GetName() && was.Dataset.Digest == in.GetDigest()
			}), input)
		}
		for _, id := range d.RunInputsLogged.GetModelIds() {
			r.inputs.ModelInputs = last(r.inputs.ModelInputs, mlflow.ModelInput{ModelID: id})
		}
	case *events.Event_RunOutputsLogged:
		for _, m := range d.RunOutputsLogged.GetModels() {
			r.outputs.ModelOutputs = last(r.outputs.ModelOutputs, mlflow.ModelOutput{ModelID: m.GetModelId(), Step: m.GetStep()})
		}
	}
}

// last returns a list with v as its last element, and nowhere else.
func last[T comparable](list []T, v T) []T {
	return append(slices.DeleteFunc(list, func(was T) bool { return was == v }), v)
}

// later tells whether a point is shown rather than another of its key: the one of
// the greater step, timestamp and value, where NaN counts as 0.
func later(p, was events.Point) bool {
	number := func(v float64) float64 {
		if v != v {
			return 0
		}
		return v
	}
	return cmp.Or(cmp.Compare(p.Step, was.Step), cmp.Compare(p.Timestamp, was.Timestamp), cmp.Compare(number(p.Value), number(was.Value))) > 0
}

func (r *loggedRun) show() mlflow.Run {
	run := mlflow.Run{Info: r.Info(), Inputs: &r.inputs, Outputs: &r.outputs}
	run.Data.Tags = fold.Tags(r.Tags)
	for _, key := range slices.Sorted(maps.Keys(r.Parameters)) {
		run.Data.Params = append(run.Data.Params, mlflow.Param{Key: key, Value: r.Parameters[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(r.metrics)) {
		p := r.metrics[key]
		run.Data.Metrics = append(run.Data.Metrics, mlflow.Metric{Key: key, Value: p.Value, Timestamp: p.Timestamp, Step: p.Step})
	}
	return run
}

// loggedRun returns a run of an experiment as it is at a place in the log, false
// when it has more than a few events. It returns RESOURCE_DOES_NOT_EXIST for one
// that was purged.
func (s *Service) loggedRun(ctx context.Context, experimentID, id string, at eventlog.Position) (run mlflow.Run, few bool, err error) {
	_, filter := s.log.RunSubject(experimentID, id, events.KindAny)
	counts, err := s.log.Counts(ctx, at.Stream, filter)
	if err != nil {
		return run, false, err
	}
	total := uint64(0)
	for _, n := range counts {
		total += n
	}
	if total > s.loggedEvents {
		return run, false, nil
	}
	r := loggedRun{Run: fold.NewRun(), metrics: make(map[string]events.Point)}
	for subject := range counts {
		for rec, err := range s.log.Read(ctx, at.Stream, subject, 1, at.Seq) {
			if err != nil {
				return run, false, err
			}
			if r.apply(rec.Attributes, rec.Event); r.points > maxLoggedPoints {
				return run, false, nil
			}
		}
	}
	if r.Created == nil || r.Purge != fold.Kept {
		return run, false, mlflow.RunNotFound(id)
	}
	return r.show(), true, nil
}

// answerLogged answers with a run of few events, and reports whether it is one.
func (s *Service) answerLogged(ec echo.Context, experimentID, id string, at eventlog.Position) (done bool, err error) {
	ctx := ec.Request().Context()
	run, few, err := s.loggedRun(ctx, experimentID, id, at)
	if err != nil || !few {
		return false, err
	}
	experimentsAt, err := s.experiments.read(ctx, func(x *fold.Experiments) {
		// A run is deleted also while its experiment is, and until it is purged itself.
		if e, ok := x.ByID[experimentID]; ok && (e.Deleted || e.Purged) {
			run.Info.LifecycleStage = mlflow.LifecycleDeleted
		}
	})
	if err != nil {
		return false, err
	}
	tellWatermark(ec, []eventlog.Position{experimentsAt, at})
	return true, mlflow.WriteJSON(ec.Response(), mlflow.RunResponse{Run: run})
}
