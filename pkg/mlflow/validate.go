package mlflow

import (
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/apierr"
)

// Every Validate function returns nil, or an *apierr.Error of code
// InvalidParameterValue in MLflow's words. A string that is not UTF-8 has not
// come through Decode, and is not valid.

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func asError(e *apierr.Error) error {
	if e == nil {
		return nil
	}
	return e
}

const badCharacters = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.)," +
	" spaces ( ), colon(:) and slashes (/)."

// isWord reports whether r matches \w in Python.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	return r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsNumber(r))
}

func isNameRune(r rune) bool {
	switch r {
	case '/', '.', '-', ' ', ':':
		return true
	}
	return isWord(r)
}

func isWordOrDash(r rune) bool { return r == '-' || isWord(r) }

func every(s string, ok func(rune) bool) bool {
	for _, r := range s {
		if !ok(r) {
			return false
		}
	}
	return true
}

// normPath is Python's posixpath.normpath.
func normPath(s string) string {
	norm := path.Clean(s)
	if strings.HasPrefix(s, "//") && !strings.HasPrefix(s, "///") {
		return "/" + norm
	}
	return norm
}

// checkPath refuses a name that would be another name as a path.
func checkPath(at, name string) *apierr.Error {
	norm := normPath(name)
	if norm == name && norm != "." && !strings.HasPrefix(norm, "..") && norm[0] != '/' {
		return nil
	}
	return invalidValue(at, clip(jsonQuote(name)), "Names may be treated as files in certain cases, and must not resolve to other names"+
		" when treated as such. This name would resolve to "+clip(pyRepr(norm)))
}

// checkName refuses what MLflow takes for no name of a metric, a parameter or
// a tag, but for its length.
func checkName(at, name string) *apierr.Error {
	if !every(name, isNameRune) {
		return invalidValue(at, clip(jsonQuote(name)), badCharacters)
	}
	return checkPath(at, name)
}

func checkLength(what, s string, limit int) *apierr.Error {
	if len(s) <= limit || length(s) <= limit {
		return nil
	}
	return invalidf("'%s' exceeds the maximum length of %d characters", what, limit)
}

// lengthRule bounds the length of a member.
type lengthRule struct {
	member, value string
	limit         int
}

// checkLengths checks members; prefix is put before their names.
func checkLengths(prefix string, rules ...lengthRule) *apierr.Error {
	for _, r := range rules {
		if err := checkLength(prefix+r.member, r.value, r.limit); err != nil {
			return err
		}
	}
	return nil
}

// truncate returns the first limit characters of s.
func truncate(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	n := 0
	for i := range s {
		if n == limit {
			return s[:i]
		}
		n++
	}
	return s
}

func at(path, member string) string {
	if path == "" {
		return member
	}
	return path + "." + member
}

func prefix(path string) string { return strings.TrimPrefix(path+".", ".") }

func checkMetric(path func() string, m Metric) *apierr.Error {
	if !every(m.Key, isNameRune) {
		return checkName(at(path(), "name"), m.Key)
	}
	if norm := normPath(m.Key); norm != m.Key || norm == "." || norm[0] == '.' || norm[0] == '/' {
		if err := checkPath(at(path(), "name"), m.Key); err != nil {
			return err
		}
	}
	if m.Timestamp < 0 {
		return invalidValue(at(path(), "timestamp"), strconv.FormatInt(m.Timestamp, 10),
			fmt.Sprintf("metric '%s' (value=%s). Timestamp must be a nonnegative long (64-bit integer) ", m.Key, pyFloat(m.Value)))
	}
	if l := m.Link; l != nil {
		if (l.DatasetName == "") != (l.DatasetDigest == "") {
			return invalidf("Both dataset_name and dataset_digest must be provided if one is provided")
		}
		if err := checkLengths(prefix(path()), lengthRule{"dataset_name", l.DatasetName, MaxDatasetNameLength},
			lengthRule{"dataset_digest", l.DatasetDigest, MaxDatasetDigestLength}); err != nil {
			return err
		}
	}
	return checkLength("Metric name", m.Key, MaxKeyLength)
}

