package ingest

import (
	"strconv"

	"github.com/runledger/runledger/pkg/apierr"
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
	deletedAt        int64 // milliseconds since the Unix epoch
	purged           bool
	tags             map[string]struct{}
}

// directory is the state of all experiments: the fold of the EXPERIMENTS
// stream. All of them are needed, since a name is unique among deleted ones
// too. Decisions read it and return an event, nil when there is nothing to do;
// only apply changes it.
type directory struct {
	byID     map[string]*experiment
	byName   map[string]*experiment
	maxID    uint64
	requests requests
	created  map[string]string // experiment ids by idempotency key
}

func newDirectory() *directory {
	return &directory{
		byID: make(map[string]*experiment), byName: make(map[string]*experiment),
		requests: make(requests), created: make(map[string]string),
	}
}

// apply folds one event in.
func (d *directory) apply(a events.Attributes, e *events.Event) {
	d.requests.add(a.IdempotencyKey)
	id := experimentOf(e)
	if c := e.GetExperimentCreated(); c != nil {
		exp := &experiment{id: id, name: c.GetName(), artifactLocation: c.GetArtifactLocation(), tags: make(map[string]struct{})}
		for _, t := range c.GetTags() {
			exp.tags[t.GetKey()] = struct{}{}
		}
		d.byID[id], d.byName[exp.name] = exp, exp
		if n, err := strconv.ParseUint(id, 10, 64); err == nil {
			d.maxID = max(d.maxID, n)
		}
		if a.IdempotencyKey != "" {
			d.created[a.IdempotencyKey] = id
		}
		return
	}
	exp, ok := d.byID[id]
	if !ok {
		return
	}
	switch data := e.GetData().(type) {
	case *events.Event_ExperimentRenamed:
		delete(d.byName, exp.name)
		exp.name = data.ExperimentRenamed.GetName()
		d.byName[exp.name] = exp
	case *events.Event_ExperimentTagSet:
		exp.tags[data.ExperimentTagSet.GetTag().GetKey()] = struct{}{}
	case *events.Event_ExperimentTagDeleted:
		delete(exp.tags, data.ExperimentTagDeleted.GetKey())
	case *events.Event_ExperimentDeleted:
		exp.deleted, exp.deletedAt = true, a.Time.UnixMilli()
	case *events.Event_ExperimentRestored:
		exp.deleted = false
	case *events.Event_ExperimentPurged:
		// It stays in byID, so that the default one is not made again.
		delete(d.byName, exp.name)
		*exp = experiment{id: exp.id, purged: true}
	}
}

// experimentOf returns the experiment that an event is about.
func experimentOf(e *events.Event) string {
	switch data := e.GetData().(type) {
	case *events.Event_ExperimentCreated:
		return data.ExperimentCreated.GetExperimentId()
	case *events.Event_ExperimentRenamed:
		return data.ExperimentRenamed.GetExperimentId()
	case *events.Event_ExperimentTagSet:
		return data.ExperimentTagSet.GetExperimentId()
	case *events.Event_ExperimentTagDeleted:
		return data.ExperimentTagDeleted.GetExperimentId()
	case *events.Event_ExperimentDeleted:
		return data.ExperimentDeleted.GetExperimentId()
	case *events.Event_ExperimentRestored:
		return data.ExperimentRestored.GetExperimentId()
	case *events.Event_ExperimentPurged:
		return data.ExperimentPurged.GetExperimentId()
	}
	return ""
}

// find returns the experiment with an id.
func (d *directory) find(id string) (*experiment, bool) {
	exp, ok := d.byID[id]
	return exp, ok && !exp.purged
}

// active returns the experiment with an id that takes writes.
func (d *directory) active(id string) (*experiment, error) {
	exp, ok := d.find(id)
	switch {
	case !ok:
		return nil, mlflow.ExperimentNotFound(id)
	case exp.deleted:
		return nil, mlflow.ExperimentNotActive(id)
	}
	return exp, nil
}

// createDefault decides on the experiment that MLflow's clients take to exist.
func (d *directory) createDefault() (*events.Event, error) {
	if d.byID[defaultExperimentID] != nil {
		return nil, nil
	}
	return creationOf(defaultExperimentID, &mlflow.CreateExperiment{Name: defaultExperimentName}), nil
}

// create decides experiments/create.
func (d *directory) create(req *mlflow.CreateExperiment) (*events.Event, error) {
	if d.byName[req.Name] != nil {
		return nil, mlflow.ExperimentExists(req.Name)
	}
	return creationOf(strconv.FormatUint(d.maxID+1, 10), req), nil
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

// rename decides experiments/update.
func (d *directory) rename(id, name string) (*events.Event, error) {
	exp, ok := d.find(id)
	switch other := d.byName[name]; {
	case !ok:
		return nil, mlflow.ExperimentNotFound(id)
	case exp.deleted:
		// MLflow's words; its status would make clients repeat the request.
		return nil, apierr.Errorf(apierr.InvalidParameterValue, "%s", mlflow.RenameInactiveExperiment().Message)
	case other == exp:
		return nil, nil
	case other != nil:
		return nil, mlflow.ExperimentExists(name)
	}
	return &events.Event{Data: &events.Event_ExperimentRenamed{
		ExperimentRenamed: &events.ExperimentRenamed{ExperimentId: id, Name: name},
	}}, nil
}

// setTag decides experiments/set-experiment-tag.
func (d *directory) setTag(id string, tag mlflow.Tag) (*events.Event, error) {
	if _, err := d.active(id); err != nil {
		return nil, err
	}
	return &events.Event{Data: &events.Event_ExperimentTagSet{
		ExperimentTagSet: &events.ExperimentTagSet{ExperimentId: id, Tag: &events.Tag{Key: tag.Key, Value: tag.Value}},
	}}, nil
}

// deleteTag decides experiments/delete-experiment-tag.
func (d *directory) deleteTag(id, key string) (*events.Event, error) {
	exp, err := d.active(id)
	if err != nil {
		return nil, err
	}
	if _, ok := exp.tags[key]; !ok {
		return nil, mlflow.ExperimentTagNotFound(key, id)
	}
	return &events.Event{Data: &events.Event_ExperimentTagDeleted{
		ExperimentTagDeleted: &events.ExperimentTagDeleted{ExperimentId: id, Key: key},
	}}, nil
}

// setDeleted decides experiments/delete and experiments/restore. MLflow knows
// no active experiment to restore, and no deleted one to delete.
func (d *directory) setDeleted(id string, deleted bool) (*events.Event, error) {
	exp, ok := d.find(id)
	switch {
	case !ok || exp.deleted == deleted:
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
}
