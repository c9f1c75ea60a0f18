package registry_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
	"github.com/runledger/runledger/services/registry/audit"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

// proving is a registry that signs tree heads; dir outlives it.
type proving struct {
	*server
	key note.Verifier
	url string
}

func startProving(t *testing.T, log *eventlog.Log, dir string) *proving {
	t.Helper()
	key, err := treehead.LoadKey(filepath.Join(dir, "key"), "runledger/test")
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := treehead.OpenKeeper(filepath.Join(dir, "heads"), key)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(key.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	s := startWith(t, registry.Config{Log: log, Dir: filepath.Join(dir, "ledger"), Heads: keeper})
	h := httptest.NewServer(s.echo)
	t.Cleanup(h.Close)
	return &proving{server: s, key: v, url: h.URL}
}

// fill makes some entries, and returns how many.
func (s *server) fill() int {
	s.t.Helper()
	s.create("a")
	s.create("b")
	for range 4 {
		s.addVersion("a")
	}
	s.must("POST", "model-versions/transition-stage", fields{"name": "a", "version": "2", "stage": "Production"})
	s.must("POST", "registered-models/rename", fields{"name": "b", "new_name": "c"})
	s.must("POST", "registered-models/set-tag", fields{"name": "c", "key": "k", "value": "<&>\u2028"})
	s.create("b")
	s.must("DELETE", "model-versions/delete", fields{"name": "a", "version": "1"})
	hook := s.must("POST", "webhooks", fields{
		"name": "hook", "url": "http://127.0.0.1:9/", "events": []fields{{"entity": "REGISTERED_MODEL", "action": "CREATED"}}, "status": "DISABLED",
	})["webhook"].(map[string]any)["webhook_id"].(string)
	s.must("PATCH", "webhooks/"+hook, fields{"description": "changed"})
	s.must("DELETE", "webhooks/"+hook, nil)
	return 14
}

// get sends a GET to a path of Runledger's own API, and returns the whole answer.
func (p *proving) get(path string, query fields) (int, []byte) {
	p.t.Helper()
	values := url.Values{}
	for k, v := range query {
		values.Set(k, fmt.Sprint(v))
	}
	rec := httptest.NewRecorder()
	p.echo.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/v1/registry/"+path+"?"+values.Encode(), nil))
	return rec.Code, rec.Body.Bytes()
}

func getJSON[T any](p *proving, path string, query fields) (v T) {
	p.t.Helper()
	status, body := p.get(path, query)
	if status != http.StatusOK {
		p.t.Fatalf("%s %v: %d %s", path, query, status, body)
	}
	if err := json.Unmarshal(body, &v); err != nil {
		p.t.Fatal(err)
	}
	return v
}

func TestProofs(t *testing.T) {
	p := startProving(t, openLog(t, natstest.Start(t)), t.TempDir())
	defer p.close()
	n := p.fill()
	status, body := p.get("entries", nil)
	entries := bytes.Split(bytes.TrimSuffix(body, []byte("\n")), []byte("\n"))
	if status != http.StatusOK || len(entries) != n {
		t.Fatalf("%d, %d entries, want %d", status, len(entries), n)
	}
	roots := make([]tlog.Hash, n+1)
	for size := 1; size <= n; size++ {
		for entry := range size {
			proof := getJSON[struct {
				Root   tlog.Hash        `json:"root_hash"`
				Leaf   tlog.Hash        `json:"leaf_hash"`
				Hashes tlog.RecordProof `json:"hashes"`
			}](p, "proofs/inclusion", fields{"entry": entry, "size": size})
			if roots[size] = proof.Root; entry == 0 && size == n && proof.Leaf != tlog.RecordHash(entries[0]) {
				t.Error("another leaf hash")
			}
			if err := tlog.CheckRecord(proof.Hashes, int64(size), proof.Root, int64(entry), tlog.RecordHash(entries[entry])); err != nil {
				t.Errorf("entry %d of %d: %v", entry, size, err)
			}
		}
	}
	for to := 1; to <= n; to++ {
		for from := 1; from <= to; from++ {
			proof := getJSON[struct {
				From   tlog.Hash      `json:"from_root_hash"`
				To     tlog.Hash      `json:"to_root_hash"`
				Hashes tlog.TreeProof `json:"hashes"`
			}](p, "proofs/consistency", fields{"from": from, "to": to})
			if proof.From != roots[from] || proof.To != roots[to] {
				t.Fatalf("roots of %d and %d are others in a proof", from, to)
			}
			if err := tlog.CheckTree(proof.Hashes, int64(to), proof.To, int64(from), proof.From); err != nil {
				t.Errorf("%d to %d: %v", from, to, err)
			}
		}
	}
	if _, body := p.get("entries", fields{"from": 3, "max_results": 2}); !bytes.Equal(body, append(bytes.Join(entries[3:5], []byte("\n")), '\n')) {
		t.Errorf("a page of entries: %s", body)
	}
	for _, from := range []any{n, 1000, uint64(1<<63 - 1)} {
		if status, body := p.get("entries", fields{"from": from}); status != http.StatusOK || len(body) > 0 {
			t.Errorf("entries from %d: %d %s", from, status, body)
		}
	}
	for _, bad := range []struct {
		path  string
		query fields
	}{
		{"entries", fields{"from": -1}},
		{"entries", fields{"from": "x"}},
		{"entries", fields{"from": "9223372036854775808"}},
		{"entries", fields{"max_results": 0}},
		{"entries", fields{"max_results": 1001}},
		{"proofs/inclusion", nil},
		{"proofs/inclusion", fields{"entry": n}},
		{"proofs/inclusion", fields{"entry": 3, "size": 3}},
		{"proofs/inclusion", fields{"entry": 0, "size": 0}},
		{"proofs/inclusion", fields{"entry": 0, "size": n + 1}},
		{"proofs/inclusion", fields{"entry": "1e1"}},
		{"proofs/consistency", nil},
		{"proofs/consistency", fields{"from": 0}},
		{"proofs/consistency", fields{"from": n + 1}},
		{"proofs/consistency", fields{"from": 3, "to": 2}},
		{"proofs/consistency", fields{"from": 1, "to": n + 1}},
		{"tree-heads", fields{"page_token": "x"}},
	} {
		if status, body := p.get(bad.path, bad.query); status != http.StatusBadRequest || !bytes.Contains(body, []byte("INVALID_PARAMETER_VALUE")) {
			t.Errorf("%s %v: %d %s", bad.path, bad.query, status, body)
		}
	}
}

// One answer is bounded in bytes: who asks goes on from where it ended.
func TestEntriesAreBounded(t *testing.T) {
	t.Parallel()
	log := openLog(t, natstest.Start(t))
	writeAll(t, log, "m", created("m"))
	const n = 10
	for i := range n {
		writeAll(t, log, "m", &events.Event{Data: &events.Event_RegisteredModelUpdated{RegisteredModelUpdated: &events.RegisteredModelUpdated{
			Name: "m", Description: strings.Repeat(fmt.Sprint(i), 1_000_000),
		}}})
	}
	p := startProving(t, log, t.TempDir())
	defer p.close()
	p.ready(t)
	if status, body := p.get("entries", nil); status != http.StatusOK || len(body) > 12<<20 || len(body) < 8<<20 {
		t.Errorf("%d, %d bytes", status, len(body))
	}
	got := 0
	for _, err := range p.client().Entries(t.Context(), 0, n+1) {
		if got++; err != nil {
			t.Fatal(err)
		}
	}
	if got != n+1 {
		t.Errorf("%d entries, want %d", got, n+1)
	}
	if page := len(asList(p.raw("GET", "/api/v1/models/m/history", nil).body["entries"])); page >= n+1 || page < 2 {
		t.Errorf("%d entries in a page of the history", page)
	}
}

func (p *proving) sign() (status int, signed []byte) {
	rec := httptest.NewRecorder()
	p.echo.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/api/v1/registry/tree-heads", nil))
	return rec.Code, rec.Body.Bytes()
}

func TestTreeHeads(t *testing.T) {
	log, dir := openLog(t, natstest.Start(t)), t.TempDir()
	p := startProving(t, log, dir)
	if status, _ := p.get("tree-heads/latest", nil); status != http.StatusNotFound {
		t.Errorf("latest head of none: %d", status)
	}
	n := p.fill()
	status, signed := p.sign()
	head, err := treehead.Open(signed, p.key)
	if status != http.StatusCreated || err != nil || head.Size != uint64(n) {
		t.Fatalf("%d, %+v, %v", status, head, err)
	}
	if status, again := p.sign(); status != http.StatusOK || !bytes.Equal(again, signed) {
		t.Errorf("signed again: %d %s", status, again)
	}
	p.create("more")
	p.sign()

	// A ledger that is deleted and built again has the same heads, and the first
	// new one is signed at the start.
	p.create("yet more")
	p.close()
	if err := os.RemoveAll(p.dir); err != nil {
		t.Fatal(err)
	}
	p = startProving(t, log, dir)
	p.must("GET", "registered-models/get", fields{"name": "yet more"})
	if status, _ := p.sign(); status/100 != 2 {
		t.Fatalf("sign after a rebuild: %d", status)
	}
	list := getJSON[struct {
		Heads []struct {
			Size uint64
			Note string
		} `json:"tree_heads"`
	}](p, "tree-heads", nil)
	if len(list.Heads) != 3 || list.Heads[0].Note != string(signed) || list.Heads[2].Size != uint64(n)+2 {
		t.Errorf("heads %+v", list)
	}
	if status, latest := p.get("tree-heads/latest", nil); status != http.StatusOK || string(latest) != list.Heads[2].Note {
		t.Errorf("latest head: %d %s", status, latest)
	}
	if err := p.service.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	p.close()

	// Another log that is as long, and a new ledger of it: only the kept heads know.
	for _, more := range []int{-1, 0, 1} {
		log := openLog(t, natstest.Start(t))
		p = startProving(t, log, t.TempDir())
		for i := range n + 2 + more {
			p.create(fmt.Sprint("other ", i))
		}
		p.close()
		if err := os.RemoveAll(filepath.Join(filepath.Dir(p.dir), "heads")); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(filepath.Join(filepath.Dir(p.dir), "heads"), os.DirFS(filepath.Join(dir, "heads"))); err != nil {
			t.Fatal(err)
		}
		p = startProving(t, log, filepath.Dir(p.dir))
		if status, body := p.sign(); status != http.StatusServiceUnavailable || !bytes.Contains(body, []byte("signed")) {
			t.Errorf("signed another tree of %d entries: %d %s", n+2+more, status, body)
		}
		if err := p.service.Ready(t.Context()); !errors.Is(err, treehead.ErrForked) && !errors.Is(err, treehead.ErrBehind) {
			t.Errorf("ready with another tree of %d entries: %v", n+2+more, err)
		}
		p.close()
	}
}

// Heads are signed at the start, and then as the ledger grows, without being asked for.
func TestHeadsAreSignedByThemselves(t *testing.T) {
	log, dir := openLog(t, natstest.Start(t)), t.TempDir()
	k, _ := treehead.LoadKey(filepath.Join(dir, "key"), "runledger/test")
	keeper, err := treehead.OpenKeeper(filepath.Join(dir, "heads"), k)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(size uint64) func() bool {
		return func() bool { latest, ok := keeper.Latest(); return ok && latest == size }
	}
	s := start(t, log, filepath.Join(dir, "ledger"))
	s.create("a")
	s.close()
	s = startWith(t, registry.Config{Log: log, Dir: filepath.Join(dir, "ledger"), Heads: keeper, HeadEvery: time.Hour})
	eventually(t, "the head of what was there at the start", signed(1))
	s.close()
	s = startWith(t, registry.Config{Log: log, Dir: filepath.Join(dir, "ledger"), Heads: keeper, HeadEvery: time.Millisecond})
	defer s.close()
	for size := uint64(2); size < 4; size++ {
		s.create(fmt.Sprint("m", size))
		eventually(t, "the head of what came since", signed(size))
	}
}

// However many heads are kept, each is listed once.
func TestEveryHeadIsListedOnce(t *testing.T) {
	const n = 1001
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "heads"), 0o700); err != nil {
		t.Fatal(err)
	}
	for size := range n {
		if err := os.WriteFile(filepath.Join(dir, "heads", fmt.Sprintf("%012d.note", size)), []byte(fmt.Sprint(size)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := startProving(t, openLog(t, natstest.Start(t)), dir)
	defer p.close()
	heads, err := p.client().Heads(t.Context())
	if err != nil || len(heads) != n {
		t.Fatalf("%d heads, %v", len(heads), err)
	}
	for i, head := range heads {
		if string(head) != fmt.Sprint(i) {
			t.Fatalf("head %d is %q", i, head)
		}
	}
}

func (p *proving) client() *audit.Client {
	p.t.Helper()
	c, err := audit.NewClient(p.url)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func TestVerifyARunningServer(t *testing.T) {
	t.Parallel()
	log, dir := openLog(t, natstest.Start(t)), t.TempDir()
	p := startProving(t, log, dir)
	n := p.fill()
	_, kept := p.sign()
	for i := range 10 {
		p.create(fmt.Sprint("more ", i))
	}
	o := audit.Options{Keys: []note.Verifier{p.key}, Against: [][]byte{kept}}
	r, err := audit.VerifyServer(t.Context(), p.client(), o)
	if err != nil || r.Size != uint64(n)+10 || r.Heads != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	p.close()

	// Somebody changes an entry on disk and leaves its hash: whichever it is, it is
	// named.
	for index := range uint64(n) + 9 { // the last one is compared with the log at the start
		key := "e/" + string(binary.BigEndian.AppendUint64(nil, index))
		was := ledgertest.Dump(t, vfs.Default, p.dir)[key]
		undo := ledgertest.Tamper(t, p.dir, map[string]string{key: strings.Replace(was, `"reason":""`, `"reason":"x"`, 1)})
		p = startProving(t, log, dir)
		_, err := audit.VerifyServer(t.Context(), p.client(), o)
		if d, ok := errors.AsType[*ledger.Difference](err); !ok || d.First != index || d.Last != index {
			t.Errorf("entry %d changed: %v", index, err)
		}
		var out bytes.Buffer
		if _, err := audit.Export(t.Context(), p.client(), &out, 0, "", o); err == nil || out.Len() > 0 {
			t.Errorf("entry %d changed: exported %d bytes, %v", index, out.Len(), err)
		}
		p.close()
		ledgertest.Tamper(t, p.dir, undo)
	}
	p = startProving(t, log, dir)
	defer p.close()
	if _, err := audit.VerifyServer(t.Context(), p.client(), o); err != nil {
		t.Error(err)
	}
}

// The program in verifier/ shares no code with what it checks.
func TestExportsVerifyOffline(t *testing.T) {
	program := filepath.Join(t.TempDir(), "verifier")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".")
	build.Dir = filepath.Join("..", "..", "verifier")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	p := startProving(t, openLog(t, natstest.Start(t)), t.TempDir())
	defer p.close()
	n := p.fill()
	_, kept := p.sign()
	p.create("more")
	headFile, file := filepath.Join(t.TempDir(), "head"), filepath.Join(t.TempDir(), "export")
	if err := os.WriteFile(headFile, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	key, _, err := p.client().Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	verify := func(export []byte, args ...string) (string, error) {
		t.Helper()
		if err := os.WriteFile(file, export, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), program, append(append([]string{"-key", key}, args...), file)...).CombinedOutput()
		return string(out), err
	}
	export := func(from uint64, model string) []byte {
		t.Helper()
		var out bytes.Buffer
		if _, err := audit.Export(t.Context(), p.client(), &out, from, model, audit.Options{Keys: []note.Verifier{p.key}}); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for _, test := range []struct {
		from    uint64
		model   string
		entries int
		all     bool
	}{
		{0, "", n + 1, true},
		{5, "", n - 4, false},
		{0, "a", 7, false},
		{0, "b", 3, false}, // the first b until it was renamed, and the second
		{0, "c", 3, false}, // from the time when it was b
		{3, "c", 2, false},
	} {
		out, err := verify(export(test.from, test.model))
		if err != nil || !strings.HasPrefix(out, fmt.Sprintf("%d entries are in the tree of %d entries", test.entries, n+1)) ||
			strings.Contains(out, "They are all") != test.all {
			t.Errorf("%+v: %v\n%s", test, err, out)
		}
		if test.model != "" && test.from == 0 && len(p.entries(test.model)) != test.entries {
			t.Errorf("%q has %d entries in its history", test.model, len(p.entries(test.model)))
		}
	}
	all := export(0, "")
	if out, err := verify(all, "-against", headFile); err != nil || !strings.Contains(out, "of 1 tree heads") {
		t.Errorf("against a kept head: %v\n%s", err, out)
	}
	if out, err := verify(export(0, "a"), "-against", headFile); err == nil {
		t.Errorf("a part against a kept head: %s", out)
	}
	other, err := treehead.LoadKey(filepath.Join(t.TempDir(), "key"), "runledger/test")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := verify(all, "-key", other.Verifier); err == nil || !strings.Contains(out, "not signed by") {
		t.Errorf("with another key: %v\n%s", err, out)
	}
	lines := bytes.SplitAfter(all, []byte("\n"))
	for name, bad := range map[string][]byte{
		"cut":           bytes.Join(lines[:len(lines)-2], nil),
		"without entry": bytes.Join(slices.Concat(lines[:4], lines[5:]), nil),
		"twice":         bytes.Join(slices.Concat(lines[:4], lines[3:]), nil),
		"no head":       bytes.Join(lines[1:], nil),
		"empty":         nil,
		"changed":       bytes.Replace(all, []byte("registered_model_created"), []byte("registered_model_deleted"), 1),
	} {
		if out, err := verify(bad); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
	for _, what := range []struct {
		from  uint64
		model string
	}{{uint64(n) + 1, ""}, {0, "nobody"}} {
		if _, err := audit.Export(t.Context(), p.client(), os.Stderr, what.from, what.model, audit.Options{}); !errors.Is(err, audit.ErrNothing) {
			t.Errorf("export %+v: %v", what, err)
		}
	}
}