// ValidateMetric checks a point that is logged by itself.
func ValidateMetric(m Metric) error {
	return asError(checkMetric(func() string { return "" }, m))
}

func checkParam(path string, p *Param) *apierr.Error {
	if err := checkName(at(path, "key"), p.Key); err != nil {
		return err
	}
	if err := checkLength("Param key", p.Key, MaxKeyLength); err != nil {
		return err
	}
	p.Value = truncate(p.Value, MaxParamValueLength)
	return nil
}

// ValidateParam checks a parameter that is logged by itself, and cuts its value
// to MaxParamValueLength characters.
func ValidateParam(p *Param) error { return asError(checkParam("", p)) }

func checkTag(path string, t *Tag) *apierr.Error {
	if err := checkName(at(path, "key"), t.Key); err != nil {
		return err
	}
	if err := checkLength(at(path, "key"), t.Key, MaxKeyLength); err != nil {
		return err
	}
	t.Value = truncate(t.Value, MaxTagValueLength)
	return nil
}

// ValidateTag checks a tag of a run, and cuts its value to MaxTagValueLength
// characters.
func ValidateTag(t *Tag) error { return asError(checkTag("", t)) }

// ValidateRunTags checks the tags that a run is created with, and cuts their
// values to MaxTagValueLength characters.
func ValidateRunTags(tags []Tag) error {
	for i := range tags {
		if err := checkTag("tags["+strconv.Itoa(i)+"]", &tags[i]); err != nil {
			return err
		}
	}
	return nil
}

// ValidateBatch checks a log-batch request in MLflow's order: first the data,
// then the limits on how much there is, then that no parameter comes twice. It
// cuts long values of parameters and tags.
func ValidateBatch(b *LogBatch) error {
	for i, m := range b.Metrics {
		if err := checkMetric(func() string { return "metrics[" + strconv.Itoa(i) + "]" }, m); err != nil {
			return err
		}
	}
	for i := range b.Params {
		if err := checkParam("params["+strconv.Itoa(i)+"]", &b.Params[i]); err != nil {
			return err
		}
	}
	if err := ValidateRunTags(b.Tags); err != nil {
		return err
	}
	for _, l := range [...]struct {
		what      string
		limit, is int
	}{
		{"metrics", MaxBatchMetrics, len(b.Metrics)},
		{"params", MaxBatchParams, len(b.Params)},
		{"tags", MaxBatchTags, len(b.Tags)},
		{"metrics, params, and tags", MaxBatchEntities, len(b.Metrics) + len(b.Params) + len(b.Tags)},
	} {
		if l.is > l.limit {
			return invalidf("A batch logging request can contain at most %[2]d %[1]s. Got %[3]d %[1]s."+
				" Please split up %[1]s across multiple requests and try again.", l.what, l.limit, l.is)
		}
	}
	return asError(checkUniqueParams(b.Params))
}

func checkUniqueParams(params []Param) *apierr.Error {
	seen := make(map[string]bool, len(params))
	var twice []string
	for _, p := range params {
		if seen[p.Key] {
			twice = append(twice, p.Key)
		}
		seen[p.Key] = true
	}
	if twice == nil {
		return nil
	}
	return invalidf("Duplicate parameter keys have been submitted: %s. Please ensure "+
		"the request contains only one param value per param key.", pyList(twice))
}

// ValidateRunID checks an id that a run is to have. A read of a malformed id
// finds no run instead: see RunNotFound.
func ValidateRunID(id string) error {
	if !startsAlphanumeric(id, 256) {
		return invalidValue("run_id", clip(jsonQuote(id)), "")
	}
	return nil
}

// startsAlphanumeric reports whether s is of 1 to limit word characters and
// dashes, the first of them a letter or digit of ASCII.
func startsAlphanumeric(s string, limit int) bool {
	if s == "" || s[0] == '_' || s[0] >= utf8.RuneSelf || !isWord(rune(s[0])) {
		return false
	}
	return length(s) <= limit && every(s, isWordOrDash)
}

