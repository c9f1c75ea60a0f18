// Package foldcheck tells whether the ClickHouse tables hold what the event
// log says: it folds the whole log in memory, in the most obvious way, and
// compares. It is for tests, and shares no code with the projector.
package foldcheck

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// Tables is what the tables must hold: for each table a line of text for each
// key. Numbers are printed in full, so equal text is equal data.
type Tables map[string]map[string]string

// shown bounds the differences that Compare reports for a table.
const shown = 5

// fold is the state of the log while it is read.
type fold struct {
	shards      int
	runs        map[string]*run
	experiments map[string]*experiment
	models      map[string]*model
	points      map[string]string // identity -> first place
	purged      []string          // runs
	tables      Tables
}

type run struct {
	experiment, name, user, uri string
	status                      events.RunStatus
	start, end, deletedTime     int64
	ended                       bool
	lifecycle                   string
	seq                         uint64
	params, tags                map[string]attribute
	latest                      map[string]point
}

type attribute struct {
	value string
	seq   uint64
}

type point struct {
	events.Point
	seq uint64
}

type experiment struct {
	name, location, lifecycle string
	created, updated          int64
	tags                      map[string]string
	seq                       uint64
}

// Fold reads every stream of the log to its end, and returns what the tables
// must hold when all of it is projected.
func Fold(ctx context.Context, log *eventlog.Log) (Tables, error) {
	f := &fold{
		shards: log.Shards(), runs: map[string]*run{}, experiments: map[string]*experiment{}, models: map[string]*model{}, points: map[string]string{},
		tables: Tables{
			"metrics": {}, "latest_metrics": {}, "run_attributes": {}, "runs": {}, "experiments": {}, "audit": {}, "checkpoints": {},
			"logged_models": {}, "logged_model_metrics": {}, "run_datasets": {}, "run_models": {}, "artifacts": {},
		},
	}
	for _, stream := range log.Streams() {
		var first string
		var last uint64
		for rec, err := range log.Read(ctx, stream, "", 1, 0) {
			if err != nil {
				return nil, fmt.Errorf("fold the log: %w", err)
			}
			if rec.Seq == 1 {
				first = rec.ID
			}
			last = rec.Seq
			if err := f.apply(rec); err != nil {
				return nil, fmt.Errorf("fold %s sequence %d: %w", stream, rec.Seq, err)
			}
		}
		if last > 0 {
			f.tables["checkpoints"][stream] = fmt.Sprintf("%d %s", last, first)
		}
	}
	f.finish()
	return f.tables, nil
}

func (f *fold) run(rec eventlog.Record, id string) (*run, error) {
	r, ok := f.runs[id]
	if !ok {
		return nil, fmt.Errorf("run %s was not created", id)
	}
	return r, nil
}

func (f *fold) apply(rec eventlog.Record) error {
	if m := rec.Event.GetMetricsLogged(); m != nil {
		return f.metrics(rec, m)
	}
	if rec.GetArtifactUploaded() != nil || rec.GetArtifactReplacementBegun() != nil || rec.GetArtifactsDeleted() != nil {
		return f.artifact(rec)
	}
	kind, id := subjectOf(rec.Event)
	exp := strings.Split(rec.Subject, ".")
	expID := ""
	switch kind {
	case "run", "logged_model":
		expID = exp[2]
	case "experiment":
		expID = id
	}
	if err := f.audit(rec, kind, id, expID); err != nil {
		return err
	}
	switch kind {
	case "run":
		f.links(rec, id, expID)
		return f.meta(rec, id, expID)
	case "logged_model":
		return f.model(rec, id, expID)
	case "experiment":
		return f.experiment(rec, id)
	}
	return nil
}

func (f *fold) audit(rec eventlog.Record, kind, id, experimentID string) error {
	data, err := protojson.Marshal(rec.Event)
	if err != nil {
		return err
	}
	f.tables["audit"][fmt.Sprintf("%s/%d", rec.Stream, rec.Seq)] = fmt.Sprintf("%s %s %s %q %q %q %s %q %s %x",
		rec.ID, rec.Time.UTC().Format(time.RFC3339Nano), events.Type(rec.Event), rec.Actor, rec.Reason, rec.RequestID, kind, id, experimentID, canonical(data))
	return nil
}

