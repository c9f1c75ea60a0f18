package mlflow

// LoggedModelStatus says whether the artifacts of a logged model are there.
type LoggedModelStatus string

// The statuses of a logged model.
const (
	LoggedModelPending LoggedModelStatus = "LOGGED_MODEL_PENDING"
	LoggedModelReady   LoggedModelStatus = "LOGGED_MODEL_READY"
	LoggedModelFailed  LoggedModelStatus = "LOGGED_MODEL_UPLOAD_FAILED"
)

var loggedModelStatuses = [...]LoggedModelStatus{LoggedModelPending, LoggedModelReady, LoggedModelFailed}

// TagLoggedModels is the tag of a run in which clients before MLflow 3 find the
// models among its artifacts: a JSON list of what runs/log-model said.
const TagLoggedModels = "mlflow.log-model.history"

// LoggedModel is a logged model as MLflow's REST API shows it.
type LoggedModel struct {
	Info LoggedModelInfo `json:"info"`
	Data LoggedModelData `json:"data"`
}

// LoggedModelInfo is the metadata of a logged model. Times are milliseconds
// since the Unix epoch.
type LoggedModelInfo struct {
	ModelID              string            `json:"model_id"`
	ExperimentID         string            `json:"experiment_id"`
	Name                 string            `json:"name"`
	CreationTimestamp    int64             `json:"creation_timestamp_ms"`
	LastUpdatedTimestamp int64             `json:"last_updated_timestamp_ms"`
	ArtifactURI          string            `json:"artifact_uri"`
	Status               LoggedModelStatus `json:"status"`
	ModelType            string            `json:"model_type"`
	SourceRunID          string            `json:"source_run_id"`
	Tags                 []Tag             `json:"tags,omitempty"`
}

// LoggedModelData is the parameters of a logged model, and all of its points.
type LoggedModelData struct {
	Params  []Param  `json:"params,omitempty"`
	Metrics []Metric `json:"metrics,omitempty"`
}

// LoggedModelResponse answers the calls that return one logged model.
type LoggedModelResponse struct {
	Model LoggedModel `json:"model"`
}

// CreateLoggedModel is the request that makes a logged model. Check it with
// ValidateLoggedModel.
type CreateLoggedModel struct {
	ExperimentID string
	Name         *string
	ModelType    string
	SourceRunID  string
	Params       []Param
	Tags         []Tag
}

func (r *CreateLoggedModel) fields() []field {
	return []field{
		{name: "experiment_id", required: true, dst: &r.ExperimentID},
		{name: "name", dst: &r.Name},
		{name: "model_type", dst: &r.ModelType},
		{name: "source_run_id", dst: &r.SourceRunID},
		{name: "params", keyed: true, dst: &r.Params},
		{name: "tags", keyed: true, dst: &r.Tags},
	}
}

// FinalizeLoggedModel is the request that sets the status of a logged model,
// which its path names.
type FinalizeLoggedModel struct{ Status LoggedModelStatus }

func (r *FinalizeLoggedModel) fields() []field {
	return []field{{name: "status", required: true, dst: &r.Status}}
}

// SetLoggedModelTags is the request that sets tags of a logged model, which its
// path names. Check them with ValidateLoggedModelTags.
type SetLoggedModelTags struct{ Tags []Tag }

func (r *SetLoggedModelTags) fields() []field {
	return []field{{name: "tags", keyed: true, dst: &r.Tags}}
}

// LogLoggedModelParams is the request that logs parameters of a logged model,
// which its path names. Check them with ValidateLoggedModelParams.
type LogLoggedModelParams struct{ Params []Param }

func (r *LogLoggedModelParams) fields() []field {
	return []field{{name: "params", keyed: true, dst: &r.Params}}
}

// GetLoggedModel is the request for a logged model, which its path names.
type GetLoggedModel struct{ AllowDeleted bool }

func (r *GetLoggedModel) fields() []field {
	return []field{{name: "allow_deleted", dst: &r.AllowDeleted}}
}

// SearchLoggedModels is the request of logged-models/search. Datasets restrict
// the points that the filter and the order look at.
type SearchLoggedModels struct {
	ExperimentIDs []string
	Filter        string
	Datasets      []DatasetName
	MaxResults    int64
	OrderBy       []LoggedModelOrder
	PageToken     string
}

func (r *SearchLoggedModels) fields() []field {
	return []field{
		{name: "experiment_ids", required: true, dst: &r.ExperimentIDs},
		{name: "filter", dst: &r.Filter},
		{name: "datasets", dst: listOf(&r.Datasets)},
		{name: "max_results", dst: &r.MaxResults, def: DefaultSearchLoggedModels},
		{name: "order_by", dst: listOf(&r.OrderBy)},
		{name: "page_token", dst: &r.PageToken},
	}
}

// DatasetName names the data sets with a name, and with a digest if it has one.
type DatasetName struct{ Name, Digest string }

func (r *DatasetName) fields() []field {
	return []field{
		{name: "dataset_name", dst: &r.Name},
		{name: "dataset_digest", dst: &r.Digest},
	}
}

// LoggedModelOrder is one key of an order of logged models. A nil Ascending is
// true. A data set restricts the points of the metric that Field names.
type LoggedModelOrder struct {
	Field     string
	Ascending *bool
	Dataset   DatasetName
}

func (r *LoggedModelOrder) fields() []field {
	return append([]field{
		{name: "field_name", required: true, dst: &r.Field},
		{name: "ascending", dst: &r.Ascending},
	}, r.Dataset.fields()...)
}
