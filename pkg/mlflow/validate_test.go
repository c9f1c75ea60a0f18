package mlflow

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/runledger/runledger/pkg/apierr"
)

func wouldResolve(shown, path, to string) string {
	return "Invalid value " + shown + " for parameter '" + path + "' supplied: Names may be treated as files in certain cases, " +
		"and must not resolve to other names when treated as such. This name would resolve to " + to
}

func badName(shown, path string) string {
	return "Invalid value " + shown + " for parameter '" + path + "' supplied: Names may only contain alphanumerics, " +
		"underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."
}

var longKey = strings.Repeat("é", MaxKeyLength+1)

func TestValidateMetric(t *testing.T) {
	for _, tt := range []struct {
		m   Metric
		err string
	}{
		{Metric{Key: "a/b.c-d:e f_1"}, ""},
		{Metric{Key: "kü日١"}, ""},
		{Metric{Key: strings.Repeat("é", MaxKeyLength), Step: -1}, ""},
		{Metric{Key: ".hidden"}, ""},
		{Metric{Key: "a..b/..c"}, ""},
		{Metric{Key: "k//x"}, wouldResolve(`"k//x"`, "name", "'k/x'")},
		{Metric{Key: "../x"}, wouldResolve(`"../x"`, "name", "'../x'")},
		{Metric{Key: "..x"}, wouldResolve(`"..x"`, "name", "'..x'")},
		{Metric{Key: "./x"}, wouldResolve(`"./x"`, "name", "'x'")},
		{Metric{Key: "x/"}, wouldResolve(`"x/"`, "name", "'x'")},
		{Metric{Key: "/x"}, wouldResolve(`"/x"`, "name", "'/x'")},
		{Metric{Key: "//x"}, wouldResolve(`"//x"`, "name", "'//x'")},
		{Metric{Key: "///x"}, wouldResolve(`"///x"`, "name", "'/x'")},
		{Metric{Key: "."}, wouldResolve(`"."`, "name", "'.'")},
		{Metric{Key: ""}, wouldResolve(`""`, "name", "'.'")},
		{Metric{Key: "kü$"}, badName(`"k\u00fc$"`, "name")},
		{Metric{Key: "a\n"}, badName(`"a\n"`, "name")},
		{Metric{Key: "😀\x7f"}, badName(`"\ud83d\ude00\u007f"`, "name")},
		{Metric{Key: "\xff"}, badName(`"\ufffd"`, "name")},
		{Metric{Key: longKey}, "'Metric name' exceeds the maximum length of 250 characters"},
		{
			Metric{Key: "k", Value: 1, Timestamp: -1},
			"Invalid value -1 for parameter 'timestamp' supplied: metric 'k' (value=1.0). Timestamp must be a nonnegative long (64-bit integer) ",
		},
	} {
		t.Run(fmt.Sprintf("%.20q", tt.m.Key), func(t *testing.T) {
			checkMessage(t, ValidateMetric(tt.m), tt.err)
		})
	}
}

