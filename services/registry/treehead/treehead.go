// Package treehead signs the heads of the registry's tree and keeps them.
//
// A tree head is a checkpoint as https://c2sp.org/tlog-checkpoint has it, in a
// signed note as https://c2sp.org/signed-note has it: the text
//
//	<origin, the name of the key>
//	<number of entries>
//	<RFC 6962 root hash, base64>
//	time <when it was signed, RFC 3339, UTC>
//
// and an Ed25519 signature. Whoever keeps one can tell later whether the entries
// that it covers are still the same.
package treehead

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

var (
	// ErrMalformed means that a text is not a tree head.
	ErrMalformed = errors.New("malformed tree head")
	// ErrSignature means that no known key signed a tree head.
	ErrSignature = errors.New("tree head is not signed by a known key")
	// ErrForked means that a tree is not an extension of one that was signed.
	ErrForked = errors.New("tree does not contain the one of an earlier tree head")
	// ErrBehind means that a tree is smaller than one that was signed.
	ErrBehind = errors.New("tree is smaller than that of an earlier tree head")
)

// MaxBytes bounds a signed tree head.
const MaxBytes = 16 << 10

const timePrefix = "time "

// Head is what a tree head says.
type Head struct {
	Origin string // name of the key that signs for the log
	Size   uint64 // number of entries
	Root   tlog.Hash
	Time   time.Time // whole seconds, UTC; zero if the head does not say
}

// Text returns the text that is signed.
func (h Head) Text() string {
	text := fmt.Sprintf("%s\n%d\n%s\n", h.Origin, h.Size, h.Root)
	if !h.Time.IsZero() {
		text += timePrefix + h.Time.UTC().Format(time.RFC3339) + "\n"
	}
	return text
}

// Parse reads the text of a tree head. Lines after the first three that it does
// not know are left to others. It returns ErrMalformed.
func Parse(text string) (Head, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" || lines[0] == "" {
		return Head{}, fmt.Errorf("%w: want an origin, a size and a root hash, each on a line", ErrMalformed)
	}
	h := Head{Origin: lines[0]}
	var err error
	if h.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(h.Size, 10) != lines[1] {
		return Head{}, fmt.Errorf("%w: size %q", ErrMalformed, lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Head{}, fmt.Errorf("%w: root hash %q", ErrMalformed, lines[2])
	}
	h.Root = tlog.Hash(root)
	for _, line := range lines[3 : len(lines)-1] {
		if line == "" {
			return Head{}, fmt.Errorf("%w: empty line", ErrMalformed)
		}
		if at, ok := strings.CutPrefix(line, timePrefix); ok {
			if h.Time, err = time.Parse(time.RFC3339, at); err != nil || h.Time.IsZero() {
				return Head{}, fmt.Errorf("%w: time %q", ErrMalformed, at)
			}
		}
	}
	return h, nil
}

// Sign returns the signed note of a head. Its origin becomes the signer's name.
func Sign(h Head, signer note.Signer) ([]byte, error) {
	h.Origin = signer.Name()
	signed, err := note.Sign(&note.Note{Text: h.Text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign the head of the tree of %d entries: %w", h.Size, err)
	}
	return signed, nil
}

// Open reads a signed note. One of the keys must have signed it, and its name
// be the head's origin. It returns ErrMalformed and ErrSignature.
func Open(signed []byte, keys ...note.Verifier) (Head, error) {
	if len(signed) > MaxBytes {
		return Head{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(signed))
	}
	n, err := note.Open(signed, note.VerifierList(keys...))
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		var by []string
		for _, s := range unverified.Note.UnverifiedSigs {
			by = append(by, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
		}
		return Head{}, fmt.Errorf("%w: it is signed by %s", ErrSignature, strings.Join(by, ", "))
	}
	if _, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		return Head{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	h, err := Parse(n.Text)
	if err != nil {
		return Head{}, err
	}
	for _, s := range n.Sigs {
		// note.Open takes more than one text for a signature.
		if _, err := base64.StdEncoding.Strict().DecodeString(s.Base64); err != nil {
			return Head{}, fmt.Errorf("%w: signature: %w", ErrMalformed, err)
		}
		if s.Name == h.Origin {
			return h, nil
		}
	}
	return Head{}, fmt.Errorf("%w: its origin is %s", ErrSignature, h.Origin)
}

// Peek reads a signed note without looking at the signatures.
func Peek(signed []byte) (Head, error) {
	n, err := note.Open(signed, note.VerifierList())
	if unverified, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return Parse(unverified.Note.Text)
	}
	if err != nil {
		return Head{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return Parse(n.Text)
}

// Key signs tree heads.
type Key struct {
	note.Signer
	Verifier string // the public half, as note.NewVerifier reads it
}

// LoadKey reads the key in a file. With a name it makes a key of that name when
// there is no file. A key is one line as note.NewSigner reads it; the file is for
// its owner alone.
func LoadKey(file, name string) (Key, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && name != "" {
		private, _, err := note.GenerateKey(rand.Reader, name)
		if err != nil {
			return Key{}, fmt.Errorf("make a key for tree heads: %w", err)
		}
		data = []byte(private + "\n")
		if err := writeFile(file, data); err != nil {
			return Key{}, fmt.Errorf("keep the key for tree heads: %w", err)
		}
	} else if err != nil {
		return Key{}, fmt.Errorf("key for tree heads: %w", err)
	}
	private := strings.TrimSpace(string(data))
	signer, err := note.NewSigner(private)
	if err != nil {
		return Key{}, fmt.Errorf("key for tree heads in %s: %w", file, err)
	}
	verifier, err := publicHalf(private)
	if err != nil {
		return Key{}, fmt.Errorf("key for tree heads in %s: %w", file, err)
	}
	return Key{Signer: signer, Verifier: verifier}, nil
}

// publicHalf returns the verifier key of a private one that note.NewSigner reads:
// PRIVATE+KEY+<name>+<hash>+<base64 of the algorithm and the Ed25519 seed>.
func publicHalf(private string) (string, error) {
	parts := strings.SplitN(private, "+", 5)
	seed, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(parts) != 5 || len(seed) != 1+ed25519.SeedSize {
		return "", ErrMalformed
	}
	return note.NewEd25519VerifierKey(parts[2], ed25519.NewKeyFromSeed(seed[1:]).Public().(ed25519.PublicKey))
}
