package mlflow

import "math"

// RunStatus is the state of a run's execution.
type RunStatus string

// The statuses of a run.
const (
	StatusRunning   RunStatus = "RUNNING"
	StatusScheduled RunStatus = "SCHEDULED"
	StatusFinished  RunStatus = "FINISHED"
	StatusFailed    RunStatus = "FAILED"
	StatusKilled    RunStatus = "KILLED"
)

// ViewType chooses among active and deleted runs or experiments.
type ViewType string

// The view types; a request without one asks for ViewActiveOnly.
const (
	ViewActiveOnly  ViewType = "ACTIVE_ONLY"
	ViewDeletedOnly ViewType = "DELETED_ONLY"
	ViewAll         ViewType = "ALL"
)

// TagRunName is the tag that MLflow keeps equal to the name of a run.
const TagRunName = "mlflow.runName"

// Run is a run as MLflow's REST API shows it. A run that was just created has
// no Outputs.
type Run struct {
	Info    RunInfo     `json:"info"`
	Data    RunData     `json:"data"`
	Inputs  *RunInputs  `json:"inputs,omitzero"`
	Outputs *RunOutputs `json:"outputs,omitzero"`
}

// RunInfo is the metadata of a run. RunUUID repeats RunID for old clients.
// Times are milliseconds since the Unix epoch; an EndTime of zero is a run that
// has not ended.
type RunInfo struct {
	RunUUID        string    `json:"run_uuid"`
	ExperimentID   string    `json:"experiment_id"`
	RunName        string    `json:"run_name"`
	UserID         string    `json:"user_id"`
	Status         RunStatus `json:"status"`
	StartTime      int64     `json:"start_time"`
	EndTime        int64     `json:"end_time,omitzero"`
	ArtifactURI    string    `json:"artifact_uri"`
	LifecycleStage string    `json:"lifecycle_stage"`
	RunID          string    `json:"run_id"`
}

// RunData is what was logged to a run: the latest point of each metric, its
// parameters and its tags.
type RunData struct {
	Metrics []Metric `json:"metrics,omitempty"`
	Params  []Param  `json:"params,omitempty"`
	Tags    []Tag    `json:"tags,omitempty"`
}

// Param is a parameter of a run. It is written once.
type Param struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Tag is a tag of a run, an experiment, a registered model or a model version.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// NoStartTime is the StartTime of a request that has none.
const NoStartTime = math.MinInt64

// CreateRun is the request of runs/create. StartTime is milliseconds since the
// Unix epoch, or NoStartTime.
type CreateRun struct {
	ExperimentID string
	UserID       string
	RunName      string
	StartTime    int64
	Tags         []Tag
}

func (r *CreateRun) fields() []field {
	return []field{
		{name: "experiment_id", required: true, dst: &r.ExperimentID},
		{name: "start_time", dst: &r.StartTime, def: NoStartTime},
		{name: "run_name", dst: &r.RunName},
		{name: "user_id", dst: &r.UserID},
		{name: "tags", dst: &r.Tags},
	}
}

// RunResponse answers runs/create and runs/get.
type RunResponse struct {
	Run Run `json:"run"`
}

// runID is the required run_id of a request, which old clients call run_uuid.
func runID(dst *string) field {
	return field{name: "run_id", alias: "run_uuid", required: true, dst: dst}
}

// GetRun is the request of runs/get.
type GetRun struct{ RunID string }

func (r *GetRun) fields() []field { return []field{runID(&r.RunID)} }

// UpdateRun is the request of runs/update; what is nil stays as it is. EndTime
// is milliseconds since the Unix epoch.
type UpdateRun struct {
	RunID   string
	Status  *RunStatus
	EndTime *int64
	RunName *string
}

func (r *UpdateRun) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "end_time", dst: &r.EndTime},
		{name: "status", dst: &r.Status},
		{name: "run_name", dst: &r.RunName},
	}
}

// UpdateRunResponse answers runs/update.
type UpdateRunResponse struct {
	RunInfo RunInfo `json:"run_info"`
}

// DeleteRun is the request of runs/delete.
type DeleteRun struct{ RunID string }

func (r *DeleteRun) fields() []field { return []field{runID(&r.RunID)} }

// RestoreRun is the request of runs/restore.
type RestoreRun struct{ RunID string }

func (r *RestoreRun) fields() []field { return []field{runID(&r.RunID)} }

// LogParam is the request of runs/log-parameter.
type LogParam struct{ RunID, Key, Value string }

func (r *LogParam) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "key", required: true, dst: &r.Key},
		{name: "value", dst: &r.Value},
	}
}

// SetTag is the request of runs/set-tag.
type SetTag struct{ RunID, Key, Value string }

func (r *SetTag) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "key", required: true, dst: &r.Key},
		{name: "value", dst: &r.Value},
	}
}

// DeleteTag is the request of runs/delete-tag.
type DeleteTag struct{ RunID, Key string }

func (r *DeleteTag) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "key", required: true, dst: &r.Key},
	}
}

// LogBatch is the request of runs/log-batch. Check what it holds with
// ValidateBatch.
type LogBatch struct {
	RunID   string
	Metrics []Metric
	Params  []Param
	Tags    []Tag
}

func (r *LogBatch) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "metrics", dst: &r.Metrics, keyed: true},
		{name: "params", dst: &r.Params, keyed: true},
		{name: "tags", dst: &r.Tags, keyed: true},
	}
}

func (r *LogBatch) bodyLimit() int64 { return MaxBatchBytes }

// SearchRuns is the request of runs/search.
type SearchRuns struct {
	ExperimentIDs []string
	Filter        string
	RunViewType   ViewType
	MaxResults    int64
	OrderBy       []string
	PageToken     string
}

func (r *SearchRuns) fields() []field {
	return []field{
		{name: "experiment_ids", dst: &r.ExperimentIDs},
		{name: "filter", dst: &r.Filter},
		{name: "max_results", dst: &r.MaxResults, def: DefaultSearchRuns, max: MaxSearchResults},
		{name: "order_by", dst: &r.OrderBy},
		{name: "run_view_type", dst: &r.RunViewType},
		{name: "page_token", dst: &r.PageToken},
	}
}

// SearchRunsResponse answers runs/search.
type SearchRunsResponse struct {
	Runs          []Run  `json:"runs,omitempty"`
	NextPageToken string `json:"next_page_token,omitzero"`
}
