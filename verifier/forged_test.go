package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// notary signs as a server does, also what a server never would.
type notary struct {
	private ed25519.PrivateKey
	key     key
	text    string // of the key
}

func newNotary(t *testing.T, name string, algorithm byte) notary {
	t.Helper()
	n := notary{private: ed25519.NewKeyFromSeed(slices.Repeat([]byte(name[:1]), ed25519.SeedSize))}
	public := append([]byte{algorithm}, n.private.Public().(ed25519.PublicKey)...)
	sum := sha256.Sum256(slices.Concat([]byte(name+"\n"), public))
	n.text = fmt.Sprintf("%s+%x+%s", name, sum[:idLength], base64.StdEncoding.EncodeToString(public))
	n.key = key{name: name, id: binary.BigEndian.Uint32(sum[:]), public: public[1:]}
	return n
}

func (n notary) signature(text string) string {
	id := binary.BigEndian.AppendUint32(nil, n.key.id)
	return fmt.Sprintf("%s%s %s\n", dash, n.key.name, base64.StdEncoding.EncodeToString(append(id, ed25519.Sign(n.private, []byte(text))...)))
}

func (n notary) sign(text string) string { return text + "\n" + n.signature(text) }

func headText(name string, size int, root hash) string {
	return fmt.Sprintf("%s\n%d\n%s\ntime 2026-01-02T03:04:05Z\n", name, size, base64.StdEncoding.EncodeToString(root[:]))
}

func hashes(entries []string) (leaves []hash) {
	for _, e := range entries {
		leaves = append(leaves, leafHash([]byte(e)))
	}
	return leaves
}

func (n notary) head(entries []string) string {
	return n.sign(headText(n.key.name, len(entries), define(hashes(entries))))
}

// numbered returns n entries that say which they are.
func numbered(n int) (entries []string) {
	for i := range n {
		entries = append(entries, fmt.Sprintf(`{"index":%d,"of":"%s"}`, i, "the tree"))
	}
	return entries
}

func text(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func entryLine(t *testing.T, entries []string, i int) string {
	t.Helper()
	leaves := hashes(entries)
	proof := path(i, leaves)
	return text(t, map[string]any{"index": i, "leaf_hash": leaves[i][:], "entry": entries[i], "proof": append([]digest{}, proof...)})
}

// A tree head that is signed is no proof of an export: every rule is one of its own.
func TestWhatMustHoldOfAnExport(t *testing.T) {
	n := newNotary(t, "server", algorithmEd25519)
	const size = 7
	entries := numbered(size)
	first := func(signed string) string { return text(t, map[string]any{"tree_head": signed}) }
	end := func(n int) string { return text(t, map[string]any{"entries": n}) }
	export := func(entries []string, which ...int) []string {
		lines := []string{first(n.head(entries))}
		for _, i := range which {
			lines = append(lines, entryLine(t, entries, i))
		}
		return append(lines, end(len(which)))
	}
	with := func(lines []string, at int, line string) []string {
		lines = slices.Clone(lines)
		lines[at] = line
		return lines
	}
	other := slices.Clone(entries)
	other[1] = `{"index":1,"of":"another tree"}`
	says := func(entry string) []string {
		entries := slices.Clone(entries)
		entries[3] = entry
		return entries
	}
	all := export(entries, 0, 1, 2, 3, 4, 5, 6)
	for _, tt := range []struct {
		name     string
		lines    []string
		kept     []string
		complete bool
		want     string // of the error, "" for none
	}{
		{name: "all", lines: all, complete: true},
		{name: "some", lines: export(entries, 1, 3, 6)},
		{name: "the last", lines: export(entries, 6)},
		{name: "all but the last", lines: export(entries, 0, 1, 2, 3, 4, 5)},
		{name: "all but the first", lines: export(entries, 1, 2, 3, 4, 5, 6)},
		{name: "none", lines: export(entries)},
		{name: "an empty tree", lines: export(nil), complete: true},
		{name: "an empty tree with a root", lines: []string{first(n.sign(headText(n.key.name, 0, define(hashes(entries))))), end(0)}, want: "not those of the tree head"},
		{name: "an unknown field", lines: with(all, 0, `{"x":1,`+all[0][1:]), want: "unknown field"},
		{name: "two values in a line", lines: with(all, 1, all[1]+all[2]), want: "more than one value"},
		{name: "a line behind the end", lines: append(slices.Clone(all), end(size)), want: "follows the last line"},
		{name: "fewer than it says", lines: with(all, 8, end(size+1)), want: "were to come"},
		{name: "more than it says", lines: with(all, 8, end(size-1)), want: "were to come"},
		{name: "no tree head", lines: all[1:], want: "no tree head"},
		{name: "the first entry twice", lines: export(entries, 0, 0), want: "entry 0 after entry 0"},
		{name: "an entry twice", lines: export(entries, 0, 1, 2, 2), want: "entry 2 after entry 2"},
		{name: "another order", lines: export(entries, 2, 1), want: "entry 1 after entry 2"},
		{name: "an entry of another tree", lines: with(all, 2, entryLine(t, other, 1)), want: "entry 1 is not in the tree"},
		{name: "an entry of a larger tree", lines: with(all, 2, entryLine(t, numbered(size+1), 1)), want: "entry 1"},
		{name: "an entry beyond the tree", lines: with(all, 7, entryLine(t, numbered(size+1), size)), want: "has none from that on"},
		{name: "an entry that says it is another", lines: export(says(`{"index":4}`), 3), want: "entry 3 does not say"},
		{name: "an entry that does not say", lines: export(says(`{}`), 3), want: "entry 3 does not say"},
		{name: "an entry that is no JSON", lines: export(says(`{"index":3`), 3), want: "entry 3 does not say"},

		{name: "heads that were kept", lines: all, kept: []string{n.head(entries), n.head(entries[:2]), n.head(nil), n.head(entries[:5]), n.head(entries[:2])}, complete: true},
		{name: "heads of what the export begins with", lines: export(entries, 0, 1, 2, 5), kept: []string{n.head(entries[:3]), n.head(entries[:1])}},
		{name: "the first head is of another tree", lines: all, kept: []string{n.head(other[:2]), n.head(entries[:5])}, want: "the first 2 entries are not those"},
		{name: "the second head is of another tree", lines: all, kept: []string{n.head(entries[:1]), n.head(other[:5])}, want: "the first 5 entries are not those"},
		{name: "of two heads of a size one is of another tree", lines: all, kept: []string{n.head(entries[:2]), n.head(other[:2])}, want: "the first 2 entries are not those"},
		{name: "a head of a larger tree", lines: all, kept: []string{n.head(numbered(size + 1))}, want: "a tree head that was kept has 8"},
		{name: "the head is beyond what the export begins with", lines: export(entries, 0, 2, 3, 4, 5, 6), kept: []string{n.head(entries[:6])}, want: "cannot compare"},
		{name: "one head of several is", lines: export(entries, 0, 1, 3), kept: []string{n.head(entries[:3]), n.head(entries[:2])}, want: "cannot compare with a tree head of 3"},
	} {
		var kept []head
		for _, signed := range tt.kept {
			h, err := openHead([]byte(signed), n.key)
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, h)
		}
		r, err := verify(strings.NewReader(strings.Join(tt.lines, "\n")+"\n"), n.key, kept)
		switch {
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		case tt.want == "" && (err != nil || r.complete != tt.complete):
			t.Errorf("%s: complete: %v, want %v (%v)", tt.name, r.complete, tt.complete, err)
		}
	}
}

