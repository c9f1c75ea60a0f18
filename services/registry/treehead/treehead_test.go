package treehead_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/treehead"
)

var now = time.Date(2026, 3, 3, 14, 0, 0, 123, time.UTC)

func key(t testing.TB, name string) (treehead.Key, note.Verifier) {
	t.Helper()
	k, err := treehead.LoadKey(filepath.Join(t.TempDir(), "key"), name)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(k.Verifier)
	if err != nil {
		t.Fatal(err)
	}
	return k, v
}

// tree is the hashes of entries.
type tree []tlog.Hash

func grow(t testing.TB, tr tree, entries ...string) tree {
	t.Helper()
	for _, e := range entries {
		hashes, err := tlog.StoredHashes(int64(tr.Size()), []byte(e), tr)
		if err != nil {
			t.Fatal(err)
		}
		tr = append(tr, hashes...)
	}
	return tr
}

func (tr tree) Hashes() tlog.HashReader { return tr }

func (tr tree) Size() uint64 {
	n := int64(0)
	for tlog.StoredHashCount(n) < int64(len(tr)) {
		n++
	}
	return uint64(n)
}

func (tr tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		out[i] = tr[n]
	}
	return out, nil
}

func TestKeyIsKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if _, err := treehead.LoadKey(file, ""); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a key that must be there is not: %v", err)
	}
	a, err := treehead.LoadKey(file, "runledger/a")
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("key file: %v, %v", info.Mode(), err)
	}
	b, err := treehead.LoadKey(file, "another name")
	if err != nil || b.Verifier != a.Verifier || b.Name() != "runledger/a" {
		t.Fatalf("loaded again: %+v, %v; it was %+v", b, err, a)
	}
	for name, text := range map[string]string{
		"empty": "", "words": "no key", "a verifier key": a.Verifier, "cut": "PRIVATE+KEY+runledger/a+00000000",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := treehead.LoadKey(file, "x"); err == nil {
			t.Errorf("%s: want an error", name)
		}
	}
}

