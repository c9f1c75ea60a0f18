// Package fold makes of events the state of what they are about, as it is for
// those who decide on it and for those who show it. A state is the fold of all
// events about its run or experiment in the log's order; what only one of them
// needs is kept beside it.
package fold

import (
	"maps"
	"slices"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// Purge is how far the end of a run or a logged model has got.
type Purge int

// The steps of a purge.
const (
	Kept    Purge = iota
	Purged        // gone for every reader; its artifacts may still be there
	Emptied       // its artifacts are gone too
)

// Run is the state of a run without its metrics, and without what it is linked
// to.
type Run struct {
	Created    *events.RunCreated // of a purged run what is left of it; nil before the first event
	Name       string
	Status     events.RunStatus
	EndTime    int64 // milliseconds since the Unix epoch, 0 for none
	Deleted    bool
	DeletedAt  int64 // milliseconds since the Unix epoch
	Purge      Purge
	Parameters map[string]string
	Tags       map[string]string
	// Text is the length of the parameters and tags, in bytes.
	Text int
}

// NewRun returns the state of a run without events.
func NewRun() Run { return Run{Parameters: make(map[string]string), Tags: make(map[string]string)} }

// Apply folds one event in.
func (r *Run) Apply(a events.Attributes, e *events.Event) {
	switch d := e.GetData().(type) {
	case *events.Event_RunCreated:
		r.Created = d.RunCreated
		r.Name = d.RunCreated.GetName()
		r.Status = events.RunStatus_RUN_STATUS_RUNNING
		r.tag(d.RunCreated.GetTags())
	case *events.Event_RunUpdated:
		if d.RunUpdated.Status != nil {
			r.Status = d.RunUpdated.GetStatus()
		}
		if d.RunUpdated.EndTime != nil {
			r.EndTime = d.RunUpdated.GetEndTime()
		}
		if d.RunUpdated.Name != nil {
			r.Name = d.RunUpdated.GetName()
		}
	case *events.Event_RunParametersLogged:
		for _, p := range d.RunParametersLogged.GetParameters() {
			r.set(r.Parameters, p.GetKey(), p.GetValue())
		}
	case *events.Event_RunTagsSet:
		r.tag(d.RunTagsSet.GetTags())
	case *events.Event_RunTagDeleted:
		r.forget(r.Tags, d.RunTagDeleted.GetKey())
	case *events.Event_RunDeleted:
		r.Deleted, r.DeletedAt = true, a.Time.UnixMilli()
	case *events.Event_RunRestored:
		r.Deleted = false
	case *events.Event_RunPurged:
		left := &events.RunCreated{RunId: r.ID(), ExperimentId: r.Created.GetExperimentId(), ArtifactUri: r.Created.GetArtifactUri()}
		*r = NewRun()
		r.Created, r.Purge = left, Purged
	case *events.Event_ArtifactsPurged:
		r.Purge = Emptied
	}
}

func (r *Run) tag(tags []*events.Tag) {
	for _, t := range tags {
		r.set(r.Tags, t.GetKey(), t.GetValue())
	}
}

func (r *Run) set(values map[string]string, key, value string) {
	r.forget(values, key)
	values[key] = value
	r.Text += len(key) + len(value)
}

func (r *Run) forget(values map[string]string, key string) {
	if value, ok := values[key]; ok {
		r.Text -= len(key) + len(value)
		delete(values, key)
	}
}

// ID returns the run's id.
func (r *Run) ID() string { return r.Created.GetRunId() }

// Info returns the run as MLflow shows it.
func (r *Run) Info() mlflow.RunInfo {
	lifecycle := mlflow.LifecycleActive
	if r.Deleted {
		lifecycle = mlflow.LifecycleDeleted
	}
	return mlflow.RunInfo{
		RunID: r.ID(), RunUUID: r.ID(), ExperimentID: r.Created.GetExperimentId(), RunName: r.Name,
		UserID: r.Created.GetUserId(), Status: RunStatuses[r.Status], StartTime: r.Created.GetStartTime(), EndTime: r.EndTime,
		ArtifactURI: r.Created.GetArtifactUri(), LifecycleStage: lifecycle,
	}
}

// RunStatuses are MLflow's names of the statuses of a run.
var RunStatuses = map[events.RunStatus]mlflow.RunStatus{
	events.RunStatus_RUN_STATUS_RUNNING:   mlflow.StatusRunning,
	events.RunStatus_RUN_STATUS_SCHEDULED: mlflow.StatusScheduled,
	events.RunStatus_RUN_STATUS_FINISHED:  mlflow.StatusFinished,
	events.RunStatus_RUN_STATUS_FAILED:    mlflow.StatusFailed,
	events.RunStatus_RUN_STATUS_KILLED:    mlflow.StatusKilled,
}

// Tags returns tags in the order of their keys, nil without any.
func Tags(values map[string]string) []mlflow.Tag {
	var tags []mlflow.Tag
	for _, key := range slices.Sorted(maps.Keys(values)) {
		tags = append(tags, mlflow.Tag{Key: key, Value: values[key]})
	}
	return tags
}
