package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
)

func (s *server) create(name string) {
	s.t.Helper()
	s.must("POST", "registered-models/create", fields{"name": name})
}

func (s *server) addVersion(name string) string {
	s.t.Helper()
	out := s.must("POST", "model-versions/create", fields{"name": name, "source": "s3://bucket/model"})
	return out["model_version"].(map[string]any)["version"].(string)
}

func TestModel(t *testing.T) {
	s := newServer(t)
	s.must("POST", "registered-models/create", fields{"name": "modèle", "description": "d", "tags": []fields{{"key": "a", "value": "1"}, {"key": "a", "value": "2"}}})
	m := s.model("modèle")
	if m["description"] != "d" || fmt.Sprint(m["tags"]) != "[map[key:a value:2]]" || m["creation_timestamp"] != m["last_updated_timestamp"] {
		t.Fatalf("created %v", m)
	}
	s.must("PATCH", "registered-models/update", fields{"name": "modèle", "description": "dd"})
	s.must("POST", "registered-models/set-tag", fields{"name": "modèle", "key": "b", "value": "3"})
	s.must("DELETE", "registered-models/delete-tag", fields{"name": "modèle", "key": "a"})
	s.addVersion("modèle")
	s.must("POST", "registered-models/alias", fields{"name": "modèle", "alias": "champion", "version": "1"})
	s.must("POST", "registered-models/rename", fields{"name": "modèle", "new_name": "new"})
	m = s.model("new")
	if m["description"] != "dd" || fmt.Sprint(m["tags"]) != "[map[key:b value:3]]" || fmt.Sprint(m["aliases"]) != "[map[alias:champion version:1]]" {
		t.Fatalf("changed to %v", m)
	}
	if v := s.version("new", "1"); v["name"] != "new" || v["last_updated_timestamp"] != m["last_updated_timestamp"] {
		t.Fatalf("version after the rename: %v", v)
	}
	// What changes nothing is no entry.
	size := s.size()
	s.must("DELETE", "registered-models/delete-tag", fields{"name": "new", "key": "zz"})
	s.must("DELETE", "registered-models/alias", fields{"name": "new", "alias": "zz"})
	s.must("POST", "registered-models/alias", fields{"name": "new", "alias": "champion", "version": "1"})
	s.must("POST", "registered-models/set-tag", fields{"name": "new", "key": "b", "value": "3"})
	s.must("POST", "registered-models/rename", fields{"name": "new", "new_name": "new"})
	if s.size() != size {
		t.Fatalf("the ledger grew from %v to %v", size, s.size())
	}
	s.must("DELETE", "registered-models/delete", fields{"name": "new"})
	s.create("new")
	if got := s.addVersion("new"); got != "1" {
		t.Fatalf("first version of the new model is %s", got)
	}
}

