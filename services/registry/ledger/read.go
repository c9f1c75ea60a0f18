package ledger

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/services/registry/catalog"
)

// Head is the tree's head: its size and its RFC 6962 root hash.
type Head struct {
	Size     uint64    `json:"size"`
	RootHash tlog.Hash `json:"root_hash"`
}

// Head returns the tree's head after the last applied event.
func (l *Ledger) Head() (Head, error) {
	size := l.Size()
	root, err := tlog.TreeHash(int64(size), l.Hashes())
	if err != nil {
		return Head{}, fmt.Errorf("hash of the tree of %d entries: %w", size, err)
	}
	return Head{Size: size, RootHash: root}, nil
}

// Hashes reads the tree's hashes, for tlog.ProveRecord and tlog.ProveTree.
func (l *Ledger) Hashes() tlog.HashReader { return hashReader{l.db.Load()} }

type hashReader struct{ r pebble.Reader }

func (h hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		value, err := get(h.r, numberKey(prefixHash, uint64(index)))
		if err != nil {
			return nil, fmt.Errorf("hash %d: %w", index, err)
		}
		if copy(hashes[i][:], value) != tlog.HashSize || len(value) != tlog.HashSize {
			return nil, fmt.Errorf("hash %d has %d bytes: %w", index, len(value), ErrDamaged)
		}
	}
	return hashes, nil
}

// get returns a copy of a value that must be there.
func get(r pebble.Reader, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, fmt.Errorf("key %q is missing: %w", key, ErrDamaged)
	}
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", key, err)
	}
	return bytes.Clone(value), closer.Close()
}

// Canonical returns the canonical encoding of entry index.
func (l *Ledger) Canonical(index uint64) ([]byte, error) {
	canonical, err := get(l.db.Load(), numberKey(prefixEntry, index))
	if err != nil {
		return nil, fmt.Errorf("read entry %d: %w", index, err)
	}
	return canonical, nil
}

// Entry returns entry index.
func (l *Ledger) Entry(index uint64) (Entry, error) {
	canonical, err := l.Canonical(index)
	if err != nil {
		return Entry{}, err
	}
	return ParseEntry(canonical)
}

// ByIdempotencyKey returns the entry of the command that carried the key.
func (l *Ledger) ByIdempotencyKey(key string) (Entry, bool, error) {
	value, closer, err := l.db.Load().Get(idempotencyKey(clean(key)))
	if errors.Is(err, pebble.ErrNotFound) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, fmt.Errorf("look an idempotency key up: %w", err)
	}
	index, ok := number(value)
	if err := closer.Close(); err != nil || !ok {
		return Entry{}, false, fmt.Errorf("look an idempotency key up: %w", errors.Join(err, ErrDamaged))
	}
	e, err := l.Entry(index)
	return e, err == nil, err
}

// HistoryEntry is an entry with the hash of its leaf in the tree.
type HistoryEntry struct {
	Entry
	LeafHash tlog.Hash `json:"leaf_hash"`
}

// MaxHistoryBytes bounds the encoded entries of one answer of History; a single
// entry may be larger.
const MaxHistoryBytes = 8 << 20

// History returns at most limit entries from index from on, oldest first, of
// the models that have or had the name: what happened to a model before it took
// the name too, and not what happened after it gave it up. next is the index to
// go on from, and more whether there is any more. known is false for a name
// that never was.
func (l *Ledger) History(name string, from uint64, limit int) (entries []HistoryEntry, next uint64, more, known bool, err error) {
	return l.HistoryAsOf(name, All, from, limit)
}

// HistoryAsOf is History as it was when there were size entries.
func (l *Ledger) HistoryAsOf(name string, size, from uint64, limit int) (entries []HistoryEntry, next uint64, more, known bool, err error) {
	snapshot := l.db.Load().NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	m, err := newMerge(snapshot, name, size, from)
	if err != nil {
		return nil, 0, false, false, fmt.Errorf("history of %q: %w", name, err)
	}
	defer func() { err = errors.Join(err, m.close()) }()
	known = m.known
	for read := 0; ; {
		index, ok, err := m.next()
		if err != nil {
			return nil, 0, false, false, fmt.Errorf("history of %q: %w", name, err)
		}
		if !ok {
			return entries, 0, false, known, nil
		}
		if len(entries) == limit || read > MaxHistoryBytes {
			return entries, index, true, known, nil
		}
		canonical, err := get(snapshot, numberKey(prefixEntry, index))
		if err != nil {
			return nil, 0, false, false, fmt.Errorf("history of %q: %w", name, err)
		}
		e, err := ParseEntry(canonical)
		if err != nil {
			return nil, 0, false, false, err
		}
		read += len(canonical)
		entries = append(entries, HistoryEntry{Entry: e, LeafHash: LeafHash(canonical)})
	}
}

// merge yields the indexes of the entries of several models in order. A model's
// first entry is the one that created it, so that its part of the index need
// not be opened before that is reached.
type merge struct {
	r     pebble.Reader
	from  uint64
	spans []span // not yet opened, by model
	open  []*pebble.Iterator
	known bool
}

// span is what belongs to a name: the entries of a model up to the last.
type span struct{ model, last uint64 }

