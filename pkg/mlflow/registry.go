package mlflow

// RegisteredModel is a registered model as MLflow's REST API shows it. Times
// are milliseconds since the Unix epoch.
type RegisteredModel struct {
	Name                 string         `json:"name"`
	CreationTimestamp    int64          `json:"creation_timestamp,omitzero"`
	LastUpdatedTimestamp int64          `json:"last_updated_timestamp,omitzero"`
	UserID               string         `json:"user_id,omitzero"`
	Description          string         `json:"description,omitzero"`
	LatestVersions       []ModelVersion `json:"latest_versions,omitempty"`
	Tags                 []Tag          `json:"tags,omitempty"`
	Aliases              []Alias        `json:"aliases,omitempty"`
}

// Alias is a name for a version of a registered model.
type Alias struct {
	Alias   string `json:"alias"`
	Version string `json:"version"`
}

// ModelVersion is a version of a registered model as MLflow's REST API shows
// it. Times are milliseconds since the Unix epoch. Version is a decimal number.
type ModelVersion struct {
	Name                 string             `json:"name"`
	Version              string             `json:"version"`
	CreationTimestamp    int64              `json:"creation_timestamp,omitzero"`
	LastUpdatedTimestamp int64              `json:"last_updated_timestamp,omitzero"`
	UserID               string             `json:"user_id,omitzero"`
	CurrentStage         string             `json:"current_stage"`
	Description          string             `json:"description"`
	Source               string             `json:"source"`
	RunID                string             `json:"run_id"`
	Status               ModelVersionStatus `json:"status"`
	StatusMessage        string             `json:"status_message,omitzero"`
	Tags                 []Tag              `json:"tags,omitempty"`
	RunLink              string             `json:"run_link"`
	Aliases              []string           `json:"aliases,omitempty"`
	ModelID              string             `json:"model_id,omitzero"`
}

// ModelVersionStatus is how far the registration of a model version has come.
type ModelVersionStatus string

// The statuses of a model version.
const (
	VersionPending ModelVersionStatus = "PENDING_REGISTRATION"
	VersionFailed  ModelVersionStatus = "FAILED_REGISTRATION"
	VersionReady   ModelVersionStatus = "READY"
)

// The stages of a model version, in their canonical spelling.
const (
	StageNone       = "None"
	StageStaging    = "Staging"
	StageProduction = "Production"
	StageArchived   = "Archived"
)

// CreateRegisteredModel is the request of registered-models/create.
type CreateRegisteredModel struct {
	Name        string
	Tags        []Tag
	Description string
}

func (r *CreateRegisteredModel) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "tags", dst: &r.Tags},
		{name: "description", dst: &r.Description},
	}
}

// RegisteredModelResponse answers the RPCs that return one registered model.
type RegisteredModelResponse struct {
	RegisteredModel RegisteredModel `json:"registered_model"`
}

// RenameRegisteredModel is the request of registered-models/rename.
type RenameRegisteredModel struct{ Name, NewName string }

func (r *RenameRegisteredModel) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "new_name", required: true, dst: &r.NewName},
	}
}

// UpdateRegisteredModel is the request of registered-models/update.
type UpdateRegisteredModel struct{ Name, Description string }

func (r *UpdateRegisteredModel) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "description", dst: &r.Description},
	}
}

// DeleteRegisteredModel is the request of registered-models/delete.
type DeleteRegisteredModel struct{ Name string }

func (r *DeleteRegisteredModel) fields() []field {
	return []field{{name: "name", required: true, dst: &r.Name}}
}

// GetRegisteredModel is the request of registered-models/get.
type GetRegisteredModel struct{ Name string }

func (r *GetRegisteredModel) fields() []field {
	return []field{{name: "name", required: true, dst: &r.Name}}
}

// SearchRegisteredModels is the request of registered-models/search.
type SearchRegisteredModels struct {
	Filter     string
	MaxResults int64
	OrderBy    []string
	PageToken  string
}

func (r *SearchRegisteredModels) fields() []field {
	return []field{
		{name: "filter", dst: &r.Filter},
		{name: "max_results", dst: &r.MaxResults, def: DefaultSearchModels, max: MaxSearchModels},
		{name: "order_by", dst: &r.OrderBy},
		{name: "page_token", dst: &r.PageToken},
	}
}

// SearchRegisteredModelsResponse answers registered-models/search.
type SearchRegisteredModelsResponse struct {
	RegisteredModels []RegisteredModel `json:"registered_models,omitempty"`
	NextPageToken    string            `json:"next_page_token,omitzero"`
}

// GetLatestVersions is the request of registered-models/get-latest-versions.
// Without Stages it asks for every stage.
type GetLatestVersions struct {
	Name   string
	Stages []string
}

func (r *GetLatestVersions) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "stages", dst: &r.Stages},
	}
}

// GetLatestVersionsResponse answers registered-models/get-latest-versions.
type GetLatestVersionsResponse struct {
	ModelVersions []ModelVersion `json:"model_versions,omitempty"`
}

