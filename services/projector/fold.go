package projector

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
)

// errUnprojectable means that an event can be read but not be projected: it
// breaks what ingest guarantees.
var errUnprojectable = errors.New("event cannot be projected")

// folder turns the events of one stream, in order, into rows of the tables. It
// is a pure function of the events and the state: it reads no clock and no
// table. See the package comment for why that makes the tables exact.
type folder struct {
	stream string
	shard  uint16
	// done holds the watermark of each table at the start of the session: rows
	// up to it are in the table.
	done map[tableName]uint64
	// fresh is the greatest of done: a run created beyond it has no rows.
	fresh uint64
	state *state

	metrics      metricRows
	suspects     []suspect
	latest       latestRows
	attributes   map[attributeID]attribute
	order        []attributeID // of attributes, for rows in a fixed order
	audit        auditRows
	dirtyRuns    []*run
	dirtyKeys    []*run // runs with dirty latest
	dirtyExps    []*experiment
	dirtyModels  []*model
	datasets     keyed[datasetID, dataset]
	modelLinks   keyed[modelLinkID, modelLink]
	modelMetrics keyed[modelPointID, modelPoint]
	artifacts    keyed[string, artifact]
	scratch      []*latest
	purged       []*run // by this batch
}

// suspect is a point that may be one of the run's earlier ones.
type suspect struct {
	pointID
	value float64
	seq   uint64
	idx   uint32
}

type attributeID struct {
	run uuid.UUID
	tag bool
	key string
}

type attribute struct {
	experiment uint64
	value      string
	deleted    bool
	seq        uint64
}

func newFolder(stream string, done map[tableName]uint64) (*folder, error) {
	st, err := newState()
	if err != nil {
		return nil, err
	}
	f := &folder{stream: stream, done: done, state: st, attributes: make(map[attributeID]attribute)}
	if n, ok := events.ShardOfStream(stream); ok {
		f.shard = uint16(n)
	}
	for _, seq := range done {
		f.fresh = max(f.fresh, seq)
	}
	return f, nil
}

// missing is what a batch needs of the tables.
type missing struct {
	info        []*run
	latest      []*run
	experiments []*experiment
	models      []*model
}

// prepare puts the runs, experiments and logged models of a batch into the state, and returns
// those whose rows are to be loaded before the fold.
func (f *folder) prepare(records []eventlog.Record) (missing, error) {
	var m missing
	for _, rec := range records {
		switch e := rec.Event.GetData().(type) {
		case *events.Event_RunCreated:
			r, err := f.run(rec, e.RunCreated.GetRunId())
			if err != nil {
				return m, err
			}
			if rec.Seq > f.fresh {
				r.infoKnown, r.latestKnown = true, true
			}
			m.needInfo(r)
		case *events.Event_RunUpdated:
			if err := f.prepareInfo(&m, rec, e.RunUpdated.GetRunId()); err != nil {
				return m, err
			}
		case *events.Event_RunDeleted:
			if err := f.prepareInfo(&m, rec, e.RunDeleted.GetRunId()); err != nil {
				return m, err
			}
		case *events.Event_RunRestored:
			if err := f.prepareInfo(&m, rec, e.RunRestored.GetRunId()); err != nil {
				return m, err
			}
		case *events.Event_RunPurged:
			if err := f.preparePurge(&m, rec, e.RunPurged.GetRunId()); err != nil {
				return m, err
			}
		case *events.Event_MetricsLogged:
			r, err := f.run(rec, e.MetricsLogged.GetRunId())
			if err != nil {
				return m, err
			}
			if !r.latestKnown {
				r.latestKnown = true
				m.latest = append(m.latest, r)
			}
		case *events.Event_ArtifactUploaded, *events.Event_ArtifactReplacementBegun, *events.Event_ArtifactsDeleted:
			// Their rows need no state.
		default:
			kind, id := entity(rec.Event)
			if kind == entityRun && rec.Event.GetArtifactsPurged() != nil {
				if err := f.prepareInfo(&m, rec, id); err != nil {
					return m, err
				}
				continue
			}
			if kind == entityLoggedModel {
				if err := f.prepareModel(&m, rec, id); err != nil {
					return m, err
				}
				continue
			}
			if kind != entityExperiment {
				continue
			}
			if err := f.prepareExperiment(&m, rec, id); err != nil {
				return m, err
			}
		}
	}
	return m, nil
}

