package audit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"

	"golang.org/x/mod/sumdb/note"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/treehead"
)

// ErrLedgerAhead means that a ledger has events that the log has not.
var ErrLedgerAhead = errors.New("the ledger has more events than the log")

// Options are what a verification checks against.
type Options struct {
	// Keys are those that may have signed tree heads. None: the key that the
	// server names, or that is in the data directory.
	Keys []note.Verifier
	// Against are signed tree heads that were kept elsewhere.
	Against [][]byte
	// Progress is told what is being done, and how far it has come of what total;
	// nil is told nothing.
	Progress func(what string, done, total uint64)
}

func (o Options) progress(what string, done, total uint64) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

// Report is what was found right.
type Report struct {
	Size  uint64 // entries
	Root  string // base64 root hash of the tree of these
	Heads int    // tree heads that were compared, those of the server or directory included
	// Stream is true when the ledger was compared with the event log, key by key.
	Stream bool
	// Behind is how many events of the log the ledger does not have yet: the next
	// start applies them.
	Behind uint64
}

// signedHead is a tree head and where it comes from.
type signedHead struct {
	treehead.Head
	from string
}

// open checks the signatures of heads.
func open(signed [][]byte, from string, keys []note.Verifier) ([]signedHead, error) {
	var heads []signedHead
	for i, text := range signed {
		h, err := treehead.Open(text, keys...)
		if err != nil {
			return nil, fmt.Errorf("tree head %d %s: %w", i+1, from, err)
		}
		heads = append(heads, signedHead{Head: h, from: from})
	}
	return heads, nil
}

// checkHeads compares the tree with the heads, the smallest first, so that what is
// found is the earliest.
func checkHeads(tree *Tree, heads []signedHead) error {
	slices.SortStableFunc(heads, func(a, b signedHead) int { return cmp.Compare(a.Size, b.Size) })
	matched := uint64(0)
	for _, h := range heads {
		if err := tree.CheckHead(h.Head, matched); err != nil {
			return fmt.Errorf("tree head %s: %w", h.from, err)
		}
		matched = h.Size
	}
	return nil
}

const (
	fromKept    = "given with --against"
	fromServer  = "that the server keeps"
	fromDataDir = "in the data directory"
)

// VerifyServer recomputes the ledger of a running server from its entries, and
// compares it with the tree head that the server signs now, with those that it
// keeps, and with those in o. It returns a *ledger.Difference in its chain for the
// first entry that differs.
func VerifyServer(ctx context.Context, c *Client, o Options) (Report, error) {
	tree, _, heads, err := fetch(ctx, c, o)
	if err != nil {
		return Report{}, err
	}
	root, err := tree.Root(tree.Size())
	return Report{Size: tree.Size(), Root: root.String(), Heads: len(heads)}, err
}

