package ingest

import (
	"context"
	"slices"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

func (s *Service) createExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.CreateExperiment](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateExperimentName(req.Name); err != nil {
		return err
	}
	if req.ArtifactLocation != "" {
		if err := mlflow.ValidateArtifactLocation(req.ArtifactLocation); err != nil {
			return err
		}
	}
	for _, t := range req.Tags {
		if err := mlflow.ValidateExperimentTag(t); err != nil {
			return err
		}
	}
	a, err := attributes(c, req)
	if err != nil {
		return err
	}
	if req.ArtifactLocation != "" {
		if req.ArtifactLocation, err = mlflow.ResolveArtifactLocation(req.ArtifactLocation, s.workingDir); err != nil {
			return err
		}
		if err := mlflow.ValidateArtifactLocation(req.ArtifactLocation); err != nil {
			return err
		}
	}
	ctx := c.Request().Context()
	var id string
	pos, err := s.experiments.do(ctx, "", a, func(d *directory) (*events.Event, error) {
		e, err := d.create(req)
		id = e.GetExperimentCreated().GetExperimentId()
		return e, err
	})
	if err != nil {
		return err
	}
	if pos.Seq == 0 {
		key := withoutDigest(a.IdempotencyKey)
		var made createdExperiment
		if err := s.experiments.read(ctx, func(d *directory) { made = d.created[key] }); err != nil {
			return err
		}
		if made.name != req.Name { // there is an old digest, which does not tell
			return usedBefore(key)
		}
		id = made.id
	}
	return answer(c, pos, mlflow.CreateExperimentResponse{ExperimentID: id})
}

// onExperiment runs a command on an existing experiment and answers with {}.
func (s *Service) onExperiment(c echo.Context, request mlflow.Message, id string, decide func(*directory) (*events.Event, error)) error {
	if err := mlflow.ValidateExperimentID(id); err != nil {
		return err
	}
	a, err := attributes(c, request)
	if err != nil {
		return err
	}
	pos, err := s.experiments.do(c.Request().Context(), id, a, decide)
	if err != nil {
		return err
	}
	return answer(c, pos, mlflow.Empty{})
}

func (s *Service) renameExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.UpdateExperiment](c.Request())
	if err != nil {
		return err
	}
	if err := mlflow.ValidateExperimentName(req.NewName); err != nil {
		return err
	}
	return s.onExperiment(c, req, req.ExperimentID, func(d *directory) (*events.Event, error) {
		return d.rename(req.ExperimentID, req.NewName)
	})
}

func (s *Service) setExperimentTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.SetExperimentTag](c.Request())
	if err != nil {
		return err
	}
	tag := mlflow.Tag{Key: req.Key, Value: req.Value}
	if err := mlflow.ValidateExperimentTag(tag); err != nil {
		return err
	}
	return s.onExperiment(c, req, req.ExperimentID, func(d *directory) (*events.Event, error) {
		return d.setTag(req.ExperimentID, tag)
	})
}

func (s *Service) deleteExperimentTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteExperimentTag](c.Request())
	if err != nil {
		return err
	}
	return s.onExperiment(c, req, req.ExperimentID, func(d *directory) (*events.Event, error) {
		return d.deleteTag(req.ExperimentID, req.Key)
	})
}

func (s *Service) deleteExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteExperiment](c.Request())
	if err != nil {
		return err
	}
	return s.setExperimentDeleted(c, req, req.ExperimentID, true)
}

func (s *Service) restoreExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.RestoreExperiment](c.Request())
	if err != nil {
		return err
	}
	return s.setExperimentDeleted(c, req, req.ExperimentID, false)
}

// setExperimentDeleted deletes or restores an experiment and all its runs. The
// runs come first: a call that breaks off leaves the experiment as it was, and
// is repaired by repeating it.
func (s *Service) setExperimentDeleted(c echo.Context, request mlflow.Message, id string, deleted bool) error {
	if err := mlflow.ValidateExperimentID(id); err != nil {
		return err
	}
	a, err := attributes(c, request)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	var seen bool
	var refused error
	err = s.experiments.read(ctx, func(d *directory) {
		if seen, refused = d.requests[id].seen(a.IdempotencyKey); !seen && refused == nil {
			_, refused = d.setDeleted(id, deleted)
		}
	})
	switch {
	case err != nil:
		return err
	case refused != nil:
		return refused
	case seen:
		return answer(c, eventlog.Position{}, mlflow.Empty{})
	}
	if err := s.setRunsDeleted(ctx, id, a, deleted); err != nil {
		return err
	}
	return s.onExperiment(c, request, id, func(d *directory) (*events.Event, error) { return d.setDeleted(id, deleted) })
}

// cascadeWidth is how many runs of an experiment are changed at a time.
const cascadeWidth = 256

// setRunsDeleted deletes or restores every run of an experiment. It stops at
// the first error.
func (s *Service) setRunsDeleted(ctx context.Context, experimentID string, a events.Attributes, deleted bool) error {
	a.IdempotencyKey = "" // of the request about the experiment
	for i, sh := range s.shards {
		ids, err := s.log.Runs(ctx, i, experimentID)
		if err != nil {
			return err
		}
		slices.Sort(ids)
		g, each := errgroup.WithContext(ctx)
		g.SetLimit(cascadeWidth)
		for _, id := range ids {
			if each.Err() != nil {
				break
			}
			g.Go(func() error {
				a := a
				a.ID = events.NewID()
				_, err := sh.doAny(each, id, a, func(r *run) ([]*events.Event, error) { return r.setDeleted(deleted) }, nil)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
