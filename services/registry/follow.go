package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/registry/catalog"
	"github.com/runledger/runledger/services/registry/ledger"
)

const (
	// applyBatch is how many events that have come already share one sync.
	applyBatch = 256
	// restLimit bounds how long the rest of an atomic batch is waited for.
	restLimit  = 2 * time.Second
	retryFirst = 100 * time.Millisecond
	retryLast  = 5 * time.Second
)

// follow applies the log to the ledger until ctx ends, or an event cannot be
// applied: then the ledger stays as it is for good. One that has failed a write is
// opened again when the disk takes writes.
func (s *Service) follow(ctx context.Context) {
	retry := backoff.NewExponentialBackOff()
	retry.InitialInterval, retry.MaxInterval = retryFirst, retryLast
	for {
		from := s.ledger.LastSeq()
		err := s.followFrom(ctx, from+1)
		if ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("registry ledger at event %d: %w", s.ledger.LastSeq(), err)
		s.fault.Store(&err)
		if permanent(err) {
			s.logger.Error("registry: stopped following the log", slog.Any("error", err))
			s.die()
			return
		}
		if s.ledger.LastSeq() > from {
			retry.Reset()
		}
		s.logger.Warn("registry: following the log again", slog.Any("error", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(retry.NextBackOff()):
		}
		if err := s.ledger.Reopen(); err != nil {
			s.logger.Warn("registry: the ledger stays as it is", slog.Any("error", err))
		}
	}
}

func permanent(err error) bool {
	for _, target := range []error{
		events.ErrCorrupt, events.ErrUnknownSchema, catalog.ErrMisfit, ledger.ErrGap, ledger.ErrDamaged,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func (s *Service) followFrom(ctx context.Context, from uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	records := make(chan eventlog.Record, applyBatch)
	applied := make(chan struct{})
	go func() {
		defer close(applied)
		if err := s.apply(records); err != nil {
			cancel(err)
		}
	}()
	err := s.log.Follow(ctx, events.StreamRegistry, from, func(rec eventlog.Record) error {
		select {
		case records <- rec:
			return nil
		case <-ctx.Done():
			return nil
		}
	})
	close(records)
	<-applied
	if cause := context.Cause(ctx); err == nil && cause != nil {
		return cause
	}
	return err
}

// apply applies the records, those that wait together.
func (s *Service) apply(records <-chan eventlog.Record) error {
	for rec := range records {
		batch := gather(rec, records)
		start, before := time.Now(), s.ledger.Size()
		err := s.ledger.Apply(batch...)
		s.metrics.applied(s.ledger.Size()-before, time.Since(start))
		if err != nil {
			return err
		}
	}
	return nil
}

// gather returns a record and those that wait behind it, and of an atomic batch
// all: readers see a rollback as a whole. Of a batch that breaks off with the
// connection nothing is returned: it comes again. One whose rest does not come,
// which the server rules out, is not waited for longer than restLimit.
func gather(rec eventlog.Record, records <-chan eventlog.Record) []eventlog.Record {
	batch := []eventlog.Record{rec}
	whole := 0 // how many are of batches that are complete
	for {
		var more bool
		if batch[len(batch)-1].More {
			select {
			case rec, more = <-records:
			case <-time.After(restLimit):
				return batch
			}
		} else {
			whole = len(batch)
			if whole >= applyBatch {
				return batch
			}
			select {
			case rec, more = <-records:
			default:
			}
		}
		if !more {
			return batch[:whole]
		}
		batch = append(batch, rec)
	}
}

// usable returns why the registry takes no commands.
func (s *Service) usable() error {
	err := s.ledger.Health()
	if s.alive.Err() != nil {
		fault := errors.New("registry is closed")
		if f := s.fault.Load(); f != nil {
			fault = *f
		}
		err = errors.Join(fault, err)
	}
	if err == nil {
		return nil
	}
	return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The registry's ledger cannot be written").WithRetryAfter(retryLast)
}