// canonical decodes an event's JSON: protobuf JSON has no one form.
func canonical(data []byte) []byte {
	var e events.Event
	if err := protojson.Unmarshal(data, &e); err != nil {
		return []byte(err.Error())
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&e)
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

func subjectOf(e *events.Event) (kind, id string) {
	version := func(name string, v uint64) (string, string) { return "model_version", fmt.Sprintf("%s/%d", name, v) }
	switch d := e.GetData().(type) {
	case *events.Event_RunCreated:
		return "run", d.RunCreated.GetRunId()
	case *events.Event_RunUpdated:
		return "run", d.RunUpdated.GetRunId()
	case *events.Event_RunParametersLogged:
		return "run", d.RunParametersLogged.GetRunId()
	case *events.Event_RunTagsSet:
		return "run", d.RunTagsSet.GetRunId()
	case *events.Event_RunTagDeleted:
		return "run", d.RunTagDeleted.GetRunId()
	case *events.Event_RunDeleted:
		return "run", d.RunDeleted.GetRunId()
	case *events.Event_RunRestored:
		return "run", d.RunRestored.GetRunId()
	case *events.Event_RunPurged:
		return "run", d.RunPurged.GetRunId()
	case *events.Event_ArtifactsPurged:
		if id := d.ArtifactsPurged.GetModelId(); id != "" {
			return "logged_model", id
		}
		return "run", d.ArtifactsPurged.GetRunId()
	case *events.Event_LoggedModelPurged:
		return "logged_model", d.LoggedModelPurged.GetModelId()
	case *events.Event_ExperimentPurged:
		return "experiment", d.ExperimentPurged.GetExperimentId()
	case *events.Event_RunInputsLogged:
		return "run", d.RunInputsLogged.GetRunId()
	case *events.Event_RunOutputsLogged:
		return "run", d.RunOutputsLogged.GetRunId()
	case *events.Event_LoggedModelCreated:
		return "logged_model", d.LoggedModelCreated.GetModelId()
	case *events.Event_LoggedModelFinalized:
		return "logged_model", d.LoggedModelFinalized.GetModelId()
	case *events.Event_LoggedModelParametersLogged:
		return "logged_model", d.LoggedModelParametersLogged.GetModelId()
	case *events.Event_LoggedModelTagsSet:
		return "logged_model", d.LoggedModelTagsSet.GetModelId()
	case *events.Event_LoggedModelTagDeleted:
		return "logged_model", d.LoggedModelTagDeleted.GetModelId()
	case *events.Event_LoggedModelDeleted:
		return "logged_model", d.LoggedModelDeleted.GetModelId()
	case *events.Event_ExperimentCreated:
		return "experiment", d.ExperimentCreated.GetExperimentId()
	case *events.Event_ExperimentRenamed:
		return "experiment", d.ExperimentRenamed.GetExperimentId()
	case *events.Event_ExperimentTagSet:
		return "experiment", d.ExperimentTagSet.GetExperimentId()
	case *events.Event_ExperimentTagDeleted:
		return "experiment", d.ExperimentTagDeleted.GetExperimentId()
	case *events.Event_ExperimentDeleted:
		return "experiment", d.ExperimentDeleted.GetExperimentId()
	case *events.Event_ExperimentRestored:
		return "experiment", d.ExperimentRestored.GetExperimentId()
	case *events.Event_RegisteredModelCreated:
		return "registered_model", d.RegisteredModelCreated.GetName()
	case *events.Event_RegisteredModelUpdated:
		return "registered_model", d.RegisteredModelUpdated.GetName()
	case *events.Event_RegisteredModelRenamed:
		return "registered_model", d.RegisteredModelRenamed.GetName()
	case *events.Event_RegisteredModelDeleted:
		return "registered_model", d.RegisteredModelDeleted.GetName()
	case *events.Event_RegisteredModelTagSet:
		return "registered_model", d.RegisteredModelTagSet.GetName()
	case *events.Event_RegisteredModelTagDeleted:
		return "registered_model", d.RegisteredModelTagDeleted.GetName()
	case *events.Event_ModelVersionCreated:
		return version(d.ModelVersionCreated.GetName(), d.ModelVersionCreated.GetVersion())
	case *events.Event_ModelVersionUpdated:
		return version(d.ModelVersionUpdated.GetName(), d.ModelVersionUpdated.GetVersion())
	case *events.Event_ModelVersionStageSet:
		return version(d.ModelVersionStageSet.GetName(), d.ModelVersionStageSet.GetVersion())
	case *events.Event_ModelVersionDeleted:
		return version(d.ModelVersionDeleted.GetName(), d.ModelVersionDeleted.GetVersion())
	case *events.Event_ModelVersionTagSet:
		return version(d.ModelVersionTagSet.GetName(), d.ModelVersionTagSet.GetVersion())
	case *events.Event_ModelVersionTagDeleted:
		return version(d.ModelVersionTagDeleted.GetName(), d.ModelVersionTagDeleted.GetVersion())
	case *events.Event_AliasSet:
		return "registered_model", d.AliasSet.GetName()
	case *events.Event_AliasDeleted:
		return "registered_model", d.AliasDeleted.GetName()
	case *events.Event_RegisteredModelRestored:
		return "registered_model", d.RegisteredModelRestored.GetName()
	case *events.Event_ModelVersionRestored:
		return version(d.ModelVersionRestored.GetName(), d.ModelVersionRestored.GetVersion())
	case *events.Event_WebhookCreated:
		return "webhook", d.WebhookCreated.GetWebhookId()
	case *events.Event_WebhookUpdated:
		return "webhook", d.WebhookUpdated.GetWebhookId()
	case *events.Event_WebhookDeleted:
		return "webhook", d.WebhookDeleted.GetWebhookId()
	case *events.Event_GateSet:
		return "registered_model", d.GateSet.GetName()
	case *events.Event_GateDeleted:
		return "registered_model", d.GateDeleted.GetName()
	case *events.Event_PromotionRefused:
		return version(d.PromotionRefused.GetName(), d.PromotionRefused.GetVersion())
	case *events.Event_ApprovalSet:
		return version(d.ApprovalSet.GetName(), d.ApprovalSet.GetVersion())
	case *events.Event_EvaluationRecorded:
		return version(d.EvaluationRecorded.GetName(), d.EvaluationRecorded.GetVersion())
	}
	return "", ""
}

func (f *fold) metrics(rec eventlog.Record, m *events.MetricsLogged) error {
	r, err := f.run(rec, m.GetRunId())
	if err != nil {
		return err
	}
	for i, p := range m.Points() {
		if p.Link != nil {
			f.modelPoint(m.GetRunId(), p, rec.Seq, i)
		}
		id := pointKey(m.GetRunId(), p.Key, p.Step, p.Timestamp, p.Value)
		if _, ok := f.points[id]; !ok {
			f.points[id] = pointRow(p.Value, events.Shard(m.GetRunId(), f.shards), rec.Seq, i)
		}
		if old, ok := r.latest[p.Key]; !ok || greater(p, old.Point) {
			r.latest[p.Key] = point{p, rec.Seq}
		}
	}
	return nil
}

func greater(a, b events.Point) bool {
	if a.Step != b.Step {
		return a.Step > b.Step
	}
	if a.Timestamp != b.Timestamp {
		return a.Timestamp > b.Timestamp
	}
	av, bv := a.Value, b.Value
	if math.IsNaN(av) {
		av = 0
	}
	if math.IsNaN(bv) {
		bv = 0
	}
	return av > bv
}

func pointKey(runID, key string, step, timestamp int64, value float64) string {
	if value == 0 {
		value = 0 // -0 is 0
	}
	return fmt.Sprintf("%s %q %d %d %v", runID, key, step, timestamp, value)
}

func pointRow(value float64, shard int, seq uint64, idx int) string {
	return fmt.Sprintf("%s shard %d seq %d idx %d", float(value), shard, seq, idx)
}

func float(v float64) string {
	if math.IsNaN(v) {
		return "NaN"
	}
	return strconv.FormatUint(math.Float64bits(v), 16)
}

func (f *fold) meta(rec eventlog.Record, id, experimentID string) error {
	if c := rec.Event.GetRunCreated(); c != nil {
		if _, ok := f.runs[id]; ok {
			return errors.New("run was created twice")
		}
		f.runs[id] = &run{
			experiment: experimentID, name: c.GetName(), user: c.GetUserId(), uri: c.GetArtifactUri(), start: c.GetStartTime(),
			status: events.RunStatus_RUN_STATUS_RUNNING, lifecycle: "active",
			params: map[string]attribute{}, tags: map[string]attribute{}, latest: map[string]point{},
		}
	}
	r, err := f.run(rec, id)
	if err != nil {
		return err
	}
	switch d := rec.Event.GetData().(type) {
	case *events.Event_RunCreated:
		for _, t := range d.RunCreated.GetTags() {
			r.tags[t.GetKey()] = attribute{t.GetValue(), rec.Seq}
		}
		r.seq = rec.Seq
	case *events.Event_RunUpdated:
		if d.RunUpdated.Status != nil {
			r.status = *d.RunUpdated.Status
		}
		if d.RunUpdated.EndTime != nil {
			r.end, r.ended = *d.RunUpdated.EndTime, true
		}
		if d.RunUpdated.Name != nil {
			r.name = *d.RunUpdated.Name
		}
		r.seq = rec.Seq
	case *events.Event_RunDeleted:
		r.lifecycle, r.deletedTime, r.seq = "deleted", rec.Time.UnixMilli(), rec.Seq
	case *events.Event_RunRestored:
		r.lifecycle, r.deletedTime, r.seq = "active", 0, rec.Seq
	case *events.Event_RunParametersLogged:
		for _, p := range d.RunParametersLogged.GetParameters() {
			r.params[p.GetKey()] = attribute{p.GetValue(), rec.Seq}
		}
	case *events.Event_RunTagsSet:
		for _, t := range d.RunTagsSet.GetTags() {
			r.tags[t.GetKey()] = attribute{t.GetValue(), rec.Seq}
		}
	case *events.Event_RunTagDeleted:
		delete(r.tags, d.RunTagDeleted.GetKey())
	case *events.Event_RunPurged:
		*r = run{experiment: r.experiment, status: r.status, uri: r.uri, lifecycle: "purged", seq: rec.Seq}
		f.purged = append(f.purged, id)
	case *events.Event_ArtifactsPurged:
		r.uri, r.seq = "", rec.Seq
	}
	return nil
}

func (f *fold) experiment(rec eventlog.Record, id string) error {
	at := rec.Time.UnixMilli()
	if c := rec.Event.GetExperimentCreated(); c != nil {
		x := &experiment{name: c.GetName(), location: c.GetArtifactLocation(), lifecycle: "active", created: at, updated: at, tags: map[string]string{}, seq: rec.Seq}
		for _, t := range c.GetTags() {
			x.tags[t.GetKey()] = t.GetValue()
		}
		f.experiments[id] = x
		return nil
	}
	x, ok := f.experiments[id]
	if !ok {
		return fmt.Errorf("experiment %s was not created", id)
	}
	x.seq = rec.Seq
	switch d := rec.Event.GetData().(type) {
	case *events.Event_ExperimentRenamed:
		x.name, x.updated = d.ExperimentRenamed.GetName(), at
	case *events.Event_ExperimentDeleted:
		x.lifecycle, x.updated = "deleted", at
	case *events.Event_ExperimentRestored:
		x.lifecycle, x.updated = "active", at
	case *events.Event_ExperimentPurged:
		*x = experiment{lifecycle: "purged", seq: rec.Seq}
	case *events.Event_ExperimentTagSet:
		x.tags[d.ExperimentTagSet.GetTag().GetKey()] = d.ExperimentTagSet.GetTag().GetValue()
	case *events.Event_ExperimentTagDeleted:
		delete(x.tags, d.ExperimentTagDeleted.GetKey())
	}
	return nil
}

// finishPurged removes what the runs that were purged had. Their ids are random:
// text that has one is of that run.
func (f *fold) finishPurged() {
	for _, id := range f.purged {
		for _, table := range []string{"metrics", "logged_model_metrics", "run_datasets", "run_models"} {
			maps.DeleteFunc(f.tables[table], func(key, _ string) bool { return strings.Contains(key, id) })
		}
	}
}

func (f *fold) finish() {
	f.tables["metrics"] = f.points
	f.finishModels()
	f.finishPurged()
	for id, r := range f.runs {
		f.tables["runs"][r.experiment+" "+id] = runRow(r.name, r.user, int8(r.status), r.start, r.end, r.ended, r.uri, r.lifecycle, r.deletedTime, r.seq)
		for key, a := range r.params {
			f.tables["run_attributes"][attributeKey(r.experiment, "parameter", key, id)] = attributeRow(a.value, a.seq)
		}
		for key, a := range r.tags {
			f.tables["run_attributes"][attributeKey(r.experiment, "tag", key, id)] = attributeRow(a.value, a.seq)
		}
		for key, p := range r.latest {
			f.tables["latest_metrics"][attributeKey(r.experiment, "latest", key, id)] = latestRow(p.Step, p.Timestamp, p.Value, p.seq)
		}
	}
	for id, x := range f.experiments {
		f.tables["experiments"][id] = experimentRow(x.name, x.location, x.lifecycle, x.created, x.updated, x.tags, x.seq)
	}
}

func runRow(name, user string, status int8, start, end int64, ended bool, uri, lifecycle string, deletedTime int64, seq uint64) string {
	return fmt.Sprintf("%q %q status %d start %d end %d %t %q %s deleted %d seq %d", name, user, status, start, end, ended, uri, lifecycle, deletedTime, seq)
}

func attributeKey(experiment, kind, key, runID string) string {
	return fmt.Sprintf("%s %s %q %s", experiment, kind, key, runID)
}

func attributeRow(value string, seq uint64) string { return fmt.Sprintf("%q seq %d", value, seq) }

func latestRow(step, timestamp int64, value float64, seq uint64) string {
	return fmt.Sprintf("step %d at %d value %s seq %d", step, timestamp, float(value), seq)
}

func experimentRow(name, location, lifecycle string, created, updated int64, tags map[string]string, seq uint64) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		fmt.Fprintf(&b, " %q=%q", k, tags[k])
	}
	return fmt.Sprintf("%q %q %s created %d updated %d%s seq %d", name, location, lifecycle, created, updated, b.String(), seq)
}

