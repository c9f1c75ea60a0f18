package ingest

import (
	"context"
	"sort"
	"strconv"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultExperimentID   = "0"
	defaultExperimentName = "Default"
)

type experiment struct {
	id               string
	name             string
	artifactLocation string
	deleted          bool
	tags             map[string]struct{}
}

// experiments is the fold of the EXPERIMENTS stream, all of it: a name is
// unique among all experiments, deleted ones included.
type experiments struct {
	log  *eventlog.Log
	lane *eventlog.Lane

	mu       sync.Mutex
	byID     map[string]*experiment
	byName   map[string]*experiment
	requests requests
	created  map[string]string // experiment ids by idempotency key
	maxID    uint64
	seq      uint64 // of the last event that is folded in
}

func newExperiments(log *eventlog.Log) *experiments {
	x := &experiments{
		log: log, byID: make(map[string]*experiment), byName: make(map[string]*experiment),
		requests: make(requests), created: make(map[string]string),
	}
	// Single: a command never sees an experiment that may not come to be.
	x.lane = log.NewLane(eventlog.LaneConfig{Stream: events.StreamExperiments, Single: true, Reset: x.catchUp})
	return x
}

// catchUp folds in what the log has beyond seq.
func (x *experiments) catchUp(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for rec, err := range x.log.Read(ctx, events.StreamExperiments, "", x.seq+1, 0) {
		if err != nil {
			return err
		}
		x.apply(rec.Attributes, rec.Event)
		x.seq = rec.Seq
	}
	return nil
}

func (x *experiments) apply(a events.Attributes, e *events.Event) {
	x.requests.add(a.IdempotencyKey)
	switch d := e.GetData().(type) {
	case *events.Event_ExperimentCreated:
		c := d.ExperimentCreated
		exp := &experiment{
			id: c.GetExperimentId(), name: c.GetName(), artifactLocation: c.GetArtifactLocation(), tags: make(map[string]struct{}),
		}
		for _, t := range c.GetTags() {
			exp.tags[t.GetKey()] = struct{}{}
		}
		x.byID[exp.id], x.byName[exp.name] = exp, exp
		if n, err := strconv.ParseUint(exp.id, 10, 64); err == nil {
			x.maxID = max(x.maxID, n)
		}
		if a.IdempotencyKey != "" {
			x.created[a.IdempotencyKey] = exp.id
		}
	case *events.Event_ExperimentRenamed:
		if exp, ok := x.byID[d.ExperimentRenamed.GetExperimentId()]; ok {
			delete(x.byName, exp.name)
			exp.name = d.ExperimentRenamed.GetName()
			x.byName[exp.name] = exp
		}
	case *events.Event_ExperimentTagSet:
		if exp, ok := x.byID[d.ExperimentTagSet.GetExperimentId()]; ok {
			exp.tags[d.ExperimentTagSet.GetTag().GetKey()] = struct{}{}
		}
	case *events.Event_ExperimentTagDeleted:
		if exp, ok := x.byID[d.ExperimentTagDeleted.GetExperimentId()]; ok {
			delete(exp.tags, d.ExperimentTagDeleted.GetKey())
		}
	case *events.Event_ExperimentDeleted:
		if exp, ok := x.byID[d.ExperimentDeleted.GetExperimentId()]; ok {
			exp.deleted = true
		}
	case *events.Event_ExperimentRestored:
		if exp, ok := x.byID[d.ExperimentRestored.GetExperimentId()]; ok {
			exp.deleted = false
		}
	}
}

// current returns a copy of an experiment as the log has it now; false when
// there is none.
func (x *experiments) current(ctx context.Context, id string) (experiment, bool, error) {
	if err := x.catchUp(ctx); err != nil {
		return experiment{}, false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	exp, ok := x.byID[id]
	if !ok {
		return experiment{}, false, nil
	}
	return *exp, true, nil
}

func (x *experiments) seen(idempotencyKey string) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.requests.seen(idempotencyKey)
}