// SetRegisteredModelTag is the request of registered-models/set-tag.
type SetRegisteredModelTag struct{ Name, Key, Value string }

func (r *SetRegisteredModelTag) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "key", required: true, dst: &r.Key},
		{name: "value", dst: &r.Value},
	}
}

// DeleteRegisteredModelTag is the request of registered-models/delete-tag.
type DeleteRegisteredModelTag struct{ Name, Key string }

func (r *DeleteRegisteredModelTag) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "key", required: true, dst: &r.Key},
	}
}

// SetAlias is the request of POST registered-models/alias.
type SetAlias struct{ Name, Alias, Version string }

func (r *SetAlias) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "alias", required: true, dst: &r.Alias},
		{name: "version", required: true, dst: &r.Version},
	}
}

// DeleteAlias is the request of DELETE registered-models/alias.
type DeleteAlias struct{ Name, Alias string }

func (r *DeleteAlias) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "alias", required: true, dst: &r.Alias},
	}
}

// GetByAlias is the request of GET registered-models/alias.
type GetByAlias struct{ Name, Alias string }

func (r *GetByAlias) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "alias", required: true, dst: &r.Alias},
	}
}

// CreateModelVersion is the request of model-versions/create. RunID and ModelID
// are nil when the request did not name them.
type CreateModelVersion struct {
	Name        string
	Source      string
	RunID       *string
	Tags        []Tag
	RunLink     string
	Description string
	ModelID     *string
}

func (r *CreateModelVersion) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "source", required: true, dst: &r.Source},
		{name: "run_id", dst: &r.RunID},
		{name: "tags", dst: &r.Tags},
		{name: "run_link", dst: &r.RunLink},
		{name: "description", dst: &r.Description},
		{name: "model_id", dst: &r.ModelID},
	}
}

// ModelVersionResponse answers the RPCs that return one model version.
type ModelVersionResponse struct {
	ModelVersion ModelVersion `json:"model_version"`
}

// UpdateModelVersion is the request of model-versions/update. MLflow clears the
// description when the request has none.
type UpdateModelVersion struct {
	Name, Version string
	Description   *string
}

func (r *UpdateModelVersion) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "version", required: true, dst: &r.Version},
		{name: "description", dst: &r.Description},
	}
}

// TransitionStage is the request of model-versions/transition-stage.
type TransitionStage struct {
	Name, Version, Stage    string
	ArchiveExistingVersions bool
}

func (r *TransitionStage) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "version", required: true, dst: &r.Version},
		{name: "stage", required: true, dst: &r.Stage},
		{name: "archive_existing_versions", dst: &r.ArchiveExistingVersions},
	}
}

// DeleteModelVersion is the request of model-versions/delete.
type DeleteModelVersion struct{ Name, Version string }

func (r *DeleteModelVersion) fields() []field { return nameVersion(&r.Name, &r.Version) }

// GetModelVersion is the request of model-versions/get.
type GetModelVersion struct{ Name, Version string }

func (r *GetModelVersion) fields() []field { return nameVersion(&r.Name, &r.Version) }

// GetDownloadURI is the request of model-versions/get-download-uri.
type GetDownloadURI struct{ Name, Version string }

func (r *GetDownloadURI) fields() []field { return nameVersion(&r.Name, &r.Version) }

func nameVersion(name, version *string) []field {
	return []field{
		{name: "name", required: true, dst: name},
		{name: "version", required: true, dst: version},
	}
}

// GetDownloadURIResponse answers model-versions/get-download-uri.
type GetDownloadURIResponse struct {
	ArtifactURI string `json:"artifact_uri"`
}

// SearchModelVersions is the request of model-versions/search; check MaxResults
// with ValidateVersionsMaxResults.
type SearchModelVersions struct {
	Filter     string
	MaxResults int64
	OrderBy    []string
	PageToken  string
}

func (r *SearchModelVersions) fields() []field {
	return []field{
		{name: "filter", dst: &r.Filter},
		{name: "max_results", dst: &r.MaxResults, def: DefaultSearchVersions, max: MaxSearchVersions},
		{name: "order_by", dst: &r.OrderBy},
		{name: "page_token", dst: &r.PageToken},
	}
}

// SearchModelVersionsResponse answers model-versions/search.
type SearchModelVersionsResponse struct {
	ModelVersions []ModelVersion `json:"model_versions,omitempty"`
	NextPageToken string         `json:"next_page_token,omitzero"`
}

// SetModelVersionTag is the request of model-versions/set-tag.
type SetModelVersionTag struct{ Name, Version, Key, Value string }

func (r *SetModelVersionTag) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "version", required: true, dst: &r.Version},
		{name: "key", required: true, dst: &r.Key},
		{name: "value", dst: &r.Value},
	}
}

// DeleteModelVersionTag is the request of model-versions/delete-tag.
type DeleteModelVersionTag struct{ Name, Version, Key string }

func (r *DeleteModelVersionTag) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "version", required: true, dst: &r.Version},
		{name: "key", required: true, dst: &r.Key},
	}
}