// fetch reads and checks the whole ledger of a server. signed is the head that the
// server has signed for it.
func fetch(ctx context.Context, c *Client, o Options) (tree *Tree, signed []byte, heads []signedHead, err error) {
	if len(o.Keys) == 0 {
		_, key, err := c.Key(ctx)
		if err != nil {
			return nil, nil, nil, err
		}
		o.Keys = []note.Verifier{key}
	}
	if heads, err = open(o.Against, fromKept, o.Keys); err != nil {
		return nil, nil, nil, err
	}
	if signed, err = c.SignHead(ctx); err != nil {
		return nil, nil, nil, err
	}
	present, err := open([][]byte{signed}, "that the server signed now", o.Keys)
	if err != nil {
		return nil, nil, nil, err
	}
	kept, err := c.Heads(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	own, err := open(kept, fromServer, o.Keys)
	if err != nil {
		return nil, nil, nil, err
	}
	tree = new(Tree)
	size := present[0].Size
	for canonical, err := range c.Entries(ctx, 0, size) {
		if err == nil {
			err = tree.Add(canonical)
		}
		if err != nil {
			return nil, nil, nil, err
		}
		if tree.Size()%progressEntries == 0 || tree.Size() == size {
			o.progress("entries", tree.Size(), size)
		}
	}
	if err := locate(ctx, c, tree, present[0]); err != nil {
		return nil, nil, nil, err
	}
	// The server may have gone on since, and signed again.
	own = slices.DeleteFunc(own, func(h signedHead) bool { return h.Size >= size })
	heads = slices.Concat(heads, own, present)
	return tree, signed, heads, checkHeads(tree, heads)
}

const progressEntries = 1 << 13

// locate compares the tree with the head that the server signed for it, and finds
// the first entry that is not the one in the server's tree: the server says, and
// proves, which roots its tree had before.
func locate(ctx context.Context, c *Client, tree *Tree, head signedHead) error {
	root, err := tree.Root(head.Size)
	if err != nil || root == head.Root {
		return err
	}
	var failed error
	first := sort.Search(int(head.Size), func(i int) bool {
		if failed != nil {
			return true
		}
		size := uint64(i) + 1
		claimed, err := c.Root(ctx, size, head.Head)
		if err != nil {
			failed = err
			return true
		}
		own, err := tree.Root(size)
		failed = err
		return own != claimed
	})
	if failed != nil {
		return errors.Join(fmt.Errorf("%w: %w", tree.CheckHead(head.Head, 0), failed))
	}
	return &ledger.Difference{First: uint64(first), Last: uint64(first), Reason: fmt.Sprintf(
		"it is not the entry that is in the tree whose head the server signed: the root of %d entries is %v, signed was %v", head.Size, root, head.Root)}
}

// VerifyDir recomputes the ledger in a directory that no process uses, and compares
// all that is in it with what the events of log lead to; log may be nil. heads are
// signed tree heads that were kept beside it. It returns a *ledger.Difference in
// its chain for the first entry that differs.
func VerifyDir(ctx context.Context, dir string, log *eventlog.Log, heads [][]byte, o Options) (r Report, err error) {
	kept, err := open(o.Against, fromKept, o.Keys)
	if err != nil {
		return Report{}, err
	}
	own, err := open(heads, fromDataDir, o.Keys)
	if err != nil {
		return Report{}, err
	}
	l, err := ledger.Open(dir, ledger.Options{ReadOnly: true})
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	tree := new(Tree)
	if err := recompute(ctx, tree, l, o); err != nil {
		return Report{}, err
	}
	if log != nil {
		r.Stream = true
		if r.Behind, err = compare(ctx, tree, l, log, o); err != nil {
			return Report{}, err
		}
	}
	all := slices.Concat(kept, own)
	r.Size, r.Heads = l.Size(), len(all)
	root, err := tree.Root(r.Size)
	if err != nil {
		return Report{}, err
	}
	r.Root = root.String()
	return r, checkHeads(tree, all)
}

// recompute adds the entries of a ledger to the tree, and compares the hashes.
func recompute(ctx context.Context, tree *Tree, l *ledger.Ledger, o Options) error {
	for canonical, err := range l.Canonicals(0, l.Size()) {
		if err == nil {
			err = tree.Add(canonical)
		}
		if err != nil {
			return err
		}
		if err := compareHashes(tree, l); err != nil {
			return err
		}
		if tree.Size()%progressEntries == 0 || tree.Size() == l.Size() {
			o.progress("entries", tree.Size(), l.Size())
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// compareHashes compares the hashes that came with the tree's last entry.
func compareHashes(tree *Tree, l *ledger.Ledger) error {
	index := tree.Size() - 1
	first, want := tree.added()
	places := make([]int64, len(want))
	for i := range places {
		places[i] = first + int64(i)
	}
	got, err := l.Hashes().ReadHashes(places)
	if err != nil {
		return &ledger.Difference{First: index, Last: index, Reason: err.Error()}
	}
	for i := range want {
		if got[i] != want[i] {
			return &ledger.Difference{First: index, Last: index, Reason: fmt.Sprintf(
				"its hash of level %d is kept as %v, and is %v: the entry or the hash was changed", i, got[i], want[i])}
		}
	}
	return nil
}

// compare builds the ledger once more from the log, in a directory of its own, and
// compares the two. It adds to the tree what the log has beyond the ledger, and
// returns how many events that is.
func compare(ctx context.Context, tree *Tree, l *ledger.Ledger, log *eventlog.Log, o Options) (behind uint64, err error) {
	last, err := log.LastSeq(ctx, events.StreamRegistry)
	if err != nil {
		return 0, err
	}
	if last < l.LastSeq() {
		return 0, fmt.Errorf("%w: %w", ErrLedgerAhead, &ledger.Difference{First: last, Last: l.Size() - 1, Reason: fmt.Sprintf(
			"the event log ends at event %d, the ledger at %d", last, l.LastSeq())})
	}
	dir, err := os.MkdirTemp("", "runledger-verify-")
	if err != nil {
		return 0, fmt.Errorf("a place to build the ledger again: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rebuilt, err := ledger.Open(dir, ledger.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, rebuilt.Close()) }()
	if err := rebuild(ctx, rebuilt, log, l.LastSeq(), last, o); err != nil {
		return 0, err
	}
	err = ledger.Compare(ctx, l, rebuilt, func(keys uint64) { o.progress("keys", keys, 0) })
	if err != nil {
		return 0, err
	}
	if err := rebuild(ctx, rebuilt, log, last, last, o); err != nil {
		return 0, err
	}
	for canonical, err := range rebuilt.Canonicals(l.Size(), rebuilt.Size()) {
		if err == nil {
			err = tree.Add(bytes.Clone(canonical))
		}
		if err != nil {
			return 0, err
		}
	}
	return last - l.LastSeq(), nil
}

// applyBatch is how many events share a sync.
const applyBatch = 256

// rebuild applies the events up to to.
func rebuild(ctx context.Context, l *ledger.Ledger, log *eventlog.Log, to, total uint64, o Options) error {
	if l.LastSeq() >= to {
		return nil
	}
	batch := make([]eventlog.Record, 0, applyBatch)
	for rec, err := range log.Read(ctx, events.StreamRegistry, "", l.LastSeq()+1, to) {
		if err != nil {
			return err
		}
		if batch = append(batch, rec); len(batch) < applyBatch && rec.Seq < to {
			continue
		}
		if err := l.Apply(batch...); err != nil {
			return fmt.Errorf("build the ledger again from the event log: %w", err)
		}
		batch = batch[:0]
		o.progress("events", l.LastSeq(), total)
	}
	if l.LastSeq() != to {
		return fmt.Errorf("the event log has no event %d: %w", l.LastSeq()+1, ledger.ErrGap)
	}
	return nil
}