// ValidateExperimentID checks that an id is a whole number, as every id of an
// experiment is.
func ValidateExperimentID(id string) error {
	// A negative id is well-formed; no experiment has one.
	if _, err := strconv.ParseUint(strings.TrimPrefix(id, "-"), 10, 63); err != nil {
		return invalidf("Invalid experiment ID '%s'. Experiment ID must be a valid integer.", clip(id))
	}
	return nil
}

// ValidateExperimentName checks the name of an experiment.
func ValidateExperimentName(name string) error {
	if strings.TrimSpace(name) == "" {
		return invalidf("Invalid experiment name: '%s'", clip(name))
	}
	return asError(checkLength("name", name, MaxExperimentNameLength))
}

// ValidateExperimentTag checks a tag of an experiment.
func ValidateExperimentTag(t Tag) error {
	return asError(checkPlainTag(t, MaxExperimentTagValueLength))
}

func checkPlainTag(t Tag, valueLimit int) *apierr.Error {
	if err := checkName("key", t.Key); err != nil {
		return err
	}
	if err := checkLength("key", t.Key, MaxKeyLength); err != nil {
		return err
	}
	return checkLength("value", t.Value, valueLimit)
}

// ValidateArtifactLocation checks the root of an experiment's artifacts.
func ValidateArtifactLocation(uri string) error {
	l := parseLocation(uri)
	_, params, _ := strings.Cut(l.path[strings.LastIndexByte(l.path, '/')+1:], ";")
	if l.fragment != "" || params != "" && usesParams(l.scheme) {
		return invalidf("'artifact_location' URL can't include fragments or params.")
	}
	if query, ok := normalPath(l.query); !ok || strings.Contains(query, "..") {
		return invalidf("Invalid query string")
	}
	if strings.HasPrefix(uri, "runs:") {
		return invalidf("Artifact location cannot be a runs:/ URI. Given: '%s'", clip(uri))
	}
	if utf8.RuneCountInString(uri) > MaxArtifactLocationLength {
		return invalidf("Invalid artifact path length. The length of the artifact path cannot be greater than %d characters.",
			MaxArtifactLocationLength)
	}
	return nil
}

// ValidateSearchMaxResults checks the page size of a search for runs or for
// experiments.
func ValidateSearchMaxResults(n int64) error {
	if n < 1 {
		return invalidf("Invalid value %d for parameter 'max_results' supplied. It must be a positive integer", n)
	}
	if n > MaxSearchResults {
		return invalidf("Invalid value %d for parameter 'max_results' supplied. It must be at most %d", n, MaxSearchResults)
	}
	return nil
}

// ValidateHistoryMaxResults checks the page size of a metric history.
func ValidateHistoryMaxResults(n int64) error {
	if n < 1 {
		return invalidf("Invalid value %d for parameter 'max_results' supplied. It must be a positive integer.", n)
	}
	return nil
}

// ValidateHistoryBulk checks a request for the histories of several runs.
func ValidateHistoryBulk(r *GetMetricHistoryBulk) error {
	switch {
	case len(r.RunIDs) == 0:
		return invalidf("GetMetricHistoryBulk request must specify at least one run_id.")
	case len(r.RunIDs) > MaxHistoryRuns:
		return invalidf("GetMetricHistoryBulk request cannot specify more than %d run_ids. Received %d run_ids.", MaxHistoryRuns, len(r.RunIDs))
	case r.MetricKey == nil:
		return invalidf("GetMetricHistoryBulk request must specify a metric_key.")
	case r.MaxResults < 0:
		return invalidf("Invalid value %d for parameter 'max_results' supplied. It must not be negative.", r.MaxResults)
	}
	return nil
}