func (m *missing) needInfo(r *run) {
	if !r.infoKnown {
		r.infoKnown = true
		m.info = append(m.info, r)
	}
}

func (f *folder) prepareInfo(m *missing, rec eventlog.Record, id string) error {
	r, err := f.run(rec, id)
	if err != nil {
		return err
	}
	m.needInfo(r)
	return nil
}

// preparePurge marks a run before its events of the batch are folded, so that
// they make no rows: the rows of the batches before are deleted.
func (f *folder) preparePurge(m *missing, rec eventlog.Record, id string) error {
	r, err := f.run(rec, id)
	if err != nil {
		return err
	}
	f.state.keys -= len(r.latest)
	clear(r.latest)
	r.purged, r.latestKnown = true, true
	m.needInfo(r)
	return nil
}

func (f *folder) prepareExperiment(m *missing, rec eventlog.Record, text string) error {
	if f.stream != events.StreamExperiments {
		return unprojectable(rec, "it belongs on %s", events.StreamExperiments)
	}
	id, err := parseExperiment(rec, text)
	if err != nil {
		return err
	}
	if _, ok := f.state.experiments.Get(id); ok {
		return nil
	}
	e := &experiment{id: id, tags: map[string]string{}}
	f.state.experiments.Add(id, e)
	if rec.Event.GetExperimentCreated() == nil || rec.Seq <= f.fresh {
		m.experiments = append(m.experiments, e)
	}
	return nil
}

// loaded tells the state how much came with the rows of m.
func (f *folder) loaded(m missing) {
	for _, r := range m.latest {
		f.state.keys += len(r.latest)
	}
}

// run returns the run of an event, a new one when it is not in the state.
func (f *folder) run(rec eventlog.Record, text string) (*run, error) {
	id, err := parseRun(rec, text)
	if err != nil {
		return nil, err
	}
	if r, ok := f.state.runs.Get(id); ok {
		return r, nil
	}
	exp, err := parseExperiment(rec, events.ExperimentOfRunSubject(rec.Subject))
	if err != nil {
		return nil, err
	}
	r := &run{id: id, experiment: exp, latest: make(map[string]*latest)}
	f.state.runs.Add(id, r)
	return r, nil
}

func parseRun(rec eventlog.Record, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 32 {
		return id, unprojectable(rec, "run id %q is not 32 hexadecimal digits", text)
	}
	return id, nil
}

func parseExperiment(rec eventlog.Record, text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, unprojectable(rec, "experiment id %q of subject %s is not a number", text, rec.Subject)
	}
	return id, nil
}

func unprojectable(rec eventlog.Record, format string, args ...any) error {
	return fmt.Errorf("%s sequence %d: %s: %s: %w", rec.Stream, rec.Seq, events.Type(rec.Event), fmt.Sprintf(format, args...), errUnprojectable)
}

