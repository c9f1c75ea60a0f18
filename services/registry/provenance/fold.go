package provenance

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// The tags that clients set of the code that runs
// (mlflow/utils/mlflow_tags.py).
const (
	tagSourceName = "mlflow.source.name"
	tagSourceType = "mlflow.source.type"
	tagCommit     = "mlflow.source.git.commit"
	tagBranch     = "mlflow.source.git.branch"
	tagRepo       = "mlflow.source.git.repoURL"
	tagEntryPoint = "mlflow.project.entryPoint"
	tagUser       = "mlflow.user"
)

// namedTags are kept however many others there are.
var namedTags = []string{
	tagSourceName, tagSourceType, tagCommit, tagBranch, tagRepo, tagEntryPoint, tagUser, mlflow.TagLoggedModels,
}

func codeOf(tags map[string]string) Code {
	return Code{
		SourceName: tags[tagSourceName], SourceType: tags[tagSourceType], GitCommit: tags[tagCommit], GitBranch: tags[tagBranch],
		GitRepoURL: tags[tagRepo], EntryPoint: tags[tagEntryPoint], User: tags[tagUser],
	}
}

// trace is one answer in the making.
type trace struct {
	log  *eventlog.Log
	at   time.Time // zero: now
	left int       // bytes
	cut  map[string]bool
}

// truncated returns the names of the lists that were cut off.
func (t *trace) truncated() []string {
	return append([]string{}, slices.Sorted(maps.Keys(t.cut))...)
}

// room reports whether a list of n items takes one more of a size in bytes. If
// not, the list is one that was cut off.
func (t *trace) room(list string, n, size int) bool {
	if n < MaxItems && size <= t.left {
		t.left -= size
		return true
	}
	t.cutOff(list)
	return false
}

func (t *trace) cutOff(list string) {
	if t.cut == nil {
		t.cut = make(map[string]bool)
	}
	t.cut[list] = true
}

// put puts a value into a table that is shown as a list.
func (t *trace) put(list string, table map[string]string, key, value string) {
	old, known := table[key]
	switch {
	case known && len(value) <= len(old)+t.left:
		t.left -= len(value) - len(old)
		table[key] = value
	case known:
		t.left += len(key) + len(old)
		delete(table, key)
		t.cutOff(list)
	case t.room(list, len(table), len(key)+len(value)):
		table[key] = value
	}
}

// each calls visit for the events of one subject up to the moment: the most,
// from the first on, that all have a time up to and including it. It reports
// whether there are more.
func (t *trace) each(ctx context.Context, what string, last eventlog.Record, visit func(eventlog.Record)) (more bool, err error) {
	n := 0
	for rec, err := range t.log.Read(ctx, last.Stream, last.Subject, 1, last.Seq) {
		if err != nil {
			return false, fmt.Errorf("trace %s: %w", what, err)
		}
		if !t.at.IsZero() && rec.Time.After(t.at) {
			return true, nil
		}
		if n++; n > MaxEvents {
			t.cutOff(what)
			return false, nil
		}
		visit(rec)
	}
	return false, nil
}

