package registry_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/provenance"
)

const (
	tracedRun   = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	tracedModel = "m-bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// record writes events about a run, a logged model or their artifacts, each at a
// time.
func record(t testing.TB, log *eventlog.Log, at time.Time, list ...*events.Event) {
	t.Helper()
	for _, e := range list {
		stream, subject := log.RunSubject("1", tracedRun, events.KindMeta)
		switch name := events.Type(e); {
		case strings.HasPrefix(name, "runledger.artifact"):
			stream, subject = log.ArtifactSubject("1", e.GetArtifactUploaded().GetRunId()+e.GetArtifactUploaded().GetModelId()+e.GetArtifactsDeleted().GetRunId())
		case strings.HasPrefix(name, "runledger.logged_model"):
			stream, subject = log.LoggedModelSubject("1", tracedModel)
		}
		lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
		_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			return b.Append(subject, events.New("/test", "trainer", at), e, eventlog.Expect{}, nil)
		})
		lane.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
}

func runTags(tags ...string) *events.Event {
	set := &events.RunTagsSet{RunId: tracedRun}
	for i := 0; i < len(tags); i += 2 {
		set.Tags = append(set.Tags, &events.Tag{Key: tags[i], Value: tags[i+1]})
	}
	return &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: set}}
}

func parameter(key, value string) *events.Event {
	return &events.Event{Data: &events.Event_RunParametersLogged{RunParametersLogged: &events.RunParametersLogged{
		RunId: tracedRun, Parameters: []*events.Parameter{{Key: key, Value: value}},
	}}}
}

func uploaded(owner, path string, sum byte) *events.Event {
	up := &events.ArtifactUploaded{Path: "1/" + owner + "/artifacts/" + path, RunId: owner, ArtifactPath: path, Size: 7, Sha256: make([]byte, 32)}
	up.Sha256[31] = sum
	if events.ValidLoggedModelID(owner) {
		up.RunId, up.ModelId = "", owner
	}
	return &events.Event{Data: &events.Event_ArtifactUploaded{ArtifactUploaded: up}}
}

// train records a run that made a logged model.
func train(t testing.TB, log *eventlog.Log, at time.Time) {
	t.Helper()
	record(t, log, at,
		&events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{
			RunId: tracedRun, ExperimentId: "1", Name: "calm-owl", UserId: "ada", StartTime: 5, ArtifactUri: "mlflow-artifacts:/1/" + tracedRun + "/artifacts",
			Tags: []*events.Tag{{Key: "mlflow.source.git.commit", Value: "c0ffee"}, {Key: "mlflow.source.name", Value: "train.py"}, {Key: "old", Value: "x"}},
		}}},
		parameter("depth", "7"),
		runTags("mlflow.log-model.history", `[{"artifact_path":"model","flavors":{"sklearn":{"sklearn_version":"1.8"}}},{"artifact_path":"other","flavors":{"other":{}}}]`),
		&events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{RunId: tracedRun, Key: "old"}}},
		&events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: &events.RunInputsLogged{
			RunId: tracedRun, ModelIds: []string{"m-base"},
			Datasets: []*events.DatasetInput{{Name: "digits", Digest: "d1", SourceType: "http", Source: "https://example.com/digits.csv", Tags: []*events.Tag{{Key: "mlflow.data.context", Value: "training"}}}},
		}}},
		&events.Event{Data: &events.Event_LoggedModelCreated{LoggedModelCreated: &events.LoggedModelCreated{
			ModelId: tracedModel, ExperimentId: "1", Name: "tree", SourceRunId: tracedRun, ArtifactUri: "mlflow-artifacts:/1/models/" + tracedModel + "/artifacts",
			Parameters: []*events.Parameter{{Key: "depth", Value: "7"}},
		}}},
		uploaded(tracedModel, "MLmodel", 1), uploaded(tracedModel, "model.pkl", 2), uploaded(tracedModel, "requirements.txt", 3),
		uploaded(tracedRun, "plot.png", 4), uploaded(tracedRun, "gone.png", 5),
		&events.Event{Data: &events.Event_ArtifactsDeleted{ArtifactsDeleted: &events.ArtifactsDeleted{RunId: tracedRun, Paths: []string{"1/" + tracedRun + "/artifacts/gone.png"}}}},
		&events.Event{Data: &events.Event_LoggedModelFinalized{LoggedModelFinalized: &events.LoggedModelFinalized{ModelId: tracedModel, Status: events.LoggedModelStatus_LOGGED_MODEL_STATUS_READY}}},
		&events.Event{Data: &events.Event_RunOutputsLogged{RunOutputsLogged: &events.RunOutputsLogged{RunId: tracedRun, Models: []*events.ModelOutput{{ModelId: tracedModel, Step: 3}}}}},
		&events.Event{Data: &events.Event_RunUpdated{RunUpdated: &events.RunUpdated{RunId: tracedRun, Status: events.RunStatus_RUN_STATUS_FINISHED.Enum(), EndTime: proto.Int64(9)}}},
	)
}

