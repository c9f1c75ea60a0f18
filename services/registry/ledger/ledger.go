// Package ledger keeps the registry's events as an append-only, tamper-evident
// ledger on disk, with the state that they lead to.
//
// Every event is one batch: the entry, its hashes in an RFC 6962 tree, the
// state that it changed, the history index and the position in the stream, so
// that all of them move together or not at all. The ledger is a function of the
// stream: it can be deleted and is built again, the same on every process.
package ledger

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/runledger/runledger/pkg/diskroom"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/services/registry/catalog"
)

var (
	// ErrDamaged means that what is on disk is not what was written.
	ErrDamaged = errors.New("registry ledger is damaged")
	// ErrGap means that an event was applied out of order.
	ErrGap = errors.New("event is missing before this one")
	// ErrFailed means that the disk refused a write. The ledger takes no more
	// until it is opened again, see Reopen.
	ErrFailed = errors.New("registry ledger cannot be written")
	// ErrStalled means that writes wait for the disk.
	ErrStalled = errors.New("registry ledger is stalled")
)

const (
	// formatMajorVersion is fixed: a newer one is a decision, since an older
	// build cannot open it.
	formatMajorVersion = pebble.FormatValueSeparation
	cacheBytes         = 8 << 20
	memTableBytes      = 4 << 20
	maxOpenFiles       = 256
	// diskFormat is the version of the key layout.
	diskFormat = 1
)

// Options configure Open.
type Options struct {
	FS     vfs.FS // nil is the disk, watched for slowness
	Logger *slog.Logger
	// ReadOnly opens a ledger that is there, and changes nothing on disk.
	ReadOnly bool
}

// position is where in the stream the ledger is.
type position struct {
	Format      int    `json:"format"`
	Incarnation string `json:"incarnation"` // id of the stream's first event, "" before it
	LastSeq     uint64 `json:"last_seq"`
	Size        uint64 `json:"size"` // number of entries
}

// Ledger is an open ledger. One goroutine may apply events, any number read.
type Ledger struct {
	dir     string
	options Options
	lock    io.Closer // of the directory

	// db and health are replaced by Reopen.
	db     atomic.Pointer[pebble.DB]
	health atomic.Pointer[health]
	view   atomic.Pointer[view]

	mu      sync.Mutex
	changed chan struct{} // closed and replaced when view changes
}

// view is what readers see: the last events that are on disk.
type view struct {
	position
	state *catalog.State
}

// Open opens the ledger in dir, or makes a new one. It returns ErrDamaged for one
// that cannot be read.
func Open(dir string, o Options) (*Ledger, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Ledger{dir: dir, options: o, changed: make(chan struct{})}
	var err error
	if l.lock, err = l.takeLock(); err != nil {
		return nil, fmt.Errorf("open registry ledger in %s: %w", dir, err)
	}
	v, err := l.open()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open registry ledger in %s: %w", dir, err), l.lock.Close())
	}
	l.view.Store(v)
	return l, nil
}

// disk returns the file system that Pebble's is made of.
func (l *Ledger) disk() vfs.FS {
	if l.options.FS != nil {
		return l.options.FS
	}
	return vfs.Default
}

// takeLock takes the directory, as Pebble would: Pebble cannot give it back once
// it has failed.
func (l *Ledger) takeLock() (io.Closer, error) {
	disk := l.disk()
	if !l.options.ReadOnly {
		if err := disk.MkdirAll(l.dir, 0o755); err != nil {
			return nil, err
		}
	}
	return disk.Lock(disk.PathJoin(l.dir, "LOCK"))
}

// underLock is a file system whose lock is taken.
type underLock struct{ vfs.FS }

func (underLock) Lock(string) (io.Closer, error) { return nothing{}, nil }

type nothing struct{}

func (nothing) Close() error { return nil }