// fold adds the rows of one event. What it needs was prepared and loaded.
func (f *folder) fold(rec eventlog.Record) error {
	if _, isRun := events.ShardOfStream(f.stream); isRun {
		return f.foldRun(rec)
	}
	switch e := rec.Event.GetData().(type) {
	case *events.Event_RunCreated, *events.Event_RunUpdated, *events.Event_RunParametersLogged, *events.Event_RunTagsSet,
		*events.Event_RunTagDeleted, *events.Event_RunDeleted, *events.Event_RunRestored, *events.Event_MetricsLogged,
		*events.Event_RunInputsLogged, *events.Event_RunOutputsLogged, *events.Event_ArtifactUploaded, *events.Event_ArtifactReplacementBegun,
		*events.Event_ArtifactsDeleted, *events.Event_RunPurged, *events.Event_ArtifactsPurged:
		return unprojectable(rec, "it belongs on a stream of runs")
	case *events.Event_ExperimentCreated:
		return f.foldExperiment(rec, func(x *experiment) {
			x.name, x.artifactLocation = e.ExperimentCreated.GetName(), e.ExperimentCreated.GetArtifactLocation()
			x.lifecycle, x.creationTime = lifecycleActive, rec.Time.UnixMilli()
			x.lastUpdateTime, x.tags = x.creationTime, make(map[string]string)
			for _, t := range e.ExperimentCreated.GetTags() {
				x.tags[t.GetKey()] = t.GetValue()
			}
		})
	case *events.Event_ExperimentRenamed:
		return f.foldExperiment(rec, func(x *experiment) {
			x.name, x.lastUpdateTime = e.ExperimentRenamed.GetName(), rec.Time.UnixMilli()
		})
	case *events.Event_ExperimentDeleted:
		return f.foldExperiment(rec, func(x *experiment) {
			x.lifecycle, x.lastUpdateTime = lifecycleDeleted, rec.Time.UnixMilli()
		})
	case *events.Event_ExperimentRestored:
		return f.foldExperiment(rec, func(x *experiment) {
			x.lifecycle, x.lastUpdateTime = lifecycleActive, rec.Time.UnixMilli()
		})
	case *events.Event_ExperimentPurged:
		return f.foldExperiment(rec, func(x *experiment) {
			*x = experiment{id: x.id, lifecycle: lifecyclePurged, tags: map[string]string{}, seq: x.seq, dirty: x.dirty}
		})
	case *events.Event_ExperimentTagSet:
		return f.foldExperiment(rec, func(x *experiment) {
			x.tags[e.ExperimentTagSet.GetTag().GetKey()] = e.ExperimentTagSet.GetTag().GetValue()
		})
	case *events.Event_ExperimentTagDeleted:
		return f.foldExperiment(rec, func(x *experiment) { delete(x.tags, e.ExperimentTagDeleted.GetKey()) })
	}
	if loggedModelOf(rec.Event) != "" {
		return unprojectable(rec, "it belongs on a stream of runs")
	}
	if f.stream != events.StreamRegistry {
		return unprojectable(rec, "it belongs on %s", events.StreamRegistry)
	}
	// Events of the registry are only audited: the registry folds its own.
	return f.foldAudit(rec)
}

