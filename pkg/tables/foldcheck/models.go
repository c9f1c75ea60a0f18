package foldcheck

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

type model struct {
	experiment, name, uri, typ, source string
	status                             events.LoggedModelStatus
	lifecycle                          string
	created, updated                   int64
	params, tags                       map[string]string
	seq                                uint64
}

func (f *fold) model(rec eventlog.Record, id, experimentID string) error {
	at := rec.Time.UnixMilli()
	if c := rec.Event.GetLoggedModelCreated(); c != nil {
		f.models[id] = &model{
			experiment: experimentID, name: c.GetName(), uri: c.GetArtifactUri(), typ: c.GetModelType(), source: c.GetSourceRunId(),
			status: events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING, lifecycle: "active", created: at, updated: at,
			params: map[string]string{}, tags: map[string]string{},
		}
	}
	m, ok := f.models[id]
	if !ok {
		return fmt.Errorf("logged model %s was not created", id)
	}
	m.seq = rec.Seq
	// What is absent from an event has no elements.
	for _, p := range append(rec.GetLoggedModelCreated().GetParameters(), rec.GetLoggedModelParametersLogged().GetParameters()...) {
		m.params[p.GetKey()] = p.GetValue()
	}
	for _, t := range append(rec.GetLoggedModelCreated().GetTags(), rec.GetLoggedModelTagsSet().GetTags()...) {
		m.tags[t.GetKey()] = t.GetValue()
	}
	if d := rec.GetLoggedModelTagDeleted(); d != nil {
		delete(m.tags, d.GetKey())
	}
	if d := rec.GetLoggedModelFinalized(); d != nil {
		m.status, m.updated = d.GetStatus(), at
	}
	if rec.GetLoggedModelDeleted() != nil {
		m.lifecycle, m.updated = "deleted", at
	}
	if rec.GetLoggedModelPurged() != nil {
		*m = model{experiment: m.experiment, status: m.status, uri: m.uri, lifecycle: "purged", seq: rec.Seq}
	}
	if rec.GetArtifactsPurged() != nil {
		m.uri = ""
	}
	return nil
}

// links folds what a run read and wrote: the last event that says so counts.
func (f *fold) links(rec eventlog.Record, run, experimentID string) {
	for i, d := range rec.GetRunInputsLogged().GetDatasets() {
		tags := map[string]string{}
		for _, t := range d.GetTags() {
			tags[t.GetKey()] = t.GetValue()
		}
		f.tables["run_datasets"][datasetKey(experimentID, d.GetName(), d.GetDigest(), run)] = datasetRow(
			d.GetSourceType(), d.GetSource(), d.GetSchema(), d.GetProfile(), tags, i, rec.Seq)
	}
	for i, id := range rec.GetRunInputsLogged().GetModelIds() {
		f.tables["run_models"][modelLinkKey(experimentID, run, "input", id, 0)] = placeRow(i, rec.Seq)
	}
	for i, m := range rec.GetRunOutputsLogged().GetModels() {
		f.tables["run_models"][modelLinkKey(experimentID, run, "output", m.GetModelId(), m.GetStep())] = placeRow(i, rec.Seq)
	}
}

// modelPoint folds a point that is linked to a logged model: the first counts,
// in each shard.
func (f *fold) modelPoint(run string, p events.Point, seq uint64, i int) {
	key := modelPointKey(p.Link.GetModelId(), pointKey(run, p.Key, p.Step, p.Timestamp, p.Value), p.Link.GetDatasetName(), p.Link.GetDatasetDigest())
	if _, ok := f.tables["logged_model_metrics"][key]; !ok {
		f.tables["logged_model_metrics"][key] = pointRow(p.Value, events.Shard(run, f.shards), seq, i)
	}
}

func (f *fold) finishModels() {
	for id, m := range f.models {
		f.tables["logged_models"][m.experiment+" "+id] = modelRow(m.name, m.uri, m.typ, m.source, int8(m.status), m.lifecycle, m.created, m.updated,
			m.params, m.tags, events.Shard(id, f.shards), m.seq)
	}
}

