package projector

import (
	"time"

	"github.com/ClickHouse/ch-go/proto"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

type tableName string

// The tables, see pkg/tables.
const (
	tableRuns         tableName = "runs"
	tableAttributes   tableName = "run_attributes"
	tableLatest       tableName = "latest_metrics"
	tableMetrics      tableName = "metrics"
	tableRollups      tableName = "metric_rollups"
	tableExperiments  tableName = "experiments"
	tableDatasets     tableName = "run_datasets"
	tableRunModels    tableName = "run_models"
	tableModels       tableName = "logged_models"
	tableModelMetrics tableName = "logged_model_metrics"
	tableArtifacts    tableName = "artifacts"
	tableAudit        tableName = "audit"
	tableCheckpoints  tableName = "checkpoints"
)

// allTables are the tables of pkg/tables.
var allTables = []tableName{
	tableRuns, tableAttributes, tableLatest, tableMetrics, tableRollups, tableExperiments, tableDatasets, tableRunModels,
	tableModels, tableModelMetrics, tableArtifacts, tableAudit, tableCheckpoints,
}

func names(tables []tableName) []string {
	list := make([]string, len(tables))
	for i, t := range tables {
		list[i] = string(t)
	}
	return list
}

// tablesOf returns the tables that a stream is projected into, in the order in
// which they are written.
func tablesOf(stream string) []tableName {
	switch {
	case stream == events.StreamExperiments:
		return []tableName{tableExperiments, tableAudit}
	case stream == events.StreamRegistry:
		return []tableName{tableAudit}
	default:
		return []tableName{tableRuns, tableAttributes, tableLatest, tableMetrics, tableDatasets, tableRunModels, tableModels, tableModelMetrics, tableArtifacts, tableAudit}
	}
}

// tablesOfRuns are the tables from which the rows of a purged run are deleted:
// all that have any, but runs, which keeps a tombstone, and audit.
var tablesOfRuns = []tableName{tableAttributes, tableLatest, tableMetrics, tableRollups, tableDatasets, tableRunModels, tableModelMetrics}

func lowCardinality() *proto.ColLowCardinality[string] { return new(proto.ColStr).LowCardinality() }

// metricRows are rows of metrics, kept between batches for their memory.
type metricRows struct {
	run             proto.ColUUID
	key             *proto.ColLowCardinality[string]
	step, timestamp proto.ColInt64
	value           proto.ColFloat64
	shard           proto.ColUInt16
	seq             proto.ColUInt64
	idx             proto.ColUInt32
}

func (m *metricRows) append(run uuid.UUID, p events.Point, shard uint16, seq uint64, idx uint32) {
	if m.key == nil {
		m.key = lowCardinality()
	}
	m.run = append(m.run, run)
	m.key.Append(p.Key)
	m.step = append(m.step, p.Step)
	m.timestamp = append(m.timestamp, p.Timestamp)
	m.value = append(m.value, p.Value)
	m.shard = append(m.shard, shard)
	m.seq = append(m.seq, seq)
	m.idx = append(m.idx, idx)
}

func (m *metricRows) each(f func(pointID)) {
	for i := range m.run {
		f(pointID{run: m.run[i], Identity: events.Identity{
			Key: m.key.Row(i), Step: m.step[i], Timestamp: m.timestamp[i], Value: events.ValueBits(m.value[i]),
		}})
	}
}

func (m *metricRows) input() proto.Input {
	return proto.Input{
		{Name: "run_id", Data: &m.run},
		{Name: "key", Data: m.key},
		{Name: "step", Data: &m.step},
		{Name: "timestamp", Data: &m.timestamp},
		{Name: "value", Data: &m.value},
		{Name: "shard", Data: &m.shard},
		{Name: "seq", Data: &m.seq},
		{Name: "idx", Data: &m.idx},
	}
}

func (m *metricRows) reset() {
	if len(m.run) > 0 {
		m.input().Reset()
	}
}

// latestRows are rows of latest_metrics.
type latestRows struct {
	experiment      proto.ColUInt64
	key             *proto.ColLowCardinality[string]
	run             proto.ColUUID
	step, timestamp proto.ColInt64
	value           proto.ColFloat64
	shard           proto.ColUInt16
	seq             proto.ColUInt64
}

func (l *latestRows) append(r *run, key string, v *latest, shard uint16) {
	if l.key == nil {
		l.key = lowCardinality()
	}
	l.experiment.Append(r.experiment)
	l.key.Append(key)
	l.run.Append(r.id)
	l.step.Append(v.step)
	l.timestamp.Append(v.timestamp)
	l.value.Append(v.value)
	l.shard.Append(shard)
	l.seq.Append(v.seq)
}

func (l *latestRows) input() proto.Input {
	return proto.Input{
		{Name: "experiment_id", Data: &l.experiment},
		{Name: "key", Data: l.key},
		{Name: "run_id", Data: &l.run},
		{Name: "step", Data: &l.step},
		{Name: "timestamp", Data: &l.timestamp},
		{Name: "value", Data: &l.value},
		{Name: "shard", Data: &l.shard},
		{Name: "seq", Data: &l.seq},
	}
}

func (l *latestRows) reset() {
	if len(l.run) > 0 {
		l.input().Reset()
	}
}

// auditRows are rows of audit.
type auditRows struct {
	rows                                              int
	seq                                               proto.ColUInt64
	id, reason, requestID, entityID, experiment, data proto.ColStr
	at                                                *proto.ColDateTime64
	stream, typ, actor, kind                          *proto.ColLowCardinality[string]
}

func (a *auditRows) append(rec eventlog.Record, kind, id, experiment string, data []byte) {
	if a.at == nil {
		a.at = new(proto.ColDateTime64).WithPrecision(proto.PrecisionMicro).WithLocation(time.UTC)
		a.stream, a.typ, a.actor, a.kind = lowCardinality(), lowCardinality(), lowCardinality(), lowCardinality()
	}
	a.rows++
	a.stream.Append(rec.Stream)
	a.seq.Append(rec.Seq)
	a.id.Append(rec.ID)
	a.at.Append(rec.Time)
	a.typ.Append(events.Type(rec.Event))
	a.actor.Append(rec.Actor)
	a.reason.Append(rec.Reason)
	a.requestID.Append(rec.RequestID)
	a.kind.Append(kind)
	a.entityID.Append(id)
	a.experiment.Append(experiment)
	a.data.AppendBytes(data)
}

func (a *auditRows) input() proto.Input {
	return proto.Input{
		{Name: "stream", Data: a.stream},
		{Name: "seq", Data: &a.seq},
		{Name: "event_id", Data: &a.id},
		{Name: "time", Data: a.at},
		{Name: "type", Data: a.typ},
		{Name: "actor", Data: a.actor},
		{Name: "reason", Data: &a.reason},
		{Name: "request_id", Data: &a.requestID},
		{Name: "entity_kind", Data: a.kind},
		{Name: "entity_id", Data: &a.entityID},
		{Name: "experiment_id", Data: &a.experiment},
		{Name: "data", Data: &a.data},
	}
}

func (a *auditRows) reset() {
	if a.rows > 0 {
		a.input().Reset()
		a.rows = 0
	}
}

// rows returns the rows of the batch for a table, nil when it has none.
func (f *folder) rows(t tableName) (proto.Input, int) {
	switch t {
	case tableRuns:
		return f.runRows(), len(f.dirtyRuns)
	case tableAttributes:
		return f.attributeRows(), len(f.order)
	case tableLatest:
		return f.latestRows(), len(f.latest.run)
	case tableMetrics:
		return f.metrics.input(), len(f.metrics.run)
	case tableExperiments:
		return f.experimentRows(), len(f.dirtyExps)
	case tableDatasets:
		return f.datasetRows(), len(f.datasets.order)
	case tableRunModels:
		return f.modelLinkRows(), len(f.modelLinks.order)
	case tableModels:
		return f.modelRows(), len(f.dirtyModels)
	case tableModelMetrics:
		return f.modelMetricRows(), len(f.modelMetrics.order)
	case tableArtifacts:
		return f.artifactRows(), len(f.artifacts.order)
	case tableAudit:
		return f.audit.input(), f.audit.rows
	}
	return nil, 0
}

func (f *folder) latestRows() proto.Input {
	f.latest.reset()
	for _, r := range f.dirtyKeys {
		for _, key := range r.latestDirty {
			f.latest.append(r, key, r.latest[key], f.shard)
		}
	}
	return f.latest.input()
}

func (f *folder) runRows() proto.Input {
	var (
		experiment, seq               proto.ColUInt64
		id                            proto.ColUUID
		name, user, uri               proto.ColStr
		status, lifecycle             proto.ColInt8
		startTime, endTime, deletedAt proto.ColInt64
		ended                         proto.ColBool
		shard                         proto.ColUInt16
	)
	for _, r := range f.dirtyRuns {
		experiment.Append(r.experiment)
		id.Append(r.id)
		name.Append(r.info.name)
		user.Append(r.info.user)
		status.Append(r.info.status)
		startTime.Append(r.info.startTime)
		endTime.Append(r.info.endTime)
		ended.Append(r.info.ended)
		uri.Append(r.info.artifactURI)
		lifecycle.Append(r.info.lifecycle)
		deletedAt.Append(r.info.deletedTime)
		shard.Append(f.shard)
		seq.Append(r.info.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &experiment},
		{Name: "run_id", Data: &id},
		{Name: "name", Data: &name},
		{Name: "user_id", Data: &user},
		{Name: "status", Data: &status},
		{Name: "start_time", Data: &startTime},
		{Name: "end_time", Data: &endTime},
		{Name: "ended", Data: &ended},
		{Name: "artifact_uri", Data: &uri},
		{Name: "lifecycle", Data: &lifecycle},
		{Name: "deleted_time", Data: &deletedAt},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}

func (f *folder) attributeRows() proto.Input {
	var (
		experiment, seq proto.ColUInt64
		kind            proto.ColInt8
		key             = lowCardinality()
		id              proto.ColUUID
		value           proto.ColStr
		deleted         proto.ColUInt8
		shard           proto.ColUInt16
	)
	for _, a := range f.order {
		row := f.attributes[a]
		experiment.Append(row.experiment)
		if a.tag {
			kind.Append(kindTag)
		} else {
			kind.Append(kindParameter)
		}
		key.Append(a.key)
		id.Append(a.run)
		value.Append(row.value)
		if row.deleted {
			deleted.Append(1)
		} else {
			deleted.Append(0)
		}
		shard.Append(f.shard)
		seq.Append(row.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &experiment},
		{Name: "kind", Data: &kind},
		{Name: "key", Data: key},
		{Name: "run_id", Data: &id},
		{Name: "value", Data: &value},
		{Name: "deleted", Data: &deleted},
		{Name: "shard", Data: &shard},
		{Name: "seq", Data: &seq},
	}
}

func (f *folder) experimentRows() proto.Input {
	var (
		id, seq          proto.ColUInt64
		name, location   proto.ColStr
		lifecycle        proto.ColInt8
		created, updated proto.ColInt64
		tags             = proto.NewMap(new(proto.ColStr), new(proto.ColStr))
	)
	for _, x := range f.dirtyExps {
		id.Append(x.id)
		name.Append(x.name)
		location.Append(x.artifactLocation)
		lifecycle.Append(x.lifecycle)
		created.Append(x.creationTime)
		updated.Append(x.lastUpdateTime)
		tags.Append(x.tags)
		seq.Append(x.seq)
	}
	return proto.Input{
		{Name: "experiment_id", Data: &id},
		{Name: "name", Data: &name},
		{Name: "artifact_location", Data: &location},
		{Name: "lifecycle", Data: &lifecycle},
		{Name: "creation_time", Data: &created},
		{Name: "last_update_time", Data: &updated},
		{Name: "tags", Data: tags},
		{Name: "seq", Data: &seq},
	}
}