func TestValidateParamAndTag(t *testing.T) {
	p := Param{"k", strings.Repeat("é", MaxParamValueLength+1)}
	checkMessage(t, ValidateParam(&p), "")
	if length(p.Value) != MaxParamValueLength {
		t.Errorf("the value has %d characters", length(p.Value))
	}
	tag := Tag{"k", strings.Repeat("x", MaxTagValueLength+1)}
	checkMessage(t, ValidateTag(&tag), "")
	if len(tag.Value) != MaxTagValueLength {
		t.Errorf("the value has %d characters", len(tag.Value))
	}
	checkMessage(t, ValidateParam(&Param{Key: longKey}), "'Param key' exceeds the maximum length of 250 characters")
	checkMessage(t, ValidateParam(&Param{Key: "a*"}), badName(`"a*"`, "key"))
	checkMessage(t, ValidateTag(&Tag{Key: longKey}), "'key' exceeds the maximum length of 250 characters")
	checkMessage(t, ValidateTag(&Tag{Key: "../x"}), wouldResolve(`"../x"`, "key", "'../x'"))
	checkMessage(t, ValidateRunTags([]Tag{{Key: "a"}, {Key: longKey}}), "'tags[1].key' exceeds the maximum length of 250 characters")
	checkMessage(t, ValidateTagKey(""), wouldResolve(`""`, "key", "'.'"))
	checkMessage(t, ValidateRegistryTag(Tag{"k", strings.Repeat("x", MaxRegistryTagValueLength)}), "")
	checkMessage(t, ValidateRegistryTag(Tag{"k", strings.Repeat("x", MaxRegistryTagValueLength+1)}), "'value' exceeds the maximum length of 100000 characters")
	checkMessage(t, ValidateVersionTag(Tag{"mlflow.prompt.text", strings.Repeat("ä", MaxRegistryTagValueLength)}), "")
	checkMessage(t, ValidateVersionTag(Tag{"mlflow.prompt.text", strings.Repeat("ä", MaxRegistryTagValueLength+1)}), "Prompt text exceeds max length of 100000 characters.")
	checkMessage(t, ValidateVersionTag(Tag{"k", strings.Repeat("x", MaxRegistryTagValueLength+1)}), "'value' exceeds the maximum length of 100000 characters")
	checkMessage(t, ValidateRegistryTag(Tag{Key: longKey}), "'key' exceeds the maximum length of 250 characters")
	checkMessage(t, ValidateExperimentTag(Tag{"k", strings.Repeat("x", MaxExperimentTagValueLength+1)}), "'value' exceeds the maximum length of 20000 characters")
	checkMessage(t, ValidateExperimentTag(Tag{"k", "v"}), "")
}

func metrics(n int) []Metric {
	out := make([]Metric, n)
	for i := range out {
		out[i] = Metric{Key: "k", Step: int64(i)}
	}
	return out
}

func params(n int) []Param {
	out := make([]Param, n)
	for i := range out {
		out[i] = Param{Key: fmt.Sprint("p", i)}
	}
	return out
}

func TestValidateBatch(t *testing.T) {
	tooMany := func(limit int, what string, got int) string {
		return fmt.Sprintf("A batch logging request can contain at most %d %s. Got %d %s. Please split up %s across multiple requests and try again.",
			limit, what, got, what, what)
	}
	tags := make([]Tag, 101)
	for i := range tags {
		tags[i] = Tag{Key: "t"}
	}
	for _, tt := range []struct {
		name string
		b    LogBatch
		err  string
	}{
		{"empty", LogBatch{}, ""},
		{"all kinds", LogBatch{Metrics: metrics(899), Params: params(1), Tags: tags[:100]}, ""},
		{"one more of all", LogBatch{Metrics: metrics(900), Params: params(1), Tags: tags[:100]}, tooMany(1000, "metrics, params, and tags", 1001)},
		{"tag name", LogBatch{Tags: []Tag{{Key: "t"}, {Key: "a*"}}}, badName(`"a*"`, "tags[1].key")},
		{"full", LogBatch{Metrics: metrics(800), Params: params(100), Tags: tags[:100]}, ""},
		{"metrics", LogBatch{Metrics: metrics(1001)}, tooMany(1000, "metrics", 1001)},
		{"params", LogBatch{Params: params(101)}, tooMany(100, "params", 101)},
		{"tags", LogBatch{Tags: tags}, tooMany(100, "tags", 101)},
		{"total", LogBatch{Metrics: metrics(1000), Tags: tags[:1]}, tooMany(1000, "metrics, params, and tags", 1001)},
		{"data before limits", LogBatch{Metrics: metrics(1001), Params: []Param{{Key: "../p"}}}, wouldResolve(`"../p"`, "params[0].key", "'../p'")},
		{
			"limits before duplicates",
			LogBatch{Params: append(params(100), Param{Key: "p0"})},
			tooMany(100, "params", 101),
		},
		{
			"duplicates",
			LogBatch{Params: []Param{{"p", "1"}, {"q", "1"}, {"p", "1"}, {"q", "2"}}},
			"Duplicate parameter keys have been submitted: ['p', 'q']. Please ensure the request contains only one param value per param key.",
		},
		{"metric name", LogBatch{Metrics: append(metrics(2), Metric{Key: "a*"})}, badName(`"a*"`, "metrics[2].name")},
		{
			"timestamp",
			LogBatch{Metrics: []Metric{{Key: "b", Value: 1e16, Timestamp: -1}}},
			"Invalid value -1 for parameter 'metrics[0].timestamp' supplied: metric 'b' (value=1e+16). Timestamp must be a nonnegative long (64-bit integer) ",
		},
	} {
		t.Run(tt.name, func(t *testing.T) { checkMessage(t, ValidateBatch(&tt.b), tt.err) })
	}
}