// Compare reads the tables and returns an error that lists the differences. A
// row that is there twice is one, in metrics and audit even without FINAL. Of
// metric_rollups, which is behind the log, it is compared what is not.
func (t Tables) Compare(ctx context.Context, conn driver.Conn) error {
	got, err := read(ctx, conn)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(t)) {
		errs = append(errs, compare(name, t[name], got[name]))
	}
	errs = append(errs, compareRollups(ctx, conn))
	return errors.Join(errs...)
}

// Rows returns the number of rows of a table.
func (t Tables) Rows(table string) int { return len(t[table]) }

func compare(table string, want, got map[string]string) error {
	var diffs []string
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[key]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: is missing, the log has %s", key, want[key]))
		} else if g != want[key] {
			diffs = append(diffs, fmt.Sprintf("%s: is %s, the log has %s", key, g, want[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[key]; !ok {
			diffs = append(diffs, fmt.Sprintf("%s: is %s, the log has none", key, got[key]))
		}
	}
	if len(diffs) == 0 {
		return nil
	}
	n := len(diffs)
	return fmt.Errorf("table %s has %d differences in %d rows (%d in the log):\n\t%s", table, n, len(got), len(want),
		strings.Join(diffs[:min(n, shown)], "\n\t"))
}

type reader struct {
	tables Tables
	err    error
}

// read reads every table.
func read(ctx context.Context, conn driver.Conn) (Tables, error) {
	// As the readers do, which do not wait until the engine has deleted.
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"apply_mutations_on_fly": 1}))
	r := &reader{tables: Tables{}}
	r.table(ctx, conn, "metrics", "SELECT run_id, CAST(key, 'String'), step, timestamp, value, shard, seq, idx FROM metrics", func(rows driver.Rows) (string, string, error) {
		var (
			id       uuid.UUID
			key      string
			step, at int64
			value    float64
			shard    uint16
			seq      uint64
			idx      uint32
		)
		err := rows.Scan(&id, &key, &step, &at, &value, &shard, &seq, &idx)
		return pointKey(hexID(id), key, step, at, value), pointRow(value, int(shard), seq, int(idx)), err
	})
	r.table(ctx, conn, "latest_metrics", "SELECT experiment_id, CAST(key, 'String'), run_id, step, timestamp, value, seq FROM latest_metrics FINAL", func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq uint64
			key      string
			id       uuid.UUID
			step, at int64
			value    float64
		)
		err := rows.Scan(&exp, &key, &id, &step, &at, &value, &seq)
		return attributeKey(decimal(exp), "latest", key, hexID(id)), latestRow(step, at, value, seq), err
	})
	r.table(ctx, conn, "run_attributes", "SELECT experiment_id, CAST(kind, 'String'), CAST(key, 'String'), run_id, value, seq FROM run_attributes FINAL", func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq         uint64
			kind, key, value string
			id               uuid.UUID
		)
		err := rows.Scan(&exp, &kind, &key, &id, &value, &seq)
		return attributeKey(decimal(exp), kind, key, hexID(id)), attributeRow(value, seq), err
	})
	r.table(ctx, conn, "runs", `SELECT experiment_id, run_id, name, user_id, CAST(status, 'Int8'), start_time, end_time, ended, artifact_uri,
		CAST(lifecycle, 'String'), deleted_time, seq FROM runs FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			exp, seq                   uint64
			id                         uuid.UUID
			name, user, uri, lifecycle string
			status                     int8
			start, end, deletedTime    int64
			ended                      bool
		)
		err := rows.Scan(&exp, &id, &name, &user, &status, &start, &end, &ended, &uri, &lifecycle, &deletedTime, &seq)
		return decimal(exp) + " " + hexID(id), runRow(name, user, status, start, end, ended, uri, lifecycle, deletedTime, seq), err
	})
	r.table(ctx, conn, "experiments", `SELECT experiment_id, name, artifact_location, CAST(lifecycle, 'String'), creation_time, last_update_time, tags, seq
		FROM experiments FINAL`, func(rows driver.Rows) (string, string, error) {
		var (
			id, seq                   uint64
			name, location, lifecycle string
			created, updated          int64
			tags                      map[string]string
		)
		err := rows.Scan(&id, &name, &location, &lifecycle, &created, &updated, &tags, &seq)
		return decimal(id), experimentRow(name, location, lifecycle, created, updated, tags, seq), err
	})
	r.table(ctx, conn, "audit", `SELECT CAST(stream, 'String'), seq, event_id, time, CAST(type, 'String'), CAST(actor, 'String'), reason, request_id,
		CAST(entity_kind, 'String'), entity_id, experiment_id, data FROM audit`, func(rows driver.Rows) (string, string, error) {
		var (
			stream, id, typ, actor, reason, request, kind, entity, exp, data string
			seq                                                              uint64
			at                                                               time.Time
		)
		err := rows.Scan(&stream, &seq, &id, &at, &typ, &actor, &reason, &request, &kind, &entity, &exp, &data)
		return fmt.Sprintf("%s/%d", stream, seq), fmt.Sprintf("%s %s %s %q %q %q %s %q %s %x",
			id, at.UTC().Format(time.RFC3339Nano), typ, actor, reason, request, kind, entity, exp, canonical([]byte(data))), err
	})
	r.table(ctx, conn, "checkpoints", "SELECT CAST(stream, 'String'), seq, incarnation FROM checkpoints FINAL", func(rows driver.Rows) (string, string, error) {
		var (
			stream, incarnation string
			seq                 uint64
		)
		err := rows.Scan(&stream, &seq, &incarnation)
		return stream, fmt.Sprintf("%d %s", seq, incarnation), err
	})
	r.models(ctx, conn)
	r.artifacts(ctx, conn)
	return r.tables, r.err
}

func (r *reader) table(ctx context.Context, conn driver.Conn, name, query string, scan func(driver.Rows) (key, row string, err error)) {
	if r.err != nil {
		return
	}
	r.tables[name] = map[string]string{}
	rows, err := conn.Query(ctx, query)
	if err != nil {
		r.err = fmt.Errorf("read table %s: %w", name, err)
		return
	}
	defer func() { r.err = errors.Join(r.err, rows.Close()) }()
	for rows.Next() {
		key, row, err := scan(rows)
		if err != nil {
			r.err = fmt.Errorf("read table %s: %w", name, err)
			return
		}
		if first, ok := r.tables[name][key]; ok {
			row = "there twice: " + first + " and " + row
		}
		r.tables[name][key] = row
	}
	if err := rows.Err(); err != nil {
		r.err = fmt.Errorf("read table %s: %w", name, err)
	}
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func hexID(id uuid.UUID) string { return strings.ReplaceAll(id.String(), "-", "") }
