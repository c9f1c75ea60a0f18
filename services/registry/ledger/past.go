package ledger

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// All is a size that stands for all entries, whatever their number.
const All = held

// LastAbout returns the sequence of the last event about a model among the first
// size, which may have deleted it. It returns ErrDamaged for a model that was not
// there until then.
func (l *Ledger) LastAbout(model, size uint64) (uint64, error) { return l.lastOf(model, size) }

// hadName reports whether a model had the name at some time in the first size
// entries. Nearly always the first one says so: most models are never renamed.
func hadName(r pebble.Reader, model uint64, name string, size uint64) (had bool, err error) {
	iter, err := r.NewIter(&pebble.IterOptions{
		LowerBound: numberKey(prefixHistory, model), UpperBound: numberKey(prefixHistory, model, size),
	})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close()) }()
	for iter.First(); iter.Valid(); iter.Next() {
		index, _ := number(iter.Key())
		canonical, err := get(r, numberKey(prefixEntry, index))
		if err != nil {
			return false, err
		}
		e, err := ParseEntry(canonical)
		if err != nil {
			return false, err
		}
		var after struct {
			Name string `json:"name"`
		}
		if err := json.Unmarshal(e.After, &after); err != nil {
			return false, fmt.Errorf("entry %d: %w: %w", index, err, ErrDamaged)
		}
		if e.Model == name || after.Name == name {
			return true, nil
		}
	}
	return false, nil
}

// LastWhere returns the last entry about a model among the first size entries
// for which match returns true; nil when there is none. Only entries whose
// canonical encoding has the hint in it are looked at. It returns ctx's error, or
// match's.
func (l *Ledger) LastWhere(ctx context.Context, model, size uint64, hint string, match func(Entry) (bool, error)) (_ *HistoryEntry, err error) {
	snapshot := l.db.Load().NewSnapshot()
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	iter, err := snapshot.NewIter(&pebble.IterOptions{
		LowerBound: numberKey(prefixHistory, model), UpperBound: numberKey(prefixHistory, model, size),
	})
	if err != nil {
		return nil, fmt.Errorf("last entry about model %d: %w", model, err)
	}
	defer func() { err = errors.Join(err, iter.Error(), iter.Close()) }()
	for iter.Last(); iter.Valid(); iter.Prev() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		index, _ := number(iter.Key())
		canonical, err := get(snapshot, numberKey(prefixEntry, index))
		if err != nil {
			return nil, err
		}
		if !bytes.Contains(canonical, []byte(hint)) {
			continue
		}
		e, err := ParseEntry(canonical)
		if err != nil {
			return nil, err
		}
		found, err := match(e)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", index, err)
		}
		if found {
			return &HistoryEntry{Entry: e, LeafHash: LeafHash(canonical)}, nil
		}
	}
	return nil, nil
}