func newMerge(r pebble.Reader, name string, size, from uint64) (_ *merge, err error) {
	m := &merge{r: r, from: from}
	prefix := namePrefix(name)
	iter, err := r.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		if len(iter.Key()) != len(prefix)+8 {
			continue
		}
		model, _ := number(iter.Key())
		last, ok := number(iter.Value())
		if !ok {
			return nil, fmt.Errorf("key %q: %w", iter.Key(), ErrDamaged)
		}
		if size != All {
			had, err := hadName(r, model, name, size)
			if err != nil {
				return nil, err
			}
			if !had {
				continue
			}
			last = min(last, size-1)
		}
		m.known = true
		if last >= from {
			m.spans = append(m.spans, span{model, last})
		}
	}
	return m, nil
}

// next returns the lowest index that was not yet returned.
func (m *merge) next() (index uint64, ok bool, err error) {
	for {
		lowest := -1
		for i, iter := range m.open {
			if n, _ := number(iter.Key()); lowest < 0 || n < index {
				lowest, index = i, n
			}
		}
		// A model's id is the sequence of its first entry, which is behind the
		// entry's index.
		if len(m.spans) > 0 && (lowest < 0 || m.spans[0].model-1 <= index) {
			if err := m.openFirst(); err != nil {
				return 0, false, err
			}
			continue
		}
		if lowest < 0 {
			return 0, false, nil
		}
		iter := m.open[lowest]
		return index, true, m.keep(lowest, iter.Next())
	}
}

func (m *merge) openFirst() error {
	s := m.spans[0]
	m.spans = m.spans[1:]
	upper := after(numberKey(prefixHistory, s.model))
	if s.last != held {
		upper = numberKey(prefixHistory, s.model, s.last+1)
	}
	iter, err := m.r.NewIter(&pebble.IterOptions{LowerBound: numberKey(prefixHistory, s.model, m.from), UpperBound: upper})
	if err != nil {
		return err
	}
	m.open = append(m.open, iter)
	return m.keep(len(m.open)-1, iter.First())
}

// keep closes an iterator that has come to its end.
func (m *merge) keep(i int, valid bool) error {
	if valid {
		return nil
	}
	iter := m.open[i]
	m.open = slices.Delete(m.open, i, i+1)
	return iter.Close()
}

func (m *merge) close() (err error) {
	for _, iter := range m.open {
		err = errors.Join(err, iter.Close())
	}
	return err
}

// load reads the position and the state.
func (l *Ledger) load() (*view, error) {
	v := &view{state: catalog.Empty()}
	value, closer, err := l.db.Load().Get([]byte(keyPosition))
	if errors.Is(err, pebble.ErrNotFound) {
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	err = errors.Join(json.Unmarshal(value, &v.position), closer.Close())
	if err != nil || v.Format != diskFormat {
		return nil, fmt.Errorf("position %v, layout %d where %d is known: %w", err, v.Format, diskFormat, ErrDamaged)
	}
	var models []*catalog.Model
	err = l.scan(prefixModel, func(_, value []byte) error {
		m := new(catalog.Model)
		models = append(models, m)
		return parseState(value, m)
	})
	if err != nil {
		return nil, err
	}
	versions := make(map[uint64][]*catalog.Version)
	err = l.scan(prefixVersion, func(key, value []byte) error {
		v := new(catalog.Version)
		model, ok := number(key[:max(0, len(key)-8)])
		if !ok {
			return ErrDamaged
		}
		versions[model] = append(versions[model], v)
		return parseState(value, v)
	})
	if err != nil {
		return nil, err
	}
	var webhooks []*catalog.Webhook
	err = l.scan(prefixWebhook, func(_, value []byte) error {
		w := new(catalog.Webhook)
		webhooks = append(webhooks, w)
		return parseState(value, w)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range models {
		if m.Last, err = l.lastOf(m.ID, All); err != nil {
			return nil, err
		}
	}
	v.state = catalog.Restore(v.LastSeq, models, versions, webhooks)
	return v, nil
}

func parseState(value []byte, v any) error {
	if err := json.Unmarshal(value, v); err != nil {
		return fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	return nil
}

// lastOf returns the sequence of the last event about a model among the first
// size, from its history.
func (l *Ledger) lastOf(model, size uint64) (_ uint64, err error) {
	iter, err := l.db.Load().NewIter(&pebble.IterOptions{
		LowerBound: numberKey(prefixHistory, model), UpperBound: numberKey(prefixHistory, model, size),
	})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close()) }()
	if !iter.Last() {
		return 0, fmt.Errorf("model %d has no history: %w", model, ErrDamaged)
	}
	index, _ := number(iter.Key())
	// Every event is an entry, the first of which has index 0 and sequence 1.
	return index + 1, nil
}

// scan calls f for the keys with the prefix, in order.
func (l *Ledger) scan(prefix string, f func(key, value []byte) error) (err error) {
	iter, err := l.db.Load().NewIter(&pebble.IterOptions{LowerBound: []byte(prefix), UpperBound: after([]byte(prefix))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		if err := f(iter.Key(), iter.Value()); err != nil {
			return fmt.Errorf("key %q: %w", iter.Key(), err)
		}
	}
	return nil
}
