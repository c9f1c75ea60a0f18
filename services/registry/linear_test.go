package registry_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

// operation is a command at a model, or a read of it.
type operation struct {
	kind    string
	model   string
	version int
	alias   string // for alias and unalias
	stage   string
	expect  int // Runledger-Expect-Seq, -1: none
}

// seen is what an operation was answered.
type seen struct {
	status  int
	seq     int // Runledger-Seq, 0: none
	version int // of a new version
	content string
}

// register is a model as one register that all operations go to, one at a time.
type register struct {
	exists   bool
	last     int
	versions string // a letter for each: its stage, N, S, P or A, and D for a deleted one
	aliases  string // "a=1 b=2"
}

func (r register) has(version int) bool {
	return version >= 1 && version <= len(r.versions) && r.versions[version-1] != 'D'
}

func (r register) alias(name string) int {
	for pair := range strings.FieldsSeq(r.aliases) {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

// point returns the aliases with one at another version, 0: at none.
func (r register) point(name string, version int) string {
	var out []string
	for pair := range strings.FieldsSeq(r.aliases) {
		if !strings.HasPrefix(pair, name+"=") {
			out = append(out, pair)
		}
	}
	if version > 0 {
		out = append(out, fmt.Sprintf("%s=%d", name, version))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (r register) set(version int, stage byte) string {
	b := []byte(r.versions)
	b[version-1] = stage
	return string(b)
}

// step is what one registry with nobody else at it would do.
func (r register) step(o operation, got seen) (bool, register) {
	wrote := func(next register) (bool, register) {
		next.last = got.seq
		return got.status == http.StatusOK && got.seq > r.last, next
	}
	refused := func(status int) (bool, register) { return got.status == status && got.seq == 0, r }
	nothing := func() (bool, register) { return got.status == http.StatusOK && got.seq == 0, r }
	switch {
	case o.kind == "get" && r.exists:
		return got.status == http.StatusOK && got.seq == r.last && got.content == r.aliases, r
	case o.expect >= 0 && o.expect != r.last:
		return refused(http.StatusConflict)
	case o.kind == "create" && r.exists:
		return refused(http.StatusBadRequest)
	case o.kind == "create":
		return wrote(register{exists: true})
	case !r.exists:
		return refused(http.StatusNotFound)
	case o.kind == "version":
		next := r
		next.versions += "N"
		ok, next := wrote(next)
		return ok && got.version == len(next.versions), next
	case o.kind == "delete model":
		ok, next := wrote(register{})
		next.last = 0
		return ok, next
	case o.kind == "unalias":
		if r.alias(o.alias) == 0 {
			return nothing()
		}
		next := r
		next.aliases = r.point(o.alias, 0)
		return wrote(next)
	case !r.has(o.version):
		return refused(http.StatusNotFound)
	case o.kind == "alias":
		if r.alias(o.alias) == o.version {
			return nothing()
		}
		next := r
		next.aliases = r.point(o.alias, o.version)
		return wrote(next)
	case o.kind == "delete version":
		next := r
		next.versions = r.set(o.version, 'D')
		for _, name := range []string{"a", "b"} {
			if r.alias(name) == o.version {
				next.aliases = next.point(name, 0)
			}
		}
		return wrote(next)
	case o.kind == "stage":
		next := r
		next.versions = strings.ReplaceAll(r.versions, o.stage[:1], "A")
		next.versions = next.set(o.version, o.stage[0])
		return wrote(next)
	}
	panic(o.kind)
}

var registerModel = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, output any) (bool, any) {
		return state.(register).step(input.(operation), output.(seen))
	},
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make(map[string][]porcupine.Operation)
		for _, o := range history {
			name := o.Input.(operation).model
			parts[name] = append(parts[name], o)
		}
		var out [][]porcupine.Operation
		for _, p := range parts {
			out = append(out, p)
		}
		return out
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// send sends an operation to a registry.
func (o operation) send(s *server) seen {
	f := fields{"name": o.model}
	var headers []string
	if o.expect >= 0 {
		headers = []string{"Runledger-Expect-Seq", strconv.Itoa(o.expect)}
	}
	method, path := http.MethodPost, ""
	switch o.kind {
	case "get":
		method, path = http.MethodGet, "registered-models/get"
	case "create":
		path = "registered-models/create"
	case "delete model":
		method, path = http.MethodDelete, "registered-models/delete"
	case "version":
		path = "model-versions/create"
		f["source"] = "s3://bucket/model"
	case "delete version":
		method, path = http.MethodDelete, "model-versions/delete"
		f["version"] = strconv.Itoa(o.version)
	case "alias", "unalias":
		path = "registered-models/alias"
		f["alias"] = o.alias
		if o.kind == "unalias" {
			method = http.MethodDelete
		} else {
			f["version"] = strconv.Itoa(o.version)
		}
	case "stage":
		path = "model-versions/transition-stage"
		f["version"], f["stage"], f["archive_existing_versions"] = strconv.Itoa(o.version), o.stage, true
	}
	a := s.send(method, path, f, headers...)
	got := seen{status: a.status}
	got.seq, _ = strconv.Atoi(a.header.Get("Runledger-Seq"))
	if v, ok := a.body["model_version"].(map[string]any); ok {
		got.version, _ = strconv.Atoi(v["version"].(string))
	}
	if m, ok := a.body["registered_model"].(map[string]any); ok && o.kind == "get" {
		list, _ := m["aliases"].([]any)
		var pairs []string
		for _, item := range list {
			alias := item.(map[string]any)
			pairs = append(pairs, fmt.Sprintf("%s=%s", alias["alias"], alias["version"]))
		}
		got.content = strings.Join(pairs, " ")
	}
	return got
}

// Whatever 16 writers ask of two registry processes at once, the answers are
// those of one registry that is asked one thing after the other.
func TestTwoProcessesAnswerAsOne(t *testing.T) {
	const (
		writers, models = 16, 3
		each            = 80
	)
	n := natstest.Start(t)
	servers := [2]*server{start(t, openLog(t, n), t.TempDir()), start(t, openLog(t, n), t.TempDir())}
	for _, s := range servers {
		t.Cleanup(s.close)
	}
	begin := time.Now()
	histories := make([][]porcupine.Operation, writers)
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			known := make(map[string]int) // the last event about a model, as this writer knows it
			for range each {
				o := operation{model: fmt.Sprint("model ", rand.IntN(models)), version: 1 + rand.IntN(6), expect: -1}
				o.alias = []string{"a", "b"}[rand.IntN(2)]
				o.stage = []string{"Staging", "Production"}[rand.IntN(2)]
				o.kind = []string{
					"create", "version", "version", "alias", "alias", "unalias", "stage", "stage", "delete version", "get", "get", "get",
				}[rand.IntN(12)]
				if o.kind == "create" && rand.IntN(8) == 0 {
					o.kind = "delete model"
				}
				if last, ok := known[o.model]; ok && o.kind != "get" && rand.IntN(2) == 0 {
					o.expect = last
				}
				call := time.Since(begin)
				got := o.send(servers[rand.IntN(2)])
				if got.status == http.StatusTooManyRequests {
					continue // refused without a trace
				}
				if got.seq > 0 {
					known[o.model] = got.seq
				}
				histories[writer] = append(histories[writer], porcupine.Operation{
					ClientId: writer, Input: o, Call: int64(call), Output: got, Return: int64(time.Since(begin)),
				})
			}
		})
	}
	wg.Wait()
	history := slices.Concat(histories...)
	counts := make(map[int]int)
	for _, o := range history {
		counts[o.Output.(seen).status]++
	}
	result, info := porcupine.CheckOperationsVerbose(registerModel, history, time.Minute)
	if result != porcupine.Ok {
		path := filepath.Join(t.ArtifactDir(), "history.html")
		err := porcupine.VisualizePath(registerModel, info, path)
		t.Fatalf("the history of %d operations is %s (%s, %v)", len(history), result, path, err)
	}
	t.Logf("%d operations in %v, answered %v", len(history), time.Since(begin).Round(time.Millisecond), counts)
	for _, status := range []int{http.StatusOK, http.StatusBadRequest, http.StatusNotFound, http.StatusConflict} {
		if counts[status] == 0 {
			t.Errorf("no operation was answered %d", status)
		}
	}
}