func TestValidateNames(t *testing.T) {
	t.Attr("covers", "limit-registry")
	check := func(name string, err error, want string) {
		t.Run(name, func(t *testing.T) { t.Helper(); checkMessage(t, err, want) })
	}
	check("run id", ValidateRunID("9c054f4aab2c4e75baf55082a4411bde"), "")
	for _, id := range []string{"", "-a", "_a", "..", "a/b", "é", strings.Repeat("a", 257)} {
		check("run id", ValidateRunID(id), "Invalid value "+jsonQuote(id)+" for parameter 'run_id' supplied.")
	}
	check("experiment id", ValidateExperimentID("0"), "")
	check("experiment id", ValidateExperimentID("-5"), "")
	check("experiment id", ValidateExperimentID("9223372036854775807"), "")
	for _, id := range []string{"", "-", "--5", "+5", " 5", "5.0", "9223372036854775808"} {
		check("experiment id", ValidateExperimentID(id), "Invalid experiment ID '"+id+"'. Experiment ID must be a valid integer.")
	}
	check("run id", ValidateRunID(strings.Repeat("a", 256)), "")
	check("experiment id", ValidateExperimentID("abc"), "Invalid experiment ID 'abc'. Experiment ID must be a valid integer.")
	check("experiment name", ValidateExperimentName("a"), "")
	check("experiment name", ValidateExperimentName("  "), "Invalid experiment name: '  '")
	check("experiment name", ValidateExperimentName(strings.Repeat("é", 500)), "")
	check("experiment name", ValidateExperimentName(strings.Repeat("é", 501)), "'name' exceeds the maximum length of 500 characters")
	check("location", ValidateArtifactLocation("s3://b/x"), "")
	check("location", ValidateArtifactLocation(strings.Repeat("é", 2048)), "")
	check("location", ValidateArtifactLocation(strings.Repeat("é", 2049)),
		"Invalid artifact path length. The length of the artifact path cannot be greater than 2048 characters.")
	check("location", ValidateArtifactLocation("runs:/x"), "Artifact location cannot be a runs:/ URI. Given: 'runs:/x'")

	check("model", ValidateModelName("it's a model"), "")
	check("model", ValidateModelName("a/b"), "Invalid model name 'a/b'. Names cannot contain '/' or ':'.")
	check("model", ValidateModelName(" "), "Missing value for required parameter 'name'.")
	check("model", ValidateModelName(".."), wouldResolve(`".."`, "name", "'..'"))
	check("model", ValidateModelName("..it's"), wouldResolve(`"..it's"`, "name", `"..it's"`))
	check("new model name", ValidateNewModelName(" "), "Missing value for required parameter 'new_name'.")
	check("alias", ValidateAlias("latest"), "")
	check("alias", ValidateAlias(""), "Registered model alias name cannot be empty.")
	check("alias", ValidateAlias("a b"), "Invalid alias name: 'a b'. Names may only contain alphanumerics, underscores (_), and dashes (-).")
	check("alias", ValidateAlias(strings.Repeat("a", 256)), "'Registered model alias name' exceeds the maximum length of 255 characters")
	check("alias", ValidateNewAlias("Latest"), "'latest' alias name (case insensitive) is reserved.")
	check("alias", ValidateNewAlias("v1"), "Version alias name 'v1' is reserved.")
	check("alias", ValidateNewAlias("vv1"), "")
	check("alias", ValidateAlias(strings.Repeat("a", 255)), "")
	check("model", ValidateModelName("a:b"), "Invalid model name 'a:b'. Names cannot contain '/' or ':'.")
	check("alias", ValidateNewAlias("V12"), "Version alias name 'V12' is reserved.")
	check("alias", ValidateNewAlias("v"), "")
	check("alias", ValidateNewAlias("v1b"), "")

	if n, err := ValidateVersion("12"); n != 12 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if n, err := ValidateVersion(" 12\n"); n != 12 || err != nil { // as Python's int
		t.Errorf("got %d, %v", n, err)
	}
	_, err := ValidateVersion("q")
	check("version", err, "Parameter 'version' must be an integer, got 'q'.")
	for in, want := range map[string]string{"staging": StageStaging, "PRODUCTION": StageProduction, "None": StageNone, "aRchived": StageArchived} {
		if got, err := ValidateStage(in); got != want || err != nil {
			t.Errorf("%s: got %q, %v", in, got, err)
		}
	}
	_, err = ValidateStage("foo")
	check("stage", err, "Invalid Model Version stage: foo. Value must be one of None, Staging, Production, Archived.")
}

