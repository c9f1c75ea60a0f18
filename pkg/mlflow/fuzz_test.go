package mlflow

import (
	"bytes"
	"errors"
	"math"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/runledger/runledger/pkg/apierr"
)

// readAny reads the next value into a map, a slice, a string, a jsontext.Value
// of a number, a bool or nil. Of members of the same name the last counts.
func readAny(d *jsontext.Decoder) (any, error) {
	switch d.PeekKind() {
	case jsontext.KindBeginObject:
		out := map[string]any{}
		for d.ReadToken(); d.PeekKind() == jsontext.KindString; {
			name, err := d.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if out[key], err = readAny(d); err != nil {
				return nil, err
			}
		}
		_, err := d.ReadToken()
		return out, err
	case jsontext.KindBeginArray:
		out := []any{}
		d.ReadToken()
		for d.PeekKind() != jsontext.KindEndArray {
			v, err := readAny(d)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		_, err := d.ReadToken()
		return out, err
	case jsontext.KindNumber:
		raw, err := d.ReadValue()
		return raw.Clone(), err
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, err
	}
	switch t.Kind() {
	case jsontext.KindString:
		return t.String(), nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return t.Bool(), nil
	}
	return nil, nil
}

// slowBatch reads a log-batch body the slow way: into maps first, as MLflow
// does. ok is false when the request is to be refused.
func slowBatch(body []byte) (b LogBatch, ok bool) {
	body, err := plainText(body)
	if err != nil {
		return b, false
	}
	top, valid := slowObject(body)
	if s, isString := top.(string); valid && isString {
		top, valid = slowObject([]byte(s))
		if _, twice := top.(string); twice {
			valid = false
		}
	}
	m, isObject := top.(map[string]any)
	if !valid || !isObject {
		return b, false
	}
	ok = true
	str := func(v any, required bool) string {
		s, isString := v.(string)
		ok = ok && (isString || v == nil) && (s != "" || !required)
		return s
	}
	integer := func(v any, required bool) int64 {
		if v == nil {
			ok = ok && !required
			return 0
		}
		n, good := slowInt(v)
		ok = ok && good
		return n
	}
	list := func(v any) []map[string]any {
		items, isList := v.([]any)
		ok = ok && (isList || v == nil)
		var out []map[string]any
		for _, item := range items {
			o, isObject := item.(map[string]any)
			ok = ok && isObject
			out = append(out, o)
		}
		return out
	}
	if id, isString := m["run_id"].(string); isString && id != "" {
		b.RunID = id
	} else if m["run_id"] == nil || isString {
		s, _ := m["run_uuid"].(string)
		b.RunID = str(s, true)
	} else {
		ok = false
	}
	for _, o := range list(m["metrics"]) {
		value, good := slowFloat(o["value"])
		ok = ok && good
		b.Metrics = append(b.Metrics, Metric{
			Key: str(o["key"], true), Value: value, Timestamp: integer(o["timestamp"], true), Step: integer(o["step"], false),
			Link: MetricLink{ModelID: str(o["model_id"], false), DatasetName: str(o["dataset_name"], false), DatasetDigest: str(o["dataset_digest"], false)}.orNil(),
		})
	}
	for _, o := range list(m["params"]) {
		b.Params = append(b.Params, Param{str(o["key"], true), str(o["value"], false)})
	}
	for _, o := range list(m["tags"]) {
		b.Tags = append(b.Tags, Tag{str(o["key"], true), str(o["value"], false)})
	}
	return b, ok
}

func slowObject(body []byte) (any, bool) {
	if len(bytes.TrimLeft(body, " \t\r\n")) == 0 {
		return nil, false
	}
	if !jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)) {
		quoted, changed := quoteNonFinite(body)
		if !changed || !jsontext.Value(quoted).IsValid(jsontext.AllowDuplicateNames(true)) {
			return nil, false
		}
		body = quoted
	}
	v, err := readAny(jsontext.NewDecoder(bytes.NewReader(body), jsontext.AllowDuplicateNames(true)))
	return v, err == nil
}

func slowInt(v any) (int64, bool) {
	text, isString := v.(string)
	if raw, isNumber := v.(jsontext.Value); isNumber {
		text = string(raw)
	} else if !isString || strings.Contains(text, " ") {
		return 0, false
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, true
	} else if errors.Is(err, strconv.ErrRange) {
		return 0, false
	}
	f, ok := slowFloatText(text)
	if !ok || f != math.Floor(f) || f < -(1<<63) || f >= 1<<63 {
		return 0, false
	}
	return int64(f), true
}

func slowFloat(v any) (float64, bool) {
	if b, ok := v.(bool); ok {
		if b {
			return 1, true
		}
		return 0, true
	}
	if raw, isNumber := v.(jsontext.Value); isNumber {
		f, ok := slowFloatText(string(raw))
		return f, ok && !math.IsInf(f, 0)
	}
	s, isString := v.(string)
	if !isString || s == "nan" {
		return 0, false
	}
	return slowFloatText(s)
}

func slowFloatText(s string) (float64, bool) {
	f, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	return f, (err == nil || errors.Is(err, strconv.ErrRange)) && !strings.ContainsAny(s, "xX_")
}

