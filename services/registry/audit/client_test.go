package audit_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/audit"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

// A server that lies, or is none, gets a clean error.
func TestServersThatLie(t *testing.T) {
	const n = 12
	recs := ledgertest.RandomEvents(t, 21, n)
	dir := newLedger(t, recs)
	k, v := newKey(t)
	foreign, _ := newKey(t)
	head, foreignHeads := string(signHeads(t, dir, k, n)[0]), signHeads(t, dir, foreign, 3, n)
	l, err := ledger.Open(dir, ledger.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var lines []string
	for canonical, err := range l.Canonicals(0, n) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, string(canonical)+"\n")
	}
	honest := map[string]string{
		"POST /api/v1/registry/tree-heads": head,
		"GET /api/v1/registry/tree-heads":  `{"tree_heads":[]}`,
		"GET /api/v1/registry/entries":     strings.Join(lines, ""),
	}
	otherRoot, err := treehead.Sign(treehead.Head{Size: n, Root: tlog.Hash{1}}, k)
	if err != nil {
		t.Fatal(err)
	}
	tooLarge, err := treehead.Sign(treehead.Head{Size: 1 << 62, Root: tlog.Hash{1}}, k)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Join(lines[:5], "") + strings.Replace(lines[5], "because", "without", 1) + strings.Join(lines[6:], "")
	for name, test := range map[string]struct {
		path, answer string
		want         error
		first        int // entry, -1 for none
	}{
		"honest":                        {want: nil, first: -1},
		"no head":                       {"POST /api/v1/registry/tree-heads", "<html>", treehead.ErrMalformed, -1},
		"a foreign head":                {"POST /api/v1/registry/tree-heads", string(foreignHeads[1]), treehead.ErrSignature, -1},
		"a head that is cut":            {"POST /api/v1/registry/tree-heads", head[:len(head)-10], treehead.ErrMalformed, -1},
		"a head of a huge tree":         {"POST /api/v1/registry/tree-heads", string(tooLarge), ledger.ErrDamaged, n},
		"a head of another tree":        {"POST /api/v1/registry/tree-heads", string(otherRoot), ledger.ErrDamaged, 0},
		"a foreign head among its own":  {"GET /api/v1/registry/tree-heads", fmt.Sprintf(`{"tree_heads":[{"note":%q}]}`, foreignHeads[0]), treehead.ErrSignature, -1},
		"no list of heads":              {"GET /api/v1/registry/tree-heads", `[`, audit.ErrAnswer, -1},
		"no entries":                    {"GET /api/v1/registry/entries", "", audit.ErrAnswer, 0},
		"entries that are none":         {"GET /api/v1/registry/entries", "<html>\n", ledger.ErrDamaged, 0},
		"one entry for ever":            {"GET /api/v1/registry/entries", lines[0], ledger.ErrDamaged, 1},
		"an entry that is cut":          {"GET /api/v1/registry/entries", strings.Join(lines, "")[:len(lines[0])+30], ledger.ErrDamaged, 1},
		"an entry that was changed":     {"GET /api/v1/registry/entries", changed, ledger.ErrDamaged, 0},
		"entries that were swapped":     {"GET /api/v1/registry/entries", lines[0] + lines[2] + lines[1] + strings.Join(lines[3:], ""), ledger.ErrDamaged, 1},
		"an entry that was left out":    {"GET /api/v1/registry/entries", lines[0] + strings.Join(lines[2:], ""), ledger.ErrDamaged, 1},
		"JSON in another form":          {"GET /api/v1/registry/entries", strings.Replace(lines[0], ":", ": ", 1), ledger.ErrDamaged, 0},
		"an entry with a member more":   {"GET /api/v1/registry/entries", strings.Replace(lines[0], `{"action"`, `{"a":1,"action"`, 1), ledger.ErrDamaged, 0},
		"an entry with a table for one": {"GET /api/v1/registry/entries", strings.Replace(lines[0], `"reason":"because`, `"reason":{},"x":"`, 1), ledger.ErrDamaged, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				path := r.Method + " " + r.URL.Path
				answer, ok := honest[path]
				if path == test.path {
					answer = test.answer
				}
				if path == "GET /api/v1/registry/entries" && r.URL.Query().Get("from") == fmt.Sprint(n) {
					answer = "" // no more
				}
				if !ok {
					http.Error(w, "nothing here", http.StatusNotFound)
					return
				}
				_, _ = w.Write([]byte(answer)) // the client may have gone
			}))
			defer h.Close()
			c, err := audit.NewClient(h.URL)
			if err != nil {
				t.Fatal(err)
			}
			_, err = audit.VerifyServer(t.Context(), c, audit.Options{Keys: []note.Verifier{v}})
			if !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
			if at, ok := first(err); ok != (test.first >= 0) || ok && int(at) != test.first {
				t.Errorf("%v, want entry %d", err, test.first)
			}
		})
	}
	for _, bad := range []string{"", "x", "ftp://x", "http://", "127.0.0.1:5000", "http://%zz"} {
		if _, err := audit.NewClient(bad); err == nil {
			t.Errorf("server %q: want an error", bad)
		}
	}
}

