package mlflow

import (
	"math"
	"reflect"
	"testing"
)

// checkCanonical reads the canonical encoding of a request back: two requests that
// ask for different things have different encodings.
func checkCanonical(t *testing.T, req message) {
	t.Helper()
	text := AppendCanonical(nil, req)
	again := reflect.New(reflect.TypeOf(req).Elem()).Interface().(message)
	if err := decodeBytes(text, again); err != nil {
		t.Fatalf("%T: %s: %v", req, text, err)
	}
	if got := AppendCanonical(nil, again); string(got) != string(text) {
		t.Fatalf("%T: %s was read as %s", req, text, got)
	}
}

// The canonical encoding stays as it is: digests of it are in logs.
func TestCanonicalEncodingStays(t *testing.T) {
	for _, tt := range []struct {
		req  message
		want string
	}{
		{&CreateRun{ExperimentID: "0", StartTime: NoStartTime}, `{"experiment_id":"0"}`},
		{&CreateRun{ExperimentID: "0"}, `{"experiment_id":"0","start_time":0}`},
		{
			&CreateRun{"0", "u", "é\"\x00", -1, []Tag{{"k", ""}, {"", "<\u2028>"}}},
			`{"experiment_id":"0","run_name":"é\"\u0000","start_time":-1,"tags":[{"key":"k","value":""},{"key":"","value":"<` + "\u2028" + `>"}],"user_id":"u"}`,
		},
		{&UpdateRun{RunID: "r"}, `{"run_id":"r"}`},
		{&UpdateRun{"r", new(StatusFailed), new(int64(0)), new("")}, `{"end_time":0,"run_id":"r","run_name":"","status":"FAILED"}`},
		{&LogMetric{RunID: "r", Key: "k", Link: MetricLink{ModelID: "m"}}, `{"key":"k","model_id":"m","run_id":"r","value":0}`},
		{&LogBatch{RunID: "r", Metrics: []Metric{
			{Key: "a", Value: 0.1, Timestamp: 1, Step: -2},
			{Key: "f", Value: 0.12345678901234568},
			{Key: "b", Value: math.NaN()},
			{Key: "c", Value: math.Inf(-1)},
			{Key: "d", Value: math.Copysign(0, -1)},
			{Key: "e", Value: 1e300, Link: &MetricLink{ModelID: "m", DatasetName: "n", DatasetDigest: "d"}},
		}, Params: []Param{{"p", "v"}}}, `{"metrics":[{"key":"a","step":-2,"timestamp":1,"value":0.1},{"key":"f","step":0,"timestamp":0,"value":0.12345678901234568},{"key":"b","step":0,"timestamp":0,"value":"NaN"},` +
			`{"key":"c","step":0,"timestamp":0,"value":"-Infinity"},{"key":"d","step":0,"timestamp":0,"value":-0},` +
			`{"dataset_digest":"d","dataset_name":"n","key":"e","model_id":"m","step":0,"timestamp":0,"value":1e+300}],"params":[{"key":"p","value":"v"}],"run_id":"r"}`},
		{
			&LogInputs{RunID: "r", Datasets: []DatasetInput{{Dataset: Dataset{Name: "n", Digest: "d"}, Tags: []Tag{{"k", "v"}}}}, Models: []ModelInput{{"m"}}},
			`{"datasets":[{"dataset":{"digest":"d","name":"n"},"tags":[{"key":"k","value":"v"}]}],"models":[{"model_id":"m"}],"run_id":"r"}`,
		},
		{&LogOutputs{RunID: "r", Models: []ModelOutput{{"m", 0}, {"m", 3}}}, `{"models":[{"model_id":"m"},{"model_id":"m","step":3}],"run_id":"r"}`},
		{&CreateLoggedModel{ExperimentID: "1", Params: []Param{{"p", "v"}}}, `{"experiment_id":"1","params":[{"key":"p","value":"v"}]}`},
		{
			&SearchLoggedModels{ExperimentIDs: []string{"1"}, MaxResults: 50, OrderBy: []LoggedModelOrder{{Field: "a", Ascending: new(false)}, {Field: "b", Ascending: new(true)}, {Field: "c"}}},
			`{"experiment_ids":["1"],"order_by":[{"ascending":false,"field_name":"a"},{"ascending":true,"field_name":"b"},{"field_name":"c"}]}`,
		},
		{&SearchExperiments{ViewType: ViewActiveOnly}, `{}`},
		{&SearchExperiments{ViewType: ViewAll}, `{"view_type":"ALL"}`},
		{&FinalizeLoggedModel{"LOGGED_MODEL_READY"}, `{"status":"LOGGED_MODEL_READY"}`},
	} {
		if got := string(AppendCanonical(nil, tt.req)); got != tt.want {
			t.Errorf("%T: got\n%s\nwant\n%s", tt.req, got, tt.want)
		}
	}
}
