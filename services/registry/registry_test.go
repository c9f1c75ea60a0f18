package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/webhooks"
)

const (
	seeDocs = " See the API docs for more information about request parameters."
	runID   = "0123456789abcdef0123456789abcdef"
	localID = "11111111111111111111111111111111"
)

func openLog(t testing.TB, nc *nats.Conn) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// server is one registry process.
type server struct {
	t       testing.TB
	service *registry.Service
	dir     string
	echo    *echo.Echo
}

func start(t testing.TB, log *eventlog.Log, dir string) *server {
	t.Helper()
	return startWith(t, registry.Config{Log: log, Dir: dir})
}

func startWith(t testing.TB, c registry.Config) *server {
	t.Helper()
	c.Registerer = prometheus.NewRegistry()
	c.Webhooks = webhooks.Options{
		KeyFile: filepath.Join(filepath.Dir(c.Dir), "webhook.key"), Schemes: []string{"http"}, AllowPrivate: true, FirstWait: 10 * time.Millisecond,
	}
	service, err := registry.New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	service.Register(e)
	return &server{t: t, service: service, dir: c.Dir, echo: e}
}

func (s *server) close() {
	s.t.Helper()
	if err := s.service.Close(); err != nil {
		s.t.Error(err)
	}
}

func newServer(t testing.TB) *server {
	t.Helper()
	s := start(t, openLog(t, natstest.Start(t)), t.TempDir())
	t.Cleanup(s.close)
	return s
}

type answer struct {
	status int
	header http.Header
	body   map[string]any
}

// send sends a request of MLflow's API: fields in the query of a GET, in the
// body else.
func (s *server) send(method, path string, fields map[string]any, headers ...string) answer {
	s.t.Helper()
	return s.raw(method, "/api/2.0/mlflow/"+path, fields, headers...)
}

