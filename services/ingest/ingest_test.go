package ingest_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/httpapi"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/ingest"
)

func openLog(t testing.TB) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{Shards: 2})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// serve starts an ingest service on a log and returns its address.
func serve(t testing.TB, log *eventlog.Log, cacheBytes int) string {
	t.Helper()
	return start(t, ingest.Config{Log: log, CacheBytes: cacheBytes})
}

func start(t testing.TB, config ingest.Config) string {
	t.Helper()
	_, url := startService(t, config)
	return url
}

func startService(t testing.TB, config ingest.Config) (*ingest.Service, string) {
	t.Helper()
	return startWith(t, config, httpapi.Config{})
}

func startWith(t testing.TB, config ingest.Config, server httpapi.Config) (*ingest.Service, string) {
	t.Helper()
	registry := prometheus.NewRegistry()
	config.Registerer = registry
	s, err := ingest.New(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	server.Logger, server.Registry = slog.New(slog.DiscardHandler), registry
	e := httpapi.New(server)
	s.Register(e)
	listening := httptest.NewServer(e)
	t.Cleanup(func() {
		listening.Close()
		s.Close()
	})
	return s, listening.URL
}

type object = map[string]any

type reply struct {
	status int
	body   object
	stream string
	seq    uint64

	retryAfter string
}

func (r reply) code() string { s, _ := r.body["error_code"].(string); return s }

func (r reply) message() string { s, _ := r.body["message"].(string); return s }

func call(t testing.TB, url, path string, request object, headers ...string) reply {
	t.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	return send(t, url+"/api/2.0/mlflow"+path, data, append([]string{"Content-Type", "application/json"}, headers...)...)
}

// send posts a body as it is; headers are names and values in turn.
func send(t testing.TB, url string, body []byte, headers ...string) reply {
	t.Helper()
	return exchange(t, http.MethodPost, url, body, headers...)
}

// exchange sends a request of any method.
func exchange(t testing.TB, method, url string, body []byte, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, stream: resp.Header.Get(httpapi.HeaderStream), retryAfter: resp.Header.Get("Retry-After")}
	if err := json.Unmarshal(data, &r.body); err != nil {
		t.Fatalf("%s: %s: %v", url, data, err)
	}
	r.seq, _ = strconv.ParseUint(resp.Header.Get(httpapi.HeaderSeq), 10, 64)
	return r
}

func must(t testing.TB, url, path string, request object, headers ...string) reply {
	t.Helper()
	r := call(t, url, path, request, headers...)
	if r.status != 200 {
		t.Fatalf("%s %v: %d %v", path, request, r.status, r.body)
	}
	return r
}

func createRun(t testing.TB, url string, request object, headers ...string) (id string, info object) {
	t.Helper()
	if request["experiment_id"] == nil {
		request["experiment_id"] = "0"
	}
	run := must(t, url, "/runs/create", request, headers...).body["run"].(object)
	info = run["info"].(object)
	return info["run_id"].(string), info
}

func createExperiment(t testing.TB, url, name string) string {
	t.Helper()
	return must(t, url, "/experiments/create", object{"name": name}).body["experiment_id"].(string)
}