func modelRow(name, uri, typ, source string, status int8, lifecycle string, created, updated int64, params, tags map[string]string, shard int, seq uint64) string {
	return fmt.Sprintf("%q %q %q %q status %d %s created %d updated %d params%s tags%s shard %d seq %d",
		name, uri, typ, source, status, lifecycle, created, updated, mapText(params), mapText(tags), shard, seq)
}

func mapText(m map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(m)) {
		fmt.Fprintf(&b, " %q=%q", k, m[k])
	}
	return b.String()
}

func datasetKey(experiment, name, digest, run string) string {
	return fmt.Sprintf("%s %q %q %s", experiment, name, digest, run)
}

func datasetRow(sourceType, source, schema, profile string, tags map[string]string, i int, seq uint64) string {
	return fmt.Sprintf("%q %q %q %q%s %s", sourceType, source, schema, profile, mapText(tags), placeRow(i, seq))
}

func modelLinkKey(experiment, run, direction, model string, step int64) string {
	return fmt.Sprintf("%s %s %s %q %d", experiment, run, direction, model, step)
}

func placeRow(i int, seq uint64) string { return fmt.Sprintf("seq %d idx %d", seq, i) }

func modelPointKey(model, point, dataset, digest string) string {
	return fmt.Sprintf("%q %s %q %q", model, point, dataset, digest)
}

func (r *reader) models(ctx context.Context, conn driver.Conn) {
	r.table(ctx, conn, "logged_models", `SELECT experiment_id, model_id, name, artifact_uri, model_type, source_run_id, CAST(status, 'Int8'),
		CAST(lifecycle, 'String'), creation_time, last_update_time, params, tags, shard, seq FROM logged_models FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq                              uint64
			id, name, uri, typ, source, lifecycle string
			status                                int8
			created, updated                      int64
			params, tags                          map[string]string
			shard                                 uint16
		)
		err := rows.Scan(&exp, &id, &name, &uri, &typ, &source, &status, &lifecycle, &created, &updated, &params, &tags, &shard, &seq)
		return decimal(exp) + " " + id, modelRow(name, uri, typ, source, status, lifecycle, created, updated, params, tags, int(shard), seq), err
	})
	r.table(ctx, conn, "logged_model_metrics", `SELECT model_id, run_id, CAST(key, 'String'), step, timestamp, value, dataset_name, dataset_digest,
		shard, seq, idx FROM logged_model_metrics FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			model, key, name, digest string
			run                      uuid.UUID
			step, at                 int64
			value                    float64
			shard                    uint16
			seq                      uint64
			idx                      uint32
		)
		err := rows.Scan(&model, &run, &key, &step, &at, &value, &name, &digest, &shard, &seq, &idx)
		return modelPointKey(model, pointKey(hexID(run), key, step, at, value), name, digest), pointRow(value, int(shard), seq, int(idx)), err
	})
	r.table(ctx, conn, "run_datasets", `SELECT experiment_id, run_id, name, digest, CAST(source_type, 'String'), source, schema, profile, tags, seq, idx
		FROM run_datasets FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq                                          uint64
			run                                               uuid.UUID
			name, digest, sourceType, source, schema, profile string
			tags                                              map[string]string
			idx                                               uint32
		)
		err := rows.Scan(&exp, &run, &name, &digest, &sourceType, &source, &schema, &profile, &tags, &seq, &idx)
		return datasetKey(decimal(exp), name, digest, hexID(run)), datasetRow(sourceType, source, schema, profile, tags, int(idx), seq), err
	})
	r.table(ctx, conn, "run_models", "SELECT experiment_id, run_id, CAST(direction, 'String'), model_id, step, seq, idx FROM run_models FINAL", func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq         uint64
			run              uuid.UUID
			direction, model string
			step             int64
			idx              uint32
		)
		err := rows.Scan(&exp, &run, &direction, &model, &step, &seq, &idx)
		return modelLinkKey(decimal(exp), hexID(run), direction, model, step), placeRow(int(idx), seq), err
	})
}