func (s *server) lineage(want int, query fields) map[string]any {
	s.t.Helper()
	a := s.raw("GET", "/api/v1/models/digits/lineage", query)
	if a.status != want {
		s.t.Fatalf("%v: %d %v", query, a.status, a.body)
	}
	return a.body
}

// at returns what is at a path of an answer, as text.
func at(v any, path ...any) string {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return "none"
			}
			v = list[step]
		}
	}
	return fmt.Sprint(v)
}

func wantAt(t testing.TB, answer map[string]any, want string, path ...any) {
	t.Helper()
	if got := at(answer, path...); got != want {
		t.Errorf("%v is %s, want %s", path, got, want)
	}
}

// What was in Production on 3 March at 14:00, who put it there and why, which run,
// data and commit made it: one request.
func TestLineageAnswersTheQuestion(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	morning := time.Date(2026, 3, 3, 9, 0, 0, 0, time.UTC)
	train(t, log, morning)
	write(t, log, morning, "digits", created("digits"))
	for n := range uint64(2) {
		write(t, log, morning, "digits", &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{
			Name: "digits", Version: n + 1, Source: "models:/" + tracedModel, ModelId: tracedModel,
		}}})
		write(t, log, morning.Add(time.Duration(n+1)*time.Hour), "digits", &events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: &events.ModelVersionStageSet{
			Name: "digits", Version: n + 1, FromStage: "None", ToStage: "Production", ArchivedVersions: slices.Repeat([]uint64{1}, int(n)),
		}}})
	}
	write(t, log, morning.Add(3*time.Hour), "digits", &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: "digits", Alias: "champion", Version: 1}}})
	write(t, log, morning.Add(8*time.Hour), "digits", &events.Event{Data: &events.Event_AliasSet{AliasSet: &events.AliasSet{Name: "digits", Alias: "champion", Version: 2, PreviousVersion: 1}}})
	write(t, log, morning.Add(8*time.Hour), "digits", &events.Event{Data: &events.Event_RegisteredModelRenamed{RegisteredModelRenamed: &events.RegisteredModelRenamed{Name: "digits", NewName: "numbers"}}})
	write(t, log, morning.Add(8*time.Hour), "numbers", &events.Event{Data: &events.Event_ModelVersionStageSet{ModelVersionStageSet: &events.ModelVersionStageSet{Name: "numbers", Version: 2, FromStage: "Production", ToStage: "Archived"}}})
	record(t, log, morning.Add(7*time.Hour), runTags("note", "since"), parameter("since", "1"))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)

	a := s.lineage(http.StatusOK, fields{"stage": "production", "as_of": "2026-03-03T14:00:00Z"})
	for _, c := range []struct {
		want string
		path []any
	}{
		{"6", []any{"as_of"}},
		{"2026-03-03T14:00:00Z", []any{"at"}},
		{"2", []any{"model_version", "version"}},
		{"tester", []any{"put_by", "actor"}},
		{"model_version_stage_set", []any{"put_by", "action"}},
		{"5", []any{"put_by", "seq"}},
		{"[1]", []any{"replaced"}},
		{tracedModel, []any{"logged_model", "model_id"}},
		{"READY", []any{"logged_model", "status"}},
		{"7", []any{"logged_model", "parameters", 0, "value"}},
		{"MLmodel", []any{"logged_model", "artifacts", 0, "path"}},
		{strings.Repeat("0", 63) + "1", []any{"logged_model", "artifacts", 0, "sha256"}},
		{tracedRun, []any{"run", "run_id"}},
		{"recorded", []any{"run", "state"}},
		{"calm-owl", []any{"run", "name"}},
		{"FINISHED", []any{"run", "status"}},
		{"[map[key:depth value:7]]", []any{"run", "parameters"}},
		{"none", []any{"run", "tags", 3}},
		{"digits", []any{"run", "datasets", 0, "name"}},
		{"d1", []any{"run", "datasets", 0, "digest"}},
		{"training", []any{"run", "datasets", 0, "context"}},
		{"m-base", []any{"run", "models_in", 0, "model_id"}},
		{"3", []any{"run", "models_out", 0, "step"}},
		{"plot.png", []any{"run", "artifacts", 0, "path"}},
		{"none", []any{"run", "artifacts", 1}},
		{"true", []any{"run", "changed_since"}},
		{"false", []any{"logged_model", "changed_since"}},
		{"c0ffee", []any{"code", "git_commit"}},
		{"train.py", []any{"code", "source_name"}},
		{"map[]", []any{"environment", "flavors"}},
		{"requirements.txt", []any{"environment", "files", 1, "path"}},
		{"none", []any{"environment", "files", 2}},
		{"[]", []any{"truncated"}},
	} {
		wantAt(t, a, c.want, c.path...)
	}
	a = s.lineage(http.StatusOK, fields{"alias": "champion", "as_of": "6"})
	wantAt(t, a, "1", "model_version", "version")
	wantAt(t, a, "[]", "replaced")
	wantAt(t, a, "Archived", "model_version", "current_stage")
	wantAt(t, a, "2026-03-03T12:00:00Z", "at")
	a = s.lineage(http.StatusOK, fields{"alias": "champion", "as_of": "7"})
	wantAt(t, a, "2", "model_version", "version")
	wantAt(t, a, "[1]", "replaced")
	wantAt(t, s.lineage(http.StatusOK, fields{"version": "1", "as_of": "7"}), "2", "put_by", "seq")

	// What was logged at the very moment counts.
	wantAt(t, s.lineage(http.StatusOK, fields{"stage": "Production", "as_of": "2026-03-03T16:00:00Z"}), "since", "run", "parameters", 1, "key")

	// What it became is told of under its name of now.
	s.lineage(http.StatusNotFound, fields{"stage": "Production"})
	a = s.raw("GET", "/api/v1/models/numbers/lineage", fields{"stage": "Archived"}).body
	wantAt(t, a, "2", "model_version", "version")
	wantAt(t, a, "[1]", "also_in_stage")
	wantAt(t, a, "<nil>", "at")
	wantAt(t, a, "since", "run", "parameters", 1, "key")
}