func (f *folder) foldRun(rec eventlog.Record) error {
	switch e := rec.Event.GetData().(type) {
	case *events.Event_MetricsLogged:
		return f.foldMetrics(rec, e.MetricsLogged)
	case *events.Event_RunCreated:
		c := e.RunCreated
		if err := f.foldInfo(rec, c.GetRunId(), func(i *runInfo) {
			*i = runInfo{
				name: c.GetName(), user: c.GetUserId(), artifactURI: c.GetArtifactUri(), startTime: c.GetStartTime(),
				status: statusOf(events.RunStatus_RUN_STATUS_RUNNING), lifecycle: lifecycleActive,
			}
		}); err != nil {
			return err
		}
		return f.foldTags(rec, c.GetRunId(), c.GetTags())
	case *events.Event_RunUpdated:
		u := e.RunUpdated
		if u.Status != nil && statusOf(u.GetStatus()) == 0 {
			return unprojectable(rec, "status %v", u.GetStatus())
		}
		return f.foldInfo(rec, u.GetRunId(), func(i *runInfo) {
			if u.Status != nil {
				i.status = statusOf(u.GetStatus())
			}
			if u.EndTime != nil {
				i.endTime, i.ended = u.GetEndTime(), true
			}
			if u.Name != nil {
				i.name = u.GetName()
			}
		})
	case *events.Event_RunDeleted:
		return f.foldInfo(rec, e.RunDeleted.GetRunId(), func(i *runInfo) {
			i.lifecycle, i.deletedTime = lifecycleDeleted, rec.Time.UnixMilli()
		})
	case *events.Event_RunRestored:
		return f.foldInfo(rec, e.RunRestored.GetRunId(), func(i *runInfo) {
			i.lifecycle, i.deletedTime = lifecycleActive, 0
		})
	case *events.Event_RunPurged:
		r, err := f.run(rec, e.RunPurged.GetRunId())
		if err != nil {
			return err
		}
		f.purged = append(f.purged, r)
		// What is left is a tombstone: it keeps the table's watermark, and says
		// where artifacts are until they are purged too.
		return f.foldInfo(rec, e.RunPurged.GetRunId(), func(i *runInfo) {
			*i = runInfo{status: i.status, artifactURI: i.artifactURI, lifecycle: lifecyclePurged, seq: i.seq}
		})
	case *events.Event_ArtifactsPurged:
		if _, ok := e.ArtifactsPurged.GetOwner().(*events.ArtifactsPurged_RunId); ok {
			return f.foldInfo(rec, e.ArtifactsPurged.GetRunId(), func(i *runInfo) { i.artifactURI = "" })
		}
	case *events.Event_RunParametersLogged:
		r, err := f.run(rec, e.RunParametersLogged.GetRunId())
		if err != nil {
			return err
		}
		for _, p := range e.RunParametersLogged.GetParameters() {
			f.foldAttribute(rec, r, attributeID{run: r.id, key: p.GetKey()}, p.GetValue(), false)
		}
		return f.foldAudit(rec)
	case *events.Event_RunTagsSet:
		return f.foldTags(rec, e.RunTagsSet.GetRunId(), e.RunTagsSet.GetTags())
	case *events.Event_RunTagDeleted:
		r, err := f.run(rec, e.RunTagDeleted.GetRunId())
		if err != nil {
			return err
		}
		f.foldAttribute(rec, r, attributeID{run: r.id, tag: true, key: e.RunTagDeleted.GetKey()}, "", true)
		return f.foldAudit(rec)
	case *events.Event_RunInputsLogged:
		return f.foldInputs(rec, e.RunInputsLogged)
	case *events.Event_RunOutputsLogged:
		return f.foldOutputs(rec, e.RunOutputsLogged)
	case *events.Event_ArtifactUploaded:
		return f.foldUpload(rec, e.ArtifactUploaded)
	case *events.Event_ArtifactReplacementBegun:
		return f.foldAudit(rec)
	case *events.Event_ArtifactsDeleted:
		return f.foldDeletion(rec, e.ArtifactsDeleted)
	}
	if id := loggedModelOf(rec.Event); id != "" {
		return f.foldModel(rec, id)
	}
	return unprojectable(rec, "it does not belong on a stream of runs")
}

// foldInfo changes the row of a run, once per event.
func (f *folder) foldInfo(rec eventlog.Record, id string, change func(*runInfo)) error {
	r, err := f.run(rec, id)
	if err != nil {
		return err
	}
	if r.info.seq < rec.Seq {
		if r.info.seq == 0 && rec.Event.GetRunCreated() == nil {
			return unprojectable(rec, "run %s was not created", id)
		}
		change(&r.info)
		r.info.seq = rec.Seq
		if !r.infoDirty {
			r.infoDirty = true
			f.dirtyRuns = append(f.dirtyRuns, r)
		}
	}
	if rec.Event.GetRunCreated() != nil {
		return nil // its tags and audit row follow
	}
	return f.foldAudit(rec)
}

func (f *folder) foldTags(rec eventlog.Record, id string, tags []*events.Tag) error {
	r, err := f.run(rec, id)
	if err != nil {
		return err
	}
	for _, t := range tags {
		f.foldAttribute(rec, r, attributeID{run: r.id, tag: true, key: t.GetKey()}, t.GetValue(), false)
	}
	return f.foldAudit(rec)
}

func (f *folder) foldAttribute(rec eventlog.Record, r *run, id attributeID, value string, deleted bool) {
	if r.purged || rec.Seq <= f.done[tableAttributes] {
		return
	}
	if _, ok := f.attributes[id]; !ok {
		f.order = append(f.order, id)
	}
	f.attributes[id] = attribute{experiment: r.experiment, value: value, deleted: deleted, seq: rec.Seq}
}

