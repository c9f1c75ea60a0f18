package ingest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

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
func serve(t testing.TB, log *eventlog.Log, cachedRuns int) string {
	t.Helper()
	registry := prometheus.NewRegistry()
	s, err := ingest.New(t.Context(), ingest.Config{Log: log, CachedRuns: cachedRuns, Registerer: registry})
	if err != nil {
		t.Fatal(err)
	}
	e := httpapi.New(httpapi.Config{Logger: slog.New(slog.DiscardHandler), Registry: registry})
	s.Register(e)
	server := httptest.NewServer(e)
	t.Cleanup(func() {
		server.Close()
		s.Close()
	})
	return server.URL
}

type object = map[string]any

type reply struct {
	status int
	body   object
	stream string
	seq    uint64
}

func (r reply) message() string { s, _ := r.body["message"].(string); return s }

func call(t testing.TB, url, path string, request object, headers ...string) reply {
	t.Helper()
	data, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/api/2.0/mlflow"+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, stream: resp.Header.Get(httpapi.HeaderStream)}
	if err := json.Unmarshal(data, &r.body); err != nil {
		t.Fatalf("%s: %s: %v", path, data, err)
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
			func() { must(t, url, "/runs/set-tag", object{"run_id": id, "key": "mlflow.runName", "value": "tagged"}) },
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