func TestVersions(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	root := "mlflow-artifacts:/1/" + runID + "/artifacts"
	addRun(t, log, runID, root)
	addRun(t, log, localID, "file:///shared/"+localID+"/artifacts")
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.create("m")
	for _, c := range []struct{ source, run, wantSource, wantURI, wantRun string }{
		{root + "/model", runID, root + "/model", root + "/model", runID},
		{"runs:/" + runID + "/model", runID, "runs:/" + runID + "/model", "runs:/" + runID + "/model", runID},
		{"models:/m/1", "", "models:/m/1", root + "/model", runID},
		{"models:/m/latest", "", "models:/m/3", root + "/model", runID},
		{"models:/m@champion", "", "models:/m/2", "runs:/" + runID + "/model", runID},
		{"/shared/" + localID + "/artifacts/model", localID, "/shared/" + localID + "/artifacts/model", "/shared/" + localID + "/artifacts/model", localID},
		{"s3://bucket/model", "", "s3://bucket/model", "s3://bucket/model", ""},
	} {
		f := fields{"name": "m", "source": c.source}
		if c.run != "" {
			f["run_id"] = c.run
		}
		v := s.must("POST", "model-versions/create", f)["model_version"].(map[string]any)
		uri := s.must("GET", "model-versions/get-download-uri", fields{"name": "m", "version": v["version"]})["artifact_uri"]
		if v["source"] != c.wantSource || uri != c.wantURI || v["run_id"] != c.wantRun || v["status"] != "READY" || v["current_stage"] != "None" {
			t.Errorf("source %s: %v at %v", c.source, v, uri)
		}
		if v["version"] == "2" {
			s.must("POST", "registered-models/alias", fields{"name": "m", "alias": "champion", "version": "2"})
		}
	}
	s.must("POST", "registered-models/alias", fields{"name": "m", "alias": "last", "version": "7"})
	before := s.model("m")
	s.must("DELETE", "model-versions/delete", fields{"name": "m", "version": "7"})
	if got := fmt.Sprint(s.model("m")["aliases"]); got != "[map[alias:champion version:2]]" {
		t.Errorf("aliases after the deletion: %s, before %v", got, before["aliases"])
	}
	if got := s.addVersion("m"); got != "8" {
		t.Errorf("version %s after 7 was deleted", got)
	}
	latest := s.must("GET", "registered-models/alias", fields{"name": "m", "alias": "Latest"})["model_version"].(map[string]any)
	if latest["version"] != "8" {
		t.Errorf("the latest version is %v", latest)
	}
	s.must("PATCH", "model-versions/update", fields{"name": "m", "version": "1", "description": "one"})
	s.must("POST", "model-versions/set-tag", fields{"name": "m", "version": "1", "key": "k", "value": "v"})
	v := s.version("m", "1")
	if v["description"] != "one" || fmt.Sprint(v["tags"]) != "[map[key:k value:v]]" {
		t.Errorf("version 1 is %v", v)
	}
	s.must("DELETE", "model-versions/delete-tag", fields{"name": "m", "version": "1", "key": "k"})
	if v := s.version("m", "1"); v["tags"] != nil {
		t.Errorf("version 1 is %v", v)
	}
}

func TestStages(t *testing.T) {
	s := newServer(t)
	s.create("m")
	for range 3 {
		s.addVersion("m")
	}
	for _, step := range []struct {
		version, stage string
		archive        bool
		want           string
	}{
		{"1", "production", false, "Production None None"},
		{"2", "Production", false, "Production Production None"},
		{"3", "PRODUCTION", true, "Archived Archived Production"},
		{"1", "Staging", true, "Staging Archived Production"},
		{"1", "Staging", true, "Staging Archived Production"},
		{"1", "none", false, "None Archived Production"},
	} {
		s.must("POST", "model-versions/transition-stage", fields{"name": "m", "version": step.version, "stage": step.stage, "archive_existing_versions": step.archive})
		var got []string
		for _, v := range []string{"1", "2", "3"} {
			got = append(got, s.version("m", v)["current_stage"].(string))
		}
		if strings.Join(got, " ") != step.want {
			t.Fatalf("%+v: %v", step, got)
		}
	}
	entries := s.entries("m")
	if len(entries) != 1+3+6 {
		t.Fatalf("%d entries", len(entries))
	}
	third := entries[6]
	if third["action"] != "model_version_stage_set" || third["version"] != "3" || third["model"] != "m" {
		t.Fatalf("entry %v", third)
	}
	for number, want := range map[string][2]string{"1": {"Production", "Archived"}, "2": {"Production", "Archived"}, "3": {"None", "Production"}} {
		for i, side := range []string{"before", "after"} {
			versions := third[side].(map[string]any)["versions"].(map[string]any)
			if got := versions[number].(map[string]any)["current_stage"]; got != want[i] {
				t.Errorf("%s, version %s: %v, want %s", side, number, got, want[i])
			}
		}
	}
	latest := s.must("GET", "registered-models/get-latest-versions", fields{"name": "m", "stages": []string{"production"}})
	if vs := latest["model_versions"].([]any); len(vs) != 1 || vs[0].(map[string]any)["version"] != "3" {
		t.Errorf("latest in production: %v", vs)
	}
	all := s.must("POST", "registered-models/get-latest-versions", fields{"name": "m"})
	if vs := all["model_versions"].([]any); len(vs) != 3 {
		t.Errorf("latest: %v", vs)
	}
}

