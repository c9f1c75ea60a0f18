package eventlog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// Nothing is ever deleted from a stream, so its events are those from 1 to its
// last sequence, each of them. The server skips what it cannot read, silently; but
// it knows from its index how many events there were, on each subject.

// damage is what is known to be missing, by stream.
type damage struct {
	mu  sync.Mutex
	err map[string]error
}

// Damage returns ErrDamaged with what a read of the stream has missed, and nil
// while none has. Nothing is written to a damaged stream.
func (l *Log) Damage(stream string) error {
	l.damage.mu.Lock()
	defer l.damage.mu.Unlock()
	return l.damage.err[stream]
}

// damaged returns ErrDamaged, and remembers it.
func (l *Log) damaged(stream, what string) error {
	err := fmt.Errorf("%s: %s: %w", stream, what, ErrDamaged)
	l.damage.mu.Lock()
	defer l.damage.mu.Unlock()
	if l.damage.err[stream] == nil {
		l.logger.Error("the event log is damaged", slog.String("stream", stream), slog.String("what", what))
		if l.damage.err == nil {
			l.damage.err = make(map[string]error)
		}
		l.damage.err[stream] = err
	}
	return err
}

// whole returns ErrDamaged unless the stream has every event up to its last one.
func (l *Log) whole(stream string, s jetstream.StreamState) error {
	if s.LastSeq == 0 && s.Msgs == 0 || s.FirstSeq == 1 && s.Msgs == s.LastSeq && s.NumDeleted == 0 {
		return nil
	}
	return l.damaged(stream, fmt.Sprintf("it begins at event %d and ends at %d, and has %d events of %d (%d are missing)",
		s.FirstSeq, s.LastSeq, s.Msgs, s.LastSeq, s.LastSeq-s.Msgs))
}

// count returns how many events the stream's index has on the subjects.
func (l *Log) count(ctx context.Context, stream, filter string) (uint64, error) {
	info, err := l.streams[stream].Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return 0, fmt.Errorf("count the events of %s on %s: %w: %w", stream, filter, err, ErrUnavailable)
	}
	n := uint64(0)
	for _, of := range info.State.Subjects {
		n += of
	}
	return n, nil
}

// check returns ErrDamaged unless all events were read that the index has.
func (r *reading) check(ctx context.Context) error {
	switch {
	case r.from > r.to:
		return nil
	case r.filter == "":
		if r.next > r.to {
			return nil
		}
		last, err := r.log.LastSeq(ctx, r.stream)
		if err != nil || last < r.next {
			return err
		}
		return r.log.damaged(r.stream, fmt.Sprintf("event %d of %d cannot be read", r.next, last))
	case r.count > 0 && r.count == r.matching:
		return nil // none was left, not even behind the last one
	}
	return r.compare(ctx)
}

// compare returns ErrDamaged if the index has more events where r has read. What is
// written meanwhile lies behind; while somebody does so without a pause, nothing
// can be said.
func (r *reading) compare(ctx context.Context) error {
	for range compareAttempts {
		before, err := r.pending(ctx, r.to+1)
		if err != nil {
			return err
		}
		all, err := r.pending(ctx, r.from)
		if err != nil {
			return err
		}
		if r.count+before >= all {
			return nil
		}
		after, err := r.pending(ctx, r.to+1)
		if err != nil {
			return err
		}
		if r.count+after < all {
			return r.log.damaged(r.stream, fmt.Sprintf("of the events on %s from %d to %d only %d can be read, of at least %d",
				r.filter, r.from, r.to, r.count, all-after))
		}
	}
	return nil
}

const compareAttempts = 5

// pending returns how many events the index has from a sequence on. Only a consumer
// is told, when it is made.
func (r *reading) pending(ctx context.Context, from uint64) (uint64, error) {
	s := r.log.streams[r.stream]
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, FilterSubject: r.filter,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, InactiveThreshold: readTimeout,
	})
	if err != nil {
		return 0, fmt.Errorf("count the events of %s on %s: %w: %w", r.stream, r.filter, err, ErrUnavailable)
	}
	info := c.CachedInfo()
	if err := s.DeleteConsumer(ctx, info.Name); err != nil {
		r.log.logger.Debug("delete a consumer", slog.String("stream", r.stream), slog.Any("error", err)) // it ends by itself
	}
	return info.NumPending, nil
}
