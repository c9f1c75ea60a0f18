package natsfiles_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/natsfiles"
	"github.com/runledger/runledger/pkg/natsserver"
)

const stream = "S"

// fill puts n messages into a stream, in several blocks, and stops the server.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	fillAnd(t, dir, n, true, func(jetstream.Stream) {})
}

// fillAnd is fill of a stream from which messages may be deleted unless it is kept,
// and does something before it stops the server.
func fillAnd(t *testing.T, dir string, n int, kept bool, then func(jetstream.Stream)) {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{"s.>"}, MaxBytes: 120_000, DenyDelete: kept, DenyPurge: kept, // small blocks
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m := &nats.Msg{Subject: fmt.Sprintf("s.%d", i%3), Data: bytes.Repeat([]byte{byte(i)}, 1000), Header: nats.Header{"n": {fmt.Sprint(i)}}}
		if i%2 == 0 {
			m.Header = nil
		}
		if _, err := js.PublishMsg(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	then(st)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func block(dir string, n int) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", stream, "msgs", fmt.Sprintf("%d.blk", n))
}

func change(t *testing.T, path string, f func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, f(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFilesTellEveryEventThatIsMissing(t *testing.T) {
	const n = 100
	whole := t.TempDir()
	fill(t, whole, n)
	if _, err := os.Stat(block(whole, 3)); err != nil {
		t.Fatalf("the messages are in fewer than three blocks: %v", err)
	}
	index := filepath.Join(filepath.Dir(block(whole, 1)), "index.db")
	for name, test := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string // first, last and number of the missing ones
		clean  bool
		torn   bool
	}{
		"nothing":               {func(*testing.T, string) {}, "", true, false},
		"a bit of the data":     {func(t *testing.T, dir string) { change(t, block(dir, 1), flip(3*1050+500)) }, "[4]", true, false},
		"a length":              {func(t *testing.T, dir string) { change(t, block(dir, 2), flip(2)) }, "first of block 2", true, false},
		"the first block":       {func(t *testing.T, dir string) { remove(t, block(dir, 1)) }, "block 1", true, false},
		"the end of the last":   {func(t *testing.T, dir string) { change(t, lastBlock(t, dir), cut(300)) }, "[100]", false, true},
		"half of the last":      {func(t *testing.T, dir string) { change(t, lastBlock(t, dir), half) }, "end", false, true},
		"bytes behind the last": {func(t *testing.T, dir string) { change(t, lastBlock(t, dir), more) }, "", false, true},
		"a block of zeros":      {func(t *testing.T, dir string) { change(t, block(dir, 2), zeros) }, "block 2", true, false},
		"no index, a bit": {func(t *testing.T, dir string) {
			remove(t, filepath.Join(filepath.Dir(block(dir, 1)), "index.db"))
			change(t, block(dir, 1), flip(3*1050+500))
		}, "[4]", false, false},
		"a bit of the index": {func(t *testing.T, dir string) {
			change(t, filepath.Join(filepath.Dir(block(dir, 1)), "index.db"), flip(3))
		}, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			test.damage(t, dir)
			clean, err := natsfiles.StoppedCleanly(dir, stream)
			if err != nil || clean != test.clean {
				t.Errorf("stopped cleanly: %v, %v", clean, err)
			}
			var seen []uint64
			f, err := natsfiles.Read(dir, stream, func(m natsfiles.Message) error {
				i := m.Seq - 1
				if m.Subject != fmt.Sprintf("s.%d", i%3) || !bytes.Equal(m.Data, bytes.Repeat([]byte{byte(i)}, 1000)) || (len(m.Header) > 0) != (i%2 == 1) {
					t.Errorf("message %d is another one: %s, %d bytes, header %q", m.Seq, m.Subject, len(m.Data), m.Header)
				}
				seen = append(seen, m.Seq)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			// What is not seen is missing, and nothing else.
			missing := make(map[uint64]bool)
			for _, s := range f.Missing {
				for seq := s.First; seq <= s.Last; seq++ {
					missing[seq] = true
				}
			}
			for _, seq := range seen {
				if missing[seq] {
					t.Errorf("%d is there, and missing", seq)
				}
			}
			if len(seen)+len(missing) != n || f.Messages != uint64(len(seen)) {
				t.Errorf("%d are there and %d missing of %d", len(seen), len(missing), n)
			}
			if (len(missing) > 0) != (test.want != "") || (f.Torn > 0) != test.torn {
				t.Errorf("missing %v, damage %v, torn %d", f.Missing, f.Damage, f.Torn)
			}
			if test.want[:min(1, len(test.want))] == "[" && fmt.Sprint(f.Missing) != test.want {
				t.Errorf("missing %v, want %v", f.Missing, test.want)
			}
			if damaged := strings.Contains(name, "bit of the data") || strings.Contains(name, ", a bit") || name == "a length" || name == "a block of zeros"; (len(f.Damage) > 0) != damaged {
				t.Errorf("damage %v", f.Damage)
			}
			wantWhole := uint64(n)
			if len(f.Missing) > 0 {
				wantWhole = f.Missing[0].First - 1
			}
			if f.Whole != wantWhole {
				t.Errorf("whole up to %d, want %d", f.Whole, wantWhole)
			}
			if indexed := !strings.Contains(name, "index"); (f.Index == n) != indexed {
				t.Errorf("the index ends at %d", f.Index)
			}
			t.Logf("missing %v, damage %v, torn %d", f.Missing, f.Damage, f.Torn)
		})
	}
	if _, err := os.Stat(index); err != nil {
		t.Error(err)
	}
}

// readAll returns what the files have, and the sequences of the messages.
func readAll(t *testing.T, dir string) (f natsfiles.Files, seqs []uint64) {
	t.Helper()
	f, err := natsfiles.Read(dir, stream, func(m natsfiles.Message) error { seqs = append(seqs, m.Seq); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return f, seqs
}

func TestACutStreamEndsWhereItIsCutAndNothingIsThrownAway(t *testing.T) {
	const n = 100
	whole := t.TempDir()
	fill(t, whole, n)
	// The first event of the second block.
	edge := uint64(0)
	two := t.TempDir()
	if err := os.CopyFS(two, os.DirFS(whole)); err != nil {
		t.Fatal(err)
	}
	remove(t, block(two, 1))
	if f, _ := readAll(t, two); len(f.Missing) == 1 {
		edge = f.Missing[0].Last + 1
	}
	if edge < 2 {
		t.Fatal("no second block")
	}
	for _, last := range []uint64{0, 1, 5, edge - 1, edge, n - 1, n} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		aside := map[string][]byte{}
		if err := natsfiles.Cut(dir, stream, last, func(path string) error {
			data, err := os.ReadFile(path)
			aside[filepath.Base(path)] = data
			return errors.Join(err, os.Remove(path))
		}); err != nil {
			t.Fatal(err)
		}
		f, seqs := readAll(t, dir)
		if len(seqs) != int(last) || f.Whole != last || len(f.Missing) > 0 || len(f.Damage) > 0 || f.Torn > 0 || f.Index > 0 {
			t.Errorf("cut at %d: %d messages, %+v", last, len(seqs), f)
		}
		// Each file that changed was set aside as it was.
		for _, name := range []string{"index.db", "1.blk", "2.blk", "3.blk"} {
			was, err := os.ReadFile(filepath.Join(filepath.Dir(block(whole, 1)), name))
			if err != nil {
				t.Fatal(err)
			}
			now, err := os.ReadFile(filepath.Join(filepath.Dir(block(dir, 1)), name))
			if old, ok := aside[name]; ok && !bytes.Equal(old, was) || !ok && !bytes.Equal(now, was) {
				t.Errorf("cut at %d: %s of %d bytes is gone (%v)", last, name, len(was), err)
			}
		}
		if last == 5 || last == 0 {
			s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			js, err := jetstream.New(s.Conn())
			if err != nil {
				t.Fatal(err)
			}
			ack, err := js.Publish(t.Context(), "s.1", nil)
			if err != nil || ack.Sequence != last+1 {
				t.Errorf("cut at %d: the next message is %+v, %v", last, ack, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	// What cannot be done changes nothing.
	refused := errors.New("no")
	for _, tt := range []struct {
		last  uint64
		aside func(string) error
	}{{n + 1, func(path string) error { return os.Rename(path, path+".old") }}, {5, func(string) error { return refused }}} {
		if err := natsfiles.Cut(whole, stream, tt.last, tt.aside); err == nil {
			t.Errorf("cut at %d: no error", tt.last)
		}
		if f, _ := readAll(t, whole); f.Whole != n || f.Index != n {
			t.Errorf("cut at %d: %+v", tt.last, f)
		}
	}
}

// The server deletes only what it has noticed to be lost.
func TestADeletedMessageIsDamage(t *testing.T) {
	dir := t.TempDir()
	remove := func(seq uint64) func(jetstream.Stream) {
		return func(s jetstream.Stream) {
			if err := s.DeleteMsg(t.Context(), seq); err != nil {
				t.Fatal(err)
			}
		}
	}
	fillAnd(t, dir, 10, false, remove(5))
	if clean, err := natsfiles.StoppedCleanly(dir, stream); clean || err != nil {
		t.Errorf("stopped cleanly: %v, %v", clean, err)
	}
	if f, _ := readAll(t, dir); len(f.Damage) != 1 || !strings.HasSuffix(f.Damage[0], "deleted 5") {
		t.Errorf("%+v", f)
	}
	fillAnd(t, dir, 2, false, func(jetstream.Stream) {})
	if f, _ := readAll(t, dir); f.Whole != 10 || f.Last != 12 {
		t.Errorf("what is behind the damage counts as whole: %+v", f)
	}

	// One of which only the deletion is left.
	dir = t.TempDir()
	fillAnd(t, dir, 10, false, remove(10))
	change(t, block(dir, 1), flip(9*1050+500))
	if f, seqs := readAll(t, dir); fmt.Sprint(f.Missing) != "[10]" || len(seqs) != 9 || f.Messages != 9 || f.Last != 10 {
		t.Errorf("%+v", f)
	}
	if err := natsfiles.Cut(dir, stream, 10, func(string) error { return nil }); err == nil {
		t.Error("cut behind an event that is not there")
	}
}

func TestAMessageCountsOnce(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 1)
	change(t, block(dir, 1), func(b []byte) []byte { return append(b, b...) })
	if f, seqs := readAll(t, dir); len(seqs) != 1 || f.Messages != 1 || len(f.Damage) != 1 {
		t.Errorf("%+v", f)
	}
}

// Blocks are read by their numbers, also when there are ten.
func TestBlocksAreReadInOrder(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 330) // the oldest go, since there is a limit
	if _, err := os.Stat(block(dir, 10)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(block(dir, 9)); err != nil {
		t.Fatal(err)
	}
	f, seqs := readAll(t, dir)
	if !slices.IsSorted(seqs) || len(f.Missing) != 1 || len(f.Damage) > 0 || f.Last != 330 {
		t.Errorf("%v: %+v", seqs, f)
	}
	if f.Missing[0].Len() != seqs[0]-1 {
		t.Errorf("%d are missing, the first is %d", f.Missing[0].Len(), seqs[0])
	}
	if clean, err := natsfiles.StoppedCleanly(dir, stream); clean || err != nil {
		t.Errorf("stopped cleanly: %v, %v", clean, err)
	}
}

func TestAReadEndsWhereItsVisitorFails(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 3)
	enough, n := errors.New("enough"), 0
	if _, err := natsfiles.Read(dir, stream, func(natsfiles.Message) error { n++; return enough }); !errors.Is(err, enough) || n != 1 {
		t.Errorf("%d messages, %v", n, err)
	}
}

func TestIndexesOfAllStreamsAreDropped(t *testing.T) {
	dir := t.TempDir()
	if names, err := natsfiles.Streams(dir); len(names) > 0 || err != nil {
		t.Errorf("streams of nothing: %v, %v", names, err)
	}
	var paths []string
	for _, name := range []string{"A", "B"} {
		path := filepath.Join(dir, "jetstream", "$G", "streams", name, "msgs", "index.db")
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	if err := os.WriteFile(filepath.Join(dir, "jetstream", "$G", "streams", "a file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if names, err := natsfiles.Streams(dir); !slices.Equal(names, []string{"A", "B"}) || err != nil {
		t.Errorf("streams: %v, %v", names, err)
	}
	for range 2 { // the second time there is none
		if err := natsfiles.DropIndexes(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range paths {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 4; return b }
}

func cut(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }

func half(b []byte) []byte { return b[:len(b)/2] }

func more(b []byte) []byte { return append(b, b[:70]...) }

func zeros(b []byte) []byte { return make([]byte, len(b)) }

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func lastBlock(t *testing.T, dir string) string {
	t.Helper()
	for n := 1; ; n++ {
		if _, err := os.Stat(block(dir, n+1)); err != nil {
			return block(dir, n)
		}
	}
}
