package audit

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/ledger"
)

// ErrNothing means that no entry is to be exported.
var ErrNothing = errors.New("there is no such entry")

// The lines of an export, JSON each: a head, entries, an end. An entry is proved
// by itself to be in the tree of the head, so that any of them can be left out.
type (
	// HeadLine is the first line.
	HeadLine struct {
		TreeHead string `json:"tree_head"` // signed note
		// VerifierKey is the key that signed it, for reference: whoever checks the
		// export has it from elsewhere.
		VerifierKey string `json:"verifier_key"`
		// Model is the model that the export is about, "" for all.
		Model string `json:"model,omitempty"`
	}
	// EntryLine is an entry and its proof.
	EntryLine struct {
		Index    uint64    `json:"index"`
		LeafHash tlog.Hash `json:"leaf_hash"`
		// Entry is the canonical encoding, whose bytes are hashed.
		Entry string `json:"entry"`
		// Proof is the RFC 6962 audit path from the leaf to the root.
		Proof tlog.RecordProof `json:"proof"`
	}
	// EndLine is the last line: without it the export is cut off.
	EndLine struct {
		Entries uint64 `json:"entries"` // lines with an entry
	}
)

// Export writes the entries of a running server from entry from on, those of one
// model when model is not "", with proofs, as JSON Lines. It recomputes the whole
// ledger before, as VerifyServer does, so that it writes nothing that does not
// verify.
func Export(ctx context.Context, c *Client, w io.Writer, from uint64, model string, o Options) (entries uint64, err error) {
	text, key, err := c.Key(ctx)
	if err != nil {
		return 0, err
	}
	if len(o.Keys) == 0 {
		o.Keys = []note.Verifier{key}
	}
	tree, signed, _, err := fetch(ctx, c, o)
	if err != nil {
		return 0, err
	}
	if model != "" && tree.named[model] == nil {
		return 0, fmt.Errorf("%w: no model is or was named %q", ErrNothing, model)
	}
	if from >= tree.Size() {
		return 0, fmt.Errorf("%w: the ledger has %d, and the first is to be %d", ErrNothing, tree.Size(), from)
	}
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)
	if err := lines.Encode(HeadLine{TreeHead: string(signed), VerifierKey: text, Model: model}); err != nil {
		return 0, fmt.Errorf("write the export: %w", err)
	}
	index := from
	for canonical, err := range c.Entries(ctx, from, tree.Size()) {
		if err != nil {
			return entries, err
		}
		if model == "" || tree.about(index, model) {
			line, err := tree.line(index, canonical)
			if err != nil {
				return entries, err
			}
			if err := lines.Encode(line); err != nil {
				return entries, fmt.Errorf("write the export: %w", err)
			}
			entries++
		}
		if index++; index%progressEntries == 0 || index == tree.Size() {
			o.progress("export", index, tree.Size())
		}
	}
	if err := errors.Join(lines.Encode(EndLine{Entries: entries}), out.Flush()); err != nil {
		return entries, fmt.Errorf("write the export: %w", err)
	}
	return entries, nil
}

// line proves an entry, which must be the one that was added.
func (t *Tree) line(index uint64, canonical []byte) (EntryLine, error) {
	leaf := ledger.LeafHash(canonical)
	if leaf != t.hashes[tlog.StoredHashIndex(0, int64(index))] {
		return EntryLine{}, &ledger.Difference{First: index, Last: index, Reason: "the server told it differently before"}
	}
	proof, err := tlog.ProveRecord(int64(t.size), int64(index), t)
	if err != nil {
		return EntryLine{}, fmt.Errorf("prove entry %d: %w", index, err)
	}
	return EntryLine{Index: index, LeafHash: leaf, Entry: string(canonical), Proof: proof}, nil
}
