package query

import (
	"context"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/mlflow"
)

const (
	defaultLineagePage = 100
	maxLineagePage     = 1000 // runs
	// maxLineageModels bounds the logged models of one answer, and as many model
	// versions.
	maxLineageModels = 10_000
	// minCommit is how many characters of a commit must be given: as many as git
	// shows of one.
	minCommit = 7
)

// lineageAnswer is what came from a run, a data set, a commit or a logged model:
// a page of runs, and what was made by them.
type lineageAnswer struct {
	Runs         []lineageRun     `json:"runs"`
	LoggedModels []lineageModel   `json:"logged_models"`
	Versions     []lineageVersion `json:"model_versions"`
	// Truncated names the lists that are cut off.
	Truncated     []string `json:"truncated"`
	NextPageToken string   `json:"next_page_token"`
}

type lineageRun struct {
	RunID        string `json:"run_id"`
	ExperimentID string `json:"experiment_id"`
	Name         string `json:"name"`
	UserID       string `json:"user_id"`
	Status       string `json:"status"`
	StartTime    int64  `json:"start_time"` // milliseconds since the Unix epoch
	Lifecycle    string `json:"lifecycle_stage"`
}

type lineageModel struct {
	ModelID      string `json:"model_id"`
	ExperimentID string `json:"experiment_id"`
	Name         string `json:"name"`
	SourceRunID  string `json:"source_run_id"`
	Lifecycle    string `json:"lifecycle_stage"`
}

// lineageVersion is a model version as it is now.
type lineageVersion struct {
	Name    string   `json:"name"`
	Version string   `json:"version"`
	Stage   string   `json:"current_stage"`
	Aliases []string `json:"aliases"`
	RunID   string   `json:"run_id"`
	ModelID string   `json:"model_id"`
}

// lineageKeys are the order of runs: the newest first.
var lineageKeys = []sortKey{{expr: "r.start_time", typ: typeInteger, desc: true}, {expr: "toString(r.run_id)", typ: typeText}}

// lineageQuestion asks what came from one thing.
type lineageQuestion struct {
	runID, digest, datasetName, commit, modelID string
}

func lineageQuestionOf(p *httpapi.Params) (lineageQuestion, error) {
	q := lineageQuestion{
		runID: p.Text("run_id"), digest: p.Text("dataset_digest"), datasetName: p.Text("dataset_name"), commit: p.Text("commit"), modelID: p.Text("model_id"),
	}
	named := slices.DeleteFunc([]string{q.runID, q.digest, q.commit, q.modelID}, func(text string) bool { return text == "" })
	switch {
	case len(named) != 1:
		return q, apierr.Errorf(apierr.InvalidParameterValue, "Name one of 'run_id', 'dataset_digest', 'commit' and 'model_id'.")
	case q.datasetName != "" && q.digest == "":
		return q, apierr.Errorf(apierr.InvalidParameterValue, "'dataset_name' goes with 'dataset_digest'.")
	case q.commit != "" && len(q.commit) < minCommit:
		return q, apierr.Errorf(apierr.InvalidParameterValue,
			"Invalid value '%.200s' for parameter 'commit': want at least its first %d characters.", q.commit, minCommit)
	}
	return q, nil
}

// condition returns the condition that a run, r, came from what is asked about,
// or is it.
func (q lineageQuestion) condition(st *statement) string {
	switch {
	case q.runID != "":
		id, ok := parseRunID(q.runID)
		if !ok {
			return "0"
		}
		return "r.run_id = " + st.bind("UUID", id.String())
	case q.digest != "":
		condition := "r.run_id IN (SELECT run_id FROM run_datasets FINAL WHERE digest = " + st.bind("String", q.digest)
		if q.datasetName != "" {
			condition += " AND name = " + st.bind("String", q.datasetName)
		}
		return condition + ")"
	case q.commit != "":
		return "r.run_id IN (SELECT run_id FROM run_attributes FINAL WHERE kind = 'tag' AND key = 'mlflow.source.git.commit' AND startsWith(value, " +
			st.bind("String", q.commit) + "))"
	default:
		return "r.run_id IN (SELECT run_id FROM run_models FINAL WHERE direction = 'input' AND model_id = " + st.bind("String", q.modelID) + ")"
	}
}

