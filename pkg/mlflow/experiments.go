package mlflow

// Experiment is an experiment as MLflow's REST API shows it. Times are
// milliseconds since the Unix epoch.
type Experiment struct {
	ExperimentID     string `json:"experiment_id"`
	Name             string `json:"name"`
	ArtifactLocation string `json:"artifact_location"`
	LifecycleStage   string `json:"lifecycle_stage"`
	LastUpdateTime   int64  `json:"last_update_time,omitzero"`
	CreationTime     int64  `json:"creation_time,omitzero"`
	Tags             []Tag  `json:"tags,omitempty"`
}

// The lifecycle stages of runs and experiments.
const (
	LifecycleActive  = "active"
	LifecycleDeleted = "deleted"
)

// CreateExperiment is the request of experiments/create.
type CreateExperiment struct {
	Name             string
	ArtifactLocation string
	Tags             []Tag
}

func (r *CreateExperiment) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "artifact_location", dst: &r.ArtifactLocation},
		{name: "tags", dst: &r.Tags},
	}
}

// CreateExperimentResponse answers experiments/create.
type CreateExperimentResponse struct {
	ExperimentID string `json:"experiment_id"`
}

// GetExperiment is the request of experiments/get.
type GetExperiment struct{ ExperimentID string }

func (r *GetExperiment) fields() []field {
	return []field{{name: "experiment_id", required: true, dst: &r.ExperimentID}}
}

// GetExperimentByName is the request of experiments/get-by-name.
type GetExperimentByName struct{ ExperimentName string }

func (r *GetExperimentByName) fields() []field {
	return []field{{name: "experiment_name", required: true, dst: &r.ExperimentName}}
}

// ExperimentResponse answers experiments/get and experiments/get-by-name.
type ExperimentResponse struct {
	Experiment Experiment `json:"experiment"`
}

// SearchExperiments is the request of experiments/search. MLflow has no default
// for MaxResults here: check it with ValidateSearchMaxResults.
type SearchExperiments struct {
	MaxResults int64
	PageToken  string
	Filter     string
	OrderBy    []string
	ViewType   ViewType
}

func (r *SearchExperiments) fields() []field {
	return []field{
		{name: "view_type", dst: &r.ViewType},
		{name: "max_results", dst: &r.MaxResults},
		{name: "order_by", dst: &r.OrderBy},
		{name: "filter", dst: &r.Filter},
		{name: "page_token", dst: &r.PageToken},
	}
}

// SearchExperimentsResponse answers experiments/search.
type SearchExperimentsResponse struct {
	Experiments   []Experiment `json:"experiments,omitempty"`
	NextPageToken string       `json:"next_page_token,omitzero"`
}

// DeleteExperiment is the request of experiments/delete.
type DeleteExperiment struct{ ExperimentID string }

func (r *DeleteExperiment) fields() []field {
	return []field{{name: "experiment_id", required: true, dst: &r.ExperimentID}}
}

// RestoreExperiment is the request of experiments/restore.
type RestoreExperiment struct{ ExperimentID string }

func (r *RestoreExperiment) fields() []field {
	return []field{{name: "experiment_id", required: true, dst: &r.ExperimentID}}
}

// UpdateExperiment is the request of experiments/update.
type UpdateExperiment struct{ ExperimentID, NewName string }

func (r *UpdateExperiment) fields() []field {
	return []field{
		{name: "experiment_id", required: true, dst: &r.ExperimentID},
		{name: "new_name", required: true, dst: &r.NewName},
	}
}

// SetExperimentTag is the request of experiments/set-experiment-tag.
type SetExperimentTag struct{ ExperimentID, Key, Value string }

func (r *SetExperimentTag) fields() []field {
	return []field{
		{name: "experiment_id", required: true, dst: &r.ExperimentID},
		{name: "key", required: true, dst: &r.Key},
		{name: "value", dst: &r.Value},
	}
}

// DeleteExperimentTag is the request of experiments/delete-experiment-tag.
type DeleteExperimentTag struct{ ExperimentID, Key string }

func (r *DeleteExperimentTag) fields() []field {
	return []field{
		{name: "experiment_id", required: true, dst: &r.ExperimentID},
		{name: "key", required: true, dst: &r.Key},
	}
}