// open opens Pebble in place of what there was, and reads its state.
func (l *Ledger) open() (v *view, err error) {
	h := &health{logger: l.options.Logger}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case fatalError:
			err = r
		default:
			panic(r)
		}
	}()
	cache := pebble.NewCache(cacheBytes)
	defer cache.Unref()
	db, err := pebble.Open(l.dir, &pebble.Options{
		// One that has failed writes no more, whatever its goroutines still try: its
		// files are another one's by then.
		FS: underLock{errorfs.Wrap(markers{l.disk()}, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if h.fatal.Load() != nil && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				return ErrFailed
			}
			return nil
		}))},
		ReadOnly:           l.options.ReadOnly,
		FormatMajorVersion: formatMajorVersion,
		Cache:              cache,
		MemTableSize:       memTableBytes,
		MaxOpenFiles:       maxOpenFiles,
		Logger:             h,
		EventListener:      h.listener(),
	})
	if err != nil {
		if _, ok := errors.AsType[syscall.Errno](err); ok && !errors.Is(err, fs.ErrNotExist) {
			return nil, err // of the disk, not of what is on it
		}
		return nil, fmt.Errorf("%w: %w", err, ErrDamaged)
	}
	next := new(Ledger)
	next.db.Store(db)
	if v, err = next.load(); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	l.db.Store(db)
	l.health.Store(h)
	return v, nil
}

// Reopen opens a ledger again that has failed, if its disk takes writes; it has the
// events for which Apply has returned. What Pebble holds in memory of the old one is
// given up. It must not be called while events are applied.
func (l *Ledger) Reopen() error {
	if !errors.Is(l.Health(), ErrFailed) || l.health.Load().fatal.Load() == nil {
		return nil
	}
	if l.options.FS == nil {
		if err := diskroom.Check(l.dir); err != nil {
			return fmt.Errorf("open the registry ledger again: %w: %w", err, ErrFailed)
		}
	}
	before := l.LastSeq()
	v, err := l.open()
	if err != nil {
		return fmt.Errorf("open the registry ledger again: %w: %w", err, ErrFailed)
	}
	if v.LastSeq < before {
		return fmt.Errorf("opened again, the registry ledger ends at event %d and ended at %d: %w", v.LastSeq, before, ErrDamaged)
	}
	l.show(v)
	return nil
}

// show gives readers another view, and wakes those who wait for one.
func (l *Ledger) show(v *view) {
	l.view.Store(v)
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

// Close closes the ledger. Nothing may use it any more.
func (l *Ledger) Close() error {
	var err error
	if l.health.Load().fatal.Load() == nil {
		err = l.db.Load().Close()
	} // else Pebble is in no state to be closed. Its files are: they are what a crash would have left.
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("close registry ledger: %w", err)
	}
	return nil
}

// Health returns what keeps the ledger from being written, or nil: ErrFailed,
// ErrStalled or ErrDamaged.
func (l *Ledger) Health() error { return l.health.Load().err() }

// State returns the registry's state after the last applied event.
func (l *Ledger) State() *catalog.State { return l.view.Load().state }

// LastSeq returns the stream sequence of the last applied event, 0 for none.
func (l *Ledger) LastSeq() uint64 { return l.view.Load().LastSeq }

// Incarnation returns the id of the first event, which is the stream's
// incarnation, "" for an empty ledger.
func (l *Ledger) Incarnation() string { return l.view.Load().Incarnation }

// Size returns the number of entries.
func (l *Ledger) Size() uint64 { return l.view.Load().Size }

// Wait returns nil once the event with sequence seq is applied, or ctx's error.
func (l *Ledger) Wait(ctx context.Context, seq uint64) error {
	for {
		l.mu.Lock()
		changed := l.changed
		l.mu.Unlock()
		if l.LastSeq() >= seq {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for registry event %d, at %d: %w", seq, l.LastSeq(), ctx.Err())
		}
	}
}

// Apply applies the events in order, each in a batch of its own, and returns
// once all of them are on disk: a crash leaves a prefix. Events that were
// applied before are skipped. It returns ErrGap when one is missing,
// catalog.ErrMisfit for one that cannot be, and ErrFailed; the events before it
// are then applied.
func (l *Ledger) Apply(recs ...eventlog.Record) error {
	v := *l.view.Load()
	var failed error
	for _, rec := range recs {
		if rec.Seq <= v.LastSeq {
			continue
		}
		next, err := l.apply(v, rec)
		if err != nil {
			failed = err
			break
		}
		v = next
	}
	if v.LastSeq > l.LastSeq() {
		// What is synced here makes all the batches before it durable.
		if err := l.commit(func() error { return l.db.Load().LogData([]byte{0}, pebble.Sync) }); err != nil {
			return errors.Join(failed, err)
		}
		l.show(&v)
	}
	return failed
}