// Whatever became of a run, there is an answer.
func TestLineageOfWhatIsGone(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	begun := time.Now()
	train(t, log, begun)
	s.create("digits")
	version := func(f fields) {
		f["name"] = "digits"
		if _, ok := f["source"]; !ok {
			f["source"] = "s3://bucket/model"
		}
		s.must("POST", "model-versions/create", f)
	}
	version(fields{})
	version(fields{"run_id": "ffffffffffffffffffffffffffffffff"})
	version(fields{"run_id": "not an id"})
	version(fields{"run_id": tracedRun, "source": "mlflow-artifacts:/1/" + tracedRun + "/artifacts/model"})
	version(fields{"model_id": tracedModel, "source": "models:/" + tracedModel})
	get := func(number int) map[string]any {
		t.Helper()
		return s.lineage(http.StatusOK, fields{"version": number})
	}
	wantAt(t, get(1), "<nil>", "run")
	wantAt(t, get(1), "<nil>", "logged_model")
	wantAt(t, get(2), "unknown", "run", "state")
	wantAt(t, get(3), "unknown", "run", "state")
	wantAt(t, get(4), "recorded", "run", "state")
	wantAt(t, get(4), "map[sklearn:map[sklearn_version:1.8]]", "environment", "flavors")
	wantAt(t, get(4), "<nil>", "logged_model")
	wantAt(t, get(5), "calm-owl", "run", "name")
	change := func(e *events.Event) { record(t, log, time.Now(), e) }
	change(&events.Event{Data: &events.Event_RunDeleted{RunDeleted: &events.RunDeleted{RunId: tracedRun}}})
	wantAt(t, get(4), "deleted", "run", "state")
	wantAt(t, get(4), "c0ffee", "code", "git_commit")
	change(&events.Event{Data: &events.Event_RunRestored{RunRestored: &events.RunRestored{RunId: tracedRun}}})
	wantAt(t, get(4), "recorded", "run", "state")
	change(runTags("mlflow.source.name", "other.py"))
	change(&events.Event{Data: &events.Event_RunTagDeleted{RunTagDeleted: &events.RunTagDeleted{RunId: tracedRun, Key: "mlflow.source.name"}}})
	wantAt(t, get(4), "<nil>", "code", "source_name")
	change(&events.Event{Data: &events.Event_LoggedModelDeleted{LoggedModelDeleted: &events.LoggedModelDeleted{ModelId: tracedModel}}})
	wantAt(t, get(5), "deleted", "logged_model", "state")
	last := int(s.size())
	change(&events.Event{Data: &events.Event_RunPurged{RunPurged: &events.RunPurged{RunId: tracedRun}}})
	change(&events.Event{Data: &events.Event_LoggedModelPurged{LoggedModelPurged: &events.LoggedModelPurged{ModelId: tracedModel}}})
	for _, query := range []fields{{"version": 5}, {"version": 5, "as_of": last}} {
		a := s.lineage(http.StatusOK, query)
		wantAt(t, a, "purged", "logged_model", "state")
		wantAt(t, a, "purged", "run", "state")
		wantAt(t, a, "[]", "run", "parameters")
		wantAt(t, a, "map[]", "code")
	}

	// A run that came after the version that names it.
	write(t, log, begun.Add(-time.Hour), "old", created("old"))
	write(t, log, begun.Add(-time.Hour), "old", &events.Event{Data: &events.Event_ModelVersionCreated{ModelVersionCreated: &events.ModelVersionCreated{Name: "old", Version: 1, RunId: runID, Source: "s3://b/m"}}})
	addRun(t, log, runID, "s3://b/run")
	a := s.raw("GET", "/api/v1/models/old/lineage", fields{"version": "1", "as_of": int(s.size())}).body
	wantAt(t, a, "later", "run", "state")
	wantAt(t, s.raw("GET", "/api/v1/models/old/lineage", fields{"version": "1"}).body, "recorded", "run", "state")
}

