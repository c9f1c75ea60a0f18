package ledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/mod/sumdb/tlog"
)

// Difference is the first place where a ledger is not what it should be.
type Difference struct {
	// First and Last are the entries that it may be in: mostly the same.
	First, Last uint64
	Reason      string
}

func (d *Difference) Error() string {
	if d.First == d.Last {
		return fmt.Sprintf("entry %d: %s", d.First, d.Reason)
	}
	return fmt.Sprintf("one of the entries %d to %d: %s", d.First, d.Last, d.Reason)
}

// Is reports that a ledger with a difference is damaged.
func (d *Difference) Is(target error) bool { return target == ErrDamaged }

// differs returns a Difference in one entry.
func differs(index uint64, format string, args ...any) error {
	return &Difference{First: index, Last: index, Reason: fmt.Sprintf(format, args...)}
}

// Canonicals yields the canonical encodings of the entries from from to before
// to, in order; each is good until the next. It yields a *Difference for an entry
// that is not there.
func (l *Ledger) Canonicals(from, to uint64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		iter, err := l.db.Load().NewIter(&pebble.IterOptions{LowerBound: numberKey(prefixEntry, from), UpperBound: numberKey(prefixEntry, to)})
		if err != nil {
			yield(nil, fmt.Errorf("read entries: %w", err))
			return
		}
		closed := false
		defer func() {
			if !closed {
				_ = iter.Close() // the reader has stopped; what it read was good
			}
		}()
		next := from
		for iter.First(); iter.Valid(); iter.Next() {
			if index, ok := number(iter.Key()); !ok || index != next || len(iter.Key()) != len(prefixEntry)+8 {
				yield(nil, differs(next, "it is missing"))
				return
			}
			if !yield(iter.Value(), nil) {
				return
			}
			next++
		}
		closed = true
		if err := errors.Join(iter.Error(), iter.Close()); err != nil {
			yield(nil, fmt.Errorf("read entry %d: %w", next, err))
		} else if next < to {
			yield(nil, differs(next, "it is missing"))
		}
	}
}

// Compare returns nil if the two ledgers have the same keys and values, and a
// *Difference that names the first entry that differs otherwise: got is the one
// in question, want the one that is right. It tells progress how many keys it has
// compared, now and then.
func Compare(ctx context.Context, got, want *Ledger, progress func(keys uint64)) (err error) {
	g, err := got.db.Load().NewIter(nil)
	if err != nil {
		return fmt.Errorf("compare ledgers: %w", err)
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	w, err := want.db.Load().NewIter(nil)
	if err != nil {
		return fmt.Errorf("compare ledgers: %w", err)
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	keys := uint64(0)
	w.First()
	for g.First(); g.Valid() || w.Valid(); g.Next() {
		switch order := compareKeys(g, w); {
		case order < 0:
			return place(g.Key(), g.Value(), "is not what the event log leads to: there is no")
		case order > 0:
			return place(w.Key(), w.Value(), "is missing:")
		case !bytes.Equal(g.Value(), w.Value()):
			return place(w.Key(), w.Value(), "is not what the event log leads to:")
		}
		w.Next()
		if keys++; keys%progressKeys == 0 {
			progress(keys)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	if err := errors.Join(g.Error(), w.Error()); err != nil {
		return fmt.Errorf("compare ledgers: %w", err)
	}
	return nil
}

const progressKeys = 1 << 14

// compareKeys orders two iterators by their keys; one at its end comes last.
func compareKeys(a, b *pebble.Iterator) int {
	switch {
	case !a.Valid():
		return 1
	case !b.Valid():
		return -1
	}
	return bytes.Compare(a.Key(), b.Key())
}

// place names the entry that a key belongs to.
func place(key, value []byte, what string) error {
	kind, rest := string(key), ""
	if len(key) >= 2 {
		kind, rest = string(key[:2]), string(key[2:])
	}
	var numbers []uint64
	for b := []byte(rest); len(b) >= 8; b = b[8:] {
		numbers = append(numbers, binary.BigEndian.Uint64(b))
	}
	numbers = append(numbers, 0, 0)
	switch kind {
	case prefixEntry:
		return differs(numbers[0], "the entry %s entry", what)
	case prefixHash:
		level, n := tlog.SplitStoredHashIndex(int64(numbers[0] & (1<<62 - 1)))
		index := (uint64(n)+1)<<level - 1 // the entry that it was stored with
		return differs(index, "a hash of the tree %s hash %d of level %d", what, n, level)
	case prefixHistory:
		return differs(numbers[1], "the history %s index of model %d", what, numbers[0])
	case prefixModel, prefixVersion:
		// A model's id is the sequence of the event that created it.
		return differs(numbers[0]-1, "the state of the model that it created %s key %q", what, key)
	case prefixIdempotency:
		index, _ := number(value)
		return differs(index, "the index of idempotency keys %s key %x", what, rest)
	case prefixName:
		model, _ := number(key)
		name, _, _ := strings.Cut(rest, "\x00")
		return differs(model-1, "the index of names %s name %q of the model that it created", what, name)
	}
	return fmt.Errorf("key %q: the state of a webhook or the position %s that: %w", key, what, ErrDamaged)
}
