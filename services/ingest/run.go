package ingest

import (
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/fold"
	"github.com/runledger/runledger/pkg/mlflow"
)

// run is the state of a run: the fold of its meta events, without its metrics.
// Decisions read it and return events; only apply changes it.
type run struct {
	fold.Run
	requests requests
	links    links

	lastSeq uint64 // of the committed meta events
}

func newRun() *run { return &run{Run: fold.NewRun(), requests: make(requests)} }

// apply folds one event in.
func (r *run) apply(a events.Attributes, e *events.Event) {
	if e.GetRunPurged() != nil {
		r.requests, r.links = make(requests), links{}
	} else {
		r.requests.add(a.IdempotencyKey)
		r.links.apply(e)
	}
	r.Apply(a, e)
}

// footprint estimates the memory that the state takes, in bytes.
func (r *run) footprint() int {
	const base, entry = 1024, 256
	return base + proto.Size(r.Created) + r.Text + len(r.links.models) + entry*(len(r.Parameters)+len(r.Tags)+len(r.requests)+r.links.count())
}

func (r *run) active() error {
	if r.Deleted {
		return mlflow.RunNotActive(r.ID())
	}
	return nil
}

func statusOf(name mlflow.RunStatus) (events.RunStatus, error) {
	for status, n := range fold.RunStatuses {
		if n == name {
			return status, nil
		}
	}
	return 0, apierr.Errorf(apierr.InvalidParameterValue, "Invalid value \"%s\" for parameter 'status' supplied", name)
}

// update decides runs/update. An empty name changes nothing, as in MLflow.
func (r *run) update(req *mlflow.UpdateRun) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	u := &events.RunUpdated{RunId: r.ID(), EndTime: req.EndTime}
	if req.Status != nil {
		status, err := statusOf(*req.Status)
		if err != nil {
			return nil, err
		}
		u.Status = &status
	}
	if req.RunName != nil && *req.RunName != "" {
		u.Name = req.RunName
	}
	if u.Status == nil && u.EndTime == nil && u.Name == nil {
		return nil, nil
	}
	out := []*events.Event{{Data: &events.Event_RunUpdated{RunUpdated: u}}}
	if u.Name != nil {
		out = append(out, tagsSet(r.ID(), []mlflow.Tag{{Key: mlflow.TagRunName, Value: *u.Name}}))
	}
	return out, nil
}

// batch decides runs/log-batch, and what is a part of one. single chooses
// MLflow's words for a parameter that is logged by itself.
func (r *run) batch(req *mlflow.LogBatch, single bool) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	var changes []mlflow.ParamChange
	var fresh []*events.Parameter
	for _, p := range req.Params {
		was, ok := r.Parameters[p.Key]
		switch {
		case !ok:
			fresh = append(fresh, &events.Parameter{Key: p.Key, Value: p.Value})
		case was != p.Value:
			changes = append(changes, mlflow.ParamChange{Key: p.Key, Was: was, Now: p.Value})
		}
	}
	if len(changes) > 0 {
		if single {
			return nil, mlflow.ParamChanged(r.ID(), changes[0].Key, changes[0].Was, changes[0].Now)
		}
		return nil, mlflow.ParamsChanged(r.ID(), changes)
	}
	var out []*events.Event
	if len(fresh) > 0 {
		out = append(out, &events.Event{Data: &events.Event_RunParametersLogged{
			RunParametersLogged: &events.RunParametersLogged{RunId: r.ID(), Parameters: fresh},
		}})
	}
	// The name of a run follows its tag; an empty one leaves both as they are.
	tags := slices.DeleteFunc(slices.Clone(req.Tags), func(t mlflow.Tag) bool { return t.Key == mlflow.TagRunName && t.Value == "" })
	if len(tags) > 0 {
		out = append(out, tagsSet(r.ID(), tags))
		if name := lastTag(tags, mlflow.TagRunName); name != "" && name != r.Name {
			out = append(out, &events.Event{Data: &events.Event_RunUpdated{
				RunUpdated: &events.RunUpdated{RunId: r.ID(), Name: &name},
			}})
		}
	}
	for chunk := range slices.Chunk(req.Metrics, events.MaxPoints) {
		points := make([]events.Point, len(chunk))
		for i, m := range chunk {
			points[i] = events.Point{Key: m.Key, Value: m.Value, Timestamp: m.Timestamp, Step: m.Step, Link: metricLink(m.Link)}
		}
		out = append(out, &events.Event{Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(r.ID(), points)}})
	}
	return out, nil
}

// deleteTag decides runs/delete-tag.
func (r *run) deleteTag(key string) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	if _, ok := r.Tags[key]; !ok {
		return nil, mlflow.RunTagNotFound(key, r.ID())
	}
	return []*events.Event{{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{RunId: r.ID(), Key: key}}}}, nil
}

// setDeleted decides runs/delete and runs/restore.
func (r *run) setDeleted(deleted bool) ([]*events.Event, error) {
	switch {
	case r.Deleted == deleted || r.Purge != kept:
		return nil, nil
	case deleted:
		return []*events.Event{{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: r.ID()}}}}, nil
	default:
		return []*events.Event{{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{RunId: r.ID()}}}}, nil
	}
}

// creation returns the event of runs/create. The name and its tag are equal;
// without either the name is made up.
func creation(id string, x *experiment, req *mlflow.CreateRun, now int64) (*events.RunCreated, error) {
	name, tag := req.RunName, lastTag(req.Tags, mlflow.TagRunName)
	switch {
	case name != "" && tag != "" && name != tag:
		return nil, mlflow.RunNameConflict(name, tag)
	case name == "" && tag != "":
		name = tag
	case name == "":
		name = randomName()
	}
	tags := make(map[string]string, len(req.Tags)+1)
	for _, t := range req.Tags {
		tags[t.Key] = t.Value
	}
	tags[mlflow.TagRunName] = name
	start := req.StartTime
	if start == mlflow.NoStartTime {
		start = now
	}
	c := &events.RunCreated{
		RunId: id, ExperimentId: x.ID, Name: name, UserId: req.UserID, StartTime: start,
		ArtifactUri: mlflow.ArtifactURI(x.ArtifactLocation, id+"/artifacts"),
	}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		c.Tags = append(c.Tags, &events.Tag{Key: key, Value: tags[key]})
	}
	return c, nil
}

func tagsSet(id string, tags []mlflow.Tag) *events.Event {
	set := &events.RunTagsSet{RunId: id}
	for _, t := range tags {
		set.Tags = append(set.Tags, &events.Tag{Key: t.Key, Value: t.Value})
	}
	return &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: set}}
}

// lastTag returns the value of the last tag with a key, "" without one.
func lastTag(tags []mlflow.Tag, key string) string {
	for _, t := range slices.Backward(tags) {
		if t.Key == key {
			return t.Value
		}
	}
	return ""
}