// do runs a command. decide is called with x.mu held; nil and no error means
// that there is nothing to do.
func (x *experiments) do(ctx context.Context, a events.Attributes, decide func() (*events.Event, error)) (eventlog.Position, error) {
	return x.lane.Do(ctx, func(ctx context.Context, b *eventlog.Batch) error {
		e, seq, err := x.decide(a, decide)
		if err != nil || e == nil {
			// Nothing will be written that the log could refuse, so it is asked
			// whether another process has written.
			if err := x.catchUp(ctx); err != nil {
				return err
			}
			e, seq, err = x.decide(a, decide)
		}
		if err != nil || e == nil {
			return err
		}
		return b.Append(events.ExperimentSubject(experimentOf(e)), a, e, eventlog.Expect{Stream: true, Seq: seq}, func(at uint64) {
			x.mu.Lock()
			defer x.mu.Unlock()
			if at == x.seq+1 { // otherwise a reader has folded it in already
				x.apply(a, e)
				x.seq = at
			}
		})
	})
}

func (x *experiments) decide(a events.Attributes, decide func() (*events.Event, error)) (*events.Event, uint64, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if seen, err := x.requests.seen(a.IdempotencyKey); seen || err != nil {
		return nil, x.seq, err
	}
	e, err := decide()
	return e, x.seq, err
}

// experimentOf returns the experiment that an event is about.
func experimentOf(e *events.Event) string {
	switch d := e.GetData().(type) {
	case *events.Event_ExperimentCreated:
		return d.ExperimentCreated.GetExperimentId()
	case *events.Event_ExperimentRenamed:
		return d.ExperimentRenamed.GetExperimentId()
	case *events.Event_ExperimentTagSet:
		return d.ExperimentTagSet.GetExperimentId()
	case *events.Event_ExperimentTagDeleted:
		return d.ExperimentTagDeleted.GetExperimentId()
	case *events.Event_ExperimentDeleted:
		return d.ExperimentDeleted.GetExperimentId()
	case *events.Event_ExperimentRestored:
		return d.ExperimentRestored.GetExperimentId()
	}
	return ""
}

// createDefault folds the log, and creates MLflow's default experiment in an
// empty one. Of several processes that start at once, one creates it.
func (x *experiments) createDefault(ctx context.Context) error {
	if err := x.catchUp(ctx); err != nil {
		return err
	}
	_, err := x.do(ctx, events.New(source, "", time.Now()), func() (*events.Event, error) {
		if x.byID[defaultExperimentID] != nil {
			return nil, nil
		}
		return creationOf(defaultExperimentID, &mlflow.CreateExperiment{Name: defaultExperimentName}), nil
	})
	return err
}

func creationOf(id string, req *mlflow.CreateExperiment) *events.Event {
	c := &events.ExperimentCreated{ExperimentId: id, Name: req.Name, ArtifactLocation: req.ArtifactLocation}
	if c.ArtifactLocation == "" {
		c.ArtifactLocation = "mlflow-artifacts:/" + id
	}
	for _, t := range req.Tags {
		c.Tags = append(c.Tags, &events.Tag{Key: t.Key, Value: t.Value})
	}
	return &events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: c}}
}

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
	a, err := attributes(c, *req)
	if err != nil {
		return err
	}
	var id string
	x := s.experiments
	pos, err := x.do(c.Request().Context(), a, func() (*events.Event, error) {
		if x.byName[req.Name] != nil {
			return nil, mlflow.ExperimentExists(req.Name)
		}
		id = strconv.FormatUint(x.maxID+1, 10)
		return creationOf(id, req), nil
	})
	if err != nil {
		return err
	}
	if pos.Seq == 0 {
		x.mu.Lock()
		id = x.created[a.IdempotencyKey]
		x.mu.Unlock()
	}
	return answer(c, pos, mlflow.CreateExperimentResponse{ExperimentID: id})
}