// ValidateHistoryInterval checks a request for samples of the histories of
// several runs.
func ValidateHistoryInterval(r *GetMetricHistoryBulkInterval) error {
	switch {
	case len(r.RunIDs) > MaxHistoryRuns:
		return invalidf("GetMetricHistoryBulkInterval request must specify at most %d run_ids. Received %d run_ids.%s",
			MaxHistoryRuns, len(r.RunIDs), seeDocs)
	case r.MaxResults < 1 || r.MaxResults > MaxHistorySample:
		return invalidf("max_results must be between 1 and %d.%s", MaxHistorySample, seeDocs)
	case (r.StartStep == nil) != (r.EndStep == nil):
		return invalidf("If either start step or end step are specified, both must be specified.")
	case r.StartStep != nil && *r.StartStep > *r.EndStep:
		return invalidf("end_step must be greater than start_step. Found start_step=%d and end_step=%d.", *r.StartStep, *r.EndStep)
	}
	return nil
}

// ValidateModelsMaxResults checks the page size of a search for registered
// models. MLflow takes 0 and less, and answers with empty pages without end.
func ValidateModelsMaxResults(n int64) error { return checkRegistryMax(n, MaxSearchModels) }

// ValidateVersionsMaxResults checks the page size of a search for model
// versions.
func ValidateVersionsMaxResults(n int64) error { return checkRegistryMax(n, MaxSearchVersions) }

func checkRegistryMax(n, limit int64) error {
	if n < 1 {
		return invalidf("Invalid value for max_results. It must be a positive integer, but got %d", n)
	}
	if n > limit {
		return invalidf("Invalid value for request parameter max_results. It must be at most %d, but got value %d", limit, n)
	}
	return nil
}

// ValidateModelName checks the name of a registered model.
func ValidateModelName(name string) error {
	if strings.TrimSpace(name) == "" {
		return invalidf("Missing value for required parameter 'name'.")
	}
	if strings.ContainsAny(name, "/:") {
		return invalidf("Invalid model name '%s'. Names cannot contain '/' or ':'.", clip(name))
	}
	return asError(checkPath("name", name))
}

// ValidateNewModelName checks the name that a registered model is renamed to.
func ValidateNewModelName(name string) error {
	if strings.TrimSpace(name) == "" {
		return invalidf("Missing value for required parameter 'new_name'.")
	}
	return ValidateModelName(name)
}

// ValidateVersion checks the version of a model, and returns its number.
func ValidateVersion(version string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(version), 10, 64)
	if err != nil {
		return 0, invalidf("Parameter 'version' must be an integer, got '%s'.", clip(version))
	}
	return n, nil
}

// ValidateAlias checks an alias that is read or deleted.
func ValidateAlias(alias string) error {
	if alias == "" {
		return invalidf("Registered model alias name cannot be empty.")
	}
	if !every(alias, isWordOrDash) {
		return invalidf("Invalid alias name: '%s'. Names may only contain alphanumerics, underscores (_), and dashes (-).", clip(alias))
	}
	return asError(checkLength("Registered model alias name", alias, MaxAliasLength))
}

// ValidateNewAlias checks an alias that is set: "latest" and "v" with a number
// are reserved.
func ValidateNewAlias(alias string) error {
	if err := ValidateAlias(alias); err != nil {
		return err
	}
	if strings.EqualFold(alias, "latest") {
		return invalidf("'latest' alias name (case insensitive) is reserved.")
	}
	if len(alias) > 1 && (alias[0] == 'v' || alias[0] == 'V') && every(alias[1:], unicode.IsDigit) {
		return invalidf("Version alias name '%s' is reserved.", alias)
	}
	return nil
}

// ValidateStage returns the canonical spelling of a stage given in any case.
func ValidateStage(stage string) (string, error) {
	stages := [...]string{StageNone, StageStaging, StageProduction, StageArchived}
	for _, s := range stages {
		if strings.EqualFold(stage, s) {
			return s, nil
		}
	}
	return "", invalidf("Invalid Model Version stage: %s. Value must be one of %s.", clip(stage), strings.Join(stages[:], ", "))
}

// tagPromptText is the tag of a prompt's version that holds its text.
const tagPromptText = "mlflow.prompt.text"

