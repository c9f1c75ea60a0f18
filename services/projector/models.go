package projector

import (
	"context"
	"maps"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// model is a row of logged_models.
type model struct {
	experiment                               uint64
	id, name, artifactURI, modelType, source string
	status, lifecycle                        int8
	creationTime, lastUpdateTime             int64 // milliseconds
	params, tags                             map[string]string
	seq                                      uint64 // 0 when the table has no row
	dirty                                    bool
}

// keyed is rows of which the batch has one for each key, in a fixed order.
type keyed[K comparable, V any] struct {
	rows  map[K]V
	order []K
}

// set makes v the row of key.
func (k *keyed[K, V]) set(key K, v V) {
	if _, ok := k.rows[key]; !ok {
		k.order = append(k.order, key)
	}
	if k.rows == nil {
		k.rows = make(map[K]V)
	}
	k.rows[key] = v
}

// add makes v the row of key unless it has one.
func (k *keyed[K, V]) add(key K, v V) {
	if _, ok := k.rows[key]; !ok {
		k.set(key, v)
	}
}

func (k *keyed[K, V]) reset() {
	clear(k.rows)
	k.order = k.order[:0]
}

// place is where in the log a row comes from.
type place struct {
	seq uint64
	idx uint32
}

type datasetID struct {
	run          uuid.UUID
	name, digest string
}

type dataset struct {
	place
	experiment                          uint64
	sourceType, source, schema, profile string
	tags                                map[string]string
}

type modelLinkID struct {
	run    uuid.UUID
	output bool
	model  string
	step   int64
}

type modelLink struct {
	place
	experiment uint64
}

// modelPointID is what makes two points of logged models the same one.
type modelPointID struct {
	pointID
	model, dataset, digest string
}

type modelPoint struct {
	place
	value float64
}

// loggedModelOf returns the id of the logged model that an event is about, ""
// when it is about none.
func loggedModelOf(e *events.Event) string {
	if kind, id := entity(e); kind == entityLoggedModel {
		return id
	}
	return ""
}

func (f *folder) prepareModel(m *missing, rec eventlog.Record, id string) error {
	if _, ok := f.state.models.Get(id); ok {
		return nil
	}
	exp, err := parseExperiment(rec, events.ExperimentOfLoggedModelSubject(rec.Subject))
	if err != nil {
		return err
	}
	x := &model{id: id, experiment: exp, params: map[string]string{}, tags: map[string]string{}}
	f.state.models.Add(id, x)
	if rec.Event.GetLoggedModelCreated() == nil || rec.Seq <= f.fresh {
		m.models = append(m.models, x)
	}
	return nil
}

// foldModel changes the row of a logged model.
func (f *folder) foldModel(rec eventlog.Record, id string) error {
	x, _ := f.state.models.Get(id)
	if x.seq < rec.Seq {
		if x.seq == 0 && rec.Event.GetLoggedModelCreated() == nil {
			return unprojectable(rec, "logged model %s was not created", id)
		}
		if err := x.apply(rec); err != nil {
			return err
		}
		x.seq = rec.Seq
		if !x.dirty {
			x.dirty = true
			f.dirtyModels = append(f.dirtyModels, x)
		}
	}
	return f.foldAudit(rec)
}

func (x *model) apply(rec eventlog.Record) error {
	at := rec.Time.UnixMilli()
	switch e := rec.Event.GetData().(type) {
	case *events.Event_LoggedModelCreated:
		c := e.LoggedModelCreated
		x.name, x.artifactURI, x.modelType, x.source = c.GetName(), c.GetArtifactUri(), c.GetModelType(), c.GetSourceRunId()
		x.status, x.lifecycle = int8(events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING), lifecycleActive
		x.creationTime, x.lastUpdateTime = at, at
		x.logged(c.GetParameters())
		maps.Copy(x.tags, tagMap(c.GetTags()))
	case *events.Event_LoggedModelFinalized:
		status := e.LoggedModelFinalized.GetStatus()
		if status < events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING || status > events.LoggedModelStatus_LOGGED_MODEL_STATUS_UPLOAD_FAILED {
			return unprojectable(rec, "status %v", status)
		}
		x.status, x.lastUpdateTime = int8(status), at
	case *events.Event_LoggedModelDeleted:
		x.lifecycle, x.lastUpdateTime = lifecycleDeleted, at
	case *events.Event_LoggedModelPurged:
		// A tombstone, like that of a run.
		*x = model{
			experiment: x.experiment, id: x.id, artifactURI: x.artifactURI, status: x.status, lifecycle: lifecyclePurged,
			params: map[string]string{}, tags: map[string]string{}, seq: x.seq, dirty: x.dirty,
		}
	case *events.Event_ArtifactsPurged:
		x.artifactURI = ""
	case *events.Event_LoggedModelParametersLogged:
		x.logged(e.LoggedModelParametersLogged.GetParameters())
	case *events.Event_LoggedModelTagsSet:
		maps.Copy(x.tags, tagMap(e.LoggedModelTagsSet.GetTags()))
	case *events.Event_LoggedModelTagDeleted:
		delete(x.tags, e.LoggedModelTagDeleted.GetKey())
	}
	return nil
}

func (x *model) logged(params []*events.Parameter) {
	for _, p := range params {
		x.params[p.GetKey()] = p.GetValue()
	}
}

func tagMap(tags []*events.Tag) map[string]string {
	m := make(map[string]string, len(tags))
	for _, t := range tags {
		m[t.GetKey()] = t.GetValue()
	}
	return m
}

// foldInputs adds the data sets and models that a run read.
func (f *folder) foldInputs(rec eventlog.Record, e *events.RunInputsLogged) error {
	r, err := f.run(rec, e.GetRunId())
	if err != nil {
		return err
	}
	if !r.purged && rec.Seq > f.done[tableDatasets] {
		for i, d := range e.GetDatasets() {
			f.datasets.set(datasetID{run: r.id, name: d.GetName(), digest: d.GetDigest()}, dataset{
				place: place{rec.Seq, uint32(i)}, experiment: r.experiment, sourceType: d.GetSourceType(), source: d.GetSource(),
				schema: d.GetSchema(), profile: d.GetProfile(), tags: tagMap(d.GetTags()),
			})
		}
	}
	if !r.purged && rec.Seq > f.done[tableRunModels] {
		for i, id := range e.GetModelIds() {
			f.modelLinks.set(modelLinkID{run: r.id, model: id}, modelLink{place{rec.Seq, uint32(i)}, r.experiment})
		}
	}
	return f.foldAudit(rec)
}

// foldOutputs adds the models that a run wrote.
func (f *folder) foldOutputs(rec eventlog.Record, e *events.RunOutputsLogged) error {
	r, err := f.run(rec, e.GetRunId())
	if err != nil {
		return err
	}
	if !r.purged && rec.Seq > f.done[tableRunModels] {
		for i, m := range e.GetModels() {
			id := modelLinkID{run: r.id, output: true, model: m.GetModelId(), step: m.GetStep()}
			f.modelLinks.set(id, modelLink{place{rec.Seq, uint32(i)}, r.experiment})
		}
	}
	return f.foldAudit(rec)
}

// foldModelMetrics adds the points that are linked to logged models.
func (f *folder) foldModelMetrics(rec eventlog.Record, r *run, m *events.MetricsLogged) {
	if len(m.GetLinkIndex()) == 0 || rec.Seq <= f.done[tableModelMetrics] {
		return
	}
	for i, p := range m.Points() {
		if p.Link == nil {
			continue
		}
		f.modelMetrics.add(modelPointID{
			pointID: pointID{run: r.id, Identity: p.Identity()},
			model:   p.Link.GetModelId(), dataset: p.Link.GetDatasetName(), digest: p.Link.GetDatasetDigest(),
		}, modelPoint{place{rec.Seq, uint32(i)}, p.Value})
	}
}

func (f *folder) modelRows() proto.Input {
	var (
		experiment, seq            proto.ColUInt64
		id, name, uri, typ, source proto.ColStr
		status, lifecycle          proto.ColInt8
		created, updated           proto.ColInt64
		shard                      proto.ColUInt16
		params, tags               = textMap(), textMap()
	)
	for _, x := range f.dirtyModels {
		experiment.Append(x.experiment)
		id.Append(x.id)
		name.Append(x.name)
		uri.Append(x.artifactURI)
		typ.Append(x.modelType)
		source.Append(x.source)
		status.Append(x.status)
		lifecycle.Append(x.lifecycle)
		created.Append(x.creationTime)
		updated.Append(x.lastUpdateTime)
		params.Append(x.params)
		tags.Append(x.tags)
		shard.Append(f.shard)
		seq.Append(x.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &experiment},
		{Name: "model_id", Data: &id},
		{Name: "name", Data: &name},
		{Name: "artifact_uri", Data: &uri},
		{Name: "model_type", Data: &typ},
		{Name: "source_run_id", Data: &source},
		{Name: "status", Data: &status},
		{Name: "lifecycle", Data: &lifecycle},
		{Name: "creation_time", Data: &created},
		{Name: "last_update_time", Data: &updated},
		{Name: "params", Data: params},
		{Name: "tags", Data: tags},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}

func textMap() *proto.ColMap[string, string] {
	return proto.NewMap(new(proto.ColStr), new(proto.ColStr))
}

func (f *folder) modelMetricRows() proto.Input {
	var (
		model, name, digest proto.ColStr
		key                 = lowCardinality()
		step, timestamp     proto.ColInt64
		value               proto.ColFloat64
		run                 proto.ColUUID
		shard               proto.ColUInt16
		seq                 proto.ColUInt64
		idx                 proto.ColUInt32
	)
	for _, id := range f.modelMetrics.order {
		row := f.modelMetrics.rows[id]
		model.Append(id.model)
		key.Append(id.Key)
		step.Append(id.Step)
		timestamp.Append(id.Timestamp)
		value.Append(row.value)
		run.Append(id.run)
		name.Append(id.dataset)
		digest.Append(id.digest)
		shard.Append(f.shard)
		seq.Append(row.seq)
		idx.Append(row.idx)
	}
	return proto.Input{
		{Name: "model_id", Data: &model},
		{Name: "key", Data: key},
		{Name: "step", Data: &step},
		{Name: "timestamp", Data: &timestamp},
		{Name: "value", Data: &value},
		{Name: "run_id", Data: &run},
		{Name: "dataset_name", Data: &name},
		{Name: "dataset_digest", Data: &digest},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
		{Name: "idx", Data: &idx},
	}
}

func (f *folder) datasetRows() proto.Input {
	var (
		experiment, seq                       proto.ColUInt64
		run                                   proto.ColUUID
		name, digest, source, schema, profile proto.ColStr
		sourceType                            = lowCardinality()
		tags                                  = textMap()
		idx                                   proto.ColUInt32
		shard                                 proto.ColUInt16
	)
	for _, id := range f.datasets.order {
		row := f.datasets.rows[id]
		experiment.Append(row.experiment)
		run.Append(id.run)
		name.Append(id.name)
		digest.Append(id.digest)
		sourceType.Append(row.sourceType)
		source.Append(row.source)
		schema.Append(row.schema)
		profile.Append(row.profile)
		tags.Append(row.tags)
		idx.Append(row.idx)
		shard.Append(f.shard)
		seq.Append(row.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &experiment},
		{Name: "run_id", Data: &run},
		{Name: "name", Data: &name},
		{Name: "digest", Data: &digest},
		{Name: "source_type", Data: sourceType},
		{Name: "source", Data: &source},
		{Name: "schema", Data: &schema},
		{Name: "profile", Data: &profile},
		{Name: "tags", Data: tags},
		{Name: "idx", Data: &idx},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}

func (f *folder) modelLinkRows() proto.Input {
	var (
		experiment, seq proto.ColUInt64
		run             proto.ColUUID
		direction       proto.ColInt8
		model           proto.ColStr
		step            proto.ColInt64
		idx             proto.ColUInt32
		shard           proto.ColUInt16
	)
	for _, id := range f.modelLinks.order {
		row := f.modelLinks.rows[id]
		experiment.Append(row.experiment)
		run.Append(id.run)
		if id.output {
			direction.Append(directionOutput)
		} else {
			direction.Append(directionInput)
		}
		model.Append(id.model)
		step.Append(id.step)
		idx.Append(row.idx)
		shard.Append(f.shard)
		seq.Append(row.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &experiment},
		{Name: "run_id", Data: &run},
		{Name: "direction", Data: &direction},
		{Name: "model_id", Data: &model},
		{Name: "step", Data: &step},
		{Name: "idx", Data: &idx},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}

// loadModels reads the rows of logged models into those that have one.
func (s *store) loadModels(ctx context.Context, models []*model) error {
	byID := make(map[string]*model, len(models))
	var wantedExperiment proto.ColUInt64
	var wantedID proto.ColStr
	for _, x := range models {
		byID[x.id] = x
		wantedExperiment.Append(x.experiment)
		wantedID.Append(x.id)
	}
	var (
		seq                        proto.ColUInt64
		id, name, uri, typ, source proto.ColStr
		status, lifecycle          proto.ColInt8
		created, updated           proto.ColInt64
		params, tags               = textMap(), textMap()
	)
	return s.query(ctx, query{
		name:   "load_models",
		wanted: proto.Input{{Name: "experiment_id", Data: &wantedExperiment}, {Name: "model_id", Data: &wantedID}},
		result: proto.Results{
			{Name: "model_id", Data: &id},
			{Name: "name", Data: &name},
			{Name: "artifact_uri", Data: &uri},
			{Name: "model_type", Data: &typ},
			{Name: "source_run_id", Data: &source},
			{Name: "status_number", Data: &status},
			{Name: "lifecycle_number", Data: &lifecycle},
			{Name: "creation_time", Data: &created},
			{Name: "last_update_time", Data: &updated},
			{Name: "params", Data: params},
			{Name: "tags", Data: tags},
			{Name: "seq", Data: &seq},
		},
		each: func(n int) error {
			for i := range n {
				x, ok := byID[id.Row(i)]
				if !ok {
					continue
				}
				x.name, x.artifactURI, x.modelType, x.source = name.Row(i), uri.Row(i), typ.Row(i), source.Row(i)
				x.status, x.lifecycle = status.Row(i), lifecycle.Row(i)
				x.creationTime, x.lastUpdateTime, x.seq = created.Row(i), updated.Row(i), seq.Row(i)
				maps.Copy(x.params, params.Row(i))
				maps.Copy(x.tags, tags.Row(i))
			}
			return nil
		},
	})
}