// Of all that start from one state, one wins, and the others leave no trace.
func TestExpectedSeq(t *testing.T) {
	dir := t.TempDir()
	n, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	log := openLog(t, n.Conn())
	servers := [2]*server{start(t, log, t.TempDir()), start(t, log, t.TempDir())}
	s := servers[0]
	t.Cleanup(s.close)
	const header = "Runledger-Expect-Seq"

	if a := s.send("POST", "registered-models/create", fields{"name": "m"}, header, "1"); a.status != 409 || a.body["error_code"] != "RESOURCE_CONFLICT" {
		t.Errorf("a model that is not there, expected at 1: %d %v", a.status, a.body)
	}
	if a := s.send("POST", "registered-models/create", fields{"name": "m"}, header, "x"); a.status != 400 {
		t.Errorf("expected at x: %d %v", a.status, a.body)
	}
	if a := s.send("POST", "registered-models/create", fields{"name": "m"}, header, "0"); a.status != 200 {
		t.Fatalf("a new model, expected at 0: %d %v", a.status, a.body)
	}
	s.addVersion("m")
	s.addVersion("m")
	s.create("other")
	for round := range 10 {
		a := servers[round%2].send("GET", "registered-models/get", fields{"name": "m"})
		before, seq := s.size(), a.header.Get("Runledger-Seq")
		statuses := make([]int, 8)
		var wg sync.WaitGroup
		for i := range statuses {
			wg.Go(func() {
				stage := []string{"Staging", "Production"}[i%2]
				a := servers[i/4].send("POST", "model-versions/transition-stage", fields{"name": "m", "version": "1", "stage": stage}, header, seq)
				statuses[i] = a.status
			})
		}
		wg.Wait()
		slices.Sort(statuses)
		if want := []int{200, 409, 409, 409, 409, 409, 409, 409}; !slices.Equal(statuses, want) {
			t.Errorf("round %d: answered %v", round, statuses)
		}
		if after := s.size(); after != before+1 {
			t.Errorf("round %d: the ledger grew from %v to %v", round, before, after)
		}
	}
	// A restart does not change what is expected.
	seq := s.send("GET", "model-versions/get", fields{"name": "m", "version": "2"}).header.Get("Runledger-Seq")
	again := start(t, log, t.TempDir())
	defer again.close()
	if a := again.send("POST", "registered-models/alias", fields{"name": "m", "alias": "x", "version": "2"}, header, seq); a.status != 200 {
		t.Errorf("after a rebuild: %d %v", a.status, a.body)
	}
	servers[1].close()
	reopened := start(t, log, servers[1].dir)
	defer reopened.close()
	seq = s.send("GET", "registered-models/alias", fields{"name": "m", "alias": "x"}).header.Get("Runledger-Seq")
	if a := reopened.send("DELETE", "registered-models/alias", fields{"name": "m", "alias": "x"}, header, seq); a.status != 200 {
		t.Errorf("after a restart: %d %v", a.status, a.body)
	}
	// A repeated request is answered as the first, whatever came between.
	key := []string{header, reopened.send("GET", "registered-models/get", fields{"name": "m"}).header.Get("Runledger-Seq"), "Idempotency-Key", "k"}
	for range 2 {
		if a := s.send("PATCH", "registered-models/update", fields{"name": "m", "description": "d"}, key...); a.status != 200 {
			t.Errorf("a repeated request: %d %v", a.status, a.body)
		}
	}
}