// ValidateVersionTag checks a tag of a model version, of which one can be the
// text of a prompt.
func ValidateVersionTag(t Tag) error {
	if err := ValidateRegistryTag(Tag{Key: t.Key}); err != nil {
		return err
	}
	if t.Key == tagPromptText && length(t.Value) > MaxRegistryTagValueLength {
		return invalidf("Prompt text exceeds max length of %d characters.", MaxRegistryTagValueLength)
	}
	return ValidateRegistryTag(t)
}

// ValidateRegistryTag checks a tag of a registered model.
func ValidateRegistryTag(t Tag) error {
	return asError(checkPlainTag(t, MaxRegistryTagValueLength))
}

// ValidateTagKey checks the key of a tag that is deleted.
func ValidateTagKey(key string) error { return asError(checkName("key", key)) }

// ValidateInputs checks a log-inputs request.
func ValidateInputs(r *LogInputs) error {
	for _, in := range r.Datasets {
		d := in.Dataset
		if err := checkLengths("",
			lengthRule{"name", d.Name, MaxDatasetNameLength}, lengthRule{"digest", d.Digest, MaxDatasetDigestLength},
			lengthRule{"source", d.Source, MaxDatasetSourceLength}, lengthRule{"schema", d.Schema, MaxDatasetSchemaLength},
			lengthRule{"profile", d.Profile, MaxDatasetProfileLength}); err != nil {
			return err
		}
		for _, t := range in.Tags {
			if err := checkLengths("",
				lengthRule{"key", t.Key, MaxInputTagKeyLength}, lengthRule{"value", t.Value, MaxInputTagValueLength}); err != nil {
				return err
			}
		}
	}
	for i, m := range r.Models {
		if err := checkLength("models["+strconv.Itoa(i)+"].model_id", m.ModelID, MaxLoggedModelIDLength); err != nil {
			return err
		}
	}
	return nil
}

// ValidateOutputs checks a request of runs/outputs.
func ValidateOutputs(r *LogOutputs) error {
	for i, m := range r.Models {
		if err := checkLength("models["+strconv.Itoa(i)+"].model_id", m.ModelID, MaxLoggedModelIDLength); err != nil {
			return err
		}
	}
	return nil
}

// ValidateLoggedModel checks what a logged model is made with, and cuts the
// values of its parameters.
func ValidateLoggedModel(r *CreateLoggedModel) error {
	if r.Name != nil && strings.ContainsAny(*r.Name, `/:.%"'`) {
		return invalidf("Invalid model name (%s) provided. Model name must be a non-empty string "+
			"and cannot contain the following characters: ('/', ':', '.', '%%', '\"', \"'\")", clip(pyRepr(*r.Name)))
	}
	rules := []lengthRule{{"model_type", r.ModelType, MaxLoggedModelNameLength}, {"source_run_id", r.SourceRunID, MaxKeyLength}}
	if r.Name != nil {
		rules = append(rules, lengthRule{"name", *r.Name, MaxLoggedModelNameLength})
	}
	if err := checkLengths("", rules...); err != nil {
		return err
	}
	if err := ValidateLoggedModelParams(r.Params); err != nil {
		return err
	}
	return ValidateLoggedModelTags(r.Tags)
}

// ValidateLoggedModelParams checks parameters of a logged model, and cuts their
// values to MaxParamValueLength characters.
func ValidateLoggedModelParams(params []Param) error {
	for i := range params {
		if err := checkLength("params["+strconv.Itoa(i)+"].key", params[i].Key, MaxKeyLength); err != nil {
			return err
		}
		params[i].Value = truncate(params[i].Value, MaxParamValueLength)
	}
	return asError(checkUniqueParams(params))
}

// ValidateLoggedModelTags checks tags of a logged model.
func ValidateLoggedModelTags(tags []Tag) error {
	for i, t := range tags {
		if err := checkLengths("tags["+strconv.Itoa(i)+"].",
			lengthRule{"key", t.Key, MaxKeyLength}, lengthRule{"value", t.Value, MaxRegistryTagValueLength}); err != nil {
			return err
		}
	}
	return nil
}
