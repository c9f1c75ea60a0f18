package ingest

import (
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// links is what a run is linked to: data sets and logged models. All are sets,
// so that a repeated request changes nothing.
type links struct {
	datasets map[datasetID]struct{}
	inputs   map[string]struct{} // model ids
	outputs  map[mlflow.ModelOutput]struct{}
	models   string // the value of mlflow.TagLoggedModels
}

type datasetID struct{ name, digest string }

// apply folds one event in.
func (l *links) apply(e *events.Event) {
	switch d := e.GetData().(type) {
	case *events.Event_RunInputsLogged:
		for _, in := range d.RunInputsLogged.GetDatasets() {
			add(&l.datasets, datasetID{in.GetName(), in.GetDigest()})
		}
		for _, id := range d.RunInputsLogged.GetModelIds() {
			add(&l.inputs, id)
		}
	case *events.Event_RunOutputsLogged:
		for _, m := range d.RunOutputsLogged.GetModels() {
			add(&l.outputs, mlflow.ModelOutput{ModelID: m.GetModelId(), Step: m.GetStep()})
		}
	case *events.Event_RunCreated:
		l.applyTags(d.RunCreated.GetTags())
	case *events.Event_RunTagsSet:
		l.applyTags(d.RunTagsSet.GetTags())
	case *events.Event_RunTagDeleted:
		if d.RunTagDeleted.GetKey() == mlflow.TagLoggedModels {
			l.models = ""
		}
	}
}

func (l *links) applyTags(tags []*events.Tag) {
	for _, t := range tags {
		if t.GetKey() == mlflow.TagLoggedModels {
			l.models = t.GetValue()
		}
	}
}

// count returns how many there are.
func (l *links) count() int { return len(l.datasets) + len(l.inputs) + len(l.outputs) }

// add adds to a set, which it makes when there is none, and reports whether the
// set did not have it.
func add[K comparable](set *map[K]struct{}, key K) bool {
	if _, ok := (*set)[key]; ok {
		return false
	}
	if *set == nil {
		*set = make(map[K]struct{})
	}
	(*set)[key] = struct{}{}
	return true
}

// logInputs decides runs/log-inputs. A data set that the run read before stays
// as it was first logged.
func (r *run) logInputs(req *mlflow.LogInputs) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	logged := &events.RunInputsLogged{RunId: r.ID()}
	var datasets map[datasetID]struct{}
	for _, in := range req.Datasets {
		d, id := in.Dataset, datasetID{in.Dataset.Name, in.Dataset.Digest}
		if _, ok := r.links.datasets[id]; ok || !add(&datasets, id) {
			continue
		}
		logged.Datasets = append(logged.Datasets, &events.DatasetInput{
			Name: d.Name, Digest: d.Digest, SourceType: d.SourceType, Source: d.Source, Schema: d.Schema, Profile: d.Profile, Tags: eventTags(in.Tags),
		})
	}
	var models map[string]struct{}
	for _, m := range req.Models {
		if _, ok := r.links.inputs[m.ModelID]; !ok && add(&models, m.ModelID) {
			logged.ModelIds = append(logged.ModelIds, m.ModelID)
		}
	}
	if len(logged.GetDatasets()) == 0 && len(logged.GetModelIds()) == 0 {
		return nil, nil
	}
	return []*events.Event{{Data: &events.Event_RunInputsLogged{RunInputsLogged: logged}}}, nil
}

// logOutputs decides runs/outputs.
func (r *run) logOutputs(req *mlflow.LogOutputs) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	logged := &events.RunOutputsLogged{RunId: r.ID()}
	var outputs map[mlflow.ModelOutput]struct{}
	for _, m := range req.Models {
		if _, ok := r.links.outputs[m]; !ok && add(&outputs, m) {
			logged.Models = append(logged.Models, &events.ModelOutput{ModelId: m.ModelID, Step: m.Step})
		}
	}
	if len(logged.GetModels()) == 0 {
		return nil, nil
	}
	return []*events.Event{{Data: &events.Event_RunOutputsLogged{RunOutputsLogged: logged}}}, nil
}

// logModel decides runs/log-model.
func (r *run) logModel(modelJSON string) ([]*events.Event, error) {
	if err := r.active(); err != nil {
		return nil, err
	}
	list, err := mlflow.AppendModel(r.links.models, modelJSON)
	if err != nil {
		return nil, err
	}
	return []*events.Event{tagsSet(r.ID(), []mlflow.Tag{{Key: mlflow.TagLoggedModels, Value: list}})}, nil
}

func eventTags(tags []mlflow.Tag) []*events.Tag {
	out := make([]*events.Tag, len(tags))
	for i, t := range tags {
		out[i] = &events.Tag{Key: t.Key, Value: t.Value}
	}
	return out
}

func metricLink(l *mlflow.MetricLink) *events.MetricLink {
	if l == nil {
		return nil
	}
	return &events.MetricLink{ModelId: l.ModelID, DatasetName: l.DatasetName, DatasetDigest: l.DatasetDigest}
}