// Whatever version moves, every other one of the stage is archived: older ones, newer
// ones, and the newest; those of other stages stay.
func TestArchivingSparesNoVersion(t *testing.T) {
	for moved := 1; moved <= 4; moved++ {
		t.Run(fmt.Sprint("version ", moved), func(t *testing.T) {
			s := newServer(t)
			s.create("m")
			for range 5 {
				s.addVersion("m")
			}
			stage := func(version int, stage string, archive bool) {
				s.must("POST", "model-versions/transition-stage", fields{
					"name": "m", "version": strconv.Itoa(version), "stage": stage, "archive_existing_versions": archive,
				})
			}
			for version := 1; version <= 4; version++ {
				if version != moved {
					stage(version, "Staging", false)
				}
			}
			stage(5, "Production", false)
			stage(moved, "Staging", true)
			for version := 1; version <= 5; version++ {
				want := "Archived"
				switch version {
				case moved:
					want = "Staging"
				case 5:
					want = "Production"
				}
				if got := s.version("m", strconv.Itoa(version))["current_stage"]; got != want {
					t.Errorf("version %d is %v, want %s", version, got, want)
				}
			}
		})
	}
}

func TestHistoryTellsWhoAndWhy(t *testing.T) {
	s := newServer(t)
	a := s.send("POST", "registered-models/create", fields{"name": "m é"}, "Runledger-Reason", "première", "Authorization", "Basic YWRhOng=")
	if a.status != 200 || a.header.Get("Runledger-Stream") != "REGISTRY" || a.header.Get("Runledger-Seq") != "1" {
		t.Fatalf("%d %v %v", a.status, a.header, a.body)
	}
	s.addVersion("m é")
	entries := s.entries("m é")
	first := entries[0]
	if first["actor"] != "ada" || first["reason"] != "première" || first["seq"] != 1.0 || first["request_id"] == "" || first["event_id"] == "" ||
		first["before"] != nil || first["after"].(map[string]any)["name"] != "m é" || first["leaf_hash"] == "" {
		t.Errorf("first entry %v", first)
	}
	if _, err := time.Parse(time.RFC3339Nano, first["time"].(string)); err != nil {
		t.Error(err)
	}
	if entries[1]["actor"] != "anonymous" || entries[1]["version"] != "1" {
		t.Errorf("second entry %v", entries[1])
	}
	tree := s.raw("GET", "/api/v1/registry/tree", nil)
	if tree.body["size"] != 2.0 || len(tree.body["root_hash"].(string)) != 44 || tree.header.Get("Runledger-Watermark") != "REGISTRY=2" {
		t.Errorf("tree %v %v", tree.body, tree.header)
	}
	for _, query := range []fields{{"max_results": "0"}, {"max_results": "x"}, {"max_results": "1001"}, {"page_token": "!!"}} {
		if a := s.raw("GET", "/api/v1/models/"+url.PathEscape("m é")+"/history", query); a.status != 400 {
			t.Errorf("history with %v: %d %v", query, a.status, a.body)
		}
	}
}