func TestValidateMaxResults(t *testing.T) {
	checkMessage(t, ValidateSearchMaxResults(50_000), "")
	checkMessage(t, ValidateSearchMaxResults(0), "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer")
	checkMessage(t, ValidateSearchMaxResults(50_001), "Invalid value 50001 for parameter 'max_results' supplied. It must be at most 50000")
	checkMessage(t, ValidateHistoryMaxResults(1), "")
	checkMessage(t, ValidateHistoryMaxResults(0), "Invalid value 0 for parameter 'max_results' supplied. It must be a positive integer.")
	checkMessage(t, ValidateModelsMaxResults(1000), "")
	checkMessage(t, ValidateModelsMaxResults(1001), "Invalid value for request parameter max_results. It must be at most 1000, but got value 1001")
	checkMessage(t, ValidateVersionsMaxResults(0), "Invalid value for max_results. It must be a positive integer, but got 0")
	checkMessage(t, ValidateVersionsMaxResults(200_000), "")
	checkMessage(t, ValidateVersionsMaxResults(200_001), "Invalid value for request parameter max_results. It must be at most 200000, but got value 200001")
}

func TestValidateHistories(t *testing.T) {
	key, runs := "k", make([]string, MaxHistoryRuns+1)
	at := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		r   GetMetricHistoryBulk
		err string
	}{
		{GetMetricHistoryBulk{RunIDs: runs[1:], MetricKey: &key}, ""},
		{GetMetricHistoryBulk{MetricKey: &key}, "GetMetricHistoryBulk request must specify at least one run_id."},
		{GetMetricHistoryBulk{RunIDs: runs, MetricKey: &key}, "GetMetricHistoryBulk request cannot specify more than 100 run_ids. Received 101 run_ids."},
		{GetMetricHistoryBulk{RunIDs: runs[1:]}, "GetMetricHistoryBulk request must specify a metric_key."},
		{GetMetricHistoryBulk{RunIDs: runs[1:], MetricKey: &key, MaxResults: -1}, "Invalid value -1 for parameter 'max_results' supplied. It must not be negative."},
	} {
		checkMessage(t, ValidateHistoryBulk(&tt.r), tt.err)
	}
	const both = "If either start step or end step are specified, both must be specified."
	for _, tt := range []struct {
		r   GetMetricHistoryBulkInterval
		err string
	}{
		{GetMetricHistoryBulkInterval{RunIDs: runs[1:], MaxResults: 1}, ""},
		{GetMetricHistoryBulkInterval{MaxResults: 2500, StartStep: at(3), EndStep: at(3)}, ""},
		{GetMetricHistoryBulkInterval{RunIDs: runs, MaxResults: 1}, "GetMetricHistoryBulkInterval request must specify at most 100 run_ids. Received 101 run_ids." + docs},
		{GetMetricHistoryBulkInterval{MaxResults: 0}, "max_results must be between 1 and 2500." + docs},
		{GetMetricHistoryBulkInterval{MaxResults: 2501}, "max_results must be between 1 and 2500." + docs},
		{GetMetricHistoryBulkInterval{MaxResults: 1, StartStep: at(0)}, both},
		{GetMetricHistoryBulkInterval{MaxResults: 1, EndStep: at(0)}, both},
		{GetMetricHistoryBulkInterval{MaxResults: 1, StartStep: at(3), EndStep: at(2)}, "end_step must be greater than start_step. Found start_step=3 and end_step=2."},
	} {
		checkMessage(t, ValidateHistoryInterval(&tt.r), tt.err)
	}
}