func (f *folder) foldExperiment(rec eventlog.Record, change func(*experiment)) error {
	if f.stream != events.StreamExperiments {
		return unprojectable(rec, "it belongs on %s", events.StreamExperiments)
	}
	id, err := parseExperiment(rec, experimentID(rec.Event))
	if err != nil {
		return err
	}
	x, _ := f.state.experiments.Get(id)
	if x.seq < rec.Seq {
		if x.seq == 0 && rec.Event.GetExperimentCreated() == nil {
			return unprojectable(rec, "experiment %d was not created", id)
		}
		change(x)
		x.seq = rec.Seq
		if !x.dirty {
			x.dirty = true
			f.dirtyExps = append(f.dirtyExps, x)
		}
	}
	return f.foldAudit(rec)
}

// foldMetrics takes a point that is beyond every point of its key as a new
// one, and any other as a suspect.
func (f *folder) foldMetrics(rec eventlog.Record, m *events.MetricsLogged) error {
	r, err := f.run(rec, m.GetRunId())
	if err != nil {
		return err
	}
	if r.purged {
		return nil
	}
	f.scratch = f.scratch[:0]
	for _, key := range m.GetKeys() {
		l, ok := r.latest[key]
		if !ok {
			l = new(latest)
			r.latest[key] = l
			f.state.keys++
		}
		f.scratch = append(f.scratch, l)
	}
	f.foldModelMetrics(rec, r, m)
	write := rec.Seq > f.done[tableMetrics]
	for i, p := range m.Points() {
		l := f.scratch[m.GetKeyIndex()[i]]
		after := l.isAfter(p.Step, p.Timestamp)
		switch {
		case !write:
		case after:
			f.metrics.append(r.id, p, f.shard, rec.Seq, uint32(i))
		default:
			f.suspects = append(f.suspects, suspect{
				pointID: pointID{run: r.id, Identity: p.Identity()}, value: p.Value, seq: rec.Seq, idx: uint32(i),
			})
		}
		if after || l.isGreater(p.Step, p.Timestamp, p.Value) {
			l.known, l.step, l.timestamp, l.value, l.seq = true, p.Step, p.Timestamp, p.Value, rec.Seq
			if !l.dirty {
				l.dirty = true
				if len(r.latestDirty) == 0 {
					f.dirtyKeys = append(f.dirtyKeys, r)
				}
				r.latestDirty = append(r.latestDirty, p.Key)
			}
		}
	}
	return nil
}

// unresolved returns the suspects that the batch itself does not show to be
// repeated, the first of each. A point that was taken as new and equals a
// suspect came before it: it would otherwise not have been beyond it.
func (f *folder) unresolved() map[pointID]suspect {
	if len(f.suspects) == 0 {
		return nil
	}
	left := make(map[pointID]suspect, len(f.suspects))
	for _, s := range f.suspects {
		if _, ok := left[s.pointID]; !ok {
			left[s.pointID] = s
		}
	}
	f.metrics.each(func(id pointID) { delete(left, id) })
	return left
}

// accept adds the suspects that turned out to be new, in the log's order.
func (f *folder) accept(left map[pointID]suspect) {
	for _, s := range f.suspects {
		if first, ok := left[s.pointID]; ok && first.seq == s.seq && first.idx == s.idx {
			f.metrics.append(s.run, events.Point{Key: s.Key, Value: s.value, Timestamp: s.Timestamp, Step: s.Step}, f.shard, s.seq, s.idx)
		}
	}
	f.suspects = f.suspects[:0]
}

func (f *folder) foldAudit(rec eventlog.Record) error {
	if rec.Seq <= f.done[tableAudit] {
		return nil
	}
	kind, id := entity(rec.Event)
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(rec.Event)
	if err != nil {
		return unprojectable(rec, "as JSON: %v", err)
	}
	exp := events.ExperimentOfRunSubject(rec.Subject)
	switch kind {
	case entityExperiment:
		exp = id
	case entityLoggedModel:
		exp = events.ExperimentOfLoggedModelSubject(rec.Subject)
	}
	if exp == "" {
		exp = events.ExperimentOfArtifactSubject(rec.Subject)
	}
	f.audit.append(rec, kind, id, exp, data)
	return nil
}

// What an event is about, in the table of audit.
const (
	entityRun         = "run"
	entityExperiment  = "experiment"
	entityModel       = "registered_model"
	entityVersion     = "model_version"
	entityLoggedModel = "logged_model"
	entityArtifact    = "artifact" // one that is nobody's
	entityWebhook     = "webhook"
)