func all(t testing.TB, log *eventlog.Log, stream string) []eventlog.Record {
	t.Helper()
	var recs []eventlog.Record
	for rec, err := range log.Read(t.Context(), stream, "", 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

func length(t testing.TB, log *eventlog.Log) (n uint64) {
	t.Helper()
	for _, stream := range log.Streams() {
		seq, err := log.LastSeq(t.Context(), stream)
		if err != nil {
			t.Fatal(err)
		}
		n += seq
	}
	return n
}

func TestRefusalsAreMLflowsAndLeaveNoTrace(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	run, _ := createRun(t, url, object{})
	must(t, url, "/runs/log-parameter", object{"run_id": run, "key": "lr", "value": "0.1"})
	deleted, _ := createRun(t, url, object{})
	must(t, url, "/runs/delete", object{"run_id": deleted})
	gone := createExperiment(t, url, "gone")
	must(t, url, "/experiments/delete", object{"experiment_id": gone})
	kept := createExperiment(t, url, "kept")
	unknown := strings.Repeat("0", 32)
	inactive := "The run " + deleted + " must be in the 'active' state. Current state is deleted."
	point := object{"key": "m", "value": 1, "timestamp": 1}

	for _, tc := range []struct {
		path    string
		request object
		status  int
		message string
	}{
		{"/runs/log-metric", object{"run_id": unknown, "key": "m", "value": 1, "timestamp": 1}, 404, "Run with id=" + unknown + " not found"},
		{"/runs/log-metric", object{"run_id": "a/b", "key": "m", "value": 1, "timestamp": 1}, 404, "Run with id=a/b not found"},
		{"/runs/log-batch", object{"run_id": unknown}, 404, "Run with id=" + unknown + " not found"},
		{"/runs/update", object{"run_id": unknown}, 404, "Run with id=" + unknown + " not found"},
		{"/runs/delete", object{"run_id": unknown}, 404, "Run with id=" + unknown + " not found"},
		{"/runs/log-metric", object{"run_id": deleted, "key": "m", "value": 1, "timestamp": 1}, 400, inactive},
		{"/runs/log-parameter", object{"run_id": deleted, "key": "p", "value": "1"}, 400, inactive},
		{"/runs/set-tag", object{"run_id": deleted, "key": "t", "value": "1"}, 400, inactive},
		{"/runs/delete-tag", object{"run_id": deleted, "key": "mlflow.runName"}, 400, inactive},
		{"/runs/log-batch", object{"run_id": deleted}, 400, inactive},
		{"/runs/update", object{"run_id": deleted, "status": "FINISHED"}, 400, inactive},
		{"/runs/log-parameter", object{"run_id": run, "key": "lr", "value": "0.2"}, 400, "Changing param values is not allowed. Param with key='lr' was already logged with value='0.1' for run ID='" + run + "'. Attempted logging new value '0.2'."},
		{"/runs/log-batch", object{"run_id": run, "metrics": []object{point}, "tags": []object{{"key": "t", "value": "v"}}, "params": []object{{"key": "lr", "value": "0.3"}, {"key": "new", "value": "1"}}}, 400, "Changing param values is not allowed. Params were already logged='[{'key': 'lr', 'old_value': '0.1', 'new_value': '0.3'}]' for run ID='" + run + "'."},
		{"/runs/log-batch", object{"run_id": run, "params": []object{{"key": "d", "value": "1"}, {"key": "d", "value": "1"}}}, 400, "Duplicate parameter keys have been submitted: ['d']. Please ensure the request contains only one param value per param key."},
		{"/runs/delete-tag", object{"run_id": run, "key": "nope"}, 404, "No tag with name: nope in run with id " + run},
		{"/runs/create", object{"experiment_id": "99"}, 404, "No Experiment with id=99 exists"},
		{"/runs/create", object{"experiment_id": gone}, 400, "The experiment " + gone + " must be in the 'active' state. Current state is deleted."},
		{"/runs/create", object{"experiment_id": "0", "run_name": "a", "tags": []object{{"key": "mlflow.runName", "value": "b"}}}, 400, "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with different values (run_name='a', mlflow.runName='b')."},
		{"/runs/create", object{"experiment_id": "0", "tags": []object{{"key": "k", "value": strings.Repeat("x", 1000)}, {"key": strings.Repeat("k", 2<<20), "value": "v"}}}, 400, ""},
		{"/experiments/create", object{"name": "kept"}, 400, "Experiment(name=kept) already exists."},
		{"/experiments/create", object{"name": "gone"}, 400, "Experiment(name=gone) already exists."},
		{"/experiments/update", object{"experiment_id": kept, "new_name": "gone"}, 400, "Experiment(name=gone) already exists."},
		{"/experiments/update", object{"experiment_id": gone, "new_name": "other"}, 400, "Cannot rename a non-active experiment."},
		{"/experiments/delete", object{"experiment_id": gone}, 404, "No Experiment with id=" + gone + " exists"},
		{"/experiments/restore", object{"experiment_id": kept}, 404, "No Experiment with id=" + kept + " exists"},
		{"/experiments/set-experiment-tag", object{"experiment_id": gone, "key": "k", "value": "v"}, 400, "The experiment " + gone + " must be in the 'active' state. Current state is deleted."},
		{"/experiments/delete-experiment-tag", object{"experiment_id": kept, "key": "zzz"}, 404, "No tag with name: zzz in experiment with id " + kept},
	} {
		before := length(t, log)
		r := call(t, url, tc.path, tc.request)
		if r.status != tc.status || tc.message != "" && r.message() != tc.message {
			t.Errorf("%s %.200v:\ngot  %d %.300v\nwant %d %s", tc.path, tc.request, r.status, r.body, tc.status, tc.message)
		}
		if after := length(t, log); after != before {
			t.Errorf("%s %.200v: refused, and %d events were written", tc.path, tc.request, after-before)
		}
	}
}

func TestWhatChangesNothingWritesNothing(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	run, _ := createRun(t, url, object{})
	must(t, url, "/runs/log-parameter", object{"run_id": run, "key": "lr", "value": "0.1"})
	before := length(t, log)
	must(t, url, "/runs/log-parameter", object{"run_id": run, "key": "lr", "value": "0.1"})
	must(t, url, "/runs/restore", object{"run_id": run})
	must(t, url, "/runs/update", object{"run_id": run, "run_name": ""})
	must(t, url, "/runs/log-batch", object{"run_id": run})
	must(t, url, "/experiments/update", object{"experiment_id": "0", "new_name": "Default"})
	if after := length(t, log); after != before {
		t.Errorf("%d events were written", after-before)
	}
}

func TestNameAndTagAreOne(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	for _, request := range []object{{}, {"run_name": "n"}, {"tags": []object{{"key": "mlflow.runName", "value": "n"}}}} {
		id, info := createRun(t, url, request)
		steps := []func(){
			func() {},
			func() { must(t, url, "/runs/update", object{"run_id": id, "run_name": "updated"}) },
			func() {
				must(t, url, "/runs/set-tag", object{"run_id": id, "key": "mlflow.runName", "value": "tagged"})
			},
			func() {
				must(t, url, "/runs/log-batch", object{"run_id": id, "tags": []object{{"key": "mlflow.runName", "value": "first"}, {"key": "mlflow.runName", "value": "last"}}})
			},
		}
		for i, step := range steps {
			step()
			name, tag := "", ""
			for _, rec := range all(t, log, events.RunsStream(events.Shard(id, 2))) {
				if events.RunOfSubject(rec.Subject) != id {
					continue
				}
				tags := slices.Concat(rec.GetRunCreated().GetTags(), rec.GetRunTagsSet().GetTags())
				for _, kv := range tags {
					if kv.GetKey() == "mlflow.runName" {
						tag = kv.GetValue()
					}
				}
				if c := rec.GetRunCreated(); c != nil {
					name = c.GetName()
				}
				if u := rec.GetRunUpdated(); u != nil && u.Name != nil {
					name = u.GetName()
				}
			}
			if name != tag || name == "" || i == 0 && info["run_name"] != name {
				t.Errorf("%v, step %d: name %q, tag %q, answered %v", request, i, name, tag, info["run_name"])
			}
		}
	}
}

// TestStaleCachesAreNotBelieved: what one service remembers of a run or an
// experiment is not what it says when the other has changed it, be it a
// success, a refusal or nothing to do.
func TestStaleCachesAreNotBelieved(t *testing.T) {
	log := openLog(t)
	a, b := serve(t, log, 0), serve(t, log, 0)
	id, _ := createRun(t, a, object{})
	param := func(value string) object { return object{"run_id": id, "key": "p", "value": value} }
	run := object{"run_id": id}
	point := object{"run_id": id, "key": "m", "value": 1, "timestamp": 1}
	inactive := "The run " + id + " must be in the 'active' state. Current state is deleted."
	for i, step := range []struct {
		url, path string
		request   object
		message   string // of a refusal
		written   uint64
	}{
		{a, "/runs/log-parameter", param("1"), "", 1},
		{b, "/runs/delete", run, "", 1},
		{a, "/runs/log-metric", point, inactive, 0},
		{b, "/runs/restore", run, "", 1},
		{a, "/runs/log-metric", point, "", 1},
		{b, "/runs/delete", run, "", 1},
		{a, "/runs/log-parameter", param("1"), inactive, 0}, // would change nothing
		{b, "/runs/restore", run, "", 1},
		{b, "/runs/delete", run, "", 1},
		{a, "/runs/log-parameter", param("2"), inactive, 0}, // would change a parameter
		{b, "/runs/restore", run, "", 1},
		{a, "/runs/restore", run, "", 0},
		{b, "/runs/delete", run, "", 1},
		{a, "/runs/restore", run, "", 1},
		{b, "/runs/set-tag", object{"run_id": id, "key": "t", "value": "v"}, "", 1},
		{a, "/runs/delete-tag", object{"run_id": id, "key": "t"}, "", 1},
		{b, "/runs/delete-tag", object{"run_id": id, "key": "t"}, "No tag with name: t in run with id " + id, 0},

		{a, "/experiments/create", object{"name": "e"}, "", 1},
		{b, "/experiments/create", object{"name": "e"}, "Experiment(name=e) already exists.", 0},
		{b, "/experiments/update", object{"experiment_id": "1", "new_name": "f"}, "", 1},
		{a, "/experiments/update", object{"experiment_id": "1", "new_name": "f"}, "", 0},
		{a, "/experiments/create", object{"name": "e"}, "", 1},
		{b, "/experiments/delete", object{"experiment_id": "1"}, "", 1},
		{a, "/runs/create", object{"experiment_id": "1"}, "The experiment 1 must be in the 'active' state. Current state is deleted.", 0},
		{a, "/experiments/delete", object{"experiment_id": "1"}, "No Experiment with id=1 exists", 0},
		{a, "/experiments/restore", object{"experiment_id": "1"}, "", 1},
		{b, "/runs/create", object{"experiment_id": "1"}, "", 1},
	} {
		before := length(t, log)
		r := call(t, step.url, step.path, step.request)
		if r.message() != step.message || (r.status == 200) != (step.message == "") || length(t, log) != before+step.written {
			t.Errorf("step %d, %s: %d %v, %d events, want %q and %d events",
				i, step.path, r.status, r.body, length(t, log)-before, step.message, step.written)
		}
	}
}

// TestFullLog: what the log did not take leaves nothing behind in the service
// either.
func TestFullLog(t *testing.T) {
	t.Attr("covers", "error-overload")
	nc := natstest.Start(t)
	open := func(maxBytes int64) *eventlog.Log {
		log, err := eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 1, MaxBytes: maxBytes})
		if err != nil {
			t.Fatal(err)
		}
		return log
	}
	url := serve(t, open(64<<10), 0)
	id, _ := createRun(t, url, object{})
	param := object{"run_id": id, "key": "p", "value": "1"}
	fill := func(path string, request func(i int) object) {
		for i := range 1000 {
			if r := call(t, url, path, request(i)); r.status != 200 {
				if r.status != 503 || r.code() != "TEMPORARILY_UNAVAILABLE" || r.retryAfter == "" {
					t.Fatalf("a full log answered %d %v, Retry-After %q", r.status, r.body, r.retryAfter)
				}
				return
			}
		}
		t.Fatal("the log did not fill up")
	}
	long := strings.Repeat("x", 1000)
	fill("/runs/set-tag", func(int) object { return object{"run_id": id, "key": "t", "value": long} })
	fill("/experiments/create", func(i int) object { return object{"name": fmt.Sprint("e", i, long[:400])} })
	for _, refused := range []struct {
		path    string
		request object
	}{
		{"/runs/log-parameter", param},
		{"/runs/log-parameter", object{"run_id": id, "key": "p", "value": "2"}},
		{"/runs/log-batch", object{"run_id": id, "params": []object{{"key": "p", "value": "3"}}, "tags": []object{{"key": "u", "value": ""}}}},
		{"/runs/delete-tag", object{"run_id": id, "key": "t"}},
		{"/runs/delete-tag", object{"run_id": id, "key": "t"}},
		{"/runs/delete", object{"run_id": id}},
		{"/runs/delete", object{"run_id": id}},
		{"/experiments/create", object{"name": "new" + long[:400]}},
		{"/experiments/create", object{"name": "new" + long[:400]}},
	} {
		if r := call(t, url, refused.path, refused.request); r.status != 503 {
			t.Errorf("%s: %d %v", refused.path, r.status, r.body)
		}
	}
	open(1 << 20)
	must(t, url, "/runs/log-parameter", param)
	must(t, url, "/runs/delete-tag", object{"run_id": id, "key": "t"})
	must(t, url, "/experiments/create", object{"name": "new" + long[:400]})
}