func TestWhatMustHoldOfATreeHead(t *testing.T) {
	n, stranger := newNotary(t, "server", algorithmEd25519), newNotary(t, "stranger", algorithmEd25519)
	namesake := newNotary(t, "other", algorithmEd25519)
	namesake.key.name = n.key.name
	good := headText(n.key.name, 7, hash{1})
	lines := strings.SplitAfter(good, "\n")
	for _, tt := range []struct {
		name, signed string
		want         string // of the error, "" for none
	}{
		{"signed", n.sign(good), ""},
		{"signed by others too", good + "\n" + stranger.signature(good) + n.signature(good) + namesake.signature(good), ""},
		{"without a time", n.sign(strings.Join(lines[:3], "")), ""},
		{"signed by another", stranger.sign(good), "is not signed by"},
		{"signed by another of the name", namesake.sign(good), "is not signed by"},
		{"signed by nobody", good + "\n", "is not signed by"},
		{"not signed", good, "is no signed tree head"},
		{"another text", good + "\n" + n.signature(good+"x\n"), "is wrong"},
		{"signed for right and wrong", good + "\n" + n.signature(good+"x\n") + n.signature(good), "is wrong"},
		{"of another log", n.sign(headText("stranger", 7, hash{1})), "no tree head of server"},
		{"too large", n.sign(good + strings.Repeat("x\n", maxHead/2)), "is no signed tree head"},
		{"a negative size", n.sign(headText(n.key.name, -1, hash{1})), "size of a tree head"},
		{"half a root", n.sign(lines[0] + lines[1] + "AAAA\n"), "malformed root hash"},
		{"no root", n.sign(lines[0] + lines[1]), "no tree head of server"},
	} {
		h, err := openHead([]byte(tt.signed), n.key)
		switch {
		case tt.want != "":
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
			}
		case err != nil || h.origin != "server" || h.size != 7 || h.root != (hash{1}):
			t.Errorf("%s: %+v, %v", tt.name, h, err)
		case (h.time == "2026-01-02T03:04:05Z") != strings.Contains(tt.signed, "time "):
			t.Errorf("%s: at %q", tt.name, h.time)
		}
	}
	if _, err := parseKey(n.text); err != nil {
		t.Error(err)
	}
	for name, text := range map[string]string{
		"another algorithm": newNotary(t, "server", 2).text,
		"another id":        strings.Replace(n.text, fmt.Sprintf("+%08x+", n.key.id), "+01234567+", 1),
		"no name":           "+" + strings.SplitN(n.text, "+", 2)[1],
		"another name":      "x" + n.text,
	} {
		if _, err := parseKey(text); err == nil {
			t.Errorf("%s: %s is taken for a key", name, text)
		}
	}
}

func TestProofsAreAsLongAsTheyMustBe(t *testing.T) {
	leaves := hashes(numbered(1))
	if _, err := rootFrom(leaves[0], 0, 1, []digest{leaves[0][:]}); err == nil {
		t.Error("a proof for the only entry")
	}
	if _, err := rootFrom(leaves[0], 1, 1, nil); err == nil {
		t.Error("a proof for an entry beyond the tree")
	}
	leaves = hashes(numbered(8))
	proof := path(5, leaves)
	if _, err := rootFrom(leaves[5], 5, 8, proof[:2]); err == nil {
		t.Error("a proof that is too short")
	}
	if _, err := rootFrom(leaves[5], 5, 8, append(slices.Clone(proof[:2]), proof[2][:31])); err == nil {
		t.Error("a hash that is too short")
	}
}