// apply writes the batch of one event, not synced.
func (l *Ledger) apply(v view, rec eventlog.Record) (view, error) {
	if rec.Seq != v.LastSeq+1 {
		return v, fmt.Errorf("event %d after %d: %w", rec.Seq, v.LastSeq, ErrGap)
	}
	state, change, err := v.state.Apply(rec.Seq, rec.Time, rec.Event)
	if err != nil {
		return v, err
	}
	entry, canonical, err := newEntry(v.Size, rec, change)
	if err != nil {
		return v, err
	}
	b := l.db.Load().NewBatch()
	defer b.Close()
	if v.Size == 0 {
		v.Incarnation = entry.EventID
	}
	w := writer{batch: b}
	w.set(numberKey(prefixEntry, v.Size), canonical)
	hashes, err := tlog.StoredHashes(int64(v.Size), canonical, hashReader{l.db.Load()})
	if err != nil {
		return v, fmt.Errorf("hash entry %d: %w", v.Size, err)
	}
	for i, h := range hashes {
		w.set(numberKey(prefixHash, uint64(tlog.StoredHashIndex(0, int64(v.Size))+int64(i))), h[:])
	}
	w.change(change, v.Size)
	if entry.IdempotencyKey != "" {
		w.number(idempotencyKey(entry.IdempotencyKey), v.Size)
	}
	v.Format, v.LastSeq, v.Size, v.state = diskFormat, rec.Seq, v.Size+1, state
	w.json([]byte(keyPosition), v.position)
	if w.err != nil {
		return v, fmt.Errorf("write entry %d: %w", entry.Index, w.err)
	}
	return v, l.commit(func() error { return b.Commit(pebble.NoSync) })
}

// commit runs a write. Pebble ends the process when a write to its log fails, or
// panics with the error if that was of an earlier record; here it ends the ledger.
func (l *Ledger) commit(write func() error) (err error) {
	h := l.health.Load()
	if h.fatal.Load() != nil {
		return h.err()
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case fatalError:
			err = r
		case runtime.Error:
			panic(r)
		case error:
			err = h.fail(r.Error())
		default:
			panic(r)
		}
	}()
	if err := write(); err != nil {
		return fmt.Errorf("write to the registry ledger: %w: %w", err, ErrFailed)
	}
	return nil
}

// writer gathers a batch and keeps its first error.
type writer struct {
	batch *pebble.Batch
	err   error
}

func (w *writer) set(key, value []byte) {
	if w.err == nil {
		w.err = w.batch.Set(key, value, nil)
	}
}

func (w *writer) delete(key []byte) {
	if w.err == nil {
		w.err = w.batch.Delete(key, nil)
	}
}

func (w *writer) number(key []byte, n uint64) { w.set(key, binary.BigEndian.AppendUint64(nil, n)) }

func (w *writer) json(key []byte, v any) {
	data, err := json.Marshal(v)
	w.err = errors.Join(w.err, err)
	w.set(key, data)
}

func (w *writer) change(c catalog.Change, index uint64) {
	switch {
	case c.Webhook != nil:
		w.json(webhookKey(c.Webhook.ID), c.Webhook)
		return
	case c.PreviousWebhook != nil:
		w.delete(webhookKey(c.PreviousWebhook.ID))
		return
	}
	old, m := c.Previous, c.Current
	switch {
	case m == nil:
		w.delete(numberKey(prefixModel, old.ID))
		for v := range old.AllVersions() {
			w.delete(numberKey(prefixVersion, old.ID, v.Number))
		}
		w.number(nameKey(old.Name, old.ID), index)
		w.set(numberKey(prefixHistory, old.ID, index), nil)
		return
	case old == nil:
		w.number(nameKey(m.Name, m.ID), held)
	case old.Name != m.Name:
		w.number(nameKey(old.Name, m.ID), index)
		w.number(nameKey(m.Name, m.ID), held)
	}
	w.json(numberKey(prefixModel, m.ID), m)
	for _, n := range c.Versions {
		w.json(numberKey(prefixVersion, m.ID, n), m.AnyVersion(n))
	}
	w.set(numberKey(prefixHistory, m.ID, index), nil)
}