// run reads a run, those of its tags that are asked for by name, and its
// artifacts by their places in the store.
func (t *trace) run(ctx context.Context, id string) (_ *Run, named map[string]string, files map[string]Artifact, err error) {
	r := &Run{
		RunID: id, State: Unknown, Parameters: []mlflow.Param{}, Tags: []mlflow.Tag{}, Datasets: []Dataset{}, ModelsIn: []ModelUse{},
		ModelsOut: []ModelUse{}, Artifacts: []Artifact{},
	}
	if !events.ValidRunID(id) {
		return r, nil, nil, nil
	}
	stream, filter := t.log.RunSubject(events.Any, id, events.KindMeta)
	last, err := t.log.Last(ctx, stream, filter)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("trace run %s: %w", id, err)
	}
	var none bool
	if r.State, none = absent(last); none {
		return r, nil, nil, nil
	}
	parameters, tags, named := map[string]string{}, map[string]string{}, map[string]string{}
	datasets := make(map[[2]string]bool)
	r.State = Later
	r.ChangedSince, err = t.each(ctx, "run", last, func(rec eventlog.Record) {
		switch d := rec.GetData().(type) {
		case *events.Event_RunCreated:
			c := d.RunCreated
			r.State, r.ExperimentID, r.Name, r.UserID = Recorded, c.GetExperimentId(), c.GetName(), c.GetUserId()
			r.StartTime, r.ArtifactURI, r.Status = c.GetStartTime(), c.GetArtifactUri(), statusText(events.RunStatus_RUN_STATUS_RUNNING)
			t.setTags("run.tags", tags, named, c.GetTags())
		case *events.Event_RunUpdated:
			r.update(d.RunUpdated)
		case *events.Event_RunParametersLogged:
			for _, p := range d.RunParametersLogged.GetParameters() {
				t.put("run.parameters", parameters, p.GetKey(), p.GetValue())
			}
		case *events.Event_RunTagsSet:
			t.setTags("run.tags", tags, named, d.RunTagsSet.GetTags())
		case *events.Event_RunTagDeleted:
			delete(tags, d.RunTagDeleted.GetKey())
			delete(named, d.RunTagDeleted.GetKey())
		case *events.Event_RunDeleted:
			r.State = Deleted
		case *events.Event_RunRestored:
			r.State = Recorded
		case *events.Event_RunInputsLogged:
			for _, in := range d.RunInputsLogged.GetDatasets() {
				if key := [2]string{in.GetName(), in.GetDigest()}; !datasets[key] {
					datasets[key] = t.addDataset(r, in)
				}
			}
			for _, model := range d.RunInputsLogged.GetModelIds() {
				t.addModel("run.models_in", &r.ModelsIn, ModelUse{ModelID: model})
			}
		case *events.Event_RunOutputsLogged:
			for _, out := range d.RunOutputsLogged.GetModels() {
				t.addModel("run.models_out", &r.ModelsOut, ModelUse{ModelID: out.GetModelId(), Step: out.GetStep()})
			}
		}
	})
	if err != nil || r.State == Later {
		return r, nil, nil, err
	}
	r.Parameters, r.Tags = append(r.Parameters, pairs[mlflow.Param](parameters)...), append(r.Tags, pairs[mlflow.Tag](tags)...)
	files, err = t.artifacts(ctx, "run.artifacts", id, &r.Artifacts)
	return r, named, files, err
}

func (r *Run) update(u *events.RunUpdated) {
	if u.Status != nil {
		r.Status = statusText(u.GetStatus())
	}
	if u.EndTime != nil {
		r.EndTime = u.GetEndTime()
	}
	if u.Name != nil {
		r.Name = u.GetName()
	}
}

func statusText(s events.RunStatus) string { return strings.TrimPrefix(s.String(), "RUN_STATUS_") }

func (t *trace) setTags(list string, tags, named map[string]string, set []*events.Tag) {
	for _, tag := range set {
		if slices.Contains(namedTags, tag.GetKey()) {
			named[tag.GetKey()] = tag.GetValue()
		}
		t.put(list, tags, tag.GetKey(), tag.GetValue())
	}
}

func (t *trace) addDataset(r *Run, in *events.DatasetInput) bool {
	d := Dataset{Name: in.GetName(), Digest: in.GetDigest(), SourceType: in.GetSourceType(), Source: in.GetSource(), Tags: []mlflow.Tag{}}
	size := len(d.Name) + len(d.Digest) + len(d.SourceType) + len(d.Source)
	for _, tag := range in.GetTags() {
		if tag.GetKey() == mlflow.TagDatasetContext {
			d.Context = tag.GetValue()
		}
		d.Tags = append(d.Tags, mlflow.Tag{Key: tag.GetKey(), Value: tag.GetValue()})
		size += len(tag.GetKey()) + len(tag.GetValue())
	}
	if !t.room("run.datasets", len(r.Datasets), size) {
		return false
	}
	r.Datasets = append(r.Datasets, d)
	return true
}

func (t *trace) addModel(list string, models *[]ModelUse, use ModelUse) {
	if !slices.Contains(*models, use) && t.room(list, len(*models), len(use.ModelID)) {
		*models = append(*models, use)
	}
}

