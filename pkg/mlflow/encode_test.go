package mlflow

import (
	"math"
	"net/http/httptest"
	"testing"
)

func TestEncode(t *testing.T) {
	t.Attr("covers", "json-absent-fields")
	t.Attr("covers", "json-int64-as-numbers")
	size := int64(0)
	for _, tt := range []struct {
		v    any
		want string
	}{
		{Empty{}, `{}`},
		{SearchRunsResponse{}, `{}`},
		{SearchExperimentsResponse{}, `{}`},
		{SearchRegisteredModelsResponse{}, `{}`},
		{SearchModelVersionsResponse{}, `{}`},
		{GetMetricHistoryResponse{}, `{}`},
		{
			GetMetricHistoryResponse{Metrics: []Metric{
				{Key: "a", Value: 1.5, Timestamp: math.MaxInt64, Step: -3}, {Key: "b", Value: math.NaN(), Timestamp: 1, Step: 0}, {Key: "c", Value: math.Inf(1), Timestamp: 1, Step: 0}, {Key: "d", Value: math.Inf(-1), Timestamp: 1, Step: 0},
			}},
			`{"metrics":[{"key":"a","value":1.5,"timestamp":9223372036854775807,"step":-3},` +
				`{"key":"b","value":"NaN","timestamp":1,"step":0},{"key":"c","value":"Infinity","timestamp":1,"step":0},` +
				`{"key":"d","value":"-Infinity","timestamp":1,"step":0}]}`,
		},
		{
			GetMetricHistoryResponse{Metrics: []Metric{{Key: "a", Value: 1e15}, {Key: "b", Value: 1e16}, {Key: "c", Value: -1e-5}, {Key: "d", Value: 1e-4}}},
			`{"metrics":[{"key":"a","value":1000000000000000.0,"timestamp":0,"step":0},{"key":"b","value":1e+16,"timestamp":0,"step":0},` +
				`{"key":"c","value":-1e-05,"timestamp":0,"step":0},{"key":"d","value":0.0001,"timestamp":0,"step":0}]}`,
		},
		{RunMetric{Metric{Key: "a", Value: 1, Timestamp: 2, Step: 3}, "r"}, `{"key":"a","value":1.0,"timestamp":2,"step":3,"run_id":"r"}`},
		{
			RunResponse{Run{Info: RunInfo{RunID: "r", EndTime: 5, RunName: "\xff"}}},
			`{"run":{"info":{"run_uuid":"","experiment_id":"","run_name":"` + "\uFFFD" + `","user_id":"","status":"","start_time":0,"end_time":5,` +
				`"artifact_uri":"","lifecycle_stage":"","run_id":"r"},"data":{}}}`,
		},
		{
			WebhookResponse{Webhook{WebhookID: "w", Name: "n", URL: "u", Events: []WebhookEvent{{"PROMPT", "CREATED"}}, Status: "ACTIVE"}},
			`{"webhook":{"webhook_id":"w","name":"n","url":"u","events":[{"entity":"PROMPT","action":"CREATED"}],"status":"ACTIVE",` +
				`"creation_timestamp":0,"last_updated_timestamp":0}}`,
		},
		{
			RunResponse{Run{
				Info:   RunInfo{RunUUID: "r", RunID: "r", ExperimentID: "0", Status: StatusRunning, StartTime: 12, LifecycleStage: LifecycleActive},
				Data:   RunData{Tags: []Tag{{"a", ""}}},
				Inputs: &RunInputs{},
			}},
			`{"run":{"info":{"run_uuid":"r","experiment_id":"0","run_name":"","user_id":"","status":"RUNNING","start_time":12,` +
				`"artifact_uri":"","lifecycle_stage":"active","run_id":"r"},"data":{"tags":[{"key":"a","value":""}]},"inputs":{}}}`,
		},
		{
			ExperimentResponse{Experiment{ExperimentID: "0", Name: "Default", ArtifactLocation: "x", LifecycleStage: "active", CreationTime: 5}},
			`{"experiment":{"experiment_id":"0","name":"Default","artifact_location":"x","lifecycle_stage":"active","creation_time":5}}`,
		},
		{
			ModelVersionResponse{ModelVersion{Name: "m", Version: "1", CurrentStage: StageNone, Source: "s", Status: VersionReady}},
			`{"model_version":{"name":"m","version":"1","current_stage":"None","description":"","source":"s","run_id":"","status":"READY","run_link":""}}`,
		},
		{
			ListArtifactsResponse{RootURI: "r", Files: []FileInfo{{Path: "d", IsDir: true}, {Path: "f", FileSize: &size}}},
			`{"root_uri":"r","files":[{"path":"d","is_dir":true},{"path":"f","is_dir":false,"file_size":0}]}`,
		},
	} {
		got, err := Encode(tt.v)
		if err != nil || string(got) != tt.want {
			t.Errorf("%T: %v\n got %s\nwant %s", tt.v, err, got, tt.want)
		}
	}
}

// Python's words for what is not finite, in JSON that only Python reads.
func TestAppendPython(t *testing.T) {
	for value, want := range map[float64]string{
		1: "1.0", 1e16: "1e+16", math.Inf(1): "Infinity", math.Inf(-1): "-Infinity", math.NaN(): "NaN",
	} {
		got := RunMetric{Metric{Key: "é\"", Value: value, Timestamp: 2, Step: -3}, "r"}.AppendPython([]byte("["))
		if want := `[{"key":"\u00e9\"","run_id":"r","step":-3,"timestamp":2,"value":` + want + "}"; string(got) != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestWriteJSON(t *testing.T) {
	w := httptest.NewRecorder()
	if err := WriteJSON(w, CreateExperimentResponse{"7"}); err != nil {
		t.Fatal(err)
	}
	if w.Code != 200 || w.Body.String() != `{"experiment_id":"7"}` {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestPageToken(t *testing.T) {
	type place struct {
		Offset int64 `json:"offset"`
	}
	token, err := EncodePageToken(place{1})
	if err != nil || token != "eyJvZmZzZXQiOjF9" {
		t.Fatalf("got %s, %v", token, err)
	}
	for token, want := range map[string]int64{"": 0, token: 1} {
		got, err := DecodePageToken[place](token)
		if got.Offset != want || err != nil {
			t.Errorf("%q: got %+v, %v", token, got, err)
		}
	}
	for token, want := range map[string]string{
		"xx":                       "Invalid page token, could not base64-decode",
		"!!":                       "Invalid page token, could not base64-decode",
		"eHgn":                     `Invalid page token, decoded value=b'xx\''`,
		"gA==":                     `Invalid page token, decoded value=b'\x80'`,
		"eyJ4IjoxfQ==":             `Invalid page token, parsed value={"x":1}`,
		"eyJvZmZzZXQiOjEsIngiOjF9": `Invalid page token, parsed value={"offset":1,"x":1}`,
		"Pz8/":                     "Invalid page token, decoded value=b'???'",
		"eyJvZmZzZXQiOiJ4In0=":     `Invalid page token, parsed value={"offset":"x"}`,
	} {
		got, err := DecodePageToken[place](token)
		checkMessage(t, err, want)
		if got != (place{}) {
			t.Errorf("%q: got %+v", token, got)
		}
	}
}
