package ingest

import (
	"strconv"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultExperimentID   = "0"
	defaultExperimentName = "Default"
)

type experiment = fold.Experiment

// directory is the state of all experiments, and of the requests about them.
// Decisions read it and return an event, nil when there is nothing to do; only
// apply changes it.
type directory struct {
	fold.Experiments
	requests map[string]requests          // by the id of the experiment, those that create one under ""
	created  map[string]createdExperiment // by idempotency key without its digest
}

// createdExperiment is an experiment as a request made it.
type createdExperiment struct{ id, name string }

func newDirectory() *directory {
	return &directory{Experiments: fold.NewExperiments(), requests: make(map[string]requests), created: make(map[string]createdExperiment)}
}

// apply folds one event in.
func (d *directory) apply(a events.Attributes, e *events.Event) {
	if key := withoutDigest(a.IdempotencyKey); key != "" {
		about := fold.ExperimentOf(e)
		if c := e.GetExperimentCreated(); c != nil {
			about, d.created[key] = "", createdExperiment{c.GetExperimentId(), c.GetName()}
		}
		if d.requests[about] == nil {
			d.requests[about] = make(requests)
		}
		d.requests[about].add(a.IdempotencyKey)
	}
	d.Apply(a, e)
}

// active returns the experiment with an id that takes writes.
func (d *directory) active(id string) (*experiment, error) {
	exp, ok := d.Find(id)
	switch {
	case !ok:
		return nil, mlflow.ExperimentNotFound(id)
	case exp.Deleted:
		return nil, mlflow.ExperimentNotActive(id)
	}
	return exp, nil
}

// createDefault decides on the experiment that MLflow's clients take to exist.
func (d *directory) createDefault() (*events.Event, error) {
	if d.ByID[defaultExperimentID] != nil {
		return nil, nil
	}
	return creationOf(defaultExperimentID, &mlflow.CreateExperiment{Name: defaultExperimentName}), nil
}

// create decides experiments/create.
func (d *directory) create(req *mlflow.CreateExperiment) (*events.Event, error) {
	if d.ByName[req.Name] != nil {
		return nil, mlflow.ExperimentExists(req.Name)
	}
	return creationOf(strconv.FormatUint(d.MaxID+1, 10), req), nil
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
	exp, ok := d.Find(id)
	switch other := d.ByName[name]; {
	case !ok:
		return nil, mlflow.ExperimentNotFound(id)
	case exp.Deleted:
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
	if _, ok := exp.Tags[key]; !ok {
		return nil, mlflow.ExperimentTagNotFound(key, id)
	}
	return &events.Event{Data: &events.Event_ExperimentTagDeleted{
		ExperimentTagDeleted: &events.ExperimentTagDeleted{ExperimentId: id, Key: key},
	}}, nil
}

// setDeleted decides experiments/delete and experiments/restore. MLflow knows
// no active experiment to restore, and no deleted one to delete.
func (d *directory) setDeleted(id string, deleted bool) (*events.Event, error) {
	exp, ok := d.Find(id)
	switch {
	case !ok || exp.Deleted == deleted:
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