// loggedModel reads a logged model, and its artifacts by their places in the
// store.
func (t *trace) loggedModel(ctx context.Context, id string) (*LoggedModel, map[string]Artifact, error) {
	m := &LoggedModel{ModelID: id, State: Unknown, Parameters: []mlflow.Param{}, Tags: []mlflow.Tag{}, Artifacts: []Artifact{}}
	if !events.ValidLoggedModelID(id) {
		return m, nil, nil
	}
	stream, filter := t.log.LoggedModelSubject(events.Any, id)
	last, err := t.log.Last(ctx, stream, filter)
	if err != nil {
		return nil, nil, fmt.Errorf("trace logged model %s: %w", id, err)
	}
	var none bool
	if m.State, none = absent(last); none {
		return m, nil, nil
	}
	parameters, tags, named := map[string]string{}, map[string]string{}, map[string]string{}
	addParameters := func(list []*events.Parameter) {
		for _, p := range list {
			t.put("logged_model.parameters", parameters, p.GetKey(), p.GetValue())
		}
	}
	m.State = Later
	m.ChangedSince, err = t.each(ctx, "logged_model", last, func(rec eventlog.Record) {
		switch d := rec.GetData().(type) {
		case *events.Event_LoggedModelCreated:
			c := d.LoggedModelCreated
			m.State, m.ExperimentID, m.Name, m.ModelType, m.CreatedAt = Recorded, c.GetExperimentId(), c.GetName(), c.GetModelType(), rec.Time
			m.SourceRunID, m.ArtifactURI = c.GetSourceRunId(), c.GetArtifactUri()
			m.Status = modelStatus(events.LoggedModelStatus_LOGGED_MODEL_STATUS_PENDING)
			addParameters(c.GetParameters())
			t.setTags("logged_model.tags", tags, named, c.GetTags())
		case *events.Event_LoggedModelFinalized:
			m.Status = modelStatus(d.LoggedModelFinalized.GetStatus())
		case *events.Event_LoggedModelParametersLogged:
			addParameters(d.LoggedModelParametersLogged.GetParameters())
		case *events.Event_LoggedModelTagsSet:
			t.setTags("logged_model.tags", tags, named, d.LoggedModelTagsSet.GetTags())
		case *events.Event_LoggedModelTagDeleted:
			delete(tags, d.LoggedModelTagDeleted.GetKey())
		case *events.Event_LoggedModelDeleted:
			m.State = Deleted
		}
	})
	if err != nil || m.State == Later {
		return m, nil, err
	}
	m.Parameters, m.Tags = append(m.Parameters, pairs[mlflow.Param](parameters)...), append(m.Tags, pairs[mlflow.Tag](tags)...)
	files, err := t.artifacts(ctx, "logged_model.artifacts", id, &m.Artifacts)
	return m, files, err
}

func modelStatus(s events.LoggedModelStatus) string {
	return strings.TrimPrefix(s.String(), "LOGGED_MODEL_STATUS_")
}

// artifacts reads the artifacts of a run or a logged model, and adds those that
// there is room for to a list.
func (t *trace) artifacts(ctx context.Context, list, owner string, into *[]Artifact) (map[string]Artifact, error) {
	stream, filter := t.log.ArtifactSubject(events.Any, owner)
	last, err := t.log.Last(ctx, stream, filter)
	if err != nil {
		return nil, fmt.Errorf("trace artifacts of %s: %w", owner, err)
	}
	if last.Seq == 0 {
		return nil, nil
	}
	files := make(map[string]Artifact)
	_, err = t.each(ctx, list, last, func(rec eventlog.Record) {
		if up := rec.GetArtifactUploaded(); up != nil {
			files[up.GetPath()] = Artifact{
				Path: up.GetArtifactPath(), Size: up.GetSize(), SHA256: hex.EncodeToString(up.GetSha256()), UploadedAt: rec.Time, Actor: rec.Actor,
			}
		}
		for _, name := range rec.GetArtifactsDeleted().GetPaths() {
			delete(files, name)
		}
	})
	if err != nil {
		return nil, err
	}
	for _, a := range sorted(files) {
		if !t.room(list, len(*into), len(a.Path)+len(a.SHA256)+len(a.Actor)) {
			break
		}
		*into = append(*into, a)
	}
	return files, nil
}

func sorted(files map[string]Artifact) []Artifact {
	return slices.SortedFunc(maps.Values(files), func(a, b Artifact) int { return strings.Compare(a.Path, b.Path) })
}

// pairs returns a table by key.
func pairs[T mlflow.Param | mlflow.Tag](table map[string]string) []T {
	list := make([]T, 0, len(table))
	for _, key := range slices.Sorted(maps.Keys(table)) {
		list = append(list, T{Key: key, Value: table[key]})
	}
	return list
}

// flavors returns the flavors of the model at a source from the run's tag that
// lists the models among its artifacts. Clients since MLflow 3 do not set the tag:
// what they log has its flavors in the file MLmodel alone.
func flavors(tag, source string) map[string]any {
	var list []struct {
		Path    string         `json:"artifact_path"`
		Flavors map[string]any `json:"flavors"`
	}
	found := map[string]any{}
	if tag == "" || json.Unmarshal([]byte(tag), &list) != nil {
		return found
	}
	for _, m := range list {
		if m.Path != "" && m.Flavors != nil && strings.HasSuffix(strings.TrimRight(source, "/"), "/"+m.Path) {
			found = m.Flavors
		}
	}
	return found
}