func TestLineageListsAreBounded(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	train(t, log, time.Now())
	many := make([]string, 0, 2*provenance.MaxItems+2)
	for i := range provenance.MaxItems + 1 {
		many = append(many, "z"+strconv.Itoa(i), "v")
	}
	record(t, log, time.Now(), runTags(many...), runTags("mlflow.source.git.commit", "feed"))
	for i := range 12 {
		record(t, log, time.Now(), parameter("p"+strconv.Itoa(i), strings.Repeat("x", 900_000)))
	}
	s.create("digits")
	s.must("POST", "model-versions/create", fields{"name": "digits", "source": "s3://b/m", "run_id": tracedRun})
	a := s.lineage(http.StatusOK, fields{"version": "1"})
	wantAt(t, a, "[run.parameters run.tags]", "truncated")
	wantAt(t, a, "feed", "code", "git_commit")
	if tags := a["run"].(map[string]any)["tags"].([]any); len(tags) != provenance.MaxItems {
		t.Errorf("%d tags", len(tags))
	}
}

// What is told twice is in a list once, and what a value grows by counts.
func TestLineageOfWhatIsToldAgain(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	train(t, log, time.Now())
	again := &events.RunInputsLogged{RunId: tracedRun, ModelIds: []string{"m-base"}, Datasets: []*events.DatasetInput{{Name: "digits", Digest: "d1"}, {Name: "digits", Digest: "d2"}}}
	outputs := &events.RunOutputsLogged{RunId: tracedRun, Models: []*events.ModelOutput{{ModelId: tracedModel, Step: 3}, {ModelId: tracedModel, Step: 4}}}
	record(t, log, time.Now(),
		&events.Event{Data: &events.Event_RunInputsLogged{RunInputsLogged: again}},
		&events.Event{Data: &events.Event_RunOutputsLogged{RunOutputsLogged: outputs}},
		uploaded(tracedRun, "model/requirements.txt", 9),
		&events.Event{Data: &events.Event_LoggedModelParametersLogged{LoggedModelParametersLogged: &events.LoggedModelParametersLogged{
			ModelId: tracedModel, Parameters: []*events.Parameter{{Key: "later", Value: "1"}},
		}}},
		&events.Event{Data: &events.Event_LoggedModelTagsSet{LoggedModelTagsSet: &events.LoggedModelTagsSet{
			ModelId: tracedModel, Tags: []*events.Tag{{Key: "gone", Value: "1"}, {Key: "kept", Value: "1"}},
		}}},
		&events.Event{Data: &events.Event_LoggedModelTagDeleted{LoggedModelTagDeleted: &events.LoggedModelTagDeleted{ModelId: tracedModel, Key: "gone"}}},
		runTags("mlflow.log-model.history", `[{"artifact_path":"model","flavors":{"sklearn":{}}}]`),
	)
	s.create("digits")
	s.must("POST", "model-versions/create", fields{"name": "digits", "source": "models:/" + tracedModel, "model_id": tracedModel})
	s.must("POST", "model-versions/create", fields{"name": "digits", "source": "mlflow-artifacts:/1/" + tracedRun + "/artifacts/a-model", "run_id": tracedRun})
	a := s.lineage(http.StatusOK, fields{"version": "1"})
	for _, c := range []struct {
		want string
		path []any
	}{
		{"none", []any{"run", "datasets", 2}},
		{"d2", []any{"run", "datasets", 1, "digest"}},
		{"none", []any{"run", "models_in", 1}},
		{"4", []any{"run", "models_out", 1, "step"}},
		{"none", []any{"run", "models_out", 2}},
		{"9", []any{"run", "end_time"}},
		{"later", []any{"logged_model", "parameters", 1, "key"}},
		{"kept", []any{"logged_model", "tags", 0, "key"}},
		{"mlflow.modelVersions", []any{"logged_model", "tags", 1, "key"}},
		{"model/requirements.txt", []any{"environment", "files", 2, "path"}},
		{tracedRun, []any{"environment", "files", 2, "owner"}},
	} {
		wantAt(t, a, c.want, c.path...)
	}
	wantAt(t, s.lineage(http.StatusOK, fields{"version": "2"}), "map[]", "environment", "flavors")
	for i := range 12 {
		key := fmt.Sprint("grows ", i)
		record(t, log, time.Now(), runTags(key, "x"), runTags(key, strings.Repeat("x", 900_000)))
	}
	wantAt(t, s.lineage(http.StatusOK, fields{"version": "1"}), "[run.tags]", "truncated")
}

