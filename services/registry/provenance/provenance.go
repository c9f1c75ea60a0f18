// Package provenance tells what a model version was made from, as the log has
// it: the logged model, the run, its parameters, data sets, code, environment
// and artifacts. Each is a fold of its own events, read when it is asked for.
package provenance

import (
	"context"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
	"github.com/runledger/runledger/services/registry/catalog"
)

// What one answer has at most. Lists beyond that are cut off, and named.
const (
	// MaxItems bounds every list.
	MaxItems = 1000
	// MaxBytes bounds the texts of all lists, in bytes.
	MaxBytes = 8 << 20
	// MaxEvents bounds the events that are read of one run or logged model, and
	// as many of its artifacts.
	MaxEvents = 50_000

	// maxTraces bounds how many answers are made at a time. Others wait for
	// slotWait.
	maxTraces = 4
	slotWait  = 5 * time.Second
)

// State says whether there is a run or a logged model to tell of.
type State string

// A deleted one is told of in full; of one that is purged, unknown or later,
// nothing but its id is.
const (
	Recorded State = "recorded"
	Deleted  State = "deleted"
	Purged   State = "purged"  // deleted for good, whatever the moment
	Unknown  State = "unknown" // the log never had it
	Later    State = "later"   // it was created after the moment
)

// Origin is what a model version was made from. Run and LoggedModel are nil when
// the version names none.
type Origin struct {
	LoggedModel *LoggedModel `json:"logged_model"`
	Run         *Run         `json:"run"`
	Code        Code         `json:"code"`
	Environment Environment  `json:"environment"`
	// Truncated names the lists that are cut off: "run.parameters".
	Truncated []string `json:"truncated"`
}

// Run is the run that made a version.
type Run struct {
	RunID        string `json:"run_id"`
	State        State  `json:"state"`
	ExperimentID string `json:"experiment_id,omitempty"`
	Name         string `json:"name,omitempty"`
	UserID       string `json:"user_id,omitempty"`
	Status       string `json:"status,omitempty"`
	StartTime    int64  `json:"start_time,omitempty"` // milliseconds since the Unix epoch
	EndTime      int64  `json:"end_time,omitempty"`   // milliseconds, 0 while there is none
	ArtifactURI  string `json:"artifact_uri,omitempty"`

	Parameters []mlflow.Param `json:"parameters"`
	Tags       []mlflow.Tag   `json:"tags"`
	Datasets   []Dataset      `json:"datasets"`
	ModelsIn   []ModelUse     `json:"models_in"`
	ModelsOut  []ModelUse     `json:"models_out"`
	Artifacts  []Artifact     `json:"artifacts"`
	// ChangedSince says that the run has changed after the moment.
	ChangedSince bool `json:"changed_since"`
}

// LoggedModel is the logged model that a version was made from.
type LoggedModel struct {
	ModelID      string    `json:"model_id"`
	State        State     `json:"state"`
	ExperimentID string    `json:"experiment_id,omitempty"`
	Name         string    `json:"name,omitempty"`
	ModelType    string    `json:"model_type,omitempty"`
	Status       string    `json:"status,omitempty"`
	SourceRunID  string    `json:"source_run_id,omitempty"`
	ArtifactURI  string    `json:"artifact_uri,omitempty"`
	CreatedAt    time.Time `json:"created_at,omitzero"`

	Parameters   []mlflow.Param `json:"parameters"`
	Tags         []mlflow.Tag   `json:"tags"`
	Artifacts    []Artifact     `json:"artifacts"`
	ChangedSince bool           `json:"changed_since"`
}

// Dataset is a data set as the run read it. Its schema and profile are left out.
type Dataset struct {
	Name       string       `json:"name"`
	Digest     string       `json:"digest"`
	Context    string       `json:"context,omitempty"` // what it was used for
	SourceType string       `json:"source_type"`
	Source     string       `json:"source"`
	Tags       []mlflow.Tag `json:"tags"` // of its use by the run
}

// ModelUse is a logged model that a run read or wrote.
type ModelUse struct {
	ModelID string `json:"model_id"`
	Step    int64  `json:"step"` // of a model that was written
}

