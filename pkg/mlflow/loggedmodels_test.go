package mlflow

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestDecodeNestedMessages(t *testing.T) {
	const d = `{"name":"n","digest":"1","source_type":"s","source":"x"}`
	for _, tt := range []struct{ body, err string }{
		{`{"run_id":"r","datasets":[{"dataset":` + d + `,"tags":[{"key":"k","value":"v"}]}],"models":[{"model_id":"m"}]}`, ""},
		{`{"run_id":"r","datasets":[{"dataset":null}]}`, missing("datasets[0].dataset")},
		{`{"run_id":"r","datasets":[{"dataset":` + d + `},{"dataset":{"name":"n"}}]}`, missing("datasets[1].dataset.digest")},
		{`{"run_id":"r","datasets":[{"dataset":{"name":1,"digest":"1"}}]}`, hint("1", "datasets[0].dataset.name", "int")},
		{`{"run_id":"r","datasets":[{"dataset":` + d + `,"tags":[{"value":"v"}]}]}`, missing("datasets[0].tags[0].key")},
		{`{"run_id":"r","datasets":{}}`, hint("{}", "datasets", "dict")},
		{`{"run_id":"r","datasets":["x"]}`, hint(`"x"`, "datasets[0]", "str")},
		{`{"run_id":"r","models":[{"model_id":""}]}`, missing("models[0].model_id")},
	} {
		got := decodeJSON[LogInputs](t, tt.body, tt.err)
		if tt.err != "" {
			continue
		}
		want := LogInputs{
			RunID: "r", Models: []ModelInput{{"m"}},
			Datasets: []DatasetInput{{Tags: []Tag{{"k", "v"}}, Dataset: Dataset{Name: "n", Digest: "1", SourceType: "s", Source: "x"}}},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func TestMetricLinks(t *testing.T) {
	got := decodeJSON[LogBatch](t, `{"run_id":"r","metrics":[
		{"key":"a","value":1,"timestamp":1,"model_id":"m","dataset_name":"d","dataset_digest":null},
		{"key":"a","value":1,"timestamp":1,"model_id":"","dataset_name":"d"}]}`, "")
	if l := got.Metrics[0].Link; l == nil || *l != (MetricLink{ModelID: "m", DatasetName: "d"}) || got.Metrics[1].Link != nil {
		t.Errorf("links %+v, %+v", l, got.Metrics[1].Link)
	}
	decodeJSON[LogBatch](t, `{"run_id":"r","metrics":[{"key":"a","value":1,"timestamp":1,"model_id":7}]}`, hint("7", "metrics[0].model_id", "int"))
	single := decodeJSON[LogMetric](t, `{"run_id":"r","key":"a","value":1,"timestamp":1,"model_id":"m"}`, "")
	if l := single.Metric().Link; l == nil || l.ModelID != "m" {
		t.Errorf("link %+v", l)
	}
	checkMessage(t, ValidateMetric(Metric{Key: "a", Link: &MetricLink{ModelID: "m", DatasetName: "d", DatasetDigest: strings.Repeat("d", 37)}}),
		"'dataset_digest' exceeds the maximum length of 36 characters")
	checkMessage(t, ValidateMetric(Metric{Key: "a", Link: &MetricLink{ModelID: "m", DatasetName: "d"}}),
		"Both dataset_name and dataset_digest must be provided if one is provided")
	b, err := Encode(Metric{Key: "a", Link: &MetricLink{ModelID: "m", DatasetName: "d", RunID: "r"}})
	if want := `{"key":"a","value":0.0,"timestamp":0,"step":0,"dataset_name":"d","model_id":"m","run_id":"r"}`; err != nil || string(b) != want {
		t.Errorf("encoded %s, %v, want %s", b, err, want)
	}
}

func TestValidateLoggedModel(t *testing.T) {
	t.Attr("covers", "limit-logged-model-name")
	bad := "a/b"
	checkMessage(t, ValidateLoggedModel(&CreateLoggedModel{Name: &bad}), "Invalid model name ('a/b') provided. Model name must be a non-empty string "+
		`and cannot contain the following characters: ('/', ':', '.', '%', '"', "'")`)
	params := []Param{{"k", strings.Repeat("v", MaxParamValueLength+1)}}
	checkMessage(t, ValidateLoggedModel(&CreateLoggedModel{Params: params}), "")
	if len(params[0].Value) != MaxParamValueLength {
		t.Errorf("the value has %d characters", len(params[0].Value))
	}
	long := func(n int) string { return strings.Repeat("é", n) }
	name := long(501)
	for want, r := range map[string]CreateLoggedModel{
		"'name' exceeds the maximum length of 500 characters":                                                                         {Name: &name},
		"'model_type' exceeds the maximum length of 500 characters":                                                                   {ModelType: name},
		"'source_run_id' exceeds the maximum length of 250 characters":                                                                {SourceRunID: long(251)},
		"'params[1].key' exceeds the maximum length of 250 characters":                                                                {Params: []Param{{}, {Key: long(251)}}},
		"'tags[0].value' exceeds the maximum length of 100000 characters":                                                             {Tags: []Tag{{"k", long(100_001)}}},
		"Duplicate parameter keys have been submitted: ['p']. Please ensure the request contains only one param value per param key.": {Params: []Param{{"p", "1"}, {"p", "1"}}},
	} {
		checkMessage(t, ValidateLoggedModel(&r), want)
	}
	checkMessage(t, ValidateLoggedModelTags([]Tag{{long(250), long(100_000)}}), "")
	checkMessage(t, ValidateLoggedModelTags([]Tag{{"k", ""}, {strings.Repeat("k", 251), ""}}), "'tags[1].key' exceeds the maximum length of 250 characters")
	got := decodeJSON[FinalizeLoggedModel](t, `{"status":"LOGGED_MODEL_UPLOAD_FAILED"}`, "")
	if got.Status != LoggedModelFailed || decodeJSON[FinalizeLoggedModel](t, `{"status":2}`, "").Status != LoggedModelReady {
		t.Errorf("status %s", got.Status)
	}
	decodeJSON[FinalizeLoggedModel](t, `{}`, missing("status"))
}

func TestInputsAndOutputsHaveLimits(t *testing.T) {
	long := func(n int) string { return strings.Repeat("é", n) }
	tooLong := func(what string, n int) string {
		return fmt.Sprintf("'%s' exceeds the maximum length of %d characters", what, n)
	}
	for _, tt := range []struct {
		d   Dataset
		t   Tag
		err string
	}{
		{Dataset{Name: long(500), Digest: long(36), Source: long(65_535)}, Tag{long(255), long(500)}, ""},
		{Dataset{Name: long(501)}, Tag{}, tooLong("name", 500)},
		{Dataset{Digest: long(37)}, Tag{}, tooLong("digest", 36)},
		{Dataset{Source: long(65_536)}, Tag{}, tooLong("source", 65_535)},
		{Dataset{Schema: long(1_048_576)}, Tag{}, tooLong("schema", 1_048_575)},
		{Dataset{Profile: strings.Repeat("x", 16_777_216)}, Tag{}, tooLong("profile", 16_777_215)},
		{Dataset{}, Tag{Key: long(256)}, tooLong("key", 255)},
		{Dataset{}, Tag{Value: long(501)}, tooLong("value", 500)},
	} {
		checkMessage(t, ValidateInputs(&LogInputs{Datasets: []DatasetInput{{}, {Dataset: tt.d, Tags: []Tag{{}, tt.t}}}}), tt.err)
	}
	checkMessage(t, ValidateInputs(&LogInputs{Models: []ModelInput{{long(36)}, {long(37)}}}), tooLong("models[1].model_id", 36))
	checkMessage(t, ValidateOutputs(&LogOutputs{Models: []ModelOutput{{ModelID: long(36)}, {ModelID: long(37)}}}), tooLong("models[1].model_id", 36))
	checkMessage(t, ValidateMetric(Metric{Key: "a", Link: &MetricLink{ModelID: "m", DatasetName: long(501), DatasetDigest: "d"}}), tooLong("dataset_name", 500))
	checkMessage(t, ValidateMetric(Metric{Key: "a", Link: &MetricLink{ModelID: "m", DatasetDigest: "d"}}),
		"Both dataset_name and dataset_digest must be provided if one is provided")
}

func TestAppendModel(t *testing.T) {
	const model = `{"artifact_path":"m","flavors":{},"run_id":"r","utc_time_created":"now"}`
	list, err := AppendModel("", model)
	if err == nil {
		list, err = AppendModel(list, model)
	}
	if want := "[" + model + ", " + model + "]"; err != nil || list != want {
		t.Errorf("got %s, %v, want %s", list, err, want)
	}
	// One with brackets at its end keeps them, and the list is as long as it can be.
	const listed = `{"artifact_path":[["m"]],"flavors":{},"run_id":"r","utc_time_created":[[1]]}`
	list, err = AppendModel("["+listed+"]", listed)
	if want := "[" + listed + ", " + listed + "]"; err != nil || list != want {
		t.Errorf("got %s, %v, want %s", list, err, want)
	}
	fill := func(n int) string { return strings.Repeat(" ", n-len(model)-2) + model }
	if list, err := AppendModel("", fill(MaxLoggedModelsTagLength)); err != nil || len(list) != MaxLoggedModelsTagLength {
		t.Errorf("%d bytes, %v", len(list), err)
	}
	_, err = AppendModel("", fill(MaxLoggedModelsTagLength+1))
	checkMessage(t, err, "The models of the run are described in more than 100000 bytes")
	for body, want := range map[string]string{
		"x":              "Malformed model info. \n x \n is not a valid JSON.",
		`{"flavors":{}}`: "Model json is missing mandatory fields: {'artifact_path', 'run_id', 'utc_time_created'}",
		`["a"]`:          "Malformed model info. \n [\"a\"] \n is not a valid JSON.",
	} {
		_, err := AppendModel("", body)
		checkMessage(t, err, want)
	}
}