func TestLineageRefuses(t *testing.T) {
	s := newServer(t)
	s.create("digits")
	s.must("POST", "model-versions/create", fields{"name": "digits", "source": "s3://b/m"})
	for _, c := range []struct {
		query  fields
		status int
		want   string
	}{
		{fields{}, 400, "Name one of 'version', 'stage' and 'alias'."},
		{fields{"version": "1", "alias": "a"}, 400, "Name one of"},
		{fields{"version": "one"}, 400, "version"},
		{fields{"version": "2"}, 404, "Model Version (name=digits, version=2) not found"},
		{fields{"stage": "Prod"}, 400, "Invalid Model Version stage"},
		{fields{"stage": "Production"}, 404, "No version of 'digits' is in stage 'Production' after entry 2"},
		{fields{"alias": "champion"}, 400, "alias champion not found"},
		{fields{"stage": "None", "asof": "1"}, 400, "Unknown parameter 'asof'"},
		{fields{"stage": "None", "as_of": "3"}, 400, "'as_of'"},
		{fields{"stage": "None", "as_of": "2026-03-03T14:00:00"}, 400, "'as_of'"},
		{fields{"version": "1", "as_of": "1"}, 404, "not found"},
	} {
		if a := s.raw("GET", "/api/v1/models/digits/lineage", c.query); a.status != c.status || !strings.Contains(fmt.Sprint(a.body["message"]), c.want) {
			t.Errorf("%v: %d %v, want %d %q", c.query, a.status, a.body, c.status, c.want)
		}
	}
	if a := s.raw("GET", "/api/v1/models/nobody/lineage", fields{"version": "1"}); a.status != 404 {
		t.Errorf("no such model: %d %v", a.status, a.body)
	}
}

