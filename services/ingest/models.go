package ingest

import (
	"context"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

// models decides the commands of logged models. A model has few events and few
// commands, so each command reads the model from the log.
type models struct {
	log   *eventlog.Log
	lanes []*eventlog.Lane // by shard
}

func newModels(log *eventlog.Log, i *instruments) *models {
	m := &models{log: log}
	for _, stream := range log.RunStreams() {
		// Single: what a command reads is all that there is.
		m.lanes = append(m.lanes, log.NewLane(eventlog.LaneConfig{Stream: stream, Single: true, Observe: i.observer(stream)}))
	}
	return m
}

func (s *models) close() {
	for _, lane := range s.lanes {
		lane.Close()
	}
}

func (s *models) lane(id string) *eventlog.Lane { return s.lanes[events.Shard(id, len(s.lanes))] }

// expectKept returns what a message must expect that is for a logged model only
// while it is not purged, nothing for one that the log does not know. For a purged
// one it returns RESOURCE_DOES_NOT_EXIST.
func (s *models) expectKept(ctx context.Context, id string) (expect eventlog.Expect, committed func(seq uint64), err error) {
	m, err := s.read(ctx, id)
	switch {
	case err != nil || m.created == nil:
		return expect, nil, err
	case m.purge != kept:
		return expect, nil, mlflow.LoggedModelNotFound(id)
	}
	_, subject := s.log.LoggedModelSubject(m.created.GetExperimentId(), id)
	return eventlog.Expect{Subject: subject, Seq: m.lastSeq}, nil, nil
}

// do runs a command and returns the model as it is then. A model that does not
// exist has a nil creation; decide says what that means.
func (s *models) do(ctx context.Context, id string, a events.Attributes, decide func(*model) (*events.Event, error)) (*model, eventlog.Position, error) {
	var m *model
	pos, err := s.lane(id).Do(ctx, func(ctx context.Context, b *eventlog.Batch) (err error) {
		if m, err = s.read(ctx, id); err != nil {
			return err
		}
		if seen, err := m.requests.seen(a.IdempotencyKey); seen || err != nil {
			return err
		}
		e, err := decide(m)
		if err != nil || e == nil {
			return err
		}
		expect := m.lastSeq
		m.apply(a, e)
		_, subject := s.log.LoggedModelSubject(m.created.GetExperimentId(), id)
		return b.Append(subject, a, e, eventlog.Expect{Subject: subject, Seq: expect}, nil)
	})
	if err != nil {
		return nil, pos, err // the lane may still be at work on m
	}
	return m, pos, nil
}

func (s *models) read(ctx context.Context, id string) (*model, error) {
	m := newModel()
	if !events.ValidLoggedModelID(id) {
		return m, nil
	}
	stream, filter := s.log.LoggedModelSubject(events.Any, id)
	for rec, err := range s.log.Read(ctx, stream, filter, 1, 0) {
		if err != nil {
			return nil, err
		}
		m.apply(rec.Attributes, rec.Event)
		m.lastSeq = rec.Seq
	}
	return m, nil
}

// checkLinks returns an error unless all logged models that points are linked
// to exist.
func (s *models) checkLinks(ctx context.Context, metrics ...mlflow.Metric) error {
	var known map[string]struct{}
	for _, m := range metrics {
		if m.Link == nil || !add(&known, m.Link.ModelID) {
			continue
		}
		var last eventlog.Record
		var err error
		if id := m.Link.ModelID; events.ValidLoggedModelID(id) {
			stream, filter := s.log.LoggedModelSubject(events.Any, id)
			last, err = s.log.Last(ctx, stream, filter)
		}
		if err != nil {
			return err
		}
		if last.Seq == 0 || events.Purged(last.Event) {
			return mlflow.LoggedModelNotFound(m.Link.ModelID)
		}
	}
	return nil
}

// registerModels adds the routes of logged models to e.
func (s *Service) createModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateLoggedModel](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateExperimentID(req.ExperimentID); err != nil {
		return err
	}
	if err := mlflow.ValidateLoggedModel(req); err != nil {
		return err
	}
	a, err := attributes(c, req)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	id := "m-" + newRunID(req.ExperimentID, a.IdempotencyKey)
	var created *events.Event
	var refused error
	err = s.experiments.read(ctx, func(d *directory) {
		var exp *experiment
		if exp, refused = d.active(req.ExperimentID); refused == nil {
			created = modelCreation(id, exp, req)
		}
	})
	if err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	m, pos, err := s.models.do(ctx, id, a, func(*model) (*events.Event, error) { return created, nil })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.LoggedModelResponse{Model: m.show()})
}

// onModel runs a command on the logged model that the path names. A deleted one
// takes commands, as in MLflow.
func (s *Service) onModel(c echo.Context, request mlflow.Message, decide func(*model) (*events.Event, error)) (*model, eventlog.Position, error) {
	id := httpapi.PathParam(c, "model_id")
	a, err := attributes(c, request, id, httpapi.PathParam(c, "tag_key"))
	if err != nil {
		return nil, eventlog.Position{}, err
	}
	return s.models.do(c.Request().Context(), id, a, func(m *model) (*events.Event, error) {
		if m.created == nil || m.purge != kept {
			return nil, mlflow.LoggedModelNotFound(id)
		}
		return decide(m)
	})
}

func (s *Service) finalizeModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.FinalizeLoggedModel](c.Request())
	if err != nil {
		return err
	}
	m, pos, err := s.onModel(c, req, func(m *model) (*events.Event, error) { return m.finalize(req.Status) })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.LoggedModelResponse{Model: m.show()})
}

func (s *Service) deleteModel(c echo.Context) error {
	_, pos, err := s.onModel(c, nil, (*model).remove)
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) logModelParams(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogLoggedModelParams](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateLoggedModelParams(req.Params); err != nil {
		return err
	}
	_, pos, err := s.onModel(c, req, func(m *model) (*events.Event, error) { return m.logParameters(req.Params) })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) setModelTags(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetLoggedModelTags](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateLoggedModelTags(req.Tags); err != nil {
		return err
	}
	_, pos, err := s.onModel(c, req, func(m *model) (*events.Event, error) { return m.setTags(req.Tags) })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) deleteModelTag(c echo.Context) error {
	key := httpapi.PathParam(c, "tag_key")
	_, pos, err := s.onModel(c, nil, func(m *model) (*events.Event, error) { return m.deleteTag(key) })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) logInputs(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogInputs](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateInputs(req); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.logInputs(req) })
}

func (s *Service) logOutputs(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogOutputs](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateOutputs(req); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.logOutputs(req) })
}

func (s *Service) logModel(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogModel](c.Request())
	if err != nil {
		return err
	}
	if _, err := mlflow.AppendModel("", req.ModelJSON); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.logModel(req.ModelJSON) })
}