// experimentID returns the id of the experiment that an event is about, "" when
// it is about none.
func experimentID(e *events.Event) string {
	if kind, id := entity(e); kind == entityExperiment {
		return id
	}
	return ""
}

// entity returns the kind and the id of what an event is about: by the fields
// that its data have. A model version is "name/version".
func entity(e *events.Event) (kind, id string) {
	switch data := dataOf(e).(type) {
	case interface {
		GetRunId() string
		GetModelId() string
		GetPath() string
	}: // ArtifactUploaded, ArtifactReplacementBegun
		return entityOfArtifact(data.GetRunId(), data.GetModelId(), data.GetPath())
	case interface {
		GetRunId() string
		GetModelId() string
		GetPaths() []string
	}: // ArtifactsDeleted
		return entityOfArtifact(data.GetRunId(), data.GetModelId(), strings.Join(data.GetPaths()[:min(1, len(data.GetPaths()))], ""))
	case *events.ArtifactsPurged:
		if _, ok := data.GetOwner().(*events.ArtifactsPurged_ModelId); ok {
			return entityLoggedModel, data.GetModelId()
		}
		return entityRun, data.GetRunId()
	case interface{ GetRunId() string }:
		if v, ok := data.(interface {
			GetName() string
			GetVersion() uint64
		}); ok { // ModelVersionCreated names its run
			return entityVersion, v.GetName() + "/" + strconv.FormatUint(v.GetVersion(), 10)
		}
		return entityRun, data.GetRunId()
	case interface{ GetModelId() string }:
		return entityLoggedModel, data.GetModelId()
	case interface{ GetExperimentId() string }:
		return entityExperiment, data.GetExperimentId()
	case interface{ GetWebhookId() string }:
		return entityWebhook, data.GetWebhookId()
	case interface {
		GetName() string
		GetAlias() string
	}:
		return entityModel, data.GetName()
	case interface {
		GetName() string
		GetVersion() uint64
	}:
		return entityVersion, data.GetName() + "/" + strconv.FormatUint(data.GetVersion(), 10)
	case interface{ GetName() string }:
		return entityModel, data.GetName()
	}
	return "", ""
}

// dataOf returns the message in an event's oneof.
func dataOf(e *events.Event) proto.Message {
	m := e.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("data"))
	if field == nil {
		return nil
	}
	return m.Get(field).Message().Interface()
}

// clear drops the rows of the batch, which are in the tables now.
func (f *folder) clear() {
	f.metrics.reset()
	f.latest.reset()
	f.audit.reset()
	f.suspects = f.suspects[:0]
	f.datasets.reset()
	f.modelLinks.reset()
	f.modelMetrics.reset()
	f.artifacts.reset()
	clear(f.attributes)
	f.purged = f.purged[:0]
	f.order = f.order[:0]
	for _, r := range f.dirtyRuns {
		r.infoDirty = false
	}
	for _, r := range f.dirtyKeys {
		for _, key := range r.latestDirty {
			r.latest[key].dirty = false
		}
		r.latestDirty = r.latestDirty[:0]
	}
	for _, x := range f.dirtyExps {
		x.dirty = false
	}
	for _, x := range f.dirtyModels {
		x.dirty = false
	}
	f.dirtyModels = f.dirtyModels[:0]
	f.dirtyRuns, f.dirtyKeys, f.dirtyExps = f.dirtyRuns[:0], f.dirtyKeys[:0], f.dirtyExps[:0]
	f.state.trim()
}

// statusOf returns the number of a run status in the table, 0 for one that is
// none.
func statusOf(s events.RunStatus) int8 {
	if slices.Contains([]events.RunStatus{
		events.RunStatus_RUN_STATUS_RUNNING, events.RunStatus_RUN_STATUS_SCHEDULED, events.RunStatus_RUN_STATUS_FINISHED,
		events.RunStatus_RUN_STATUS_FAILED, events.RunStatus_RUN_STATUS_KILLED,
	}, s) {
		return int8(s)
	}
	return 0
}
