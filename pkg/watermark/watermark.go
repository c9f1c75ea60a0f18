// Package watermark lets a reader wait until the projector has put into the
// tables what the reader's client has already been promised. The projector
// announces its watermarks on core NATS; a reader that is ahead of them asks
// for a flush and waits. What else readers and projectors have to tell each other
// about the tables goes the same way: that they seem damaged, and that they are
// about to be replaced.
package watermark

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	announcePrefix = "runledger.watermark."
	flushPrefix    = "runledger.flush."
	// repeatEvery bounds what a lost flush request costs.
	repeatEvery = 100 * time.Millisecond
)

// ErrBehind means that the projector did not reach a sequence in time.
var ErrBehind = errors.New("the tables are behind the log")

// Announcer is the projector's side, for one stream.
type Announcer struct {
	nc     *nats.Conn
	stream string
	sub    *nats.Subscription
	wanted chan uint64
}

// NewAnnouncer starts to listen for flush requests. Close ends it.
func NewAnnouncer(nc *nats.Conn, stream string) (*Announcer, error) {
	a := &Announcer{nc: nc, stream: stream, wanted: make(chan uint64, 1)}
	var err error
	a.sub, err = nc.Subscribe(flushPrefix+stream, func(m *nats.Msg) {
		seq, err := strconv.ParseUint(string(m.Data), 10, 64)
		if err != nil {
			return
		}
		// Keep the greatest request; the projector takes it when it can.
		select {
		case old := <-a.wanted:
			seq = max(seq, old)
		default:
		}
		select {
		case a.wanted <- seq:
		default:
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen for flush requests of %s: %w", stream, err)
	}
	return a, nil
}

// Wanted delivers the sequence up to which a reader is waiting. The projector
// then projects up to it without delay and announces, also when it is there
// already.
func (a *Announcer) Wanted() <-chan uint64 { return a.wanted }

// Announce tells readers that every table holds the stream up to seq.
func (a *Announcer) Announce(seq uint64) error {
	if err := a.nc.Publish(announcePrefix+a.stream, strconv.AppendUint(nil, seq, 10)); err != nil {
		return fmt.Errorf("announce watermark of %s: %w", a.stream, err)
	}
	return nil
}

// Close ends the subscription.
func (a *Announcer) Close() error { return a.sub.Unsubscribe() }

// Reader is the reading side. It is safe for concurrent use.
type Reader struct {
	nc  *nats.Conn
	sub *nats.Subscription

	mu      sync.Mutex
	seqs    map[string]uint64
	lowered uint64
	changed map[string]chan struct{} // closed and replaced at each change
}

// NewReader starts to listen for announcements. Close ends it.
func NewReader(nc *nats.Conn) (*Reader, error) {
	r := &Reader{nc: nc, seqs: make(map[string]uint64), changed: make(map[string]chan struct{})}
	var err error
	r.sub, err = nc.Subscribe(announcePrefix+"*", func(m *nats.Msg) {
		if seq, err := strconv.ParseUint(string(m.Data), 10, 64); err == nil {
			r.set(strings.TrimPrefix(m.Subject, announcePrefix), seq)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("listen for watermarks: %w", err)
	}
	return r, nil
}

// set takes a lower watermark too: tables that are rebuilt begin at 0 again.
func (r *Reader) set(stream string, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if seq < r.seqs[stream] {
		r.lowered++
	}
	r.seqs[stream] = seq
	if c, ok := r.changed[stream]; ok {
		close(c)
		delete(r.changed, stream)
	}
}

// Watermark returns the last announced sequence of a stream, 0 when none was.
func (r *Reader) Watermark(stream string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seqs[stream]
}

// Lowered returns how often a watermark was lower than the one before it: what
// was read from the tables until then may be of tables that are no more.
func (r *Reader) Lowered() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lowered
}

// Wait returns when the tables hold the stream up to seq. It returns ErrBehind
// when ctx ends first.
func (r *Reader) Wait(ctx context.Context, stream string, seq uint64) error {
	timer := time.NewTimer(repeatEvery)
	defer timer.Stop()
	for {
		r.mu.Lock()
		at := r.seqs[stream]
		if at >= seq {
			r.mu.Unlock()
			return nil
		}
		changed, ok := r.changed[stream]
		if !ok {
			changed = make(chan struct{})
			r.changed[stream] = changed
		}
		r.mu.Unlock()
		if err := r.nc.Publish(flushPrefix+stream, strconv.AppendUint(nil, seq, 10)); err != nil {
			return fmt.Errorf("ask for a flush of %s: %w: %w", stream, err, ErrBehind)
		}
		timer.Reset(repeatEvery)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			return fmt.Errorf("%s is at %d, waited for %d: %w: %w", stream, r.Watermark(stream), seq, ctx.Err(), ErrBehind)
		}
	}
}

// Close ends the subscription.
func (r *Reader) Close() error { return r.sub.Unsubscribe() }
