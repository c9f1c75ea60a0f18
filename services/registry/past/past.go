// Package past gives the registry's state at any moment: the fold of the first
// entries of the ledger.
//
// It folds the log's events from the nearest state that it has kept. States
// share what is the same, and few are kept, so that the memory is bounded: the
// more entries there are, the wider apart they are.
package past

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

const (
	// firstSpacing is how many entries are between two kept states, as long as
	// there are at most maxKept of them. Beyond, every second one is dropped.
	firstSpacing = 1000
	maxKept      = 64
	// maxRecent is how many of the states that were asked for are kept: those of
	// who pages through one moment.
	maxRecent = 16
	// blockSize is how many entries share one time in the index of times.
	blockSize = 256
)

// Past is the registry's past. It is safe for concurrent use; one state at a
// time is folded.
type Past struct {
	log    *eventlog.Log
	ledger *ledger.Ledger

	// turn has a token while nobody folds or reads times. Who waits for it can
	// give up.
	turn chan struct{}

	mu      sync.Mutex
	spacing uint64
	kept    map[uint64]*catalog.State // by number of entries, multiples of spacing
	recent  []*catalog.State          // that were asked for, the last one last

	// latest has the greatest time of the entries up to the end of each block.
	// Whoever has the turn has it.
	latest []time.Time
}

// New returns the past of a ledger that follows the log.
func New(log *eventlog.Log, l *ledger.Ledger) *Past {
	p := &Past{
		log: log, ledger: l, turn: make(chan struct{}, 1), spacing: firstSpacing, kept: make(map[uint64]*catalog.State),
	}
	p.turn <- struct{}{}
	return p
}

// At returns the state after the first n entries, of which the ledger must have
// that many. It returns ctx's error, or why the log cannot be read; what was
// folded until then is kept for the next call.
func (p *Past) At(ctx context.Context, n uint64) (*catalog.State, error) {
	if now := p.ledger.State(); now.Seq() == n {
		return now, nil
	}
	if state := p.nearest(n); state.Seq() == n {
		return state, nil
	}
	if err := p.take(ctx); err != nil {
		return nil, fmt.Errorf("state as of entry %d: %w", n, err)
	}
	defer p.release()
	state := p.nearest(n)
	// Every event is an entry, so that n entries are the events up to sequence n.
	for rec, err := range p.log.Read(ctx, events.StreamRegistry, "", state.Seq()+1, n) {
		if err == nil {
			state, _, err = state.Apply(rec.Seq, rec.Time, rec.Event)
		}
		if err != nil {
			return nil, fmt.Errorf("state as of entry %d: %w", n, err)
		}
		p.keep(state)
	}
	if state.Seq() != n {
		return nil, fmt.Errorf("state as of entry %d: the log ends at %d: %w", n, state.Seq(), eventlog.ErrUnavailable)
	}
	p.remember(state)
	return state, nil
}

// nearest returns the state that is kept of the most entries up to n.
func (p *Past) nearest(n uint64) *catalog.State {
	p.mu.Lock()
	defer p.mu.Unlock()
	best := catalog.Empty()
	for _, state := range p.recent {
		if state.Seq() <= n && state.Seq() > best.Seq() {
			best = state
		}
	}
	for _, state := range p.kept {
		if state.Seq() <= n && state.Seq() > best.Seq() {
			best = state
		}
	}
	return best
}

// remember keeps a state that was asked for.
func (p *Past) remember(state *catalog.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.recent) == maxRecent {
		p.recent = slices.Delete(p.recent, 0, 1)
	}
	p.recent = append(p.recent, state)
}

// keep keeps a state that is at its place.
func (p *Past) keep(state *catalog.State) {
	n := state.Seq()
	p.mu.Lock()
	defer p.mu.Unlock()
	if n%p.spacing != 0 {
		return
	}
	p.kept[n] = state
	if len(p.kept) <= maxKept {
		return
	}
	p.spacing *= 2
	for at := range p.kept {
		if at%p.spacing != 0 {
			delete(p.kept, at)
		}
	}
}

// Before returns how many entries there were at a moment: the most, from the
// first on, that all have a time up to and including it. It returns ctx's error.
//
// The time of an entry is when the process that took the command accepted it.
// Where the clocks of processes differ, an entry may have an earlier time than
// the one before it. It then counts from the later of the two times on: what
// came before it in the ledger is always in the state.
func (p *Past) Before(ctx context.Context, t time.Time) (uint64, error) {
	if err := p.take(ctx); err != nil {
		return 0, fmt.Errorf("entries until %v: %w", t, err)
	}
	defer p.release()
	size := p.ledger.Size()
	for uint64(len(p.latest)+1)*blockSize <= size {
		if err := p.addBlock(ctx); err != nil {
			return 0, fmt.Errorf("entries until %v: %w", t, err)
		}
	}
	block := sort.Search(len(p.latest), func(i int) bool { return p.latest[i].After(t) })
	n := uint64(block) * blockSize
	for at, err := range p.times(n, size) {
		if err != nil {
			return 0, fmt.Errorf("entries until %v: %w", t, err)
		}
		if at.After(t) {
			break
		}
		n++
	}
	return n, nil
}

// addBlock reads the times of the next block.
func (p *Past) addBlock(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var latest time.Time
	if blocks := len(p.latest); blocks > 0 {
		latest = p.latest[blocks-1]
	}
	first := uint64(len(p.latest)) * blockSize
	for at, err := range p.times(first, first+blockSize) {
		if err != nil {
			return err
		}
		if at.After(latest) {
			latest = at
		}
	}
	p.latest = append(p.latest, latest)
	return nil
}

// times yields the times of the entries from index from to before index to.
func (p *Past) times(from, to uint64) iter.Seq2[time.Time, error] {
	return func(yield func(time.Time, error) bool) {
		for canonical, err := range p.ledger.Canonicals(from, to) {
			var at time.Time
			if err == nil {
				at, err = entryTime(canonical)
			}
			if !yield(at, err) || err != nil {
				return
			}
		}
	}
}

func entryTime(canonical []byte) (time.Time, error) {
	e, err := ledger.ParseEntry(canonical)
	if err != nil {
		return time.Time{}, err
	}
	at, err := time.Parse(time.RFC3339Nano, e.Time)
	if err != nil {
		return time.Time{}, fmt.Errorf("time of entry %d: %w: %w", e.Index, err, ledger.ErrDamaged)
	}
	return at, nil
}

func (p *Past) take(ctx context.Context) error {
	select {
	case <-p.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Past) release() { p.turn <- struct{}{} }
