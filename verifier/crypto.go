package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

type hash = [sha256.Size]byte

// base64Strict knows one text for every value.
var base64Strict = base64.StdEncoding.Strict()

// digest is a hash in JSON.
type digest []byte

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *digest) UnmarshalText(text []byte) (err error) {
	*d, err = base64Strict.AppendDecode(nil, text)
	return err
}

// leafHash and nodeHash are those of RFC 6962, section 2.1.
func leafHash(entry []byte) hash { return sha256.Sum256(append([]byte{0}, entry...)) }

func nodeHash(left, right hash) hash {
	return sha256.Sum256(slices.Concat([]byte{1}, left[:], right[:]))
}

// rootFrom returns the root of the tree of size leaves that an audit path leads
// to, as RFC 9162, section 2.1.3.2, has it.
func rootFrom(leaf hash, index, size uint64, proof []digest) (hash, error) {
	if index >= size {
		return hash{}, fmt.Errorf("a tree of %d entries has none from that on", size)
	}
	node, last, root := index, size-1, leaf
	for _, p := range proof {
		if len(p) != sha256.Size || last == 0 {
			return hash{}, errors.New("malformed proof")
		}
		if node&1 == 1 || node == last {
			root = nodeHash(hash(p), root)
			for node&1 == 0 && node != 0 {
				node, last = node>>1, last>>1
			}
		} else {
			root = nodeHash(root, hash(p))
		}
		node, last = node>>1, last>>1
	}
	if last != 0 {
		return hash{}, errors.New("malformed proof: it is too short")
	}
	return root, nil
}

// tree is an RFC 6962 tree that grows. It keeps the roots of its full subtrees,
// the largest first: one for each bit of its size.
type tree struct {
	size uint64
	full []hash
}

func (t *tree) add(leaf hash) {
	t.full = append(t.full, leaf)
	for range bits.TrailingZeros64(^t.size) { // as often as a bit is carried
		n := len(t.full)
		t.full = append(t.full[:n-2], nodeHash(t.full[n-2], t.full[n-1]))
	}
	t.size++
}

func (t *tree) root() hash {
	if t.size == 0 {
		return sha256.Sum256(nil)
	}
	root := t.full[len(t.full)-1]
	for _, left := range slices.Backward(t.full[:len(t.full)-1]) {
		root = nodeHash(left, root)
	}
	return root
}

// key is a verifier key of https://c2sp.org/signed-note.
type key struct {
	name   string
	id     uint32
	public ed25519.PublicKey
}

const algorithmEd25519 = 1

// parseKey reads <name>+<id, 8 hexadecimal digits>+<base64 of algorithm and key>.
func parseKey(text string) (key, error) {
	name, rest, _ := strings.Cut(text, "+")
	id, encoded, ok := strings.Cut(rest, "+")
	public, err := base64Strict.DecodeString(encoded)
	if !ok || err != nil || len(public) != 1+ed25519.PublicKeySize || public[0] != algorithmEd25519 || name == "" {
		return key{}, fmt.Errorf("%q is no verifier key", text)
	}
	sum := sha256.Sum256(slices.Concat([]byte(name+"\n"), public))
	k := key{name: name, id: binary.BigEndian.Uint32(sum[:]), public: public[1:]}
	if fmt.Sprintf("%08x", k.id) != id {
		return key{}, fmt.Errorf("%q is no verifier key: its id is %08x", text, k.id)
	}
	return k, nil
}

// head is a checkpoint of https://c2sp.org/tlog-checkpoint.
type head struct {
	origin string
	size   uint64
	root   hash
	time   string // "" if it does not say
}

const (
	maxHead  = 16 << 10 // bytes
	dash     = "\u2014 "
	idLength = 4
)

// openHead reads a tree head that the key must have signed.
func openHead(signed []byte, k key) (head, error) {
	at := bytes.LastIndex(signed, []byte("\n\n"))
	if at < 0 || len(signed) > maxHead || !utf8.Valid(signed) || signed[len(signed)-1] != '\n' {
		return head{}, fmt.Errorf("%q is no signed tree head", firstLine(signed))
	}
	text, signatures := signed[:at+1], string(signed[at+2:])
	valid := false
	for signature := range strings.Lines(signatures) {
		name, encoded, ok := strings.Cut(strings.TrimPrefix(strings.TrimSuffix(signature, "\n"), dash), " ")
		value, err := base64Strict.DecodeString(encoded)
		if !ok || err != nil || len(value) <= idLength || !strings.HasPrefix(signature, dash) {
			return head{}, errors.New("malformed signature of a tree head")
		}
		if name != k.name || binary.BigEndian.Uint32(value) != k.id {
			continue // somebody else's
		}
		if !ed25519.Verify(k.public, text, value[idLength:]) {
			return head{}, errors.New("the signature of a tree head is wrong")
		}
		valid = true
	}
	if !valid {
		return head{}, fmt.Errorf("a tree head is not signed by %s+%08x", k.name, k.id)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 4 || lines[0] != k.name {
		return head{}, fmt.Errorf("what is signed is no tree head of %s", k.name)
	}
	h := head{origin: lines[0]}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return head{}, fmt.Errorf("size of a tree head: %w", err)
	}
	root, err := base64Strict.DecodeString(lines[2])
	if err != nil || len(root) != sha256.Size {
		return head{}, errors.New("malformed root hash of a tree head")
	}
	h.size, h.root = size, hash(root)
	for _, line := range lines[3:] {
		if at, ok := strings.CutPrefix(line, "time "); ok {
			h.time = at
		}
	}
	return h, nil
}
