// Package audit recomputes the registry's ledger from its entries, and names the
// first that is not what it should be. It believes neither the server nor the
// disk that it has the entries from.
package audit

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

// Tree is the RFC 6962 tree of the entries that were added, and what they say of
// the models. It takes about 80 bytes of memory an entry.
type Tree struct {
	hashes []tlog.Hash // as tlog.StoredHashIndex places them
	size   uint64

	documents map[string]document          // of the models that are there, by name
	webhooks  map[string]map[string]any    // that are there, by id
	models    []uint64                     // of each entry, the id of its model, 0 for none
	named     map[string]map[uint64]uint64 // by name, models that have or had it, and their last entry under it
}

// document is a model as the entries describe it.
type document struct {
	id     uint64
	fields map[string]any
}

// held is the last entry of a model under a name that it still has.
const held = math.MaxUint64

// Size returns the number of entries.
func (t *Tree) Size() uint64 { return t.size }

// ReadHashes implements tlog.HashReader.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, n := range indexes {
		if n < 0 || n >= int64(len(t.hashes)) {
			return nil, fmt.Errorf("hash %d of a tree with %d", n, len(t.hashes))
		}
		out[i] = t.hashes[n]
	}
	return out, nil
}

// Root returns the root hash of the tree of the first size entries.
func (t *Tree) Root(size uint64) (tlog.Hash, error) {
	if size > t.size {
		return tlog.Hash{}, fmt.Errorf("root of %d entries of %d", size, t.size)
	}
	return tlog.TreeHash(int64(size), t)
}

// Add adds the next entry. It returns a *ledger.Difference for one that is not in
// canonical form, not at its place, or says of the model before it what the
// entries before do not.
func (t *Tree) Add(canonical []byte) error {
	if err := t.describe(canonical); err != nil {
		return &ledger.Difference{First: t.size, Last: t.size, Reason: err.Error()}
	}
	hashes, err := tlog.StoredHashes(int64(t.size), canonical, t)
	if err != nil {
		return fmt.Errorf("hash entry %d: %w", t.size, err)
	}
	t.hashes = append(t.hashes, hashes...)
	t.size++
	return nil
}

// added returns the hashes that came with the last entry, and the place of the
// first.
func (t *Tree) added() (int64, []tlog.Hash) {
	first := tlog.StoredHashIndex(0, int64(t.size-1))
	return first, t.hashes[first:]
}

func (t *Tree) describe(canonical []byte) error {
	ordered := jsontext.Value(bytes.Clone(canonical))
	if err := ordered.Canonicalize(jsontext.CanonicalizeRawInts(false)); err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	if !bytes.Equal(ordered, canonical) {
		return fmt.Errorf("not in canonical form")
	}
	var e ledger.Entry
	if err := json.Unmarshal(canonical, &e, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("not an entry: %w", err)
	}
	if e.Format != ledger.EntryFormat {
		return fmt.Errorf("format %d, this build knows %d", e.Format, ledger.EntryFormat)
	}
	if e.Index != t.size || e.Seq != e.Index+1 {
		return fmt.Errorf("it says that it is entry %d, of event %d", e.Index, e.Seq)
	}
	before, err := fields(e.Before)
	if err != nil {
		return fmt.Errorf("before: %w", err)
	}
	after, err := fields(e.After)
	if err != nil {
		return fmt.Errorf("after: %w", err)
	}
	return t.change(e, before, after)
}

func fields(raw stdjson.RawMessage) (map[string]any, error) {
	var m map[string]any
	d := stdjson.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	err := d.Decode(&m)
	return m, err
}

// change takes what the entry says was before from the model's document, where it
// must be, and puts there what it says is after.
func (t *Tree) change(e ledger.Entry, before, after map[string]any) error {
	if t.documents == nil {
		t.documents, t.named = make(map[string]document), make(map[string]map[uint64]uint64)
		t.webhooks = make(map[string]map[string]any)
	}
	if strings.HasPrefix(e.Action, "webhook_") {
		return t.changeWebhook(e, before, after)
	}
	d, there := t.documents[e.Model]
	if (before != nil) != there {
		return fmt.Errorf("before is %s, the entries before it say that model %q was there: %v", e.Before, e.Model, there)
	}
	if !there {
		d = document{id: e.Seq, fields: make(map[string]any)}
	}
	t.models = append(t.models[:t.size], d.id)
	if err := take(d.fields, before); err != nil {
		return err
	}
	delete(t.documents, e.Model)
	if after == nil {
		t.rename(d.id, e.Model, "", e.Index)
		return nil
	}
	if err := put(d.fields, after); err != nil {
		return err
	}
	name, _ := d.fields["name"].(string)
	if _, taken := t.documents[name]; taken {
		return fmt.Errorf("there is another model %q", name)
	}
	if id, _ := d.fields["id"].(stdjson.Number); string(id) != fmt.Sprint(d.id) {
		return fmt.Errorf("the model's id is %s, it was created by event %d", id, d.id)
	}
	t.documents[name] = d
	if !there || name != e.Model {
		t.rename(d.id, e.Model, name, e.Index)
	}
	return nil
}