func TestTooMuchAtATime(t *testing.T) {
	t.Attr("covers", "error-overload")
	log := openLog(t)
	_, url := startWith(t, ingest.Config{Log: log}, httpapi.Config{BodyBytes: 200}) // of which a client gets half
	before := length(t, log)
	r := call(t, url, "/experiments/create", object{"name": strings.Repeat("e", 100)})
	if r.status != 429 || r.code() != "REQUEST_LIMIT_EXCEEDED" || r.retryAfter == "" || length(t, log) != before {
		t.Errorf("%d %v, Retry-After %q, %d events", r.status, r.body, r.retryAfter, length(t, log)-before)
	}
	// What was refused does not count for ever.
	must(t, url, "/experiments/create", object{"name": strings.Repeat("e", 80)})
}

// begin sends the headers of a request that announces a body, and the beginning of
// it, and returns the connection.
func begin(t *testing.T, url, from string, announced, sent int) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, err = fmt.Fprintf(conn, "POST /api/2.0/mlflow/runs/log-batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
		announced, strings.Repeat(" ", sent))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// bodyBytes returns what the service says it holds of bodies.
func bodyBytes(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\nrunledger_http_body_bytes ")
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// What is announced and does not come takes nothing from others, and one client
// cannot hold all that there is for bodies.
func TestBodiesThatHaveNotArrivedLockNobodyOut(t *testing.T) {
	const announced, limit = 4 << 20, 8 << 20
	_, url := startWith(t, ingest.Config{Log: openLog(t)}, httpapi.Config{BodyBytes: limit})
	arrived := func(bytes int) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			held, err := strconv.ParseFloat(bodyBytes(t, url), 64)
			if err == nil && held >= float64(bytes) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%v bytes are held, want %d: %v", held, bytes, err)
			}
		}
	}
	for range 50 {
		begin(t, url, "127.0.0.1", announced, 1)
	}
	arrived(50)
	must(t, url, "/experiments/create", object{"name": "beside bodies that do not come"})

	for range 2 {
		begin(t, url, "127.0.0.2", announced, limit/4-1000)
	}
	arrived(limit/2 - 2000)
	third := begin(t, url, "127.0.0.2", 10_000, 10_000)
	answer, err := http.ReadResponse(bufio.NewReader(third), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Body.Close(); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") == "" {
		t.Errorf("a client that holds its share: %d, Retry-After %q", answer.StatusCode, answer.Header.Get("Retry-After"))
	}
	must(t, url, "/experiments/create", object{"name": "beside a client that holds its share"})
}

