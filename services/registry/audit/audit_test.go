package audit_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/audit"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

func newLog(t testing.TB, recs []eventlog.Record) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	ledgertest.Publish(t, log, recs)
	return log
}

func newLedger(t testing.TB, recs []eventlog.Record) (dir string) {
	t.Helper()
	dir = t.TempDir()
	l, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Apply(recs...), l.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newKey(t testing.TB) (treehead.Key, note.Verifier) {
	t.Helper()
	k, err := treehead.LoadKey(filepath.Join(t.TempDir(), "key"), "runledger/test")
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(k.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return k, v
}

// signHeads signs the heads of the trees of the first sizes entries of a ledger.
func signHeads(t testing.TB, dir string, k treehead.Key, sizes ...uint64) (heads [][]byte) {
	t.Helper()
	l, err := ledger.Open(dir, ledger.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, size := range sizes {
		root, err := tlog.TreeHash(int64(size), l.Hashes())
		if err != nil {
			t.Fatal(err)
		}
		signed, err := treehead.Sign(treehead.Head{Size: size, Root: root, Time: time.Unix(1_800_000_000, 0)}, k)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, signed)
	}
	return heads
}

// number is the n-th big-endian number of a key's rest.
func number(key string, n int) (v uint64) {
	for _, b := range []byte(key[2+8*n : 10+8*n]) {
		v = v<<8 | uint64(b)
	}
	return v
}

func first(err error) (uint64, bool) {
	d, ok := errors.AsType[*ledger.Difference](err)
	if !ok {
		return 0, false
	}
	return d.First, true
}

func TestEveryChangeOfALedgerOnDiskIsFound(t *testing.T) {
	const n = 30
	recs := ledgertest.RandomEvents(t, 11, n)
	log, dir := newLog(t, recs), newLedger(t, recs)
	verify := func() error {
		_, err := audit.VerifyDir(t.Context(), dir, log, nil, audit.Options{})
		return err
	}
	if r, err := audit.VerifyDir(t.Context(), dir, log, nil, audit.Options{}); err != nil || r.Size != n || !r.Stream || r.Behind != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	dump := ledgertest.Dump(t, vfs.Default, dir)
	kinds := make(map[string]int)
	for _, key := range slices.Sorted(maps.Keys(dump)) {
		kinds[key[:1]]++
		value := []byte(dump[key])
		changes := map[string]map[string]string{"deleted": {key: ledgertest.Deleted}}
		if len(value) > 0 {
			flipped := slices.Clone(value)
			flipped[r.IntN(len(flipped))] ^= 1 << r.IntN(8)
			changes["flipped"] = map[string]string{key: string(flipped)}
			changes["cut"] = map[string]string{key: string(value[:r.IntN(len(value))])}
		}
		moved := []byte(key)
		moved[r.IntN(len(moved))] ^= 1 << r.IntN(8)
		if _, taken := dump[string(moved)]; !taken {
			changes["moved"] = map[string]string{key: ledgertest.Deleted, string(moved): string(value)}
		}
		for what, change := range changes {
			undo := ledgertest.Tamper(t, dir, change)
			err := verify()
			if err == nil {
				t.Fatalf("key %q %s: not found", key, what)
			}
			if !errors.Is(err, ledger.ErrDamaged) {
				t.Errorf("key %q %s: %v", key, what, err)
			}
			if at, ok := first(err); strings.HasPrefix(key, "e/") && what != "moved" && (!ok || at != number(key, 0)) {
				t.Errorf("entry %d %s: %v", number(key, 0), what, err)
			}
			ledgertest.Tamper(t, dir, undo)
		}
	}
	if err := verify(); err != nil {
		t.Fatal(err)
	}
	t.Logf("keys changed, by kind: %v", kinds)
}

func TestSwappedEntriesAreFound(t *testing.T) {
	const n = 30
	recs := ledgertest.RandomEvents(t, 12, n)
	dir := newLedger(t, recs)
	dump := ledgertest.Dump(t, vfs.Default, dir)
	keys := slices.Sorted(maps.Keys(dump))
	for i := range n - 1 {
		for _, j := range []int{i + 1, n - 1} {
			if i == j {
				continue
			}
			undo := ledgertest.Tamper(t, dir, map[string]string{keys[i]: dump[keys[j]], keys[j]: dump[keys[i]]})
			_, err := audit.VerifyDir(t.Context(), dir, nil, nil, audit.Options{}) // without the log
			if at, ok := first(err); !ok || at != uint64(i) {
				t.Fatalf("entries %d and %d swapped: %v", i, j, err)
			}
			ledgertest.Tamper(t, dir, undo)
		}
	}
}

// What is rewritten as a whole, the log too, is right in itself. A head that was
// kept elsewhere shows it.
func TestWhatNeedsAHeadFromElsewhere(t *testing.T) {
	const n = 60
	recs := ledgertest.RandomEvents(t, 13, n)
	dir := newLedger(t, recs)
	k, v := newKey(t)
	heads := signHeads(t, dir, k, 1, 10, 20, 30, n)
	kept := audit.Options{Keys: []note.Verifier{v}, Against: heads}
	verify := func(recs []eventlog.Record, o audit.Options) error {
		_, err := audit.VerifyDir(t.Context(), newLedger(t, recs), newLog(t, recs), nil, o)
		return err
	}
	if err := verify(recs, kept); err != nil {
		t.Fatal(err)
	}

	rewritten := slices.Clone(recs)
	rewritten[14].Reason = "another one"
	if err := verify(rewritten, audit.Options{}); err != nil {
		t.Errorf("a ledger that was chained again is right in itself: %v", err)
	}
	err := verify(rewritten, kept)
	if d, ok := errors.AsType[*ledger.Difference](err); !ok || d.First != 10 || d.Last != 19 {
		t.Errorf("a ledger that was chained again, with entry 14 another: %v", err)
	}

	if err := verify(recs[:40], audit.Options{}); err != nil {
		t.Errorf("a ledger and a log that were cut are right in themselves: %v", err)
	}
	err = verify(recs[:40], kept)
	if at, ok := first(err); !ok || at != 40 {
		t.Errorf("a ledger and a log that were cut to 40: %v", err)
	}

	// The ledger alone: its events are in the log.
	if r, err := audit.VerifyDir(t.Context(), newLedger(t, recs[:40]), newLog(t, recs), nil, kept); err != nil || r.Behind != n-40 || r.Size != 40 {
		t.Errorf("a ledger that is behind the log: %+v, %v", r, err)
	}
	_, err = audit.VerifyDir(t.Context(), newLedger(t, recs[:40]), nil, nil, kept)
	if at, ok := first(err); !ok || at != 40 {
		t.Errorf("a ledger that was cut, without the log: %v", err)
	}
	// The log alone.
	_, err = audit.VerifyDir(t.Context(), dir, newLog(t, recs[:40]), nil, audit.Options{})
	if at, ok := first(err); !ok || at != 40 || !errors.Is(err, audit.ErrLedgerAhead) {
		t.Errorf("a log that was cut: %v", err)
	}
	_, err = audit.VerifyDir(t.Context(), dir, newLog(t, rewritten), nil, audit.Options{})
	if at, ok := first(err); !ok || at != 14 {
		t.Errorf("a log that was rewritten: %v", err)
	}
}

func TestForeignHeads(t *testing.T) {
	recs := ledgertest.RandomEvents(t, 14, 20)
	dir := newLedger(t, recs)
	k, v := newKey(t)
	other, _ := newKey(t)
	mine, theirs := signHeads(t, dir, k, 20)[0], signHeads(t, dir, other, 20)[0]
	flipped := slices.Clone(mine)
	flipped[strings.Index(string(mine), "20")] = '1'
	for name, test := range map[string]struct {
		head []byte
		want error
	}{
		"mine": {mine, nil}, "foreign": {theirs, treehead.ErrSignature}, "forged": {flipped, treehead.ErrSignature},
		"cut": {mine[:len(mine)-20], treehead.ErrMalformed}, "empty": {nil, treehead.ErrMalformed},
		"no note": {[]byte("hello"), treehead.ErrMalformed}, "huge": {make([]byte, 1<<20), treehead.ErrMalformed},
	} {
		for _, where := range []string{"against", "kept"} {
			o := audit.Options{Keys: []note.Verifier{v}}
			var kept [][]byte
			if where == "against" {
				o.Against = [][]byte{test.head}
			} else {
				kept = [][]byte{test.head}
			}
			if _, err := audit.VerifyDir(t.Context(), dir, nil, kept, o); !errors.Is(err, test.want) {
				t.Errorf("%s head, %s: %v, want %v", name, where, err, test.want)
			}
		}
	}
}

// Flipped bits in the files are found by Pebble's checksums or by ours, or cut the
// ledger, which the log then makes good, or they change nothing that is read.
func TestFlippedBitsInFiles(t *testing.T) {
	const n, flips = 200, 200
	recs := ledgertest.RandomEvents(t, 15, n)
	log, dir := newLog(t, recs), newLedger(t, recs)
	r := rand.New(rand.NewPCG(3, 4))
	outcomes := make(map[string]int)
	for range flips {
		copied := t.TempDir()
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(copied, "*"))
		if err != nil {
			t.Fatal(err)
		}
		var file string
		var data []byte
		for len(data) == 0 { // some are empty
			file = files[r.IntN(len(files))]
			if data, err = os.ReadFile(file); err != nil {
				t.Fatal(err)
			}
		}
		at, bit := r.IntN(len(data)), r.IntN(8)
		data[at] ^= 1 << bit
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := audit.VerifyDir(t.Context(), copied, log, nil, audit.Options{})
		switch {
		case err != nil:
			outcomes["found"]++
		case report.Behind > 0:
			outcomes["cut"]++
		default:
			// Verified: then what is read is what was written.
			if !maps.Equal(ledgertest.Dump(t, vfs.Default, copied), ledgertest.Dump(t, vfs.Default, dir)) {
				t.Fatalf("bit %d of byte %d of %s: not found", bit, at, file)
			}
			outcomes["nothing changed"]++
		}
	}
	t.Log(outcomes)
}
