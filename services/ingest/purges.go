package ingest

import (
	"context"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

// purge is how far the end of a run or a logged model has got.
type purge = fold.Purge

const (
	kept    = fold.Kept
	purged  = fold.Purged
	emptied = fold.Emptied
)

// purgeRequest asks for the end of what has been deleted for long enough.
type purgeRequest struct {
	id        string
	olderThan time.Duration
	dry       bool // only say what would be removed
}

// removal is what a purge has removed, or would remove.
type removal struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"` // of the files
	// ArtifactsElsewhere is where artifacts are left: this server has no access.
	ArtifactsElsewhere string `json:"artifacts_elsewhere,omitempty"`
}

// PurgeArtifacts deletes the artifacts at the URI of a run or logged model with
// an id, or with dry only counts them: files, and their bytes. elsewhere says that
// the URI is of no store of this server, and that nothing was done. record is
// given the events that say which files go, before they do.
type PurgeArtifacts func(ctx context.Context, uri, id string, dry bool, record RecordArtifacts) (files, bytes int64, elsewhere bool, err error)

// RecordArtifacts appends an event about the artifacts of an owner; see
// Service.RecordArtifact.
type RecordArtifacts func(experimentID, owner string, e *events.Event) error

type purger func(c echo.Context, p purgeRequest) (removal, eventlog.Position, error)

// purging handles GET and POST of what `runledger gc` does: POST purges one run, logged
// model or experiment; GET, which is dry, says what that would remove. Both refuse
// what is not deleted, or not for older_than_ms milliseconds.
func (s *Service) purging(command string, dry bool, purge purger) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() { s.instruments.command(command, err) }()
		p := purgeRequest{id: httpapi.PathParam(c, "id"), dry: dry}
		if c.QueryParams().Has("older_than_ms") {
			text := c.QueryParam("older_than_ms")
			ms, err := strconv.ParseInt(text, 10, 64)
			if err != nil || ms < 0 || ms > int64(1<<63-1)/int64(time.Millisecond) {
				return apierr.Errorf(apierr.InvalidParameterValue,
					"Invalid value %q for parameter 'older_than_ms' supplied. It must be a number of milliseconds.", text)
			}
			p.olderThan = time.Duration(ms) * time.Millisecond
		}
		removed, pos, err := purge(c, p)
		if err != nil {
			return err
		}
		return answer(c, pos, removed)
	}
}

// due returns an error, in MLflow's words, unless what kind and p name has been
// deleted for long enough. deletedAt is in milliseconds since the Unix epoch.
func (p purgeRequest) due(kind string, deleted bool, deletedAt int64) error {
	switch {
	case !deleted:
		return apierr.Errorf(apierr.InvalidParameterValue, "%s %s is not in `deleted` lifecycle stage. "+
			"Only what is in `deleted` lifecycle stage can be deleted for good.", kind, p.id)
	case time.Since(time.UnixMilli(deletedAt)) < p.olderThan:
		return apierr.Errorf(apierr.InvalidParameterValue, "%s %s is not older than the required age. "+
			"Only what was deleted more than %s ago can be deleted for good.", kind, p.id, p.olderThan)
	}
	return nil
}

// purgeAttributes returns the attributes of a purge's event. A repeated purge
// changes nothing anyway, so it needs no idempotency key.
func purgeAttributes(c echo.Context) events.Attributes {
	a := httpapi.Attributes(c, source)
	a.IdempotencyKey = ""
	return a
}

// purgeRun purges a run. All runs of a purged experiment may be.
func (s *Service) purgeRun(c echo.Context, p purgeRequest) (removal, eventlog.Position, error) {
	ctx := c.Request().Context()
	if !events.ValidRunID(p.id) {
		return removal{}, eventlog.Position{}, mlflow.RunNotFound(p.id)
	}
	stream, filter := s.log.RunSubject(events.Any, p.id, events.KindMeta)
	subject, _, err := s.log.LastFor(ctx, stream, filter)
	if err != nil {
		return removal{}, eventlog.Position{}, err
	}
	over, err := s.experimentOver(ctx, p, events.ExperimentOfRunSubject(subject))
	if err != nil {
		return removal{}, eventlog.Position{}, err
	}
	var stage purge
	var uri string
	shard := s.shardOf(p.id)
	pos, err := shard.doAny(ctx, p.id, purgeAttributes(c), func(r *run) ([]*events.Event, error) {
		if r.Purge != kept {
			return nil, nil
		}
		if err := p.due("Run", r.Deleted, r.DeletedAt); err != nil && !over {
			return nil, err
		}
		if p.dry {
			return nil, nil
		}
		return []*events.Event{{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: p.id}}}}, nil
	}, func(r *run) { stage, uri = r.Purge, r.Created.GetArtifactUri() })
	if err != nil {
		return removal{}, pos, err
	}
	removed, err := s.empty(c, p, stage, uri)
	if err != nil || p.dry || stage == emptied {
		return removed, pos, err
	}
	pos, err = shard.doAny(ctx, p.id, purgeAttributes(c), func(r *run) ([]*events.Event, error) {
		if r.Purge == emptied {
			return nil, nil
		}
		return []*events.Event{{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{
			Owner: &events.ArtifactsPurged_RunId{RunId: p.id}, Files: removed.Files, Bytes: removed.Bytes,
		}}}}, nil
	}, nil)
	return removed, pos, err
}