// Artifact is a file, as the log has it.
type Artifact struct {
	Path       string    `json:"path"` // below the artifacts of its run or logged model
	Size       int64     `json:"size"` // bytes
	SHA256     string    `json:"sha256"`
	UploadedAt time.Time `json:"uploaded_at"`
	Actor      string    `json:"actor"`
}

// Code is what the run's tags say of the code that ran.
type Code struct {
	SourceName string `json:"source_name,omitempty"`
	SourceType string `json:"source_type,omitempty"`
	GitCommit  string `json:"git_commit,omitempty"`
	GitBranch  string `json:"git_branch,omitempty"`
	GitRepoURL string `json:"git_repo_url,omitempty"`
	EntryPoint string `json:"entry_point,omitempty"`
	User       string `json:"user,omitempty"`
}

// Environment is what the log knows of where the model runs: the files that
// describe it, by digest, and the flavors, with their versions, of a model that a
// client before MLflow 3 logged.
type Environment struct {
	Files   []File         `json:"files"`
	Flavors map[string]any `json:"flavors"`
}

// File is an artifact of a logged model or of a run.
type File struct {
	Owner string `json:"owner"` // the run's or the logged model's id
	Artifact
}

// environmentFiles are those that MLflow writes beside a model
// (mlflow/utils/environment.py, mlflow/models/model.py).
var environmentFiles = []string{
	"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "constraints.txt", "pyproject.toml", "uv.lock", ".python-version",
}

// Tracer reads origins from the log, a few at a time. It is safe for concurrent
// use.
type Tracer struct {
	log   *eventlog.Log
	slots *semaphore.Weighted
}

// New returns a tracer of a log.
func New(log *eventlog.Log) *Tracer {
	return &Tracer{log: log, slots: semaphore.NewWeighted(maxTraces)}
}

// Trace reads what a version was made from. One that names no run has its logged
// model's. With a moment that is not zero, it tells what was so then. It returns
// ctx's error, why the log cannot be read, or RequestLimitExceeded when too many
// others ask.
func (tr *Tracer) Trace(ctx context.Context, v *catalog.Version, at time.Time) (*Origin, error) {
	waiting, cancel := context.WithTimeout(ctx, slotWait)
	defer cancel()
	if err := tr.slots.Acquire(waiting, 1); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, apierr.Errorf(apierr.RequestLimitExceeded, "Too many requests for lineage are under way, try again").WithRetryAfter(slotWait)
	}
	defer tr.slots.Release(1)
	t := &trace{log: tr.log, at: at, left: MaxBytes}
	o := &Origin{Environment: Environment{Files: []File{}, Flavors: map[string]any{}}}
	runID, modelID := v.RunID, v.ModelID
	var files, runFiles map[string]Artifact
	var err error
	if modelID != "" {
		if o.LoggedModel, files, err = t.loggedModel(ctx, modelID); err != nil {
			return nil, err
		}
		if runID == "" {
			runID = o.LoggedModel.SourceRunID
		}
		o.Environment.add(modelID, files)
	}
	if runID != "" {
		var named map[string]string
		if o.Run, named, runFiles, err = t.run(ctx, runID); err != nil {
			return nil, err
		}
		o.Code = codeOf(named)
		o.Environment.add(runID, runFiles)
		o.Environment.Flavors = flavors(named[mlflow.TagLoggedModels], v.Source)
	}
	o.Truncated = t.truncated()
	return o, nil
}

func (e *Environment) add(owner string, files map[string]Artifact) {
	for _, a := range sorted(files) {
		if len(e.Files) < MaxItems && slices.Contains(environmentFiles, path.Base(a.Path)) {
			e.Files = append(e.Files, File{Owner: owner, Artifact: a})
		}
	}
}

// absent returns whether there is nothing to tell of a run or a logged model, and
// why, by its last event.
func absent(last eventlog.Record) (State, bool) {
	switch {
	case last.Seq == 0:
		return Unknown, true
	case events.Purged(last.Event):
		return Purged, true
	}
	return Recorded, false
}