func TestSignedHeads(t *testing.T) {
	k, v := key(t, "runledger/a")
	_, other := key(t, "runledger/a")
	otherName, otherNameV := key(t, "runledger/b")
	h := treehead.Head{Origin: "runledger/a", Size: 7, Root: tlog.Hash{1, 2, 3}, Time: now.Truncate(time.Second)}
	signed, err := treehead.Sign(h, k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := treehead.Open(signed, other, v); err != nil || got != h {
		t.Fatalf("opened %+v, %v; signed %+v", got, err, h)
	}
	if got, err := treehead.Peek(signed); err != nil || got != h {
		t.Fatalf("peeked %+v, %v; signed %+v", got, err, h)
	}
	if _, err := treehead.Open(signed, other, otherNameV); !errors.Is(err, treehead.ErrSignature) {
		t.Errorf("opened with foreign keys: %v", err)
	}
	// A known key for another log.
	foreign, err := note.Sign(&note.Note{Text: h.Text()}, otherName)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := treehead.Open(foreign, v, otherNameV); !errors.Is(err, treehead.ErrSignature) {
		t.Errorf("opened a head whose origin did not sign: %v", err)
	}
	// A head has a size that it cannot exceed, whoever signed it.
	long, err := note.Sign(&note.Note{Text: h.Text() + strings.Repeat("x\n", treehead.MaxBytes/2)}, k)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := treehead.Open(long, v); !errors.Is(err, treehead.ErrMalformed) {
		t.Errorf("opened a head of %d bytes: %v", len(long), err)
	}
	// Every byte counts.
	for i := range signed {
		for bit := range 8 {
			flipped := append([]byte{}, signed...)
			flipped[i] ^= 1 << bit
			_, err := treehead.Open(flipped, v)
			if !errors.Is(err, treehead.ErrSignature) && !errors.Is(err, treehead.ErrMalformed) {
				t.Fatalf("bit %d of byte %d flipped: %v", bit, i, err)
			}
		}
		if _, err := treehead.Open(signed[:i], v); !errors.Is(err, treehead.ErrSignature) && !errors.Is(err, treehead.ErrMalformed) {
			t.Fatalf("cut after %d bytes: %v", i, err)
		}
	}
}

func TestParse(t *testing.T) {
	root := tlog.Hash{9}.String()
	for _, text := range []string{"o\n0\n" + root + "\n", "o\n1\n" + root + "\nmore\ntime 2026-03-03T14:00:00Z\n"} {
		if _, err := treehead.Parse(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{
		"", "\n", "o\n1\n" + root, "\n1\n" + root + "\n", "o\n-1\n" + root + "\n", "o\n01\n" + root + "\n", "o\n+1\n" + root + "\n",
		"o\n9223372036854775808\n" + root + "\n", "o\n1\nAAAA\n", "o\n1\n" + strings.TrimRight(root, "=") + "\n",
		"o\n1\n" + root + "\n\n", "o\n1\n" + root + "\ntime yesterday\n",
		"o\n1\n" + strings.TrimSuffix(root, "A=") + "B=\n", // the same hash in other letters
	} {
		if h, err := treehead.Parse(text); !errors.Is(err, treehead.ErrMalformed) {
			t.Errorf("%q is %+v, %v", text, h, err)
		}
	}
}

func TestKeeperSignsWhatExtendsWhatItSigned(t *testing.T) {
	k, v := key(t, "runledger/a")
	dir := filepath.Join(t.TempDir(), "heads")
	keeper, err := treehead.OpenKeeper(dir, k)
	if err != nil {
		t.Fatal(err)
	}
	two := grow(t, nil, "a", "b")
	five := grow(t, two, "c", "d", "e")
	sign := func(tr tree) ([]byte, bool) {
		t.Helper()
		signed, isNew, err := keeper.Sign(tr, now)
		if err != nil {
			t.Fatal(err)
		}
		if h, err := treehead.Open(signed, v); err != nil || h.Size != tr.Size() {
			t.Fatalf("signed %+v, %v", h, err)
		}
		return signed, isNew
	}
	first, isNew := sign(two)
	if again, isNewAgain := sign(two); !isNew || isNewAgain || string(again) != string(first) {
		t.Errorf("a size was signed twice: %v, %v", isNew, isNewAgain)
	}
	sign(five)
	// It goes on after a restart, with another key too.
	k2, v2 := key(t, "runledger/a")
	if keeper, err = treehead.OpenKeeper(dir, k2); err != nil {
		t.Fatal(err)
	}
	for _, forked := range []tree{grow(t, nil, "a", "b", "c", "x", "e"), grow(t, nil, "a", "b", "c", "x", "e", "f"), grow(t, nil, "b", "a", "c", "d", "e", "f")} {
		if _, _, err := keeper.Sign(forked, now); !errors.Is(err, treehead.ErrForked) {
			t.Errorf("signed another tree of %d entries: %v", forked.Size(), err)
		}
	}
	if _, _, err := keeper.Sign(grow(t, two, "c", "d"), now); !errors.Is(err, treehead.ErrBehind) {
		t.Errorf("signed a smaller tree: %v", err)
	}
	v = v2
	sign(grow(t, five, "f"))
	if sizes, more := keeper.Sizes(0, 2); len(sizes) != 2 || sizes[1] != 5 || !more {
		t.Errorf("sizes %v, more %v", sizes, more)
	}
	if sizes, more := keeper.Sizes(3, 2); len(sizes) != 2 || sizes[1] != 6 || more {
		t.Errorf("sizes %v, more %v", sizes, more)
	}
	if heads, err := treehead.ReadDir(dir); err != nil || len(heads) != 3 || string(heads[0]) != string(first) {
		t.Errorf("heads %q, %v", heads, err)
	}
	// A kept head that is damaged stops it.
	if err := os.WriteFile(filepath.Join(dir, "000000000006.note"), first, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := keeper.Sign(grow(t, five, "f"), now); !errors.Is(err, treehead.ErrMalformed) {
		t.Errorf("signed beside a damaged head: %v", err)
	}
}

// The directory is its owner's, has nothing but heads, by size, and nothing is left
// of one that could not be kept.
func TestKeptHeads(t *testing.T) {
	k, _ := key(t, "runledger/a")
	dir := filepath.Join(t.TempDir(), "heads")
	keeper, err := treehead.OpenKeeper(dir, k)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: %v, %v", info.Mode(), err)
	}
	inTheWay := filepath.Join(dir, "000000000002.note")
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	two := grow(t, nil, "a", "b")
	if signed, _, err := keeper.Sign(two, now); err == nil {
		t.Errorf("signed what it cannot keep: %s", signed)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left behind: %v, %v", files, err)
	}
	if size, ok := keeper.Latest(); ok {
		t.Errorf("the latest head is that of %d entries, which is not kept", size)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	if _, isNew, err := keeper.Sign(two, now); err != nil || !isNew {
		t.Errorf("sign again: new %v, %v", isNew, err)
	}
	for _, name := range []string{"1000000000000.note", "999999999999.note"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if keeper, err = treehead.OpenKeeper(dir, k); err != nil {
		t.Fatal(err)
	}
	if sizes, _ := keeper.Sizes(0, 10); !slices.Equal(sizes, []uint64{2, 999_999_999_999, 1_000_000_000_000}) {
		t.Errorf("sizes %v", sizes)
	}
	for _, name := range []string{"7.note", "x.note", "-00000000007.note"} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := treehead.OpenKeeper(dir, k); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("opened with %s: %v", name, err)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	k, v := key(f, "runledger/a")
	signed, err := treehead.Sign(treehead.Head{Size: 3, Root: tlog.Hash{1}, Time: now}, k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte("o\n1\n" + tlog.Hash{}.String() + "\n\n— a AAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := treehead.Open(data, v); err == nil {
			// Whatever opens was signed: the fuzzer knows one head only.
			if h.Size != 3 || h.Origin != "runledger/a" {
				t.Fatalf("forged %+v", h)
			}
		}
		h, err := treehead.Peek(data)
		if err != nil {
			if !errors.Is(err, treehead.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := treehead.Parse(h.Text()); err != nil || !again.Time.Equal(h.Time) || again.Size != h.Size || again.Root != h.Root {
			t.Fatalf("%+v was read as %+v, %v", h, again, err)
		}
	})
}
