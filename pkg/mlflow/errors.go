package mlflow

import (
	"fmt"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/apierr"
)

// seeDocs ends the messages about the shape of a request.
const seeDocs = " See the API docs for more information about request parameters."

func invalidf(format string, args ...any) *apierr.Error {
	return apierr.Errorf(apierr.InvalidParameterValue, format, args...)
}

func missingField(path string) *apierr.Error {
	return invalidf("Missing value for required parameter '%s'.%s", path, seeDocs)
}

// spelledTwice says that a request has a field under its name and under the
// lowerCamelCase form of it.
func spelledTwice(name string) *apierr.Error {
	return invalidf("Request specifies both '%s' and '%s'; provide only one of them.", name, camelCase(name))
}

func camelCase(name string) string {
	words := strings.Split(name, "_")
	for i, w := range words[1:] {
		words[i+1] = strings.ToUpper(w[:1]) + w[1:]
	}
	return strings.Join(words, "")
}

func wrongType(path string, raw jsontext.Value) *apierr.Error {
	return invalidf("Invalid value %s for parameter '%s' supplied:  Hint: Value was of type '%s'.%s",
		pyJSON(raw), path, pyTypeName(raw), seeDocs)
}

// invalidValue says why a value is wrong; shown is the value as JSON.
func invalidValue(path, shown, why string) *apierr.Error {
	if why == "" {
		return invalidf("Invalid value %s for parameter '%s' supplied.", shown, path)
	}
	return invalidf("Invalid value %s for parameter '%s' supplied: %s", shown, path, why)
}

// RunNotFound says that there is no such run.
func RunNotFound(runID string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Run with id=%s not found", clip(runID))
}

// RunNotActive says that a run is deleted, and so takes no writes.
func RunNotActive(runID string) *apierr.Error {
	return invalidf("The run %s must be in the 'active' state. Current state is deleted.", runID)
}

// RunNotDeleted says that a run is active, and so cannot be restored.
func RunNotDeleted(runID string) *apierr.Error {
	return invalidf("The run %s must be in the 'deleted' state. Current state is active.", runID)
}

// RunNameConflict says that a new run's name and its mlflow.runName tag differ.
func RunNameConflict(runName, tag string) *apierr.Error {
	return invalidf("Both 'run_name' argument and 'mlflow.runName' tag are specified, but with "+
		"different values (run_name='%s', mlflow.runName='%s').", clip(runName), clip(tag))
}

// RunTagNotFound says that a run has no such tag to delete.
func RunTagNotFound(key, runID string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "No tag with name: %s in run with id %s", clip(key), runID)
}

// ParamChanged says that a parameter logged by itself has another value already.
func ParamChanged(runID, key, was, now string) *apierr.Error {
	return invalidf("Changing param values is not allowed. Param with key='%s' was already"+
		" logged with value='%s' for run ID='%s'. Attempted logging new value '%s'.", key, was, runID, now)
}

// ParamChange is a parameter that was logged with a value and now has another.
type ParamChange struct{ Key, Was, Now string }

// ParamsChanged says that parameters of a batch have other values already.
func ParamsChanged(runID string, changes []ParamChange) *apierr.Error {
	items := make([]string, len(changes))
	for i, c := range changes {
		items[i] = fmt.Sprintf("{'key': %s, 'old_value': %s, 'new_value': %s}", pyRepr(c.Key), pyRepr(c.Was), pyRepr(c.Now))
	}
	return invalidf("Changing param values is not allowed. Params were already"+
		" logged='[%s]' for run ID='%s'.", strings.Join(items, ", "), runID)
}

// ExperimentNotFound says that there is no such experiment.
func ExperimentNotFound(id string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "No Experiment with id=%s exists", clip(id))
}

// ExperimentNameNotFound says that no experiment has the name.
func ExperimentNameNotFound(name string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Could not find experiment with name '%s'", clip(name))
}

// ExperimentExists says that the name of an experiment is taken, be it by a
// deleted one.
func ExperimentExists(name string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceAlreadyExists, "Experiment(name=%s) already exists.", name)
}

// ExperimentNotActive says that an experiment is deleted, and so takes no
// writes.
func ExperimentNotActive(id string) *apierr.Error {
	return invalidf("The experiment %s must be in the 'active' state. Current state is deleted.", id)
}

// RenameInactiveExperiment says that a deleted experiment cannot be renamed.
// Its code is InvalidState, as MLflow's is: clients retry it.
func RenameInactiveExperiment() *apierr.Error {
	return apierr.Errorf(apierr.InvalidState, "Cannot rename a non-active experiment.")
}

// ExperimentTagNotFound says that an experiment has no such tag to delete.
func ExperimentTagNotFound(key, id string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "No tag with name: %s in experiment with id %s", clip(key), id)
}

// ModelNotFound says that there is no such registered model.
func ModelNotFound(name string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Registered Model with name=%s not found", clip(name))
}

// ModelExists says that the name of a registered model is taken.
func ModelExists(name string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceAlreadyExists, "Registered Model (name=%s) already exists.", name)
}

// VersionNotFound says that a registered model has no such version.
func VersionNotFound(name, version string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Model Version (name=%s, version=%s) not found", clip(name), clip(version))
}

// LatestVersionNotFound says that a registered model has no version at all.
func LatestVersionNotFound(name string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Latest version not found for model %s.", name)
}

// AliasNotFound says that a registered model has no such alias.
func AliasNotFound(alias string) *apierr.Error {
	return invalidf("Registered model alias %s not found.", alias)
}

// ArchiveFromInactiveStage says that only a move to Staging or Production can
// archive the versions that were there. MLflow answers it as InternalError,
// which its clients retry for minutes; here it is the caller's.
func ArchiveFromInactiveStage(stage string) *apierr.Error {
	return invalidf("Model version transition cannot archive existing model versions because '%s' "+
		"is not an Active stage. Valid stages are ['Staging', 'Production']", stage)
}

// WebhookNotFound says that there is no such webhook.
func WebhookNotFound(id string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Webhook with ID %s not found.", clip(id))
}

// LoggedModelNotFound says that there is no such logged model.
func LoggedModelNotFound(id string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "Logged model with ID '%s' not found.", clip(id))
}

// LoggedModelTagNotFound says that a logged model has no such tag to delete.
func LoggedModelTagNotFound(key, id string) *apierr.Error {
	return apierr.Errorf(apierr.ResourceDoesNotExist, "No tag with key %s found for model with ID %s.", clip(pyRepr(key)), pyRepr(id))
}

// LoggedModelParamChanged says that a parameter of a logged model has another
// value already.
func LoggedModelParamChanged(id string, c ParamChange) *apierr.Error {
	return invalidf("Changing param values is not allowed. Param with key='%s' was already"+
		" logged with value='%s' for logged model ID='%s'. Attempted logging new value '%s'.", c.Key, c.Was, id, c.Now)
}

// DatasetExperimentsMissing says that a search for data sets names no experiment.
func DatasetExperimentsMissing() *apierr.Error {
	return invalidf("SearchDatasets request must specify at least one experiment_id.")
}

// DatasetExperimentsTooMany says that a search for data sets names more than
// MaxDatasetExperiments experiments.
func DatasetExperimentsTooMany(n int) *apierr.Error {
	return invalidf("SearchDatasets request cannot specify more than %d experiment_ids. Received %d experiment_ids.", MaxDatasetExperiments, n)
}

// LoggedModelsDatasetNameMissing says that a search for logged models restricts
// itself to a data set without a name.
func LoggedModelsDatasetNameMissing() *apierr.Error {
	return invalidf("`dataset_name` in the `datasets` clause must be specified.")
}