func FuzzTree(f *testing.F) {
	recs := ledgertest.RandomEvents(f, 22, 30)
	l, err := ledger.Open(newLedger(f, recs), ledger.Options{ReadOnly: true})
	if err != nil {
		f.Fatal(err)
	}
	defer l.Close()
	var entries [][]byte
	for canonical, err := range l.Canonicals(0, l.Size()) {
		if err != nil {
			f.Fatal(err)
		}
		entries = append(entries, append([]byte{}, canonical...))
		f.Add(uint8(len(entries)-1), entries[len(entries)-1])
	}
	f.Add(uint8(0), []byte(`{"after":{"name":{}},"before":{"a":[1]}}`))
	f.Fuzz(func(t *testing.T, at uint8, entry []byte) {
		tree := new(audit.Tree)
		for _, e := range entries[:int(at)%len(entries)] {
			if err := tree.Add(e); err != nil {
				t.Fatal(err)
			}
		}
		before := tree.Size()
		if err := tree.Add(entry); err == nil {
			if tree.Size() != before+1 {
				t.Fatalf("size %d after %d", tree.Size(), before)
			}
		} else if _, ok := first(err); !ok || tree.Size() != before {
			t.Fatalf("%v, size %d after %d", err, tree.Size(), before)
		}
	})
}

// BenchmarkVerify recomputes a ledger: with what its entries say of the models, and
// the hashes alone.
func BenchmarkVerify(b *testing.B) {
	const n = 20_000
	dir := newLedger(b, ledgertest.RandomEvents(b, 1, n))
	perSecond := func(b *testing.B) { b.ReportMetric(float64(b.N)*n/b.Elapsed().Seconds(), "entries/s") }
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if _, err := audit.VerifyDir(b.Context(), dir, nil, nil, audit.Options{}); err != nil {
				b.Fatal(err)
			}
		}
		perSecond(b)
	})
	b.Run("hashes", func(b *testing.B) {
		l, err := ledger.Open(dir, ledger.Options{ReadOnly: true})
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		for b.Loop() {
			var hashes []tlog.Hash
			read := tlog.HashReaderFunc(func(at []int64) ([]tlog.Hash, error) {
				out := make([]tlog.Hash, len(at))
				for i, n := range at {
					out[i] = hashes[n]
				}
				return out, nil
			})
			index := int64(0)
			for canonical, err := range l.Canonicals(0, n) {
				if err != nil {
					b.Fatal(err)
				}
				more, err := tlog.StoredHashes(index, canonical, read)
				if err != nil {
					b.Fatal(err)
				}
				hashes, index = append(hashes, more...), index+1
			}
			root, err := tlog.TreeHash(n, read)
			if head, headErr := l.Head(); err != nil || headErr != nil || root != head.RootHash {
				b.Fatal(err, headErr, "another root")
			}
		}
		perSecond(b)
	})
}