// After a rollback it is the rollback that put things where they are.
func TestLineageAfterARollback(t *testing.T) {
	s := newServer(t)
	s.create("digits")
	s.addVersion("digits")
	s.addVersion("digits")
	stage := func(version string) {
		s.must("POST", "model-versions/transition-stage", fields{"name": "digits", "version": version, "stage": "Production", "archive_existing_versions": true})
		s.must("POST", "registered-models/alias", fields{"name": "digits", "alias": "champion", "version": version})
	}
	stage("1")
	stage("2") // 6 and 7
	s.must("DELETE", "model-versions/delete", fields{"name": "digits", "version": "1"})
	if a := s.rollback("digits", fields{"to": 5, "reason": "worse at night", "restore": true}); a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	for _, query := range []fields{{"stage": "Production"}, {"alias": "champion"}, {"version": 1}} {
		a := s.lineage(http.StatusOK, query)
		wantAt(t, a, "1", "model_version", "version")
		wantAt(t, a, "worse at night", "put_by", "reason")
		wantAt(t, a, "/runledger/registry/rollback?to=5", "put_by", "source")
	}
	wantAt(t, s.lineage(http.StatusOK, fields{"alias": "champion"}), "[2]", "replaced")
	s.must("DELETE", "registered-models/delete", fields{"name": "digits"})
	last := int(s.size())
	if a := s.rollback("digits", fields{"to": last - 1, "reason": "not that", "restore": true}); a.status != http.StatusOK {
		t.Fatal(a.body)
	}
	a := s.lineage(http.StatusOK, fields{"stage": "Production"})
	wantAt(t, a, "1", "model_version", "version")
	wantAt(t, a, "not that", "put_by", "reason")
}

// The entry that put a version somewhere is the one before which it was not there.
func TestWhoPutAVersionThere(t *testing.T) {
	t.Parallel()
	log := openLog(t, natstest.Start(t))
	ledgertest.Publish(t, log, ledgertest.RandomEvents(t, 11, 400))
	recs := readAll(t, log)
	states := statesOf(t, recs)
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	random := rand.New(rand.NewPCG(5, 6))
	asked := 0
	for range 60 {
		n := 1 + random.IntN(len(recs))
		for m := range states[n].Models() {
			var queries []fields
			for v := range m.Versions() {
				queries = append(queries, fields{"stage": v.Stage}, fields{"version": v.Number})
			}
			for alias := range m.Aliases {
				if !strings.Contains(alias, "/") { // no client can make it
					queries = append(queries, fields{"alias": alias})
				}
			}
			if len(queries) == 0 {
				continue
			}
			query := queries[random.IntN(len(queries))]
			query["as_of"] = n
			a := s.raw("GET", "/api/v1/models/"+url.PathEscape(m.Name)+"/lineage", query)
			if a.status != http.StatusOK {
				t.Fatalf("%s %v: %d %v", m.Name, query, a.status, a.body)
			}
			number, _ := strconv.ParseUint(at(a.body, "model_version", "version"), 10, 64)
			want := n
			for there(states[want-1].ModelByID(m.ID), number, query) {
				want--
			}
			if got := at(a.body, "put_by", "seq"); got != strconv.Itoa(want) {
				t.Errorf("%s %v: version %d was put there by %s, want %d", m.Name, query, number, got, want)
			}
			asked++
		}
	}
	if asked < 50 {
		t.Errorf("only %d questions", asked)
	}
}

// there reports whether a version is where a query asks for it.
func there(m *catalog.Model, number uint64, query fields) bool {
	if m == nil {
		return false
	}
	v, ok := m.Version(number)
	if alias, asked := query["alias"]; asked {
		return ok && m.Aliases[alias.(string)] == number
	}
	stage, asked := query["stage"]
	return ok && (!asked || v.Stage == stage)
}