// changeWebhook does the same with the document of a webhook.
func (t *Tree) changeWebhook(e ledger.Entry, before, after map[string]any) error {
	id, ok := after["webhook_id"].(string)
	if was, had := before["webhook_id"].(string); had && ok && was != id {
		return fmt.Errorf("webhook %q becomes webhook %q", was, id)
	} else if !ok {
		id = was
	}
	webhook, there := t.webhooks[id]
	if (before != nil) != there {
		return fmt.Errorf("before is %s, the entries before it say that webhook %q was there: %v", e.Before, id, there)
	}
	if !there {
		webhook = make(map[string]any)
	}
	t.models = append(t.models[:t.size], 0)
	if err := take(webhook, before); err != nil {
		return err
	}
	delete(t.webhooks, id)
	if after == nil {
		return nil
	}
	t.webhooks[id] = webhook
	return put(webhook, after)
}

// rename notes that entry index gave the model the name to, and took from from.
func (t *Tree) rename(id uint64, from, to string, index uint64) {
	for _, n := range []struct {
		name string
		last uint64
	}{{from, index}, {to, held}} {
		if n.name == "" {
			continue
		}
		if t.named[n.name] == nil {
			t.named[n.name] = make(map[uint64]uint64)
		}
		t.named[n.name][id] = n.last
	}
}

// about reports whether an entry is in the history of a name: about a model that
// has it, or has it still to take, or that gave it up with this very entry.
func (t *Tree) about(index uint64, name string) bool {
	last, ok := t.named[name][t.models[index]]
	return ok && index <= last
}

func take(from, what map[string]any) error {
	for k, v := range what {
		switch v := v.(type) {
		case map[string]any:
			inner, _ := from[k].(map[string]any)
			if err := take(inner, v); err != nil {
				return err
			}
			if len(inner) == 0 {
				delete(from, k)
			}
		case string, stdjson.Number, bool:
			if from[k] != v {
				return fmt.Errorf("it says that %s was %v before, the entries before it say %v", k, v, from[k])
			}
			delete(from, k)
		default:
			return fmt.Errorf("%s is neither text nor number nor table", k)
		}
	}
	return nil
}

func put(into, what map[string]any) error {
	for k, v := range what {
		if table, ok := v.(map[string]any); ok {
			inner, ok := into[k].(map[string]any)
			if into[k] != nil && !ok {
				return fmt.Errorf("%s becomes a table", k)
			}
			if !ok {
				inner = make(map[string]any)
				into[k] = inner
			}
			if err := put(inner, table); err != nil {
				return err
			}
			continue
		}
		if was, ok := into[k]; ok {
			return fmt.Errorf("it does not say that %s was %v before", k, was)
		}
		into[k] = v
	}
	return nil
}

// CheckHead returns a *ledger.Difference if the tree is not the one of the head.
// Up to matched entries the tree is known to be right.
func (t *Tree) CheckHead(h treehead.Head, matched uint64) error {
	if h.Size > t.size {
		return &ledger.Difference{First: t.size, Last: h.Size - 1, Reason: fmt.Sprintf("missing: a tree head of %s covers %d entries", signedAt(h), h.Size)}
	}
	root, err := t.Root(h.Size)
	if err != nil {
		return err
	}
	if root != h.Root {
		first := min(matched, h.Size)
		if first == h.Size { // two heads of one size
			first = 0
		}
		return &ledger.Difference{First: first, Last: max(h.Size, 1) - 1, Reason: fmt.Sprintf(
			"not what it was when a tree head of %s was signed: the root of %d entries is %v, signed was %v", signedAt(h), h.Size, root, h.Root)}
	}
	return nil
}

func signedAt(h treehead.Head) string {
	if h.Time.IsZero() {
		return "unknown time"
	}
	return h.Time.Format("2006-01-02T15:04:05Z07:00")
}
