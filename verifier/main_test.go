package main

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// The files in testdata are what a server answered.
func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func serverKey(t testing.TB) key {
	t.Helper()
	k, err := parseKey(strings.TrimSpace(string(read(t, "key"))))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRun(t *testing.T) {
	key := strings.TrimSpace(string(read(t, "key")))
	var out bytes.Buffer
	if err := run([]string{"-key", key, "-against", "testdata/head.note", "testdata/export.jsonl"}, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(out.String(), "6 entries are in the tree of 6 entries") || !strings.Contains(out.String(), "all of its entries") {
		t.Errorf("%s", out.String())
	}
	for _, args := range [][]string{
		nil,
		{"testdata/export.jsonl"},
		{"-key", key},
		{"-key", "x", "testdata/export.jsonl"},
		{"-key", key, "testdata/none"},
		{"-key", key, "testdata/head.note"},
		{"-key", key, "-against", "testdata/export.jsonl", "testdata/export.jsonl"},
		{"-key", strings.Replace(key, "+", "x+", 1), "testdata/export.jsonl"},
	} {
		if err := run(args, &out); err == nil {
			t.Errorf("%q: want an error", args)
		}
	}
}

// Every bit of an export counts, but for those that say nothing: the key for
// reference, and what is another way to write the same JSON.
func TestEveryBitCounts(t *testing.T) {
	export, k := read(t, "export.jsonl"), serverKey(t)
	good, err := verify(bytes.NewReader(export), k, nil)
	if err != nil || !good.complete || good.entries != 6 {
		t.Fatalf("%+v, %v", good, err)
	}
	reference := bytes.Index(export, []byte(`,"verifier_key"`))
	end := bytes.IndexByte(export, '\n')
	r := rand.New(rand.NewPCG(1, 1))
	for at := range export {
		if at >= reference && at < end {
			continue
		}
		bad := slices.Clone(export)
		bad[at] ^= 1 << r.IntN(8)
		if bytes.EqualFold(bad, export) {
			continue // names of JSON members in another case
		}
		if _, err := verify(bytes.NewReader(bad), k, nil); err == nil {
			t.Fatalf("byte %d became %q: not found: %q", at, bad[at], bad[max(0, at-20):min(len(bad), at+20)])
		}
	}
	for end := range export[:len(export)-1] {
		if _, err := verify(bytes.NewReader(export[:end]), k, nil); err == nil {
			t.Fatalf("cut after %d bytes: not found", end)
		}
	}
}

// split, define and path are the definitions of RFC 6962, section 2.1.
func split(l []hash) int {
	k := 1
	for k*2 < len(l) {
		k *= 2
	}
	return k
}

func define(l []hash) hash {
	switch len(l) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return l[0]
	}
	return nodeHash(define(l[:split(l)]), define(l[split(l):]))
}

func path(m int, l []hash) []digest {
	if len(l) == 1 {
		return nil
	}
	k := split(l)
	if m < k {
		other := define(l[k:])
		return append(path(m, l[:k]), other[:])
	}
	other := define(l[:k])
	return append(path(m-k, l[k:]), other[:])
}

// The tree that grows and the audit paths agree with the definition of RFC 6962.
func TestTree(t *testing.T) {
	var leaves []hash
	var grown tree
	for n := 1; n < 70; n++ {
		leaf := leafHash([]byte{byte(n)})
		leaves = append(leaves, leaf)
		if grown.add(leaf); grown.root() != define(leaves) {
			t.Fatalf("root of %d", n)
		}
		for m := range n {
			proof := path(m, leaves)
			if root, err := rootFrom(leaves[m], uint64(m), uint64(n), proof); err != nil || root != define(leaves) {
				t.Fatalf("leaf %d of %d: %v", m, n, err)
			}
			if len(proof) > 0 {
				if root, err := rootFrom(leaves[m], uint64(m), uint64(n), proof[1:]); err == nil && root == define(leaves) {
					t.Fatalf("leaf %d of %d with a proof that is cut", m, n)
				}
			}
			if root, err := rootFrom(leaves[m], uint64(m), uint64(n), append(proof, leaves[0][:])); err == nil && root == define(leaves) {
				t.Fatalf("leaf %d of %d with a proof that is too long", m, n)
			}
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := serverKey(f)
	export := read(f, "export.jsonl")
	f.Add(export)
	f.Add(export[:bytes.IndexByte(export, '\n')+1])
	f.Add([]byte(`{"tree_head":""}` + "\n" + `{"index":0,"proof":[""]}` + "\n" + `{"entries":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := verify(bytes.NewReader(data), k, nil)
		if err == nil && (r.head.size != 6 || r.entries > 6) {
			t.Fatalf("forged: %+v", r)
		}
	})
}

func FuzzOpenHead(f *testing.F) {
	k := serverKey(f)
	f.Add(read(f, "head.note"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := openHead(data, k); err == nil && h.size != 6 {
			t.Fatalf("forged: %+v", h)
		}
	})
}