// purgeModel purges a logged model. All models of a purged experiment may be.
func (s *Service) purgeModel(c echo.Context, p purgeRequest) (removal, eventlog.Position, error) {
	ctx := c.Request().Context()
	m, err := s.models.read(ctx, p.id)
	if err != nil {
		return removal{}, eventlog.Position{}, err
	}
	over, err := s.experimentOver(ctx, p, m.created.GetExperimentId())
	if err != nil {
		return removal{}, eventlog.Position{}, err
	}
	m, pos, err := s.models.do(ctx, p.id, purgeAttributes(c), func(m *model) (*events.Event, error) {
		switch {
		case m.created == nil:
			return nil, mlflow.LoggedModelNotFound(p.id)
		case m.purge != kept:
			return nil, nil
		}
		if err := p.due("Logged model", m.deleted, m.deletedAt); err != nil && !over {
			return nil, err
		}
		if p.dry {
			return nil, nil
		}
		return &events.Event{Data: &events.Event_LoggedModelPurged{LoggedModelPurged: &events.LoggedModelPurged{ModelId: p.id}}}, nil
	})
	if err != nil {
		return removal{}, pos, err
	}
	stage := m.purge
	removed, err := s.empty(c, p, stage, m.created.GetArtifactUri())
	if err != nil || p.dry || stage == emptied {
		return removed, pos, err
	}
	_, pos, err = s.models.do(ctx, p.id, purgeAttributes(c), func(m *model) (*events.Event, error) {
		if m.purge == emptied {
			return nil, nil
		}
		return &events.Event{Data: &events.Event_ArtifactsPurged{ArtifactsPurged: &events.ArtifactsPurged{
			Owner: &events.ArtifactsPurged_ModelId{ModelId: p.id}, Files: removed.Files, Bytes: removed.Bytes,
		}}}, nil
	})
	return removed, pos, err
}

// purgeExperiment purges an experiment alone. From then on nothing can restore
// its runs and logged models, which are to be purged next: an order in which a
// restoration under way either wins or loses as a whole.
func (s *Service) purgeExperiment(c echo.Context, p purgeRequest) (removal, eventlog.Position, error) {
	pos, err := s.experiments.do(c.Request().Context(), p.id, purgeAttributes(c), func(d *directory) (*events.Event, error) {
		x, ok := d.ByID[p.id]
		switch {
		case !ok:
			return nil, mlflow.ExperimentNotFound(p.id)
		case x.Purged:
			return nil, nil
		}
		if err := p.due("Experiment", x.Deleted, x.DeletedAt); err != nil || p.dry {
			return nil, err
		}
		return &events.Event{Data: &events.Event_ExperimentPurged{ExperimentPurged: &events.ExperimentPurged{ExperimentId: p.id}}}, nil
	})
	return removal{}, pos, err
}

// experimentOver says whether an experiment is purged, or for a dry request
// whether it would be before what is in it.
func (s *Service) experimentOver(ctx context.Context, p purgeRequest, id string) (over bool, err error) {
	err = s.experiments.read(ctx, func(d *directory) {
		x, ok := d.ByID[id]
		over = ok && (x.Purged || p.dry && p.due("Experiment", x.Deleted, x.DeletedAt) == nil)
	})
	return over, err
}

// empty deletes the artifacts of what is purged, or counts them. It may be
// repeated, and must be when it failed.
func (s *Service) empty(c echo.Context, p purgeRequest, stage purge, uri string) (r removal, err error) {
	if stage == emptied {
		return r, nil
	}
	elsewhere := true
	if s.purgeArtifacts != nil {
		r.Files, r.Bytes, elsewhere, err = s.purgeArtifacts(c.Request().Context(), uri, p.id, p.dry, func(experimentID, owner string, e *events.Event) error {
			return s.RecordArtifact(c, experimentID, owner, e)
		})
	}
	if elsewhere {
		r.ArtifactsElsewhere = uri
	}
	return r, err
}