func TestMessages(t *testing.T) {
	for _, tt := range []struct {
		err  *apierr.Error
		code apierr.Code
		want string
	}{
		{RunNotFound("r"), apierr.ResourceDoesNotExist, "Run with id=r not found"},
		{RunNotActive("r"), apierr.InvalidParameterValue, "The run r must be in the 'active' state. Current state is deleted."},
		{RunNotDeleted("r"), apierr.InvalidParameterValue, "The run r must be in the 'deleted' state. Current state is active."},
		{
			RunNameConflict("a", "b"), apierr.InvalidParameterValue,
			"Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='a', mlflow.runName='b').",
		},
		{RunTagNotFound("k", "r"), apierr.ResourceDoesNotExist, "No tag with name: k in run with id r"},
		{
			ParamChanged("r", "pq", "1", "2"), apierr.InvalidParameterValue,
			"Changing param values is not allowed. Param with key='pq' was already logged with value='1' for run ID='r'. Attempted logging new value '2'.",
		},
		{
			ParamsChanged("r", []ParamChange{{"pq", "1", "2"}, {"x", "it's", "\n"}}), apierr.InvalidParameterValue,
			`Changing param values is not allowed. Params were already logged='[{'key': 'pq', 'old_value': '1', 'new_value': '2'}, ` +
				`{'key': 'x', 'old_value': "it's", 'new_value': '\n'}]' for run ID='r'.`,
		},
		{ExperimentNotFound("9"), apierr.ResourceDoesNotExist, "No Experiment with id=9 exists"},
		{ExperimentNameNotFound("n"), apierr.ResourceDoesNotExist, "Could not find experiment with name 'n'"},
		{ExperimentExists("e"), apierr.ResourceAlreadyExists, "Experiment(name=e) already exists."},
		{ExperimentNotActive("1"), apierr.InvalidParameterValue, "The experiment 1 must be in the 'active' state. Current state is deleted."},
		{RenameInactiveExperiment(), apierr.InvalidState, "Cannot rename a non-active experiment."},
		{ExperimentTagNotFound("k", "0"), apierr.ResourceDoesNotExist, "No tag with name: k in experiment with id 0"},
		{ModelNotFound("m"), apierr.ResourceDoesNotExist, "Registered Model with name=m not found"},
		{ModelExists("m"), apierr.ResourceAlreadyExists, "Registered Model (name=m) already exists."},
		{VersionNotFound("m", "9"), apierr.ResourceDoesNotExist, "Model Version (name=m, version=9) not found"},
		{LatestVersionNotFound("m"), apierr.ResourceDoesNotExist, "Latest version not found for model m."},
		{AliasNotFound("a"), apierr.InvalidParameterValue, "Registered model alias a not found."},
		{
			ArchiveFromInactiveStage("None"), apierr.InvalidParameterValue,
			"Model version transition cannot archive existing model versions because 'None' is not an Active stage. Valid stages are ['Staging', 'Production']",
		},
	} {
		if tt.err.Code != tt.code || tt.err.Message != tt.want {
			t.Errorf("got %s %q\nwant %s %q", tt.err.Code, tt.err.Message, tt.code, tt.want)
		}
	}
}

// What a message repeats of a value is short, and text.
func TestMessagesAreShortText(t *testing.T) {
	for _, id := range []string{strings.Repeat("é", 2000), "a" + strings.Repeat("é", 2000)} {
		if m := RunNotFound(id).Message; len(m) > 1100 || !utf8.ValidString(m) {
			t.Errorf("a message of %d bytes: %.20q...%q", len(m), m, m[len(m)-20:])
		}
	}
}

func TestPyFloat(t *testing.T) {
	for f, want := range map[float64]string{
		0: "0.0", 1: "1.0", -1.5: "-1.5", 1e15: "1000000000000000.0", 1e16: "1e+16", 1.5e-7: "1.5e-07", 1e-4: "0.0001",
		math.Inf(1): "inf", math.Inf(-1): "-inf", math.MaxFloat64: "1.7976931348623157e+308",
	} {
		if got := pyFloat(f); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := pyFloat(math.NaN()); got != "nan" {
		t.Errorf("got %s", got)
	}
}