func (s *server) raw(method, path string, fields map[string]any, headers ...string) answer {
	s.t.Helper()
	var req *http.Request
	if method == http.MethodGet {
		query := url.Values{}
		for k, v := range fields {
			if list, ok := v.([]string); ok {
				query[k] = list
				continue
			}
			query.Set(k, fmt.Sprint(v))
		}
		if len(query) > 0 {
			path += "?" + query.Encode()
		}
		req = httptest.NewRequestWithContext(s.t.Context(), method, path, nil)
	} else {
		body, err := json.Marshal(fields)
		if err != nil {
			s.t.Fatal(err)
		}
		req = httptest.NewRequestWithContext(s.t.Context(), method, path, bytes.NewReader(body))
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	rec := httptest.NewRecorder()
	s.echo.ServeHTTP(rec, req)
	a := answer{status: rec.Code, header: rec.Header()}
	if err := json.Unmarshal(rec.Body.Bytes(), &a.body); err != nil {
		s.t.Fatalf("%s %s: %d %q: %v", method, path, rec.Code, rec.Body, err)
	}
	return a
}

// must sends a request that has to succeed.
func (s *server) must(method, path string, fields map[string]any) map[string]any {
	s.t.Helper()
	a := s.send(method, path, fields)
	if a.status != http.StatusOK {
		s.t.Fatalf("%s %s %v: %d %v", method, path, fields, a.status, a.body)
	}
	return a.body
}

type fields = map[string]any

func (s *server) model(name string) map[string]any {
	s.t.Helper()
	return s.must("GET", "registered-models/get", fields{"name": name})["registered_model"].(map[string]any)
}

func (s *server) version(name, version string) map[string]any {
	s.t.Helper()
	return s.must("GET", "model-versions/get", fields{"name": name, "version": version})["model_version"].(map[string]any)
}

func (s *server) entries(name string) []map[string]any {
	s.t.Helper()
	var all []map[string]any
	query := fields{"max_results": "3"}
	for {
		a := s.raw("GET", "/api/v1/models/"+url.PathEscape(name)+"/history", query)
		if a.status != http.StatusOK {
			s.t.Fatalf("history of %q: %d %v", name, a.status, a.body)
		}
		for _, e := range a.body["entries"].([]any) {
			all = append(all, e.(map[string]any))
		}
		token := a.body["next_page_token"].(string)
		if token == "" {
			return all
		}
		query["page_token"] = token
	}
}

func (s *server) size() float64 {
	s.t.Helper()
	return s.raw("GET", "/api/v1/registry/tree", nil).body["size"].(float64)
}

// addRun logs a run whose artifacts are at uri.
func addRun(t testing.TB, log *eventlog.Log, id, uri string) {
	t.Helper()
	stream, subject := log.RunSubject("1", id, events.KindMeta)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(subject, events.New("/test", "tester", time.Now()), &events.Event{Data: &events.Event_RunCreated{
			RunCreated: &events.RunCreated{RunId: id, ExperimentId: "1", ArtifactUri: uri},
		}}, eventlog.Expect{}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAnswersToBadInput(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	addRun(t, log, runID, "mlflow-artifacts:/1/"+runID+"/artifacts")
	addRun(t, log, localID, "file:///shared/"+localID+"/artifacts")
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.must("POST", "registered-models/create", fields{"name": "m"})
	s.must("POST", "registered-models/create", fields{"name": "taken"})
	s.must("POST", "registered-models/create", fields{"name": "prompt", "tags": []fields{{"key": "mlflow.prompt.is_prompt", "value": "true"}}})
	s.must("POST", "model-versions/create", fields{"name": "m", "source": "s3://bucket/model"})
	s.must("POST", "model-versions/create", fields{"name": "m", "source": "runs:/" + runID + "/model", "run_id": runID})
	s.must("DELETE", "model-versions/delete", fields{"name": "m", "version": "2"})

	const (
		bad     = "INVALID_PARAMETER_VALUE"
		missing = "RESOURCE_DOES_NOT_EXIST"
		exists  = "RESOURCE_ALREADY_EXISTS"
		create  = "model-versions/create"
		move    = "model-versions/transition-stage"
		alias   = "registered-models/alias"
	)
	owner := func(source string) string {
		return "Invalid model version source: '" + source + "'. The run_id request parameter must identify the resource that contains the source."
	}
	relative := func(source string) string {
		return "Invalid model version source: '" + source + "'. If supplying a source as an http, https, local file path, ftp, " +
			"objectstore, or mlflow-artifacts uri, an absolute path must be provided without relative path references present. " +
			"Please provide an absolute path."
	}
	local := func(source string) string {
		return "Invalid model version source: '" + source + "'. To use a local path as a model version source, the run_id request " +
			"parameter has to be specified and the local path has to be contained within the artifact directory of the run specified by the run_id."
	}
	cases := []struct {
		method, path string
		fields       fields
		status       int
		code, words  string
	}{
		{"POST", "registered-models/create", fields{}, 400, bad, "Missing value for required parameter 'name'." + seeDocs},
		{"POST", "registered-models/create", fields{"name": ""}, 400, bad, "Missing value for required parameter 'name'." + seeDocs},
		{"POST", "registered-models/create", fields{"name": 5}, 400, bad, "Invalid value 5 for parameter 'name' supplied:  Hint: Value was of type 'int'." + seeDocs},
		{"POST", "registered-models/create", fields{"name": "a/b"}, 400, bad, "Invalid model name 'a/b'. Names cannot contain '/' or ':'."},
		{"POST", "registered-models/create", fields{"name": "a:b"}, 400, bad, "Invalid model name 'a:b'. Names cannot contain '/' or ':'."},
		{"POST", "registered-models/create", fields{"name": "m"}, 400, exists, "Registered Model (name=m) already exists."},
		{"POST", "registered-models/create", fields{"name": "prompt"}, 400, exists, "Tried to create a registered model with name 'prompt', but the name is already taken by a prompt. MLflow does not allow creating a model and a prompt with the same name."},
		{"POST", "registered-models/create", fields{"name": "n", "tags": []fields{{"key": "a?", "value": "b"}}}, 400, bad, `Invalid value "a?" for parameter 'key' supplied: Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).`},
		{"POST", "registered-models/create", fields{"name": "n", "tags": []fields{{"key": "a", "value": strings.Repeat("b", 100_001)}}}, 400, bad, "'value' exceeds the maximum length of 100000 characters"},
		{"POST", "registered-models/create", fields{"name": strings.Repeat("n", 1001)}, 400, bad, "'name' exceeds the maximum length of 1000 bytes"},
		{"POST", "registered-models/create", fields{"name": "n", "description": strings.Repeat("d", 2<<20)}, 400, bad, "The request is too large: what it changes must fit in an event of 1032192 bytes"},
		{"GET", "registered-models/get", fields{"name": "zz"}, 404, missing, "Registered Model with name=zz not found"},
		{"GET", "registered-models/get", nil, 400, bad, "Missing value for required parameter 'name'." + seeDocs},
		{"PATCH", "registered-models/update", fields{"name": "zz", "description": "d"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", "registered-models/rename", fields{"name": "m"}, 400, bad, "Missing value for required parameter 'new_name'." + seeDocs},
		{"POST", "registered-models/rename", fields{"name": "zz", "new_name": "y"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", "registered-models/rename", fields{"name": "m", "new_name": "a/b"}, 400, bad, "Invalid model name 'a/b'. Names cannot contain '/' or ':'."},
		{"POST", "registered-models/rename", fields{"name": "m", "new_name": "taken"}, 400, exists, "Registered Model (name=taken) already exists."},
		{"DELETE", "registered-models/delete", fields{"name": "zz"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", "registered-models/get-latest-versions", fields{"name": "zz"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", "registered-models/get-latest-versions", fields{"name": "m", "stages": []string{"foo"}}, 400, bad, "Invalid Model Version stage: foo. Value must be one of None, Staging, Production, Archived."},
		{"POST", "registered-models/set-tag", fields{"name": "zz", "key": "k", "value": "v"}, 404, missing, "Registered Model with name=zz not found"},
		{"DELETE", "registered-models/delete-tag", fields{"name": "zz", "key": "k"}, 404, missing, "Registered Model with name=zz not found"},
		{"GET", "registered-models/search", fields{"max_results": "0"}, 400, bad, "Invalid value for max_results. It must be a positive integer, but got 0"},
		{"GET", "registered-models/search", fields{"max_results": "1001"}, 400, bad, `Invalid value "1001" for parameter 'max_results' supplied:  Hint: Value was of type 'str'.` + seeDocs},
		{"GET", "registered-models/search", fields{"page_token": "abc"}, 400, bad, "Invalid page token, could not base64-decode"},
		{"GET", "registered-models/search", fields{"filter": "name > 'a'"}, 400, bad, ""},
		{"GET", "registered-models/search", fields{"order_by": []string{"foo"}}, 400, bad, ""},
		{"GET", "model-versions/search", fields{"filter": "foo = 'a'"}, 400, bad, ""},
		{"GET", "model-versions/search", fields{"max_results": "0"}, 400, bad, "Invalid value for max_results. It must be a positive integer, but got 0"},
		{"POST", create, fields{"name": "m"}, 400, bad, "Missing value for required parameter 'source'." + seeDocs},
		{"POST", create, fields{"source": "s3://b/m"}, 400, bad, "Missing value for required parameter 'name'." + seeDocs},
		{"POST", create, fields{"name": "zz", "source": "s3://b/m"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", create, fields{"name": "m", "source": "/etc/passwd"}, 400, bad, local("/etc/passwd")},
		{"POST", create, fields{"name": "m", "source": "file:///etc", "run_id": runID}, 400, bad, local("/etc")},
		{"POST", create, fields{"name": "m", "source": "/shared/" + localID + "/artifacts/../../x", "run_id": localID}, 400, bad, local("/shared/x")},
		{"POST", create, fields{"name": "m", "source": "/shared/" + localID + "/artifacts/%2e%2e/%2e%2e/x", "run_id": localID}, 400, bad, local("/shared/x")},
		{"POST", create, fields{"name": "m", "source": "relative/path", "run_id": localID}, 400, bad, local("relative/path")},
		{"POST", create, fields{"name": "m", "source": "mlflow-artifacts:/1/../x"}, 400, bad, relative("mlflow-artifacts:/1/../x")},
		{"POST", create, fields{"name": "m", "source": "s3://b/%252e%252e/x"}, 400, bad, relative("s3://b/%252e%252e/x")},
		{"POST", create, fields{"name": "m", "source": "http://h/a%00"}, 400, bad, relative("http://h/a%00")},
		{"POST", create, fields{"name": "m", "source": "s3://bucket"}, 400, bad, relative("s3://bucket")},
		{"POST", create, fields{"name": "m", "source": "runs:/" + runID + "/model"}, 400, bad, owner("runs:/" + runID + "/model")},
		{"POST", create, fields{"name": "m", "source": "runs:/" + runID + "/model", "run_id": localID}, 400, bad, owner("runs:/" + runID + "/model")},
		{"POST", create, fields{"name": "m", "source": "runs://h/" + runID + "/model", "run_id": runID}, 400, bad, owner("runs://h/" + runID + "/model")},
		{"POST", create, fields{"name": "zz", "source": "mlflow-artifacts:/1/x"}, 400, bad, owner("mlflow-artifacts:/1/x")},
		{"POST", create, fields{"name": "m", "source": "mlflow-artifacts:/1/x", "run_id": strings.Repeat("0", 32)}, 400, bad, owner("mlflow-artifacts:/1/x")},
		{"POST", create, fields{"name": "m", "source": "mlflow-artifacts:/1/x", "run_id": runID}, 400, bad, owner("mlflow-artifacts:/1/x")},
		{"POST", create, fields{"name": "m", "source": "http://h/api/2.0/mlflow-artifacts/artifacts/1/x", "run_id": runID}, 400, bad, owner("http://h/api/2.0/mlflow-artifacts/artifacts/1/x")},
		{"POST", create, fields{"name": "m", "source": "models:/zz/1"}, 404, missing, "Registered Model with name=zz not found"},
		{"POST", create, fields{"name": "m", "source": "models:/m/9"}, 404, missing, "Model Version (name=m, version=9) not found"},
		{"POST", create, fields{"name": "m", "source": "models:/m@nope"}, 400, bad, "Registered model alias nope not found."},
		{"POST", create, fields{"name": "m", "source": "models:/m/Production"}, 400, bad, "No versions of model with name 'm' and stage 'Production' found"},
		{"POST", create, fields{"name": "m", "source": "models:/m-123"}, 400, bad, "Invalid model version source: 'models:/m-123'. The model_id request parameter must identify the resource that contains the source."},
		{"POST", create, fields{"name": "m", "source": "models:/prompt/1"}, 400, bad, "Invalid model version source: 'models:/prompt/1'. Prompt versions cannot be used as model version sources."},
		{"POST", create, fields{"name": "m", "source": "models:/m/1", "run_id": runID}, 400, bad, "Invalid model version source: 'models:/m/1'. The run_id and model_id request parameters must match the referenced model version."},
		{"POST", create, fields{"name": "prompt", "source": "x", "tags": []fields{{"key": "mlflow.prompt.is_prompt", "value": "True"}}}, 400, bad, "Invalid prompt source: 'x'. Prompt sources must use an MLflow placeholder."},
		{"GET", "model-versions/get", fields{"name": "m", "version": "99"}, 404, missing, "Model Version (name=m, version=99) not found"},
		{"GET", "model-versions/get", fields{"name": "m", "version": "2"}, 404, missing, "Model Version (name=m, version=2) not found"},
		{"GET", "model-versions/get", fields{"name": "m", "version": "abc"}, 400, bad, "Parameter 'version' must be an integer, got 'abc'."},
		{"GET", "model-versions/get", fields{"name": "m", "version": "-1"}, 404, missing, "Model Version (name=m, version=-1) not found"},
		{"GET", "model-versions/get", fields{"name": "zz", "version": "1"}, 404, missing, "Model Version (name=zz, version=1) not found"},
		{"GET", "model-versions/get-download-uri", fields{"name": "m", "version": "99"}, 404, missing, "Model Version (name=m, version=99) not found"},
		{"PATCH", "model-versions/update", fields{"name": "m", "version": "99", "description": "d"}, 404, missing, "Model Version (name=m, version=99) not found"},
		{"DELETE", "model-versions/delete", fields{"name": "m", "version": "2"}, 404, missing, "Model Version (name=m, version=2) not found"},
		{"POST", "model-versions/set-tag", fields{"name": "m", "version": "99", "key": "k", "value": "v"}, 404, missing, "Model Version (name=m, version=99) not found"},
		{"POST", move, fields{"name": "m", "version": "1", "stage": "foo"}, 400, bad, "Invalid Model Version stage: foo. Value must be one of None, Staging, Production, Archived."},
		{"POST", move, fields{"name": "m", "version": "1"}, 400, bad, "Missing value for required parameter 'stage'." + seeDocs},
		{"POST", move, fields{"name": "m", "version": "1", "stage": "None", "archive_existing_versions": true}, 400, bad, "Model version transition cannot archive existing model versions because 'None' is not an Active stage. Valid stages are ['Staging', 'Production']"},
		{"POST", move, fields{"name": "m", "version": "9", "stage": "Staging"}, 404, missing, "Model Version (name=m, version=9) not found"},
		{"POST", alias, fields{"name": "m", "alias": "Latest", "version": "1"}, 400, bad, "'latest' alias name (case insensitive) is reserved."},
		{"POST", alias, fields{"name": "m", "alias": "V12", "version": "1"}, 400, bad, "Version alias name 'V12' is reserved."},
		{"POST", alias, fields{"name": "m", "alias": "a b", "version": "1"}, 400, bad, "Invalid alias name: 'a b'. Names may only contain alphanumerics, underscores (_), and dashes (-)."},
		{"POST", alias, fields{"name": "m", "alias": strings.Repeat("x", 256), "version": "1"}, 400, bad, "'Registered model alias name' exceeds the maximum length of 255 characters"},
		{"POST", alias, fields{"name": "m", "alias": "q", "version": "99"}, 404, missing, "Model Version (name=m, version=99) not found"},
		{"POST", alias, fields{"name": "zz", "alias": "q", "version": "1"}, 404, missing, "Model Version (name=zz, version=1) not found"},
		{"POST", alias, fields{"name": "m", "alias": "q", "version": "abc"}, 400, bad, "Parameter 'version' must be an integer, got 'abc'."},
		{"GET", alias, fields{"name": "m", "alias": "nope"}, 400, bad, "Registered model alias nope not found."},
		{"GET", alias, fields{"name": "zz", "alias": "nope"}, 404, missing, "Registered Model with name=zz not found"},
		{"GET", alias, fields{"name": "taken", "alias": "latest"}, 404, missing, "Latest version not found for model taken."},
		{"DELETE", alias, fields{"name": "zz", "alias": "nope"}, 404, missing, "Registered Model with name=zz not found"},
	}
	size := s.size()
	for _, c := range cases {
		name := fmt.Sprintf("%s %s %.120v", c.method, c.path, c.fields)
		a := s.send(c.method, c.path, c.fields)
		if a.status != c.status || a.body["error_code"] != c.code || c.words != "" && a.body["message"] != c.words {
			t.Errorf("%s\n got %d %v\nwant %d %s %s", name, a.status, a.body, c.status, c.code, c.words)
		}
	}
	if got := s.size(); got != size {
		t.Errorf("the ledger grew from %v to %v entries", size, got)
	}
	for _, ok := range []string{"", "nope"} {
		a := s.raw("GET", "/api/v1/models/zz/history"+ok, nil)
		if a.status != 404 {
			t.Errorf("history of an unknown model: %d %v", a.status, a.body)
		}
	}
}

func toJSON(t testing.TB, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
