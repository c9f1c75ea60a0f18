package mlflow

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// TagDatasetContext is the tag of a run's input that says what it was used for.
const TagDatasetContext = "mlflow.data.context"

// RunInputs is the data sets and models that a run read.
type RunInputs struct {
	DatasetInputs []DatasetInput `json:"dataset_inputs,omitempty"`
	ModelInputs   []ModelInput   `json:"model_inputs,omitempty"`
}

// RunOutputs is the models that a run wrote.
type RunOutputs struct {
	ModelOutputs []ModelOutput `json:"model_outputs,omitempty"`
}

// DatasetInput is a data set that a run read, and in what role.
type DatasetInput struct {
	Tags    []Tag   `json:"tags,omitempty"`
	Dataset Dataset `json:"dataset"`
}

func (r *DatasetInput) fields() []field {
	return []field{
		{name: "tags", keyed: true, dst: &r.Tags},
		{name: "dataset", required: true, dst: objectOf(&r.Dataset)},
	}
}

// Dataset describes where data came from and what it looked like.
type Dataset struct {
	Name       string `json:"name"`
	Digest     string `json:"digest"`
	SourceType string `json:"source_type"`
	Source     string `json:"source"`
	Schema     string `json:"schema,omitzero"`
	Profile    string `json:"profile,omitzero"`
}

func (r *Dataset) fields() []field {
	return []field{
		{name: "name", required: true, dst: &r.Name},
		{name: "digest", required: true, dst: &r.Digest},
		{name: "source_type", dst: &r.SourceType},
		{name: "source", dst: &r.Source},
		{name: "schema", dst: &r.Schema},
		{name: "profile", dst: &r.Profile},
	}
}

// ModelInput names a logged model that a run read.
type ModelInput struct {
	ModelID string `json:"model_id"`
}

func (r *ModelInput) fields() []field {
	return []field{{name: "model_id", required: true, dst: &r.ModelID}}
}

// ModelOutput names a logged model that a run wrote, and at which step.
type ModelOutput struct {
	ModelID string `json:"model_id"`
	Step    int64  `json:"step"`
}

func (r *ModelOutput) fields() []field {
	return []field{
		{name: "model_id", required: true, dst: &r.ModelID},
		{name: "step", dst: &r.Step},
	}
}

// LogInputs is the request of runs/log-inputs. Check it with ValidateInputs.
type LogInputs struct {
	RunID    string
	Datasets []DatasetInput
	Models   []ModelInput
}

func (r *LogInputs) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "datasets", dst: listOf(&r.Datasets)},
		{name: "models", dst: listOf(&r.Models)},
	}
}

// LogOutputs is the request of runs/outputs. Check it with ValidateOutputs.
type LogOutputs struct {
	RunID  string
	Models []ModelOutput
}

func (r *LogOutputs) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "models", required: true, dst: listOf(&r.Models)},
	}
}

// LogModel is the request of runs/log-model, by which clients before MLflow 3
// describe a model among a run's artifacts. ParseModelInfo reads ModelJSON.
type LogModel struct{ RunID, ModelJSON string }

func (r *LogModel) fields() []field {
	return []field{
		runID(&r.RunID),
		{name: "model_json", required: true, dst: &r.ModelJSON},
	}
}

// AppendModel adds what a request of runs/log-model says to a list of such, the
// value of TagLoggedModels; "" is the empty list. It returns an *apierr.Error of
// code InvalidParameterValue for a description that is not JSON, that misses
// what MLflow needs of one, or that makes the list longer than
// MaxLoggedModelsTagLength bytes.
func AppendModel(list, modelJSON string) (string, error) {
	var model map[string]jsontext.Value
	if err := json.Unmarshal([]byte(modelJSON), &model); err != nil {
		return "", invalidf("Malformed model info. \n %s \n is not a valid JSON.", clip(modelJSON))
	}
	var missing []string
	for _, name := range [...]string{"artifact_path", "flavors", "run_id", "utc_time_created"} {
		if _, ok := model[name]; !ok {
			missing = append(missing, pyRepr(name))
		}
	}
	if missing != nil {
		return "", invalidf("Model json is missing mandatory fields: {%s}", strings.Join(missing, ", "))
	}
	if list != "" {
		modelJSON = strings.TrimSuffix(strings.TrimPrefix(list, "["), "]") + ", " + modelJSON
	}
	if len(modelJSON)+2 > MaxLoggedModelsTagLength {
		return "", invalidf("The models of the run are described in more than %d bytes", MaxLoggedModelsTagLength)
	}
	return "[" + modelJSON + "]", nil
}

// SearchDatasets is the request of experiments/search-datasets.
type SearchDatasets struct{ ExperimentIDs []string }

func (r *SearchDatasets) fields() []field {
	return []field{{name: "experiment_ids", dst: &r.ExperimentIDs}}
}

// DatasetSummary is a data set that runs of an experiment read in a context.
type DatasetSummary struct {
	ExperimentID string `json:"experiment_id"`
	Name         string `json:"name"`
	Digest       string `json:"digest"`
	Context      string `json:"context,omitzero"`
}
