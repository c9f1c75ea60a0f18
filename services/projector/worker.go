package projector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"

	"github.com/runledger/runledger/pkg/chconn"
)

// worker owns the projection of one stream: it holds or waits for the lease,
// and runs one session after the other.
type worker struct {
	*Projector
	stream string
	logger *slog.Logger

	mu     sync.Mutex
	status status
}

// status is what is known of a stream's projection in this process.
type status struct {
	holder    string // of the lease, when it is another projector
	watermark uint64
	caughtUp  bool  // since the process has held the lease
	err       error // why it does not go on; nil while it does
	halted    bool  // for good
}

func (w *worker) get() status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *worker) update(change func(*status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
}

func (w *worker) progress(watermark uint64, caughtUp bool) {
	w.update(func(s *status) {
		s.watermark, s.err, s.holder = watermark, nil, ""
		s.caughtUp = s.caughtUp || caughtUp
	})
	w.metrics.watermark.WithLabelValues(w.stream).Set(float64(watermark))
}

// run projects until ctx ends. It returns ErrOtherLog or a *damageError, and no other
// error: an event that cannot be projected halts the worker, which then waits for ctx.
func (w *worker) run(ctx context.Context) error {
	delays := newDelays()
	for {
		before := w.get().watermark
		err := w.hold(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrOtherLog):
			return err
		case isUnreadable(err):
			w.update(func(s *status) { s.err, s.halted = err, true })
			w.logger.Error("projection of the stream has stopped: an event cannot be projected", slog.Any("error", err))
			<-ctx.Done()
			return nil
		case isMissingTable(err):
			if migrateErr := w.migrate(ctx); migrateErr != nil {
				err = errors.Join(err, migrateErr)
			}
		case chconn.IsDamage(err):
			w.suspect(err.Error())
		}
		if damage, ok := errors.AsType[*damageError](err); ok && ctx.Err() == nil {
			return damage
		}
		if w.get().watermark != before {
			delays.Reset()
		}
		delay := delays.NextBackOff()
		w.update(func(s *status) { s.err = err })
		w.logger.Warn("projection of the stream was interrupted", slog.Any("error", err), slog.Duration("again_in", delay))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// isMissingTable tells whether the tables are gone.
func isMissingTable(err error) bool {
	return ch.IsErr(err, proto.ErrUnknownTable, proto.ErrUnknownDatabase)
}

// hold waits for the lease, and runs one session while it lasts.
func (w *worker) hold(ctx context.Context) error {
	waiting := func(holder string) {
		w.update(func(s *status) { s.holder, s.err, s.caughtUp = holder, nil, false })
	}
	return w.leases.under(ctx, w.stream, w.leases.ttl/3, waiting, func(ctx context.Context, held *lease) error {
		w.update(func(s *status) { s.holder = "" })
		w.config.Logger.Info("took a lease", slog.String("stream", w.stream), slog.Uint64("epoch", held.epoch))
		return (&session{worker: w, lease: held}).run(ctx)
	})
}

// ready returns nil when the stream is projected, here or elsewhere.
func (w *worker) ready(ctx context.Context) error {
	s := w.get()
	switch {
	case s.err != nil:
		return fmt.Errorf("%s is projected up to %d: %w", w.stream, s.watermark, s.err)
	case s.holder != "" || s.caughtUp:
		return nil
	}
	last, err := w.config.Log.LastSeq(ctx, w.stream)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is projected up to %d of %d: %w", w.stream, s.watermark, last, errCatchingUp)
}
