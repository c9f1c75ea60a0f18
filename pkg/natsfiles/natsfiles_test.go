package natsfiles_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
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
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.Conn())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(t.Context(), jetstream.StreamConfig{
		Name: stream, Subjects: []string{"s.>"}, MaxBytes: 120_000, DenyDelete: true, DenyPurge: true, // small blocks
	}); err != nil {
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
			t.Logf("missing %v, damage %v, torn %d", f.Missing, f.Damage, f.Torn)
		})
	}
	if _, err := os.Stat(index); err != nil {
		t.Error(err)
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
