package fold

import (
	"strconv"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// Experiment is the state of an experiment. Times are milliseconds since the
// Unix epoch.
type Experiment struct {
	ID               string
	Name             string
	ArtifactLocation string
	CreatedAt        int64
	UpdatedAt        int64 // of its name or lifecycle, not of its tags
	Deleted          bool
	DeletedAt        int64
	Purged           bool
	Tags             map[string]string
}

// Experiments is the state of all experiments: the fold of the EXPERIMENTS
// stream. All of them are needed, since a name is unique among deleted ones too.
type Experiments struct {
	ByID   map[string]*Experiment // purged ones too, so that none is made again
	ByName map[string]*Experiment
	MaxID  uint64
}

// NewExperiments returns the state of an empty stream.
func NewExperiments() Experiments {
	return Experiments{ByID: make(map[string]*Experiment), ByName: make(map[string]*Experiment)}
}

// Apply folds one event in. One about an experiment that was not created changes
// nothing.
func (x *Experiments) Apply(a events.Attributes, e *events.Event) {
	id, at := ExperimentOf(e), a.Time.UnixMilli()
	if c := e.GetExperimentCreated(); c != nil {
		exp := &Experiment{
			ID: id, Name: c.GetName(), ArtifactLocation: c.GetArtifactLocation(), CreatedAt: at, UpdatedAt: at, Tags: make(map[string]string),
		}
		for _, t := range c.GetTags() {
			exp.Tags[t.GetKey()] = t.GetValue()
		}
		x.ByID[id], x.ByName[exp.Name] = exp, exp
		if n, err := strconv.ParseUint(id, 10, 64); err == nil {
			x.MaxID = max(x.MaxID, n)
		}
		return
	}
	exp, ok := x.ByID[id]
	if !ok {
		return
	}
	switch data := e.GetData().(type) {
	case *events.Event_ExperimentRenamed:
		delete(x.ByName, exp.Name)
		exp.Name, exp.UpdatedAt = data.ExperimentRenamed.GetName(), at
		x.ByName[exp.Name] = exp
	case *events.Event_ExperimentTagSet:
		exp.Tags[data.ExperimentTagSet.GetTag().GetKey()] = data.ExperimentTagSet.GetTag().GetValue()
	case *events.Event_ExperimentTagDeleted:
		delete(exp.Tags, data.ExperimentTagDeleted.GetKey())
	case *events.Event_ExperimentDeleted:
		exp.Deleted, exp.DeletedAt, exp.UpdatedAt = true, at, at
	case *events.Event_ExperimentRestored:
		exp.Deleted, exp.UpdatedAt = false, at
	case *events.Event_ExperimentPurged:
		delete(x.ByName, exp.Name)
		*exp = Experiment{ID: exp.ID, Purged: true}
	}
}

// ExperimentOf returns the experiment that an event of the EXPERIMENTS stream is
// about, "" for any other event.
func ExperimentOf(e *events.Event) string {
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

// Find returns the experiment with an id.
func (x *Experiments) Find(id string) (*Experiment, bool) {
	exp, ok := x.ByID[id]
	return exp, ok && !exp.Purged
}

// Show returns the experiment as MLflow shows it.
func (x *Experiment) Show() mlflow.Experiment {
	lifecycle := mlflow.LifecycleActive
	if x.Deleted {
		lifecycle = mlflow.LifecycleDeleted
	}
	return mlflow.Experiment{
		ExperimentID: x.ID, Name: x.Name, ArtifactLocation: x.ArtifactLocation, LifecycleStage: lifecycle,
		CreationTime: x.CreatedAt, LastUpdateTime: x.UpdatedAt, Tags: Tags(x.Tags),
	}
}
