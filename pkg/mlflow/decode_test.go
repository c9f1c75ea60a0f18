package mlflow

import (
	"encoding/binary"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/runledger/runledger/pkg/apierr"
)

const docs = " See the API docs for more information about request parameters."

func missing(name string) string {
	return "Missing value for required parameter '" + name + "'." + docs
}

func hint(value, name, typ string) string {
	return "Invalid value " + value + " for parameter '" + name + "' supplied:  Hint: Value was of type '" + typ + "'." + docs
}

// checkMessage fails the test unless err is an InvalidParameterValue with the
// message, or nil where the message is empty.
func checkMessage(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Fatalf("unexpected error: %v", err)
		}
		return
	}
	e, ok := errors.AsType[*apierr.Error](err)
	if !ok {
		t.Fatalf("got %v, want %q", err, want)
	}
	if e.Message != want || e.Code != apierr.InvalidParameterValue {
		t.Fatalf("got %s %q\nwant %q", e.Code, e.Message, want)
	}
}

func decodeJSON[T any, P interface {
	*T
	message
}](t *testing.T, body, wantErr string) T {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	got, err := Decode[T, P](r)
	checkMessage(t, err, wantErr)
	return *got
}

// Each answer of this table is what MLflow 3.18 gave, unless it says otherwise.
func TestDecodeCreateExperiment(t *testing.T) {
	for _, tt := range []struct{ body, want, err string }{
		{`{"name":"a"}`, "a", ""},
		{`{"name":"a","name":"b"}`, "b", ""},
		{`{"n\u0061me":"a"}`, "a", ""},
		{`"{\"name\":\"a\"}"`, "a", ""},
		{`{"name":"a","unknown":{"deep":[1,{"x":null}]}}`, "a", ""},
		{`{"name":123}`, "", hint("123", "name", "int")},
		{`{"name":1.50}`, "", hint("1.5", "name", "float")},
		{`{"name":["é",{"b":1,"a":2}]}`, "", hint(`["\u00e9",{"a":2,"b":1}]`, "name", "list")},
		{`{"name":true}`, "", hint("true", "name", "bool")},
		{`{}`, "", missing("name")},
		{``, "", missing("name")},
		{` `, "", missing("name")},
		{`null`, "", missing("name")},
		{`{"name":null}`, "", missing("name")},
		{`{"name":""}`, "", missing("name")},
		{`{"name":"a","tags":5}`, "a", hint("5", "tags", "int")},
		{`{"tags":5}`, "", missing("name")},
		// MLflow answers these with 500, takes them for {}, or reads what it can.
		{`{"name":"a`, "", "The request body is not valid JSON, at byte 10."},
		{`{"name":"a"} x`, "", "The request body is not valid JSON, at byte 13."},
		{"{\"name\":\"\xff\"}", "", "The request body is not valid UTF-8, at byte 9 of its text."},
		{`{"name":"\ud800"}`, "", "The request body is not valid JSON, at byte 9."},
		{`[]`, "", "The request body must be a JSON object."},
		{`"abc"`, "", "The request body must be a JSON object."},
		{`{"name":"a","tags":[5]}`, "a", hint("5", "tags[0]", "int")},
		{`{"name":"a","tags":[{"key":"k"},{"key":1}]}`, "a", hint("1", "tags[1].key", "int")},
		{`{"name":"a","x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, "", "The request body is not valid JSON, at byte 10015."},
	} {
		got := decodeJSON[CreateExperiment](t, tt.body, tt.err)
		if got.Name != tt.want {
			t.Errorf("%.100s: name %q, want %q", tt.body, got.Name, tt.want)
		}
	}
}

func TestDecodeNotJSONWithoutRequiredFields(t *testing.T) {
	for body, want := range map[string]string{
		`{bad`:                  "The request body is not valid JSON, at byte 1.",
		`[1]`:                   "The request body must be a JSON object.",
		`5`:                     "The request body must be a JSON object.",
		`"[]"`:                  "The request body must be a JSON object.",
		`{"filter":"a"}{}`:      "The request body is not valid JSON, at byte 15.",
		`{"max_results":"abc"}`: hint(`"abc"`, "max_results", "str"),
		`{"filter":1}`:          hint("1", "filter", "int"),
	} {
		got := decodeJSON[SearchRuns](t, body, want)
		if want := (SearchRuns{RunViewType: ViewActiveOnly, MaxResults: DefaultSearchRuns}); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: half a request is left: %+v", body, got)
		}
	}
}

// Every body that Python's json.loads reads is read, which MLflow's server calls
// on the bytes, whatever the content type says of them.
func TestDecodeReadsEveryEncodingThatMLflowDoes(t *testing.T) {
	t.Attr("covers", "json-encodings")
	const body = `{"name":"é🚀"}`
	le, be := binary.LittleEndian, binary.BigEndian
	in16 := func(order binary.AppendByteOrder, s string) (out string) {
		var b []byte
		for _, u := range utf16.Encode([]rune(s)) {
			b = order.AppendUint16(b, u)
		}
		return string(b)
	}
	in32 := func(order binary.AppendByteOrder, s string) (out string) {
		var b []byte
		for _, r := range s {
			b = order.AppendUint32(b, uint32(r))
		}
		return string(b)
	}
	for _, mark := range []string{"", "\ufeff"} {
		for name, text := range map[string]string{
			"UTF-8": mark + body, "UTF-16LE": in16(le, mark+body), "UTF-16BE": in16(be, mark+body), "UTF-32LE": in32(le, mark+body), "UTF-32BE": in32(be, mark+body),
		} {
			if got := decodeJSON[CreateExperiment](t, text, ""); got.Name != "é🚀" {
				t.Errorf("%s, mark %q: got %q", name, mark, got.Name)
			}
		}
	}
	for text, want := range map[string]string{
		"\ufeff":                            missing("name"),
		in16(le, "\ufeff"):                  missing("name"),
		in16(le, "{}"):                      missing("name"),
		in16(be, "1"):                       "The request body must be a JSON object.",
		in16(le, "\ufeff"+body)[1:]:         "The request body is not valid UTF-8, at byte 0 of its text.",
		in16(be, body) + "\x00":             "The request body is not valid UTF-16, at byte 28 of its text.",
		in16(le, `{"`) + "\x00\xd8":         "The request body is not valid UTF-16, at byte 4 of its text.",
		in16(le, `{"`) + "\x00\xdc\x00\xd8": "The request body is not valid UTF-16, at byte 4 of its text.",
		in32(le, `{`) + "\x00\x00\x11\x00":  "The request body is not valid UTF-32, at byte 4 of its text.",
		in32(le, `{`) + "\x00\xd8\x00\x00":  "The request body is not valid UTF-32, at byte 4 of its text.",
		in32(be, `{`) + "\x00\x00\xd8\x00":  "The request body is not valid UTF-32, at byte 4 of its text.",
		"\xff\xfe\x00\x00{":                 "The request body is not valid UTF-32, at byte 0 of its text.",
		"\x1f\x8b\x08\x00":                  "The request body is compressed with gzip, which is not read here: send it as it is.",
		"\ufeff\ufeff" + body:               "The request body is not valid JSON, at byte 0.",
	} {
		decodeJSON[CreateExperiment](t, text, want)
	}
	for _, kind := range []string{"application/json; charset=utf-16", "application/json;charset", `application/json; charset="`, "application/json; a=b; a=c", "Application/JSON"} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		if got, err := Decode[CreateExperiment](r); err != nil || got.Name != "é🚀" {
			t.Errorf("%s: %v %v", kind, got, err)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/?&", strings.NewReader(body))
	if got, err := Decode[CreateExperiment](r); err != nil || got.Name != "é🚀" {
		t.Errorf("a query without arguments: %v %v", got, err)
	}
}

func TestDecodeScalars(t *testing.T) {
	t.Attr("covers", "json-numeric-strings")
	t.Attr("covers", "json-non-finite")
	const rest = `{"run_id":"r","key":"k","value":%v,"timestamp":%t,"step":%s}`
	num := hint
	for _, tt := range []struct {
		value, timestamp, step string
		want                   Metric
		err                    string
	}{
		{"1", "2", "3", Metric{Key: "k", Value: 1, Timestamp: 2, Step: 3}, ""},
		{`"1.5"`, "3.0", `"7"`, Metric{Key: "k", Value: 1.5, Timestamp: 3, Step: 7}, ""},
		{`" 1.5 "`, "3e2", `"-7.0"`, Metric{Key: "k", Value: 1.5, Timestamp: 300, Step: -7}, ""},
		{`"inf"`, "1", "null", Metric{Key: "k", Value: math.Inf(1), Timestamp: 1, Step: 0}, ""},
		{`"Infinity"`, "1", "0", Metric{Key: "k", Value: math.Inf(1), Timestamp: 1, Step: 0}, ""},
		{`"-Infinity"`, "1", "0", Metric{Key: "k", Value: math.Inf(-1), Timestamp: 1, Step: 0}, ""},
		{`"1e400"`, "1", "0", Metric{Key: "k", Value: math.Inf(1), Timestamp: 1, Step: 0}, ""},
		{"-Infinity", "1", "0", Metric{Key: "k", Value: math.Inf(-1), Timestamp: 1, Step: 0}, ""},
		{"1", "1", "9223372036854775807", Metric{Key: "k", Value: 1, Timestamp: 1, Step: math.MaxInt64}, ""},
		{"1", "1", "-9223372036854775808", Metric{Key: "k", Value: 1, Timestamp: 1, Step: math.MinInt64}, ""},
		{`"abc"`, "1", "0", Metric{}, num(`"abc"`, "value", "str")},
		{`""`, "1", "0", Metric{}, missing("value")},
		{`null`, "1", "0", Metric{}, missing("value")},
		{`1`, `""`, "0", Metric{}, missing("timestamp")},
		{`1`, "1", `"x"`, Metric{}, num(`"x"`, "step", "str")},
		{`1`, "1", `""`, Metric{}, num(`""`, "step", "str")},
		// MLflow takes these, as 1, 0, 0, 0, 0, 0 and 0.
		{"true", "1", "0", Metric{Key: "k", Value: 1, Timestamp: 1, Step: 0}, ""},
		{"false", "1", "0", Metric{Key: "k", Value: 0, Timestamp: 1, Step: 0}, ""},
		{`"nan"`, "1", "0", Metric{}, num(`"nan"`, "value", "str")},
		{`"0x1p4"`, "1", "0", Metric{}, num(`"0x1p4"`, "value", "str")},
		{"1e400", "1", "0", Metric{}, num("Infinity", "value", "float")},
		{"1", "1.5", "0", Metric{}, num("1.5", "timestamp", "float")},
		{"1", "9223372036854775808", "0", Metric{}, num("9223372036854775808", "timestamp", "int")},
		{"1", "9223372036854775808.0", "0", Metric{}, num("9.223372036854776e+18", "timestamp", "float")},
		{"1", "1", "-9223372036854775809", Metric{}, num("-9223372036854775809", "step", "int")},
		{"1", "1", `" 7"`, Metric{}, num(`" 7"`, "step", "str")},
	} {
		body := strings.NewReplacer("%v", tt.value, "%t", tt.timestamp, "%s", tt.step).Replace(rest)
		got := decodeJSON[LogMetric](t, body, tt.err)
		if tt.err == "" && got.Metric() != tt.want {
			t.Errorf("%s: got %+v, want %+v", body, got.Metric(), tt.want)
		}
	}
	for _, nan := range []string{`"NaN"`, "NaN"} {
		got := decodeJSON[LogMetric](t, `{"run_id":"NaN, \"NaN","key":"k","value":`+nan+`,"timestamp":1}`, "")
		if !math.IsNaN(got.Value) || got.RunID != `NaN, "NaN` {
			t.Errorf("%s: got %+v", nan, got)
		}
	}
}

func TestDecodeRunUUID(t *testing.T) {
	t.Attr("covers", "json-run-uuid")
	for body, want := range map[string]string{
		`{"run_uuid":"a"}`:                "a",
		`{"run_uuid":"a","run_id":"b"}`:   "b",
		`{"run_id":"b","run_uuid":"a"}`:   "b",
		`{"run_id":null,"run_uuid":"a"}`:  "a",
		`{"run_id":"","run_uuid":"a"}`:    "a",
		`{"run_id":"b","run_uuid":5}`:     "b",
		`{"run_uuid":"a","run_uuid":"c"}`: "c",
	} {
		if got := decodeJSON[DeleteRun](t, body, ""); got.RunID != want {
			t.Errorf("%s: got %q, want %q", body, got.RunID, want)
		}
	}
	decodeJSON[DeleteRun](t, `{"run_uuid":""}`, missing("run_id"))
	decodeJSON[DeleteRun](t, `{"run_id":5,"run_uuid":"a"}`, hint("5", "run_id", "int"))
}

func TestDecodeCamelCase(t *testing.T) {
	t.Attr("covers", "json-camel-case")
	got := decodeJSON[SearchRuns](t, `{"experimentIds":["1"],"runViewType":"ALL","max_results":5,"orderBy":["a"]}`, "")
	if len(got.ExperimentIDs) != 1 || got.RunViewType != ViewAll || got.MaxResults != 5 || len(got.OrderBy) != 1 {
		t.Errorf("got %+v", got)
	}
	const both = "Request specifies both 'run_name' and 'runName'; provide only one of them."
	decodeJSON[UpdateRun](t, `{"run_id":"r","run_name":"a","runName":"a"}`, both)
	decodeJSON[UpdateRun](t, `{"runName":"a","run_name":null,"run_id":"r"}`, both)
	// What MLflow requires has one name.
	decodeJSON[DeleteRun](t, `{"runId":"r"}`, missing("run_id"))
	decodeJSON[DeleteRun](t, `{"runId":"r","run_id":"r"}`, "Request specifies both 'run_id' and 'runId'; provide only one of them.")
	if got := decodeJSON[UpdateRun](t, `{"run_id":"r","RunName":"a","run_Name":"a"}`, ""); got.RunName != nil {
		t.Errorf("other spellings are taken too: %+v", got)
	}
}

func TestDecodeUpdateRun(t *testing.T) {
	got := decodeJSON[UpdateRun](t, `{"run_id":"r","status":3,"end_time":"5"}`, "")
	if *got.Status != StatusFinished || *got.EndTime != 5 || got.RunName != nil {
		t.Errorf("got %+v", got)
	}
	got = decodeJSON[UpdateRun](t, `{"run_id":"r","status":"KILLED","run_name":""}`, "")
	if *got.Status != StatusKilled || got.EndTime != nil || *got.RunName != "" {
		t.Errorf("got %+v", got)
	}
	decodeJSON[UpdateRun](t, `{"run_id":"r","status":99}`, hint("99", "status", "int"))
	// MLflow ignores an unknown name.
	decodeJSON[UpdateRun](t, `{"run_id":"r","status":"killed"}`, hint(`"killed"`, "status", "str"))
	decodeJSON[UpdateRun](t, `{"run_id":"r","status":0}`, hint("0", "status", "int"))
	decodeJSON[UpdateRun](t, `{"run_id":"r","status":6}`, hint("6", "status", "int"))
	decodeJSON[UpdateRun](t, `{"run_id":"r","status":"BOGUS"}`, hint(`"BOGUS"`, "status", "str"))
}

func TestDecodeLogBatch(t *testing.T) {
	got := decodeJSON[LogBatch](t, `{"run_id":"r","metrics":[{"key":"a","value":1,"timestamp":2,"x":[]},{"step":4,"timestamp":"3","value":"NaN","key":"\u0061"}],
		"params":[{"key":"p"}],"tags":[{"key":"t","value":"v"}]}`, "")
	if len(got.Metrics) != 2 || got.Metrics[0] != (Metric{Key: "a", Value: 1, Timestamp: 2, Step: 0}) || got.Metrics[1].Key != "a" || got.Metrics[1].Step != 4 {
		t.Errorf("got %+v", got)
	}
	if got.Params[0] != (Param{"p", ""}) || got.Tags[0] != (Tag{"t", "v"}) {
		t.Errorf("got %+v", got)
	}
	for body, want := range map[string]string{
		`{"metrics":[]}`: missing("run_id"),
		`{"run_id":"r","metrics":[{"key":"a","value":1}]}`:                           missing("metrics[0].timestamp"),
		`{"run_id":"r","metrics":[{"value":1,"timestamp":1}]}`:                       missing("metrics[0].key"),
		`{"run_id":"r","metrics":[{"key":"a","value":1,"timestamp":1},{"key":"a"}]}`: missing("metrics[1].value"),
		`{"run_id":"r","metrics":[{"key":"a","value":"","timestamp":1}]}`:            missing("metrics[0].value"),
		`{"run_id":"r","metrics":5}`:                                                 hint("5", "metrics", "int"),
		`{"run_id":"r","metrics":"[]"}`:                                              hint(`"[]"`, "metrics", "str"),
		`{"run_id":"r","tags":[{"value":"1"}]}`:                                      missing("tags[0].key"),
		`{"run_id":"r","params":[{"key":""}]}`:                                       missing("params[0].key"),
		`{"run_id":"r","metrics":null,"params":null}`:                                "",
		`{"run_id":"r"}`: "",
		`{"run_id":"r","metrics":[{"key":"a","value":1,"timestamp":1,"step":"x"}],"tags":[5]}`: hint(`"x"`, "metrics[0].step", "str"),
		`{"run_id":"r","metrics":[5]}`:                                           hint("5", "metrics[0]", "int"),
		`{"run_id":"r","metrics":[null]}`:                                        hint("null", "metrics[0]", "NoneType"),
		`{"run_id":"r","metrics":[{"key":5,"value":[[1]],"timestamp":1}]}`:       hint("5", "metrics[0].key", "int"),
		`{"run_id":"r","metrics":[{"key":"a","value":[{"b":1}],"timestamp":1}]}`: hint(`[{"b":1}]`, "metrics[0].value", "list"),
	} {
		decodeJSON[LogBatch](t, body, want)
	}
}

// Of members of the same name the last counts, all of it.
func TestTheLastMemberOfANameCounts(t *testing.T) {
	got := decodeJSON[LogBatch](t, `{"run_id":"r","params":[{"key":"a"}],"params":[{"key":"b","value":"1","value":"2"}],"tags":5,"tags":[],
		"metrics":[{"key":"k","value":"x","value":1,"timestamp":7,"timestamp":2,"step":5,"step":null,"model_id":"m","model_id":"n",
			"dataset_name":"d","dataset_name":null,"dataset_digest":7,"dataset_digest":"1"}]}`, "")
	want := LogBatch{
		RunID: "r", Params: []Param{{"b", "2"}},
		Metrics: []Metric{{Key: "k", Value: 1, Timestamp: 2, Link: &MetricLink{ModelID: "n", DatasetDigest: "1"}}},
	}
	if got.Tags = nil; !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for name, member := range map[string]string{
		"key": `"key":"k","key":null`, "value": `"value":1,"value":null`, "timestamp": `"timestamp":1,"timestamp":""`,
	} {
		decodeJSON[LogBatch](t, `{"run_id":"r","metrics":[{"key":"k","value":1,"timestamp":1,`+member+`}]}`, missing("metrics[0]."+name))
	}
}

func TestDecodeBodyLimit(t *testing.T) {
	body := `{"run_id":"r","tags":[{"key":"k","value":"` + strings.Repeat("x", MaxBatchBytes) + `"}]}`
	decodeJSON[LogBatch](t, body, "Batched logging API requests must be at most 1000000 bytes, got a request of size 1000046.")
	const tag = `{"run_id":"r","key":"k"}`
	decodeJSON[SetTag](t, strings.Repeat(" ", MaxBodyBytes-len(tag))+tag, "")
	// The parts of an upload may be many.
	const upload = `{"path":"p","parts":[]}`
	decodeJSON[CompleteMultipartUpload](t, strings.Repeat(" ", MaxPartsBytes-len(upload))+upload, "")
	decodeJSON[SetTag](t, strings.Repeat(" ", MaxBodyBytes+1), "The request body must be at most 4194304 bytes, got a request of size 4194305.")
}

func TestDecodeContentType(t *testing.T) {
	for _, tt := range []struct{ method, contentType, err string }{
		{http.MethodPost, "application/json", ""},
		{http.MethodPost, "application/json; charset=utf-8", ""},
		{http.MethodPost, "text/plain", "Bad Request. Content-Type must be one of ['application/json']."},
		{http.MethodPost, "", "Bad Request. Content-Type header is missing."},
		{http.MethodPut, "text/plain", "Bad Request. Content-Type must be one of ['application/json']."},
		{http.MethodPatch, "", ""},
		{http.MethodDelete, "text/plain", ""},
	} {
		r := httptest.NewRequest(tt.method, "/", strings.NewReader(`{"name":"m"}`))
		r.Header.Set("Content-Type", tt.contentType)
		got, err := Decode[UpdateRegisteredModel](r)
		checkMessage(t, err, tt.err)
		if err == nil && got.Name != "m" {
			t.Errorf("%s: got %+v", tt.method, got)
		}
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

func TestDecodeBrokenBody(t *testing.T) {
	t.Attr("covers", "json-broken-body")
	err := DecodeBody(brokenReader{errors.New("connection reset")}, "application/json", 10, &CreateRun{})
	if apierr.CodeOf(err) != apierr.BadRequest || strings.Contains(apierr.From(err).Message, "reset") {
		t.Errorf("got %v", err)
	}
	// What has a code already keeps it: there was no room for the body.
	full := apierr.Errorf(apierr.RequestLimitExceeded, "full")
	if err := DecodeBody(brokenReader{full}, "application/json", 10, &CreateRun{}); apierr.CodeOf(err) != full.Code {
		t.Errorf("got %v", err)
	}
}

func decodeArgs[T any, P interface {
	*T
	message
}](t *testing.T, query, wantErr string) T {
	t.Helper()
	got, err := Decode[T, P](httptest.NewRequest(http.MethodGet, "/?"+query, nil))
	checkMessage(t, err, wantErr)
	return *got
}

func TestDecodeQuery(t *testing.T) {
	t.Attr("covers", "json-query-arguments")
	got := decodeArgs[SearchExperiments](t, "max_results=5&order_by=a&order_by=b+DESC&view_type=3&other=1", "")
	want := SearchExperiments{MaxResults: 5, OrderBy: []string{"a", "b DESC"}, ViewType: ViewAll}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := decodeArgs[GetExperiment](t, "experiment_id=1&experiment_id=2", ""); got.ExperimentID != "1" {
		t.Errorf("got %+v", got)
	}
	if got := decodeArgs[GetRun](t, "run_uuid=a&run_uuid=b", ""); got.RunID != "a" {
		t.Errorf("got %+v", got)
	}
	if got := decodeArgs[GetRegisteredModel](t, "name=%FF%22", ""); got.Name != "\uFFFD\"" {
		t.Errorf("got %+v", got)
	}
	if got := decodeArgs[GetMetricHistory](t, "run_id=r&metric_key=k", ""); got.MaxResults != nil {
		t.Errorf("got %+v", got)
	}
	decodeArgs[GetExperiment](t, "experiment_id=", missing("experiment_id"))
	decodeArgs[GetExperiment](t, "", missing("experiment_id"))
	decodeArgs[SearchRegisteredModels](t, "max_results=1001", hint(`"1001"`, "max_results", "str"))
	// MLflow goes on without it, and returns everything.
	decodeArgs[GetMetricHistory](t, "run_id=r&metric_key=k&max_results=x", hint(`"x"`, "max_results", "str"))
	for arg, wantErr := range map[string]string{
		"TRUE": "", "false": "", "1": "Invalid boolean value: 1, must be 'true' or 'false'.",
	} {
		args := url.Values{"name": {"m"}, "version": {"1"}, "stage": {"None"}, "archive_existing_versions": {arg}}
		var req TransitionStage
		checkMessage(t, DecodeQuery(args, &req), wantErr)
		if req.ArchiveExistingVersions != (arg == "TRUE") {
			t.Errorf("%s: got %+v", arg, req)
		}
	}
}

func TestDecodeDefaults(t *testing.T) {
	if got := decodeJSON[SearchRuns](t, `{"max_results":null}`, ""); got.MaxResults != 1000 || got.RunViewType != ViewActiveOnly {
		t.Errorf("got %+v", got)
	}
	if got := decodeJSON[SearchRuns](t, `{"max_results":5,"max_results":null,"run_view_type":"ALL"}`, ""); got.MaxResults != 1000 || got.RunViewType != ViewAll {
		t.Errorf("got %+v", got)
	}
	if got := decodeArgs[SearchModelVersions](t, "", ""); got.MaxResults != 200_000 {
		t.Errorf("got %+v", got)
	}
	if got := decodeJSON[SearchRuns](t, `{"max_results":50000}`, ""); got.MaxResults != 50_000 {
		t.Errorf("got %+v", got)
	}
	if got := decodeJSON[CreateRun](t, `{"experiment_id":"0"}`, ""); got.StartTime != NoStartTime {
		t.Errorf("got %+v", got)
	}
	if got := decodeJSON[SearchLoggedModels](t, `{"experiment_ids":["0"]}`, ""); got.MaxResults != 50 {
		t.Errorf("got %+v", got)
	}
	decodeJSON[SearchLoggedModels](t, `{}`, missing("experiment_ids"))
	if got := decodeArgs[GetMetricHistoryBulk](t, "run_id=r", ""); got.MaxResults != 25_000 {
		t.Errorf("got %+v", got)
	}
	if got := decodeArgs[GetMetricHistoryBulkInterval](t, "run_ids=r&metric_key=k", ""); got.MaxResults != 2500 {
		t.Errorf("got %+v", got)
	}
	decodeArgs[GetMetricHistory](t, "run_id=r", missing("metric_key"))
	if got := decodeArgs[PresignedDownloadURL](t, "run_id=r&path=p", ""); got.Expiration != 900 {
		t.Errorf("got %+v", got)
	}
	if got := decodeJSON[PresignedUploadURL](t, `{"path":"p"}`, ""); got.Expiration != 900 {
		t.Errorf("got %+v", got)
	}
	decodeJSON[SearchRuns](t, `{"max_results":50001}`, hint("50001", "max_results", "int"))
	decodeJSON[SearchRuns](t, `{"experiment_ids":"1"}`, hint(`"1"`, "experiment_ids", "str"))
	// MLflow searches in no experiment at all.
	decodeJSON[SearchRuns](t, `{"experiment_ids":["0",1]}`, hint("1", "experiment_ids[1]", "int"))
}

// requests are one of each request type.
func requests() []message {
	return []message{
		&CreateExperiment{}, &GetExperiment{}, &GetExperimentByName{}, &SearchExperiments{}, &DeleteExperiment{},
		&RestoreExperiment{}, &UpdateExperiment{}, &SetExperimentTag{}, &DeleteExperimentTag{},
		&CreateMultipartUpload{}, &CompleteMultipartUpload{}, &AbortMultipartUpload{},
		&CreateRun{}, &GetRun{}, &UpdateRun{}, &DeleteRun{}, &RestoreRun{}, &LogMetric{}, &LogParam{}, &SetTag{},
		&DeleteTag{}, &LogBatch{}, &SearchRuns{}, &GetMetricHistory{}, &ListArtifacts{},
		&CreateRegisteredModel{}, &RenameRegisteredModel{}, &UpdateRegisteredModel{}, &DeleteRegisteredModel{},
		&GetRegisteredModel{}, &SearchRegisteredModels{}, &GetLatestVersions{}, &SetRegisteredModelTag{},
		&DeleteRegisteredModelTag{}, &SetAlias{}, &DeleteAlias{}, &GetByAlias{}, &CreateModelVersion{},
		&UpdateModelVersion{}, &TransitionStage{}, &DeleteModelVersion{}, &GetModelVersion{}, &SearchModelVersions{},
		&GetDownloadURI{}, &SetModelVersionTag{}, &DeleteModelVersionTag{},
		&CreateWebhook{}, &UpdateWebhook{}, &ListWebhooks{}, &TestWebhook{},
	}
}

// nestedRequests are those that hold lists of objects.
func nestedRequests() []message {
	return []message{
		&LogInputs{}, &LogOutputs{}, &LogModel{}, &CreateLoggedModel{}, &FinalizeLoggedModel{}, &LogLoggedModelParams{}, &SetLoggedModelTags{},
		&SearchLoggedModels{},
	}
}

// flatRequests are those without lists of objects that are not among requests, and
// what the lists are of.
func flatRequests() []message {
	return []message{
		&LogModel{}, &CreateLoggedModel{}, &FinalizeLoggedModel{}, &LogLoggedModelParams{}, &SetLoggedModelTags{}, &GetLoggedModel{},
		&SearchDatasets{}, &GetMetricHistoryBulk{}, &GetMetricHistoryBulkInterval{}, &PresignedUploadURL{}, &PresignedDownloadURL{},
		&Dataset{}, &ModelInput{}, &ModelOutput{}, &DatasetName{}, &LoggedModelOrder{}, &WebhookEvent{}, &MultipartUploadPart{},
	}
}

// TestFieldsFillEveryMember sends each request type a value for each of its
// fields, and finds every member of the struct set, with the value of the field of
// its name.
func TestFieldsFillEveryMember(t *testing.T) {
	for _, req := range append(requests(), flatRequests()...) {
		var b strings.Builder
		b.WriteByte('{')
		fields := req.fields()
		var boolean string // there is one at most
		for i, f := range fields {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"` + f.name + `":`)
			switch f.dst.(type) {
			case *string, **string:
				b.WriteString(`"` + f.name + `"`)
			case *bool, **bool:
				boolean = f.name
				b.WriteString("true")
			case *[]string:
				b.WriteString(`["` + f.name + `"]`)
			case *[]Tag, *[]Param:
				b.WriteString(`[{"key":"` + f.name + `","value":"v"}]`)
			case *[]Metric:
				b.WriteString(`[{"key":"` + f.name + `","value":1,"timestamp":1}]`)
			case objects[WebhookEvent, *WebhookEvent]:
				b.WriteString(`[{"entity":"e","action":"a"}]`)
			case objects[MultipartUploadPart, *MultipartUploadPart]:
				b.WriteString(`[{"part_number":1,"etag":"x"}]`)
			case optionalObject[WebhookEvent, *WebhookEvent]:
				b.WriteString(`{"entity":"e","action":"a"}`)
			case *int64, **int64, *float64:
				b.WriteString(strconv.Itoa(i + 1))
			default:
				b.WriteString("1")
			}
		}
		b.WriteByte('}')
		if err := decodeBytes([]byte(b.String()), req); err != nil {
			t.Errorf("%T: %s: %v", req, b.String(), err)
		}
		var check func(v reflect.Value)
		check = func(v reflect.Value) {
			for i := range v.NumField() {
				member, name := v.Type().Field(i).Name, ""
				if v.Field(i).IsZero() {
					if v.Type() != reflect.TypeFor[MetricLink]() || member != "RunID" {
						t.Errorf("%T: %s: nothing sets %s", req, b.String(), member)
					}
					continue
				}
				switch value := reflect.Indirect(v.Field(i)).Interface().(type) {
				case string:
					name = value
				case bool:
					name = boolean
				case int64:
					name = fields[value-1].name
				case float64:
					name = fields[int(value)-1].name
				case []string:
					name = value[0]
				case []Tag:
					name = value[0].Key
				case []Param:
					name = value[0].Key
				case []Metric:
					name = value[0].Key
				case MetricLink, DatasetName:
					check(reflect.Indirect(v.Field(i)))
					continue
				default:
					continue
				}
				if !strings.Contains(strings.ReplaceAll(name, "_", ""), strings.TrimSuffix(strings.ToLower(member), "s")) {
					t.Errorf("%T: %s has the value of %s", req, member, name)
				}
			}
		}
		check(reflect.ValueOf(req).Elem())
	}
}