func TestPointsArriveAsSent(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	id, _ := createRun(t, url, object{})
	const path = "/api/2.0/mlflow/runs/log-"
	jsonType := []string{"Content-Type", "application/json"}
	for _, r := range []reply{
		send(t, url+path+"metric", []byte(`{"run_id":"`+id+`","key":"nan","value":NaN,"timestamp":1}`), jsonType...),
		send(t, url+path+"metric", []byte(`{"run_uuid":"`+id+`","key":"inf","value":"-Infinity","timestamp":"2","step":-3}`), jsonType...),
		send(t, url+path+"batch", []byte(`{"run_id":"`+id+`","unknown":[{}],"metrics":[
			{"key":"a/b","value":1e308,"timestamp":9223372036854775807,"step":-9223372036854775808},
			{"key":"é 日","value":0.1,"timestamp":0,"step":9223372036854775807},
			{"key":"a/b","value":"Infinity","timestamp":5}]}`), jsonType...),
	} {
		if r.status != 200 {
			t.Fatalf("%d %v", r.status, r.body)
		}
	}
	var got []string
	for _, rec := range all(t, log, events.RunsStream(events.Shard(id, 2))) {
		for _, p := range rec.GetMetricsLogged().Points() {
			got = append(got, fmt.Sprint(p.Key, " ", p.Value, " ", p.Timestamp, " ", p.Step))
		}
	}
	want := []string{
		"nan NaN 1 0", "inf -Inf 2 -3", "a/b 1e+308 9223372036854775807 -9223372036854775808",
		"é 日 0.1 0 9223372036854775807", "a/b +Inf 5 0",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// TestMalformedRequests: what cannot be understood, or breaks a limit, is the
// client's error, in MLflow's words where it has some, and writes nothing.
func TestMalformedRequests(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	id, _ := createRun(t, url, object{})
	const see = " See the API docs for more information about request parameters."
	many := func(n int, format string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(format, i)
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	const metric, param = `{"key":"k%d","value":1,"timestamp":1}`, `{"key":"k%d","value":"1"}`
	long := strings.Repeat("k", 251)
	for _, tc := range []struct{ path, contentType, body, message string }{
		{"runs/log-metric", "text/plain", `{}`, "Bad Request. Content-Type must be one of ['application/json']."},
		{"runs/log-metric", "", `{}`, "Bad Request. Content-Type header is missing."},
		{"runs/log-metric", "", ``, "Bad Request. Content-Type header is missing."},
		{"runs/create", "application/json", `{"experiment_id":`, "The request body is not valid JSON, at byte 17."},
		{"runs/create", "application/json", `[]`, "The request body must be a JSON object."},
		{"runs/create", "application/json", "{\"experiment_id\":\"\xff\"}", "The request body is not valid UTF-8, at byte 18 of its text."},
		{"runs/create", "application/json", "\xff\xfe{", "The request body is not valid UTF-16, at byte 0 of its text."},
		{"runs/create", "application/json", `{"experiment_id":"abc"}`, "Invalid experiment ID 'abc'. Experiment ID must be a valid integer."},
		{"runs/create", "application/json", `{"experiment_id":"0","tags":[{"key":"a//b"}]}`, ""},
		{"runs/log-metric", "application/json", ``, "Missing value for required parameter 'run_id'." + see},
		{"runs/log-metric", "application/json", `{"run_id":"R","key":"k","timestamp":1}`, "Missing value for required parameter 'value'." + see},
		{"runs/log-metric", "application/json", `{"run_id":"R","key":"k","value":"abc","timestamp":1}`, "Invalid value \"abc\" for parameter 'value' supplied:  Hint: Value was of type 'str'." + see},
		{"runs/log-metric", "application/json", `{"run_id":"R","key":"k","value":1,"timestamp":-1}`, "Invalid value -1 for parameter 'timestamp' supplied: metric 'k' (value=1.0). Timestamp must be a nonnegative long (64-bit integer) "},
		{"runs/log-metric", "application/json", `{"run_id":"R","key":"` + long + `","value":1,"timestamp":1}`, "'Metric name' exceeds the maximum length of 250 characters"},
		{"runs/log-parameter", "application/json", `{"run_id":"R","key":"` + long + `","value":"1"}`, "'Param key' exceeds the maximum length of 250 characters"},
		{"runs/log-parameter", "application/json", `{"run_id":"R","key":"k","value":5}`, "Invalid value 5 for parameter 'value' supplied:  Hint: Value was of type 'int'." + see},
		{"runs/set-tag", "application/json", `{"run_id":"R","key":"` + long + `","value":"1"}`, "'key' exceeds the maximum length of 250 characters"},
		{"runs/set-tag", "application/json", `{"run_id":"R","key":"../x","value":"1"}`, ""},
		{"runs/log-batch", "application/json", `{"run_id":"R","metrics":` + many(1001, metric) + `}`, "A batch logging request can contain at most 1000 metrics. Got 1001 metrics. Please split up metrics across multiple requests and try again."},
		{"runs/log-batch", "application/json", `{"run_id":"R","params":` + many(101, param) + `}`, "A batch logging request can contain at most 100 params. Got 101 params. Please split up params across multiple requests and try again."},
		{"runs/log-batch", "application/json", `{"run_id":"R","metrics":` + many(1000, metric) + `,"params":` + many(1, param) + `}`, "A batch logging request can contain at most 1000 metrics, params, and tags. Got 1001 metrics, params, and tags. Please split up metrics, params, and tags across multiple requests and try again."},
		{"runs/log-batch", "application/json", `{"run_id":"R","metrics":[{"key":"k","value":1,"timestamp":1},{"key":"a?b","value":1,"timestamp":1}]}`, "Invalid value \"a?b\" for parameter 'metrics[1].name' supplied: Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/)."},
		{"runs/log-batch", "application/json", `{"run_id":"R","tags":[{"key":"t","value":"` + strings.Repeat("x", 1_000_000) + `"}]}`, "Batched logging API requests must be at most 1000000 bytes, got a request of size 1000077."},
		{"runs/set-tag", "application/json", `{"run_id":"R","key":"t","value":"` + strings.Repeat("x", 5<<20) + `"}`, "The request body must be at most 4194304 bytes, got a request of size 5242946."},
		{"runs/update", "application/json", `{"run_id":"R","end_time":"soon"}`, "Invalid value \"soon\" for parameter 'end_time' supplied:  Hint: Value was of type 'str'." + see},
		{"experiments/create", "application/json", `{}`, "Missing value for required parameter 'name'." + see},
		{"experiments/create", "application/json", `{"name":"  "}`, "Invalid experiment name: '  '"},
		{"experiments/create", "application/json", `{"name":"` + strings.Repeat("n", 501) + `"}`, "'name' exceeds the maximum length of 500 characters"},
		{"experiments/create", "application/json", `{"name":"n","artifact_location":"runs:/x"}`, "Artifact location cannot be a runs:/ URI. Given: 'runs:/x'"},
		{"experiments/delete", "application/json", `{"experiment_id":"1.5"}`, "Invalid experiment ID '1.5'. Experiment ID must be a valid integer."},
	} {
		before := length(t, log)
		var headers []string
		if tc.contentType != "" {
			headers = []string{"Content-Type", tc.contentType}
		}
		r := send(t, url+"/api/2.0/mlflow/"+tc.path, []byte(strings.Replace(tc.body, `"R"`, `"`+id+`"`, 1)), headers...)
		if r.status != 400 || r.code() != "INVALID_PARAMETER_VALUE" || r.message() == "" || tc.message != "" && r.message() != tc.message {
			t.Errorf("%s %.120s:\ngot  %d %.300v\nwant %s", tc.path, tc.body, r.status, r.body, tc.message)
		}
		if after := length(t, log); after != before {
			t.Errorf("%s %.120s: refused, and %d events were written", tc.path, tc.body, after-before)
		}
	}
}

// TestRunsAreAnsweredAsTheyAre: by the service that wrote them, and by one that
// has to read the log.
func TestRunsAreAnsweredAsTheyAre(t *testing.T) {
	log := openLog(t)
	a, b := serve(t, log, 0), serve(t, log, 0)
	exp := must(t, a, "/experiments/create", object{"name": "e", "artifact_location": "s3://bucket/e/"}).body["experiment_id"]
	id, info := createRun(t, a, object{"experiment_id": exp, "user_id": "ada", "start_time": 1234, "run_name": "n"})
	want := object{
		"run_id": id, "run_uuid": id, "experiment_id": exp, "user_id": "ada", "start_time": 1234.0, "run_name": "n",
		"status": "RUNNING", "lifecycle_stage": "active", "artifact_uri": "s3://bucket/e/" + id + "/artifacts",
	}
	if !reflect.DeepEqual(info, want) {
		t.Errorf("created  %v\nwant %v", info, want)
	}
	must(t, a, "/runs/update", object{"run_id": id, "status": "KILLED", "end_time": 5678})
	want["status"], want["end_time"] = "KILLED", 5678.0
	for _, url := range []string{a, b} {
		if info := must(t, url, "/runs/update", object{"run_id": id}).body["run_info"]; !reflect.DeepEqual(info, want) {
			t.Errorf("updated  %v\nwant %v", info, want)
		}
	}
	id, info = createRun(t, a, object{})
	recs := all(t, log, events.RunsStream(events.Shard(id, 2)))
	last := recs[len(recs)-1]
	if name, _ := info["run_name"].(string); len(strings.Split(name, "-")) != 3 {
		t.Errorf("a run without a name is called %q", name)
	}
	if info["start_time"] != float64(last.Time.UnixMilli()) || info["artifact_uri"] != "mlflow-artifacts:/0/"+id+"/artifacts" {
		t.Errorf("created %v at %v", info, last.Time)
	}
}

// TestEventsSayWhoAndWhy: all events of a request carry its attributes, and
// each an id of its own.
func TestEventsSayWhoAndWhy(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	id, _ := createRun(t, url, object{})
	stream := events.RunsStream(events.Shard(id, 2))
	before := len(all(t, log, stream))
	must(t, url, "/runs/log-batch", object{
		"run_id": id, "params": []object{{"key": "p", "value": "1"}}, "tags": []object{{"key": nameTag, "value": "n"}},
		"metrics": []object{{"key": "m", "value": 1, "timestamp": 1}},
	}, "Authorization", "Basic YWRhOg==", httpapi.HeaderReason, "because", "X-Request-Id", "r1")
	recs := all(t, log, stream)[before:]
	if len(recs) != 4 {
		t.Fatalf("%d events", len(recs))
	}
	seen := map[string]bool{}
	for _, rec := range recs {
		if rec.Actor != "ada" || rec.Reason != "because" || rec.RequestID != "r1" || rec.Time != recs[0].Time || seen[rec.ID] {
			t.Errorf("%+v", rec.Attributes)
		}
		seen[rec.ID] = true
	}
}

func TestLongValuesAreCut(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	name := strings.Repeat("n", 9000)
	id, info := createRun(t, url, object{"run_name": name, "tags": []object{{"key": "mlflow.runName", "value": name}}})
	value := strings.Repeat("é", 6000)
	must(t, url, "/runs/log-parameter", object{"run_id": id, "key": "p", "value": value + "1"})
	must(t, url, "/runs/log-parameter", object{"run_id": id, "key": "p", "value": value + "2"})
	updated := must(t, url, "/runs/update", object{"run_id": id, "run_name": "m" + name}).body["run_info"].(object)
	recs := all(t, log, events.RunsStream(events.Shard(id, 2)))
	if got := recs[1].GetRunParametersLogged().GetParameters()[0].GetValue(); got != value {
		t.Errorf("the parameter has %d bytes", len(got))
	}
	if info["run_name"] != name[:8000] || updated["run_name"] != "m"+name[:7999] {
		t.Errorf("the names have %d and %d bytes", len(info["run_name"].(string)), len(updated["run_name"].(string)))
	}
	if got := recs[3].GetRunTagsSet().GetTags()[0].GetValue(); got != updated["run_name"] {
		t.Errorf("the tag has %d bytes", len(got))
	}
}

// TestTwoServicesOnOneLog lets two services decide on the same runs at the same
// time, with caches that hold one run, and checks the rules on the log itself.
func TestTwoServicesOnOneLog(t *testing.T) {
	log := openLog(t)
	urls := []string{serve(t, log, 1), serve(t, log, 1)}
	const runs, writers, each = 4, 8, 60
	ids := make([]string, runs)
	for i := range ids {
		ids[i], _ = createRun(t, urls[i%2], object{})
	}
	type written struct {
		reply
		run, path string
		key       string
	}
	var mu sync.Mutex
	var acknowledged []written
	var wg sync.WaitGroup
	for w := range writers {
		rng := rand.New(rand.NewPCG(uint64(w), 1))
		wg.Go(func() {
			for i := range each {
				id, url := ids[rng.IntN(runs)], urls[rng.IntN(2)]
				key, value := fmt.Sprint("k", rng.IntN(12)), fmt.Sprint(w, "-", i)
				var path string
				request := object{"run_id": id, "key": key, "value": value}
				switch rng.IntN(10) {
				case 0:
					path, request = "/runs/delete", object{"run_id": id}
				case 1, 2:
					path, request = "/runs/restore", object{"run_id": id}
				case 3, 4, 5:
					path = "/runs/log-parameter"
				case 6:
					path = "/runs/set-tag"
				case 7:
					path = "/runs/delete-tag"
				default:
					path, request["value"], request["timestamp"] = "/runs/log-metric", i, w
				}
				r := call(t, url, path, request)
				switch {
				case r.status == 200 && r.seq > 0:
					mu.Lock()
					acknowledged = append(acknowledged, written{r, id, path, key})
					mu.Unlock()
				case r.status >= 500:
					t.Errorf("%s: %d %v", path, r.status, r.body)
				}
			}
		})
	}
	wg.Wait()

	byPosition := map[string]eventlog.Record{}
	deleted := map[string]bool{}
	tags := map[string]bool{}
	parameters := map[string]string{}
	total := 0
	for _, stream := range log.RunStreams() {
		for _, rec := range all(t, log, stream) {
			byPosition[fmt.Sprint(stream, rec.Seq)] = rec
			id := events.RunOfSubject(rec.Subject)
			if rec.GetRunCreated() != nil {
				continue
			}
			total++
			if deleted[id] && rec.GetRunRestored() == nil {
				t.Errorf("%s %d: %T of a deleted run", stream, rec.Seq, rec.Event.GetData())
			}
			for _, p := range rec.GetRunParametersLogged().GetParameters() {
				if was, ok := parameters[id+p.GetKey()]; ok {
					t.Errorf("parameter %s of %s: %s after %s", p.GetKey(), id, p.GetValue(), was)
				}
				parameters[id+p.GetKey()] = p.GetValue()
			}
			for _, kv := range rec.GetRunTagsSet().GetTags() {
				tags[id+kv.GetKey()] = true
			}
			if d := rec.GetRunTagDeleted(); d != nil {
				if !tags[id+d.GetKey()] {
					t.Errorf("tag %s of %s was deleted and not there", d.GetKey(), id)
				}
				delete(tags, id+d.GetKey())
			}
			switch {
			case rec.GetRunDeleted() != nil:
				deleted[id] = true
			case rec.GetRunRestored() != nil:
				if !deleted[id] {
					t.Errorf("run %s was restored and not deleted", id)
				}
				deleted[id] = false
			}
		}
	}
	for _, a := range acknowledged {
		rec, ok := byPosition[fmt.Sprint(a.stream, a.seq)]
		if !ok || events.RunOfSubject(rec.Subject) != a.run {
			t.Errorf("%s was told %s %d, which is not its event", a.path, a.stream, a.seq)
		}
	}
	if total != len(acknowledged) {
		t.Errorf("%d events, %d were acknowledged", total, len(acknowledged))
	}
	t.Logf("%d events, %d parameters", total, len(parameters))
}

// TestBatchesAreWhole: the events of a log-batch stand side by side in the log,
// all of them or, when it was refused, none, while two services write to the
// same runs in commits of many messages.
func TestBatchesAreWhole(t *testing.T) {
	log := openLog(t)
	urls := []string{serve(t, log, 0), serve(t, log, 0)}
	const runs, writers, each = 5, 32, 12
	ids := make([]string, runs)
	for i := range ids {
		ids[i], _ = createRun(t, urls[0], object{})
	}
	var mu sync.Mutex
	allowed := map[string]bool{} // by request id
	var wg sync.WaitGroup
	for w := range writers {
		rng := rand.New(rand.NewPCG(uint64(w), 2))
		wg.Go(func() {
			for i := range each {
				id, url := ids[rng.IntN(runs)], urls[rng.IntN(2)]
				if rng.IntN(8) == 0 {
					for _, path := range []string{"/runs/delete", "/runs/restore"} {
						if r := call(t, url, path, object{"run_id": id}); r.status != 200 && r.status != 429 {
							t.Errorf("%s: %d %v", path, r.status, r.body)
						}
					}
				}
				request := fmt.Sprint("request-", w, "-", i)
				r := call(t, url, "/runs/log-batch", object{
					"run_id":  id,
					"params":  []object{{"key": request, "value": "1"}, {"key": fmt.Sprint("shared-", rng.IntN(4)), "value": fmt.Sprint(rng.IntN(2))}},
					"tags":    []object{{"key": "t", "value": request}},
					"metrics": []object{{"key": "m", "value": i, "timestamp": w}},
				}, "X-Request-Id", request)
				if r.status != 200 && r.status != 400 && r.status != 429 {
					t.Errorf("%d %v", r.status, r.body)
				}
				mu.Lock()
				allowed[request] = r.status == 200
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	whole := 0
	for _, stream := range log.RunStreams() {
		recs := all(t, log, stream)
		for i := 0; i < len(recs); i++ {
			request := recs[i].RequestID
			ok, isBatch := allowed[request]
			if !isBatch {
				continue
			}
			if !ok {
				t.Fatalf("%s was refused and wrote %T", request, recs[i].Event.GetData())
			}
			for j, want := range []string{"runledger.run_parameters_logged", "runledger.run_tags_set", "runledger.metrics_logged"} {
				if i+j >= len(recs) || recs[i+j].RequestID != request || events.Type(recs[i+j].Event) != want {
					t.Fatalf("%s is broken up at sequence %d of %s", request, recs[i].Seq, stream)
				}
			}
			i += 2
			whole++
		}
	}
	for _, ok := range allowed {
		if ok {
			whole--
		}
	}
	if whole != 0 {
		t.Errorf("%d more batches in the log than were acknowledged", whole)
	}
}

func TestExperimentNamesAndIDsAreUnique(t *testing.T) {
	log := openLog(t)
	urls := []string{serve(t, log, 0), serve(t, log, 0)}
	const names = 25
	wins := make([]int, names)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			for n := range names {
				r := call(t, urls[w%2], "/experiments/create", object{"name": fmt.Sprint("e", n)})
				mu.Lock()
				switch {
				case r.status == 200:
					wins[n]++
				case r.message() != fmt.Sprintf("Experiment(name=e%d) already exists.", n):
					t.Errorf("%d %v", r.status, r.body)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for n, w := range wins {
		if w != 1 {
			t.Errorf("name e%d was given %d times", n, w)
		}
	}
	for i, rec := range all(t, log, events.StreamExperiments) {
		if got := rec.GetExperimentCreated().GetExperimentId(); got != strconv.Itoa(i) {
			t.Errorf("experiment %d has id %s", i, got)
		}
	}
}

func TestDeletingAnExperimentDeletesItsRuns(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	exp := createExperiment(t, url, "e")
	var ids []string
	for range 20 {
		id, _ := createRun(t, url, object{"experiment_id": exp})
		ids = append(ids, id)
	}
	other, _ := createRun(t, url, object{})
	must(t, url, "/runs/delete", object{"run_id": ids[0]})
	must(t, url, "/experiments/delete", object{"experiment_id": exp})
	for _, id := range ids {
		if r := call(t, url, "/runs/set-tag", object{"run_id": id, "key": "k", "value": "v"}); r.status != 400 {
			t.Errorf("a run of a deleted experiment answered %d", r.status)
		}
	}
	must(t, url, "/runs/set-tag", object{"run_id": other, "key": "k", "value": "v"})
	must(t, url, "/experiments/restore", object{"experiment_id": exp})
	for _, id := range ids {
		must(t, url, "/runs/set-tag", object{"run_id": id, "key": "k", "value": "v"})
	}
}

func TestRepeatedRequestsWithAKey(t *testing.T) {
	log := openLog(t)
	first, second := serve(t, log, 0), serve(t, log, 0)
	const header = httpapi.HeaderIdempotencyKey
	id, info := createRun(t, first, object{"run_name": "n"}, header, "create-1")
	run := object{"run_id": id}
	with := func(fields object) object {
		out := object{}
		for _, m := range []object{run, fields} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	must(t, first, "/runs/set-tag", with(object{"key": "t", "value": "1"}), header, "tag-1")
	must(t, first, "/runs/set-tag", with(object{"key": "t", "value": "2"}))
	exp := must(t, first, "/experiments/create", object{"name": "e"}, header, "exp-1").body["experiment_id"]

	before := length(t, log)
	// A third service has seen nothing of it.
	for _, url := range []string{first, second, serve(t, log, 0)} {
		again, infoAgain := createRun(t, url, object{"run_name": "n"}, header, "create-1")
		if again != id || infoAgain["run_name"] != info["run_name"] || infoAgain["start_time"] != info["start_time"] {
			t.Errorf("the repeated request got run %v, want %v", infoAgain, info)
		}
		must(t, url, "/runs/set-tag", with(object{"key": "t", "value": "1"}), header, "tag-1")
		if got := must(t, url, "/experiments/create", object{"name": "e"}, header, "exp-1").body["experiment_id"]; got != exp {
			t.Errorf("the repeated request got experiment %v, want %v", got, exp)
		}
		for _, other := range []reply{
			call(t, url, "/runs/create", object{"experiment_id": "0", "run_name": "other"}, header, "create-1"),
			call(t, url, "/runs/set-tag", with(object{"key": "t", "value": "3"}), header, "tag-1"),
			call(t, url, "/experiments/create", object{"name": "f"}, header, "exp-1"),
			call(t, url, "/runs/set-tag", with(object{"key": "t", "value": "3"}), header, "no spaces"),
		} {
			if other.status != 400 || !strings.HasPrefix(other.message(), header) {
				t.Errorf("another request with the key got %d %v", other.status, other.body)
			}
		}
	}
	if after := length(t, log); after != before {
		t.Errorf("%d events were written", after-before)
	}
	must(t, first, "/experiments/delete", object{"experiment_id": exp}, header, "delete-1")
	must(t, second, "/experiments/delete", object{"experiment_id": exp}, header, "delete-1")
}

// TestRepeatsDoNotUndo: a request that comes a second time, late and by another
// way, does not undo what happened in between.
func TestRepeatsDoNotUndo(t *testing.T) {
	log := openLog(t)
	a, b := serve(t, log, 0), serve(t, log, 1)
	id, _ := createRun(t, a, object{})
	exp := createExperiment(t, a, "e")
	key := func(k string) []string { return []string{httpapi.HeaderIdempotencyKey, k} }
	for i, step := range []struct {
		do, undo string
		request  object
	}{
		{"/runs/delete", "/runs/restore", object{"run_id": id}},
		{"/runs/update", "", object{"run_id": id, "status": "FINISHED", "end_time": 5, "run_name": "n"}},
		{"/runs/log-batch", "", object{"run_id": id, "params": []object{{"key": "p", "value": "1"}}, "metrics": []object{{"key": "m", "value": 1, "timestamp": 1}}}},
		{"/experiments/delete", "/experiments/restore", object{"experiment_id": exp}},
		{"/experiments/set-experiment-tag", "", object{"experiment_id": exp, "key": "t", "value": "v"}},
	} {
		must(t, a, step.do, step.request, key(fmt.Sprint("do-", i))...)
		if step.undo != "" {
			must(t, b, step.undo, step.request, key(fmt.Sprint("undo-", i))...)
		}
		before := length(t, log)
		data, err := json.Marshal(step.request)
		if err != nil {
			t.Fatal(err)
		}
		for _, url := range []string{a, b} {
			for _, prefix := range []string{"/api/2.0/mlflow", "/ajax-api/2.0/mlflow"} {
				r := send(t, url+prefix+step.do, data, append(key(fmt.Sprint("do-", i)), "Content-Type", "application/json")...)
				if r.status != 200 || length(t, log) != before {
					t.Errorf("%s again: %d %v, %d events", step.do, r.status, r.body, length(t, log)-before)
				}
			}
		}
	}
	one, _ := createRun(t, a, object{"experiment_id": exp}, key("create")...)
	if two, _ := createRun(t, a, object{"experiment_id": "0"}, key("create")...); one == two {
		t.Error("a key in two experiments got one run")
	}
	// The same key for two runs are two requests, and a key tells apart what
	// prints alike.
	other, _ := createRun(t, a, object{})
	must(t, a, "/runs/delete", object{"run_id": other}, key("do-0")...)
	must(t, a, "/runs/set-tag", object{"run_id": id, "key": "a Value:b", "value": "c"}, key("tag")...)
	if r := call(t, a, "/runs/set-tag", object{"run_id": id, "key": "a", "value": "b Value:c"}, key("tag")...); r.status != 400 {
		t.Errorf("another request with the key got %d %v", r.status, r.body)
	}
	if r := call(t, a, "/runs/delete", object{"run_id": id}, key(strings.Repeat("k", 256))...); r.status != 400 {
		t.Errorf("a key of 256 characters got %d %v", r.status, r.body)
	}
}

func TestCommandsAreCounted(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	id, _ := createRun(t, url, object{})
	call(t, url, "/runs/delete-tag", object{"run_id": id, "key": "nope"})
	resp, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	stream := events.RunsStream(events.Shard(id, 2))
	for _, line := range []string{
		`runledger_ingest_commands_total{action="runs/create",code="OK"} 1`,
		`runledger_ingest_commands_total{action="runs/delete-tag",code="RESOURCE_DOES_NOT_EXIST"} 1`,
		`runledger_ingest_batch_messages_sum{stream="` + stream + `"} 1`,
		`runledger_ingest_commit_seconds_count{stream="` + stream + `"} 1`,
		`runledger_ingest_failed_commits_total{stream="` + stream + `"} 0`,
		`runledger_ingest_waiting_commands{stream="EXPERIMENTS"} 0`,
		`runledger_http_body_bytes 0`,
	} {
		if !strings.Contains(string(data), line+"\n") {
			t.Errorf("no %s", line)
		}
	}
}

func batchOf(run string, points int) object {
	metrics := make([]object, points)
	for i := range metrics {
		metrics[i] = object{"key": fmt.Sprint("m", i%4), "value": rand.Float64(), "timestamp": 1_764_000_000_000 + i, "step": i / 4}
	}
	return object{"run_id": run, "metrics": metrics}
}

func BenchmarkLogBatchOf1000(b *testing.B) {
	url := serve(b, openLog(b), 0)
	run, _ := createRun(b, url, object{})
	request := batchOf(run, 1000)
	b.SetParallelism(4)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(b, url, "/runs/log-batch", request)
		}
	})
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "points/s")
}

func BenchmarkLogMetric32(b *testing.B) {
	url := serve(b, openLog(b), 0)
	run, _ := createRun(b, url, object{})
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			must(b, url, "/runs/log-metric", object{"run_id": run, "key": "m", "value": 1, "timestamp": 1})
		}
	})
}

// A request that an earlier build committed is recognised by its key when it comes
// again, though its digest is not one that this build computes.
func TestRepeatsOfAnEarlierBuildsRequestsAreRecognised(t *testing.T) {
	log := openLog(t)
	url := serve(t, log, 0)
	exp := createExperiment(t, url, "another")
	key := func(k string) []string { return []string{httpapi.HeaderIdempotencyKey, k} }
	id, _ := createRun(t, url, object{"run_name": "n"}, key("create")...)
	must(t, url, "/experiments/set-experiment-tag", object{"experiment_id": exp, "key": "t", "value": "v"}, key("exp-tag")...)
	// What that build wrote: "set-tag#" and the first 8 bytes of a SHA-256 of
	// `runs/set-tag mlflow.SetTag{RunID:"…", Key:"t", Value:"1"}`.
	old := func(subject, key string, e *events.Event) {
		t.Helper()
		a := events.New("/runledger/ingest", "ada", time.Now())
		a.IdempotencyKey = key + "#0123456789abcdef"
		msg, err := events.Encode(subject, a, e)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.JetStream().PublishMsg(t.Context(), msg); err != nil {
			t.Fatal(err)
		}
	}
	_, meta := log.RunSubject("0", id, events.KindMeta)
	old(meta, "set-tag", &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: id, Tags: []*events.Tag{{Key: "t", Value: "1"}}}}})
	old(events.ExperimentSubject("7"), "make", &events.Event{Data: &events.Event_ExperimentCreated{ExperimentCreated: &events.ExperimentCreated{
		ExperimentId: "7", Name: "old", ArtifactLocation: "mlflow-artifacts:/7",
	}}})
	old(events.ExperimentSubject("7"), "rename", &events.Event{Data: &events.Event_ExperimentRenamed{ExperimentRenamed: &events.ExperimentRenamed{
		ExperimentId: "7", Name: "newer",
	}}})
	before := length(t, log)
	for _, url := range []string{url, serve(t, log, 0)} {
		must(t, url, "/runs/set-tag", object{"run_id": id, "key": "t", "value": "1"}, key("set-tag")...)
		must(t, url, "/experiments/update", object{"experiment_id": "7", "new_name": "newer"}, key("rename")...)
		if got := must(t, url, "/experiments/create", object{"name": "old"}, key("make")...).body["experiment_id"]; got != "7" {
			t.Errorf("the repeated request got experiment %v, want 7", got)
		}
		if r := call(t, url, "/experiments/create", object{"name": "other"}, key("make")...); r.status != 400 || !strings.Contains(r.message(), "another request") {
			t.Errorf("another experiment under the key got %d %v", r.status, r.body)
		}
		// Digests of this build tell requests apart, across upgrades too.
		createRun(t, url, object{"run_name": "n"}, key("create")...)
		if r := call(t, url, "/runs/create", object{"experiment_id": "0", "run_name": "other"}, key("create")...); r.status != 400 {
			t.Errorf("another run under the key got %d %v", r.status, r.body)
		}
		if r := call(t, url, "/experiments/set-experiment-tag", object{"experiment_id": exp, "key": "t", "value": "w"}, key("exp-tag")...); r.status != 400 {
			t.Errorf("another tag under the key got %d %v", r.status, r.body)
		}
	}
	if after := length(t, log); after != before {
		t.Errorf("%d events were written", after-before)
	}
	// A key says nothing of another experiment, old or new.
	for i, k := range []string{"rename", "exp-tag"} {
		must(t, url, "/experiments/set-experiment-tag", object{"experiment_id": "0", "key": "t", "value": "v"}, key(k)...)
		if after := length(t, log); after != before+uint64(i)+1 {
			t.Errorf("%s: %d events were written", k, after-before)
		}
	}
}