func sameBatch(a, b LogBatch) bool {
	if len(a.Metrics) != len(b.Metrics) {
		return false
	}
	for i := range a.Metrics {
		x, y := a.Metrics[i], b.Metrics[i]
		if math.IsNaN(x.Value) && math.IsNaN(y.Value) {
			x.Value, y.Value = 0, 0
		}
		if x != y {
			return false
		}
	}
	a.Metrics, b.Metrics = nil, nil
	return reflect.DeepEqual(a, b)
}

// checkRefusal fails the test unless err is a caller's error with a message.
func checkRefusal(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*apierr.Error](err)
	if !ok || e.Code != apierr.InvalidParameterValue || e.Message == "" {
		t.Fatalf("got %v", err)
	}
}

// FuzzLogBatch checks that reading a batch straight from the text gives what
// reading it into maps first does.
func FuzzLogBatch(f *testing.F) {
	for _, s := range []string{
		`{"run_id":"r","metrics":[{"key":"a","value":1.5,"timestamp":1,"step":2}],"params":[{"key":"p","value":"v"}],"tags":[{"key":"t"}]}`,
		`{"run_uuid":"r","metrics":[{"key":"\u0061","value":"NaN","timestamp":"1","step":3.0},{"key":"a","value":NaN,"timestamp":1}]}`,
		`"{\"run_id\":\"r\",\"metrics\":null}"`,
		`{"run_id":"r","metrics":[{"key":"a","key":null,"value":-Infinity,"timestamp":1}],"metrics":[{}]}`,
		`{"run_id":"r","metrics":[{"key":"a","value":true,"timestamp":1e3}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got LogBatch
		err := decodeBytes(body, &got)
		want, ok := slowBatch(body)
		if ok != (err == nil) {
			t.Fatalf("fast: %v, slow: ok=%t", err, ok)
		}
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if !sameBatch(got, want) {
			t.Fatalf("fast %+v\nslow %+v", got, want)
		}
		if err := ValidateBatch(&got); err != nil {
			checkRefusal(t, err)
		}
	})
}

// FuzzDecode checks that no body and no query makes any request type panic, or
// fail other than with the caller's error.
func FuzzDecode(f *testing.F) {
	f.Add(`{"name":"m","tags":[{"key":"a","value":"b"}],"description":null}`, "name=m&version=1")
	f.Add(`{"run_id":"r","status":"FINISHED","end_time":"5","max_results":1e2}`, "run_id=r&max_results=-1&order_by=a&order_by=b")
	f.Add(`[[[{"a":1}]]]`, "%zz=%ff&archive_existing_versions=tRue")
	f.Add(`{"name":{"b":1e999,"a":["\ud800"]}}`, "run_uuid=&view_type=9")
	f.Fuzz(func(t *testing.T, body, query string) {
		args, _ := url.ParseQuery(query)
		for _, req := range append(requests(), nestedRequests()...) {
			if err := decodeBytes([]byte(body), req); err != nil {
				checkRefusal(t, err)
			} else {
				checkCanonical(t, req)
			}
			if err := DecodeQuery(args, req); err != nil {
				checkRefusal(t, err)
			}
		}
	})
}

// FuzzValidate checks that no text makes a validator or a page token panic,
// and that what a message shows of it is valid UTF-8 in an answer.
func FuzzValidate(f *testing.F) {
	for _, s := range []string{"", "a/../b", "//", "..", "é$", "\xff", "%252e", "eyJvZmZzZXQiOjF9", "v1", strings.Repeat("é", 251)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, stageErr := ValidateStage(s)
		_, versionErr := ValidateVersion(s)
		path, pathErr := ValidateArtifactPath(s)
		_, tokenErr := DecodePageToken[int](s)
		p, tag := Param{s, s}, Tag{s, s}
		_, urlErr := ValidateWebhookURL(s, []string{"https", "http"})
		_, eventsErr := ValidateWebhookEvents([]WebhookEvent{{s, s}})
		_, actionErr := ValidateWebhookEvents([]WebhookEvent{{"PROMPT", s}})
		for _, err := range []error{
			ValidateMetric(Metric{Key: s}), ValidateParam(&p), ValidateTag(&tag), ValidateRegistryTag(Tag{s, s}),
			ValidateExperimentTag(Tag{s, s}), ValidateRunID(s), ValidateExperimentID(s), ValidateExperimentName(s),
			ValidateArtifactLocation(s), ValidateModelName(s), ValidateNewModelName(s), ValidateAlias(s), ValidateNewAlias(s),
			pathErr, stageErr, versionErr, tokenErr, urlErr, eventsErr, actionErr,
			ValidateWebhookName(s), ValidateWebhookTexts(s, s), ValidateWebhookStatus(s), ValidateVersionTag(Tag{s, s}),
		} {
			if err != nil {
				checkRefusal(t, err)
			}
		}
		if pathErr == nil && (strings.HasPrefix(path, "/") || strings.Contains("/"+path+"/", "/../")) {
			t.Fatalf("%q is taken for a safe path", s)
		}
		if again, err := ValidateArtifactPath(path); pathErr == nil && (again != path || err != nil) {
			t.Fatalf("%q is at %q, which is at %q, %v", s, path, again, err)
		}
	})
}