func (s *server) names(path, list string, query fields) (got []string) {
	s.t.Helper()
	for range 100 {
		a := s.must("GET", path, query)
		for _, m := range asList(a[list]) {
			m := m.(map[string]any)
			name := m["name"].(string)
			if v, ok := m["version"]; ok {
				name += "/" + v.(string)
			}
			got = append(got, name)
		}
		token, _ := a["next_page_token"].(string)
		if token == "" {
			return got
		}
		query["page_token"] = token
	}
	s.t.Fatal("pages without end")
	return nil
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func TestSearch(t *testing.T) {
	s := newServer(t)
	tag := func(key, value string) []fields { return []fields{{"key": key, "value": value}} }
	s.must("POST", "registered-models/create", fields{"name": "b", "tags": tag("team", "x")})
	s.must("POST", "registered-models/create", fields{"name": "a", "tags": tag("team", "y")})
	s.create("C")
	s.must("POST", "registered-models/create", fields{"name": "p", "tags": tag("mlflow.prompt.is_prompt", "true")})
	for _, v := range []fields{
		{"name": "a", "source": "s3://b/1", "tags": tag("k", "1")},
		{"name": "b", "source": "s3://b/2", "tags": tag("k", "2")},
		{"name": "a", "source": "s3://b/3"},
		{"name": "p", "source": "dummy-source", "tags": tag("mlflow.prompt.is_prompt", "true")},
	} {
		s.must("POST", "model-versions/create", v)
		time.Sleep(2 * time.Millisecond)
	}
	for _, c := range []struct {
		filter string
		order  []string
		want   string
	}{
		{"", nil, "C a b"},
		{"", []string{"name DESC"}, "b a C"},
		{"", []string{"last_updated_timestamp DESC"}, "a b C"},
		{"name LIKE '%'", nil, "C a b"},
		{"name ILIKE 'c'", nil, "C"},
		{"name = 'a'", nil, "a"},
		{"name != 'a'", nil, "C b"},
		{"tags.team = 'x'", nil, "b"},
		{"tags.team != 'x'", nil, "a"},
		{"tags.`mlflow.prompt.is_prompt` = 'true'", nil, "p"},
		{"tags.`mlflow.prompt.is_prompt` != 'true'", nil, "C a b"},
		{"name = 'p'", nil, ""},
		{"name = 'p' AND tags.`mlflow.prompt.is_prompt` = 'true'", nil, "p"},
	} {
		for _, limit := range []string{"1", "2", "100"} {
			query := fields{"filter": c.filter, "max_results": limit}
			if c.order != nil {
				query["order_by"] = c.order
			}
			if got := strings.Join(s.names("registered-models/search", "registered_models", query), " "); got != c.want {
				t.Errorf("models %q by %v, %s at a time: %q, want %q", c.filter, c.order, limit, got, c.want)
			}
		}
	}
	for _, c := range []struct {
		filter string
		order  []string
		want   string
	}{
		{"", nil, "a/2 b/1 a/1"},
		{"", []string{"version_number ASC"}, "a/1 b/1 a/2"},
		{"", []string{"name ASC"}, "a/2 a/1 b/1"},
		{"", []string{"creation_timestamp ASC"}, "a/1 b/1 a/2"},
		{"name = 'a'", nil, "a/2 a/1"},
		{"version_number > 1", nil, "a/2"},
		{"source_path LIKE '%/2'", nil, "b/1"},
		{"tags.k = '1'", nil, "a/1"},
		{"run_id = 'x'", nil, ""},
		{"tags.`mlflow.prompt.is_prompt` = 'true'", nil, "p/1"},
	} {
		for _, limit := range []string{"1", "2", "100"} {
			query := fields{"filter": c.filter, "max_results": limit}
			if c.order != nil {
				query["order_by"] = c.order
			}
			if got := strings.Join(s.names("model-versions/search", "model_versions", query), " "); got != c.want {
				t.Errorf("versions %q by %v, %s at a time: %q, want %q", c.filter, c.order, limit, got, c.want)
			}
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	a, b := start(t, log, t.TempDir()), start(t, log, t.TempDir())
	t.Cleanup(a.close)
	t.Cleanup(b.close)
	a.create("m")
	create := fields{"name": "m", "source": "s3://b/m"}
	for _, s := range []*server{a, b, a} {
		got := s.send("POST", "model-versions/create", create, "Idempotency-Key", "one")
		if got.status != 200 || got.body["model_version"].(map[string]any)["version"] != "1" {
			t.Fatalf("%d %v", got.status, got.body)
		}
	}
	if got := b.send("POST", "model-versions/create", create, "Idempotency-Key", "two"); got.body["model_version"].(map[string]any)["version"] != "2" {
		t.Fatalf("%d %v", got.status, got.body)
	}
	if got := b.send("DELETE", "registered-models/delete", fields{"name": "m"}, "Idempotency-Key", "two"); got.status != 400 {
		t.Fatalf("another request under a used key: %d %v", got.status, got.body)
	}
	if got := b.send("POST", "model-versions/create", create, "Idempotency-Key", strings.Repeat("k", 256)); got.status != 400 {
		t.Fatalf("a key that is too long: %d %v", got.status, got.body)
	}
	if a.size() != 3 {
		t.Fatalf("%v entries", a.size())
	}
}

// With any number of processes no version number is given twice, and every
// acknowledged command is there to read at once.
func TestWritersOnTwoProcesses(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	servers := []*server{start(t, log, t.TempDir()), start(t, log, t.TempDir())}
	for _, s := range servers {
		t.Cleanup(s.close)
	}
	servers[0].create("m")
	const writers, each = 16, 10
	var mu sync.Mutex
	var got []string
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for range each {
				a := servers[w%2].send("POST", "model-versions/create", fields{"name": "m", "source": "s3://b/m"})
				if a.status != 200 {
					t.Errorf("%d %v", a.status, a.body)
					return
				}
				v := a.body["model_version"].(map[string]any)["version"].(string)
				if read := servers[(w+1)%2].send("GET", "model-versions/get", fields{"name": "m", "version": v}); read.status != 200 || read.header.Get("Runledger-Stale") != "" {
					t.Errorf("version %s at the other process: %d %v", v, read.status, read.body)
				}
				mu.Lock()
				got = append(got, v)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != writers*each {
		t.Fatalf("%d different versions of %d", len(got), writers*each)
	}
	a, b := servers[0].raw("GET", "/api/v1/registry/tree", nil), servers[1].raw("GET", "/api/v1/registry/tree", nil)
	if !reflect.DeepEqual(a.body, b.body) || a.body["size"] != float64(writers*each+1) {
		t.Fatalf("trees %v and %v", a.body, b.body)
	}
}

func TestALedgerOfAnotherStreamIsRefused(t *testing.T) {
	dir := t.TempDir()
	log := openLog(t, natstest.Start(t))
	s := start(t, log, dir)
	for i := range 3 {
		s.create(fmt.Sprint("m", i))
	}
	s.close()
	other := openLog(t, natstest.Start(t))
	refused := func(want ...string) {
		t.Helper()
		_, err := registry.New(t.Context(), registry.Config{Log: other, Dir: dir})
		if !errors.Is(err, registry.ErrDiverged) {
			t.Fatalf("got %v", err)
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Fatalf("%q does not name %q", err, w)
			}
		}
	}
	refused("ends at event 0", "the ledger at 3")
	o := start(t, other, filepath.Join(t.TempDir(), "other"))
	defer o.close()
	o.create("m0")
	refused("ends at event 1", "the ledger at 3")
	for i := range 4 {
		o.create(fmt.Sprint("n", i))
	}
	refused("begins with event")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	again := start(t, other, dir)
	defer again.close()
	if err := again.service.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a, b := again.raw("GET", "/api/v1/registry/tree", nil), o.raw("GET", "/api/v1/registry/tree", nil); !reflect.DeepEqual(a.body, b.body) {
		t.Fatalf("the rebuilt tree is %v, the other %v", a.body, b.body)
	}
}

// An event that does not fit stops the ledger, and the service says so.
func TestAnEventThatDoesNotFit(t *testing.T) {
	log := openLog(t, natstest.Start(t))
	s := start(t, log, t.TempDir())
	t.Cleanup(s.close)
	s.create("m")
	if err := s.service.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
	defer lane.Close()
	_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
		return b.Append(events.ModelSubject("zz"), events.New("/test", "mallory", time.Now()), &events.Event{Data: &events.Event_RegisteredModelDeleted{
			RegisteredModelDeleted: &events.RegisteredModelDeleted{Name: "zz"},
		}}, eventlog.Expect{}, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	checkOldOnlyWhenAsked(t, s, "m", true)
	everyReadIsRefused(t, s)
	write := s.send("POST", "registered-models/create", fields{"name": "n"})
	if write.status != 503 || write.header.Get("Retry-After") == "" {
		t.Fatalf("write: %d %v %v", write.status, write.header, write.body)
	}
	if err := s.service.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "zz") {
		t.Fatalf("ready: %v", err)
	}
}

// everyReadIsRefused fails the test unless each route that reads the registry is
// refused while the ledger is behind.
func everyReadIsRefused(t *testing.T, s *server) {
	t.Helper()
	queries := map[string]string{
		"/registered-models/get": "name=m", "/registered-models/get-latest-versions": "name=m", "/registered-models/alias": "name=m&alias=a",
		"/model-versions/get": "name=m&version=1", "/model-versions/get-download-uri": "name=m&version=1",
		"/api/v1/registry/proofs/inclusion": "entry=0", "/api/v1/registry/proofs/consistency": "from=1", "/api/v1/models/:name/lineage": "version=1",
	}
	place := strings.NewReplacer(":name", "m", ":version", "1", ":id", uuid.NewString(), ":target", "Production")
	for _, route := range s.echo.Routes() {
		reads := route.Method == http.MethodGet || strings.HasSuffix(route.Path, "/get-latest-versions")
		if !reads || !strings.Contains(route.Path, "/mlflow/") && !strings.HasPrefix(route.Path, "/api/v1/") || strings.HasSuffix(route.Path, "/server-info") {
			continue
		}
		path := place.Replace(route.Path)
		for suffix, query := range queries {
			if strings.HasSuffix(route.Path, suffix) && route.Method == http.MethodGet {
				path += "?" + query
			}
		}
		var body map[string]any
		if route.Method == http.MethodPost {
			body = fields{"name": "m"}
		}
		if got := s.raw(route.Method, path, body); got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
			t.Errorf("%s %s: %d %v", route.Method, path, got.status, got.body)
		}
	}
}

// checkOldOnlyWhenAsked fails the test unless a read of a model is refused while
// the ledger is behind, and answered to who takes old data; the answer says how old
// they are if the log is there to say it.
func checkOldOnlyWhenAsked(t *testing.T, s *server, model string, aged bool) {
	t.Helper()
	read := s.send("GET", "registered-models/get", fields{"name": model})
	if read.status != http.StatusServiceUnavailable || read.header.Get("Retry-After") == "" || read.body["error_code"] != "TEMPORARILY_UNAVAILABLE" {
		t.Errorf("read: %d %v %v", read.status, read.header, read.body)
	}
	old := s.send("GET", "registered-models/get", fields{"name": model}, "Runledger-Allow-Stale", "true")
	if old.status != http.StatusOK || old.header.Get("Runledger-Stale") != "true" || (old.header.Get("Runledger-Age") != "") != aged {
		t.Errorf("read of old data: %d %v %v", old.status, old.header, old.body)
	}
}

// While the log is away nothing fresh can be read.
func TestTheLogIsAway(t *testing.T) {
	n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, openLog(t, n.Conn()), t.TempDir())
	s.create("m")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	checkOldOnlyWhenAsked(t, s, "m", false)
	if err := s.service.Ready(t.Context()); err == nil {
		t.Fatal("ready without a log")
	}
	s.close()
}