// lineage answers which runs, logged models, model versions and aliases came from
// a run, a data set, a commit or a logged model.
func (s *Service) lineage(ec echo.Context) error {
	p := httpapi.QueryParams(ec)
	q, err := lineageQuestionOf(p)
	limit := p.Int("max_results", defaultLineagePage, 1, maxLineagePage)
	token := p.Text("page_token")
	if paramsErr := p.Err(); paramsErr != nil {
		return paramsErr
	}
	if err != nil {
		return err
	}
	asked := digest("lineage", q.runID, q.digest, q.datasetName, q.commit, q.modelID)
	after, err := decodeToken(token, asked, lineageKeys)
	if err != nil {
		return err
	}
	leave, err := s.enterAudit(ec)
	if err != nil {
		return err
	}
	defer leave()
	ctx := ec.Request().Context()
	out := lineageAnswer{Runs: []lineageRun{}, LoggedModels: []lineageModel{}, Versions: []lineageVersion{}, Truncated: []string{}}
	more, err := s.lineageRuns(ctx, &out, q, after, limit)
	if err != nil {
		return err
	}
	if more {
		last := out.Runs[len(out.Runs)-1]
		id, _ := parseRunID(last.RunID)
		if out.NextPageToken, err = encodeToken(asked, lineageKeys, []any{last.StartTime, id.String()}); err != nil {
			return err
		}
	}
	if after != nil {
		q.runID, q.modelID = "", "" // they were on the first page
	}
	if err := s.lineageModels(ctx, &out, q.runID, q.modelID); err != nil {
		return err
	}
	if err := s.lineageVersions(ctx, &out, q.runID, q.modelID); err != nil {
		return err
	}
	return mlflow.WriteJSON(ec.Response(), out)
}

func (s *Service) lineageRuns(ctx context.Context, out *lineageAnswer, q lineageQuestion, after []any, limit int) (more bool, err error) {
	var st statement
	st.write("SELECT r.run_id, r.experiment_id, r.name, r.user_id, toString(r.status), r.start_time, toString(r.lifecycle) FROM runs AS r FINAL WHERE ",
		lifecycle("r.lifecycle", mlflow.ViewAll), " AND ", q.condition(&st))
	if after != nil {
		st.write(" AND ", st.after(lineageKeys, after))
	}
	st.write(" ORDER BY ", orderBy(lineageKeys), " LIMIT ", st.bind("UInt64", limit+1))
	return s.db.some(ctx, &st, limit, func(scan func(...any) error) error {
		var r lineageRun
		var id uuid.UUID
		var experiment uint64
		if err := scan(&id, &experiment, &r.Name, &r.UserID, &r.Status, &r.StartTime, &r.Lifecycle); err != nil {
			return err
		}
		r.RunID, r.ExperimentID = formatRunID(id), formatExperimentID(experiment)
		out.Runs = append(out.Runs, r)
		return nil
	})
}

// lineageModels adds the logged models that were made by the runs of the answer or
// by the one that was asked about, which may be purged, and the logged model that
// was asked about.
func (s *Service) lineageModels(ctx context.Context, out *lineageAnswer, runID, modelID string) error {
	if len(out.Runs) == 0 && runID == "" && modelID == "" {
		return nil
	}
	ids := []string{}
	for _, r := range out.Runs {
		ids = append(ids, r.RunID)
	}
	if len(ids) == 0 && runID != "" {
		ids = append(ids, runID)
	}
	var st statement
	runs := st.bind("Array(String)", ids)
	st.write("SELECT m.model_id, m.experiment_id, m.name, m.source_run_id, toString(m.lifecycle) FROM logged_models AS m FINAL WHERE ",
		lifecycle("m.lifecycle", mlflow.ViewAll), " AND (m.source_run_id IN ", runs, " OR m.model_id = ", st.bind("String", modelID),
		" OR m.model_id IN (SELECT model_id FROM run_models FINAL WHERE direction = 'output' AND run_id IN arrayMap(id -> toUUIDOrZero(id), ", runs,
		"))) ORDER BY m.creation_time DESC, m.model_id LIMIT ", st.bind("UInt64", maxLineageModels+1))
	more, err := s.db.some(ctx, &st, maxLineageModels, func(scan func(...any) error) error {
		var m lineageModel
		var experiment uint64
		if err := scan(&m.ModelID, &experiment, &m.Name, &m.SourceRunID, &m.Lifecycle); err != nil {
			return err
		}
		m.ExperimentID = formatExperimentID(experiment)
		out.LoggedModels = append(out.LoggedModels, m)
		return nil
	})
	if more {
		out.Truncated = append(out.Truncated, "logged_models")
	}
	return err
}

// lineageVersions adds the versions made from the runs and the logged models of
// the answer, and from those that were asked about, of which the tables may have
// nothing.
func (s *Service) lineageVersions(ctx context.Context, out *lineageAnswer, runID, modelID string) error {
	runs, models := []string{runID}, []string{modelID}
	for _, r := range out.Runs {
		runs = append(runs, r.RunID)
	}
	for _, m := range out.LoggedModels {
		models = append(models, m.ModelID)
	}
	none := func(id string) bool { return id == "" }
	runs, models = slices.DeleteFunc(runs, none), slices.DeleteFunc(models, none)
	if len(runs)+len(models) == 0 {
		return nil
	}
	made, more, err := s.madeFrom(ctx, runs, models)
	if err != nil {
		return err
	}
	if more {
		out.Truncated = append(out.Truncated, "model_versions")
	}
	for _, v := range made {
		if v.gone {
			continue
		}
		slices.Sort(v.Aliases)
		out.Versions = append(out.Versions, v.lineageVersion)
	}
	slices.SortFunc(out.Versions, func(a, b lineageVersion) int {
		if a.Name != b.Name {
			return strings.Compare(a.Name, b.Name)
		}
		return compareNumbers(a.Version, b.Version)
	})
	return nil
}