// onExperiment runs a command on an existing experiment.
func (s *Service) onExperiment(c echo.Context, request any, id string, decide func(*experiment) (*events.Event, error)) error {
	if err := mlflow.ValidateExperimentID(id); err != nil {
		return err
	}
	a, err := attributes(c, request)
	if err != nil {
		return err
	}
	x := s.experiments
	pos, err := x.do(c.Request().Context(), a, func() (*events.Event, error) {
		exp, ok := x.byID[id]
		if !ok {
			return nil, mlflow.ExperimentNotFound(id)
		}
		return decide(exp)
	})
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
	if req.NewName != "" {
		if err := mlflow.ValidateExperimentName(req.NewName); err != nil {
			return err
		}
	}
	return s.onExperiment(c, *req, req.ExperimentID, func(exp *experiment) (*events.Event, error) {
		switch other := s.experiments.byName[req.NewName]; {
		case exp.deleted:
			// MLflow's words; its status would make clients repeat the request.
			return nil, apierr.Errorf(apierr.InvalidParameterValue, "%s", mlflow.RenameInactiveExperiment().Message)
		case req.NewName == "" || other == exp:
			return nil, nil
		case other != nil:
			return nil, mlflow.ExperimentExists(req.NewName)
		}
		return &events.Event{Data: &events.Event_ExperimentRenamed{
			ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: exp.id, Name: req.NewName},
		}}, nil
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
	return s.onExperiment(c, *req, req.ExperimentID, func(exp *experiment) (*events.Event, error) {
		if exp.deleted {
			return nil, mlflow.ExperimentNotActive(exp.id)
		}
		return &events.Event{Data: &events.Event_ExperimentTagSet{
			ExperimentTagSet: &events.ExperimentTagSet{ExperimentId: exp.id, Tag: &events.Tag{Key: tag.Key, Value: tag.Value}},
		}}, nil
	})
}

func (s *Service) deleteExperimentTag(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteExperimentTag](c.Request())
	if err != nil {
		return err
	}
	return s.onExperiment(c, *req, req.ExperimentID, func(exp *experiment) (*events.Event, error) {
		if exp.deleted {
			return nil, mlflow.ExperimentNotActive(exp.id)
		}
		if _, ok := exp.tags[req.Key]; !ok {
			return nil, mlflow.ExperimentTagNotFound(req.Key, exp.id)
		}
		return &events.Event{Data: &events.Event_ExperimentTagDeleted{
			ExperimentTagDeleted: &events.ExperimentTagDeleted{ExperimentId: exp.id, Key: req.Key},
		}}, nil
	})
}

func (s *Service) deleteExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.DeleteExperiment](c.Request())
	if err != nil {
		return err
	}
	return s.setExperimentDeleted(c, *req, req.ExperimentID, true)
}

func (s *Service) restoreExperiment(c echo.Context) error {
	req, err := mlflow.Decode[mlflow.RestoreExperiment](c.Request())
	if err != nil {
		return err
	}
	return s.setExperimentDeleted(c, *req, req.ExperimentID, false)
}

// setExperimentDeleted deletes or restores an experiment and all its runs. The
// runs come first: a call that breaks off leaves the experiment as it was, and
// is repaired by repeating it.
func (s *Service) setExperimentDeleted(c echo.Context, request any, id string, deleted bool) error {
	if err := mlflow.ValidateExperimentID(id); err != nil {
		return err
	}
	a, err := attributes(c, request)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	exp, ok, err := s.experiments.current(ctx, id)
	if err != nil {
		return err
	}
	switch seen, err := s.experiments.seen(a.IdempotencyKey); {
	case err != nil:
		return err
	case seen:
		return answer(c, eventlog.Position{}, mlflow.Empty{})
	case !ok || exp.deleted == deleted:
		return mlflow.ExperimentNotFound(id)
	}
	if err := s.setRunsDeleted(ctx, id, a, deleted); err != nil {
		return err
	}
	return s.onExperiment(c, request, id, func(exp *experiment) (*events.Event, error) {
		switch {
		case exp.deleted == deleted:
			return nil, mlflow.ExperimentNotFound(id)
		case deleted:
			return &events.Event{Data: &events.Event_ExperimentDeleted{
				ExperimentDeleted: &events.ExperimentDeleted{ExperimentId: id},
			}}, nil
		default:
			return &events.Event{Data: &events.Event_ExperimentRestored{
				ExperimentRestored: &events.ExperimentRestored{ExperimentId: id},
			}}, nil
		}
	})
}

// cascadeWidth is how many runs of an experiment are changed at a time.
const cascadeWidth = 256

// setRunsDeleted deletes or restores every run of an experiment.
func (s *Service) setRunsDeleted(ctx context.Context, experimentID string, a events.Attributes, deleted bool) error {
	a.IdempotencyKey = "" // of the request about the experiment
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	slots := make(chan struct{}, cascadeWidth)
	for i, sh := range s.shards {
		ids, err := s.log.Runs(ctx, i, experimentID)
		if err != nil {
			cancel(err)
			break
		}
		sort.Strings(ids)
		for _, id := range ids {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				a := a
				a.ID = events.NewID()
				if _, err := sh.do(ctx, id, a, func(r *run) ([]*events.Event, error) { return r.setDeleted(deleted) }, nil); err != nil {
					cancel(err)
				}
			})
		}
	}
	wg.Wait()
	return context.Cause(ctx)
}
