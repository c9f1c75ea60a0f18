package ingest

import (
	"crypto/sha256"
	"encoding/hex"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// newRunID returns the id of a run that a request creates: a random one or,
// under an idempotency key, the one that a repeated request would get too.
func newRunID(experimentID, idempotencyKey string) string {
	if key := withoutDigest(idempotencyKey); key != "" {
		sum := sha256.Sum256([]byte(experimentID + "\n" + key))
		return hex.EncodeToString(sum[:16])
	}
	id := uuid.New()
	return hex.EncodeToString(id[:])
}

func (s *Service) createRun(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateRun](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateExperimentID(req.ExperimentID); err != nil {
		return err
	}
	if err := mlflow.ValidateRunTags(req.Tags); err != nil {
		return err
	}
	if err := cutRunName(&req.RunName); err != nil {
		return err
	}
	a, err := attributes(c, req)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	id := newRunID(req.ExperimentID, a.IdempotencyKey)
	var created *events.RunCreated
	var refused error
	err = s.experiments.read(ctx, func(d *directory) {
		var exp *experiment
		if exp, refused = d.active(req.ExperimentID); refused == nil {
			created, refused = creation(id, exp, req, a.Time.UnixMilli())
		}
	})
	if err != nil {
		return err
	}
	if refused != nil {
		return refused
	}
	var made mlflow.Run
	pos, err := s.shardOf(id).create(ctx, a, created, func(r *run) {
		made = mlflow.Run{Info: r.Info(), Inputs: &mlflow.RunInputs{}}
		for _, t := range r.Created.GetTags() {
			made.Data.Tags = append(made.Data.Tags, mlflow.Tag{Key: t.GetKey(), Value: t.GetValue()})
		}
	})
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.RunResponse{Run: made})
}

// cutRunName cuts a name to what the tag that repeats it may hold.
func cutRunName(name *string) error {
	tag := mlflow.Tag{Key: mlflow.TagRunName, Value: *name}
	if err := mlflow.ValidateTag(&tag); err != nil {
		return err
	}
	*name = tag.Value
	return nil
}

func (s *Service) shardOf(runID string) *shard { return s.shards[events.Shard(runID, len(s.shards))] }

// onRun runs a command on an existing run and answers with {}.
func (s *Service) onRun(c echo.Context, request mlflow.Message, id string, decide decision) error {
	a, err := attributes(c, request)
	if err != nil {
		return err
	}
	pos, err := s.shardOf(id).do(c.Request().Context(), id, a, decide, nil)
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) updateRun(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.UpdateRun](c.Request())
	if err != nil {
		return err
	}
	if req.RunName != nil {
		if err := cutRunName(req.RunName); err != nil {
			return err
		}
	}
	a, err := attributes(c, req)
	if err != nil {
		return err
	}
	var info mlflow.RunInfo
	pos, err := s.shardOf(req.RunID).do(c.Request().Context(), req.RunID, a,
		func(r *run) ([]*events.Event, error) { return r.update(req) },
		func(r *run) { info = r.Info() })
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.UpdateRunResponse{RunInfo: info})
}

func (s *Service) deleteRun(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteRun](c.Request())
	if err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.setDeleted(true) })
}

func (s *Service) restoreRun(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.RestoreRun](c.Request())
	if err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.setDeleted(false) })
}

func (s *Service) logMetric(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogMetric](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateMetric(req.Metric()); err != nil {
		return err
	}
	if err := s.models.checkLinks(c.Request().Context(), req.Metric()); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) {
		return r.batch(&mlflow.LogBatch{Metrics: []mlflow.Metric{req.Metric()}}, true)
	})
}

func (s *Service) logParameter(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogParam](c.Request())
	if err != nil {
		return err
	}
	p := mlflow.Param{Key: req.Key, Value: req.Value}
	if err := mlflow.ValidateParam(&p); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) {
		return r.batch(&mlflow.LogBatch{Params: []mlflow.Param{p}}, true)
	})
}

func (s *Service) setTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetTag](c.Request())
	if err != nil {
		return err
	}
	t := mlflow.Tag{Key: req.Key, Value: req.Value}
	if err := mlflow.ValidateTag(&t); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) {
		return r.batch(&mlflow.LogBatch{Tags: []mlflow.Tag{t}}, true)
	})
}

func (s *Service) deleteTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteTag](c.Request())
	if err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.deleteTag(req.Key) })
}

func (s *Service) logBatch(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.LogBatch](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateBatch(req); err != nil {
		return err
	}
	if err := s.models.checkLinks(c.Request().Context(), req.Metrics...); err != nil {
		return err
	}
	return s.onRun(c, req, req.RunID, func(r *run) ([]*events.Event, error) { return r.batch(req, false) })
}
