package ingest

import (
	"maps"
	"slices"

	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// model is the state of a logged model: the fold of its events. Decisions read
// it and return an event, nil when there is nothing to do; only apply changes it.
type model struct {
	created    *events.LoggedModelCreated
	createdAt  int64 // milliseconds since the Unix epoch
	updatedAt  int64 // milliseconds since the Unix epoch
	status     events.LoggedModelStatus
	deleted    bool
	deletedAt  int64 // milliseconds since the Unix epoch
	purge      purge
	parameters map[string]string
	tags       map[string]string
	requests   requests

	lastSeq uint64
}

func newModel() *model {
	return &model{parameters: make(map[string]string), tags: make(map[string]string), requests: make(requests)}
}

// apply folds one event in.
func (m *model) apply(a events.Attributes, e *events.Event) {
	m.requests.add(a.IdempotencyKey)
	at := a.Time.UnixMilli()
	switch d := e.GetData().(type) {
	case *events.Event_LoggedModelCreated:
		m.created, m.createdAt, m.updatedAt = d.LoggedModelCreated, at, at
		m.status = events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING
		m.logged(d.LoggedModelCreated.GetParameters())
		m.tagged(d.LoggedModelCreated.GetTags())
	case *events.Event_LoggedModelFinalized:
		m.status, m.updatedAt = d.LoggedModelFinalized.GetStatus(), at
	case *events.Event_LoggedModelDeleted:
		m.deleted, m.deletedAt, m.updatedAt = true, at, at
	case *events.Event_LoggedModelParametersLogged:
		m.logged(d.LoggedModelParametersLogged.GetParameters())
	case *events.Event_LoggedModelTagsSet:
		m.tagged(d.LoggedModelTagsSet.GetTags())
	case *events.Event_LoggedModelTagDeleted:
		delete(m.tags, d.LoggedModelTagDeleted.GetKey())
	case *events.Event_LoggedModelPurged:
		m.purge = purged
	case *events.Event_ArtifactsPurged:
		m.purge = emptied
	}
}

func (m *model) logged(parameters []*events.Parameter) {
	for _, p := range parameters {
		m.parameters[p.GetKey()] = p.GetValue()
	}
}

func (m *model) tagged(tags []*events.Tag) {
	for _, t := range tags {
		m.tags[t.GetKey()] = t.GetValue()
	}
}

func (m *model) id() string { return m.created.GetModelId() }

// show returns the model as MLflow shows it, but for its points.
func (m *model) show() mlflow.LoggedModel {
	c := m.created
	shown := mlflow.LoggedModel{Info: mlflow.LoggedModelInfo{
		ModelID: m.id(), ExperimentID: c.GetExperimentId(), Name: c.GetName(), CreationTimestamp: m.createdAt,
		LastUpdatedTimestamp: m.updatedAt, ArtifactURI: c.GetArtifactUri(), Status: modelStatusNames[m.status],
		ModelType: c.GetModelType(), SourceRunID: c.GetSourceRunId(),
	}}
	for _, key := range slices.Sorted(maps.Keys(m.tags)) {
		shown.Info.Tags = append(shown.Info.Tags, mlflow.Tag{Key: key, Value: m.tags[key]})
	}
	for _, key := range slices.Sorted(maps.Keys(m.parameters)) {
		shown.Data.Params = append(shown.Data.Params, mlflow.Param{Key: key, Value: m.parameters[key]})
	}
	return shown
}

var modelStatusNames = map[events.LoggedModelStatus]mlflow.LoggedModelStatus{
	events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING:       mlflow.LoggedModelPending,
	events.LoggedModelStatus_LOGGED_MODEL_STATUS_READY:         mlflow.LoggedModelReady,
	events.LoggedModelStatus_LOGGED_MODEL_STATUS_UPLOAD_FAILED: mlflow.LoggedModelFailed,
}

// modelCreation returns the event that makes a logged model below the artifact
// location of its experiment. Without a name it gets one that is made up.
func modelCreation(id string, x *experiment, req *mlflow.CreateLoggedModel) *events.Event {
	c := &events.LoggedModelCreated{
		ModelId: id, ExperimentId: x.ID, ArtifactUri: mlflow.ArtifactURI(x.ArtifactLocation, "models/"+id+"/artifacts"),
		ModelType: req.ModelType, SourceRunId: req.SourceRunID, Parameters: eventParameters(req.Params), Tags: eventTags(req.Tags),
	}
	if req.Name != nil {
		c.Name = *req.Name
	}
	if c.Name == "" {
		c.Name = randomName()
	}
	return &events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: c}}
}

// finalize decides on a status, which may be changed again.
func (m *model) finalize(name mlflow.LoggedModelStatus) (*events.Event, error) {
	for status, n := range modelStatusNames {
		if n == name && status != m.status {
			return &events.Event{Data: &events.Event_LoggedModelFinalized{
				LoggedModelFinalized: &events.LoggedModelFinalized{ModelId: m.id(), Status: status},
			}}, nil
		}
	}
	return nil, nil
}

// remove decides on a deletion. There is no way back, as in MLflow.
func (m *model) remove() (*events.Event, error) {
	if m.deleted {
		return nil, nil
	}
	return &events.Event{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: m.id()}}}, nil
}

// logParameters decides on parameters: each is written once.
func (m *model) logParameters(params []mlflow.Param) (*events.Event, error) {
	var fresh []mlflow.Param
	for _, p := range params {
		switch was, ok := m.parameters[p.Key]; {
		case !ok:
			fresh = append(fresh, p)
		case was != p.Value:
			return nil, mlflow.LoggedModelParamChanged(m.id(), mlflow.ParamChange{Key: p.Key, Was: was, Now: p.Value})
		}
	}
	if len(fresh) == 0 {
		return nil, nil
	}
	return &events.Event{Data: &events.Event_LoggedModelParametersLogged{
		LoggedModelParametersLogged: &events.LoggedModelParametersLogged{ModelId: m.id(), Parameters: eventParameters(fresh)},
	}}, nil
}

// setTags decides on tags: the last value counts.
func (m *model) setTags(tags []mlflow.Tag) (*events.Event, error) {
	if len(tags) == 0 {
		return nil, nil
	}
	return &events.Event{Data: &events.Event_LoggedModelTagsSet{
		LoggedModelTagsSet: &events.LoggedModelTagsSet{ModelId: m.id(), Tags: eventTags(tags)},
	}}, nil
}

// deleteTag decides on the deletion of a tag.
func (m *model) deleteTag(key string) (*events.Event, error) {
	if _, ok := m.tags[key]; !ok {
		return nil, mlflow.LoggedModelTagNotFound(key, m.id())
	}
	return &events.Event{Data: &events.Event_LoggedModelTagDeleted{
		LoggedModelTagDeleted: &events.LoggedModelTagDeleted{ModelId: m.id(), Key: key},
	}}, nil
}

func eventParameters(params []mlflow.Param) []*events.Parameter {
	out := make([]*events.Parameter, len(params))
	for i, p := range params {
		out[i] = &events.Parameter{Key: p.Key, Value: p.Value}
	}
	return out
}
