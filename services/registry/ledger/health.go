package ledger

import (
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// health is what Pebble says of itself.
type health struct {
	logger     *slog.Logger
	fatal      atomic.Pointer[fatalError] // for good
	damaged    atomic.Pointer[string]     // for good
	background atomic.Pointer[string]     // until a flush succeeds
	stalled    atomic.Pointer[string]     // until the stall ends
}

func (h *health) err() error {
	if f := h.fatal.Load(); f != nil {
		return *f
	}
	if s := h.damaged.Load(); s != nil {
		return fmt.Errorf("%s: %w", *s, ErrDamaged)
	}
	if s := h.background.Load(); s != nil {
		return fmt.Errorf("%s: %w", *s, ErrFailed)
	}
	if s := h.stalled.Load(); s != nil {
		return fmt.Errorf("%s: %w", *s, ErrStalled)
	}
	return nil
}

func (h *health) listener() *pebble.EventListener {
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			h.logger.Error("registry ledger: background error", slog.Any("error", err))
			h.background.Store(new(err.Error()))
		},
		FlushEnd: func(info pebble.FlushInfo) {
			if info.Err == nil {
				h.background.Store(nil)
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			h.logger.Error("registry ledger: damaged", slog.String("path", info.Path), slog.Any("error", info.Details))
			h.damaged.Store(new(info.Path))
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			h.logger.Warn("registry ledger: stalled", slog.String("reason", info.Reason))
			h.stalled.Store(new(info.Reason))
		},
		WriteStallEnd: func() { h.stalled.Store(nil) },
		DiskSlow: func(info pebble.DiskSlowInfo) {
			h.logger.Warn("registry ledger: slow disk", slog.String("path", info.Path), slog.Duration("duration", info.Duration))
		},
	}
}

// fatalError is why a ledger has ended, and the panic that Fatalf raises.
type fatalError string

func (e fatalError) Error() string        { return string(e) + ": " + ErrFailed.Error() }
func (e fatalError) Is(target error) bool { return target == ErrFailed }

// Infof, Errorf and Fatalf are Pebble's logger.
func (h *health) Infof(format string, args ...any) {
	h.logger.Debug("pebble: " + fmt.Sprintf(format, args...))
}

// Errorf logs an error.
func (h *health) Errorf(format string, args ...any) {
	h.logger.Error("pebble: " + fmt.Sprintf(format, args...))
}

// Fatalf must not return, and Pebble expects it to end the process. In a write
// of ours the panic ends the ledger alone; on one of Pebble's own goroutines it
// ends the process, with the reason on its last lines. Of a ledger that has ended
// before, it ends the goroutine: nobody waits for it.
func (h *health) Fatalf(format string, args ...any) {
	if h.fatal.Load() != nil {
		h.logger.Error("pebble: " + fmt.Sprintf(format, args...))
		runtime.Goexit()
	}
	panic(h.fail(fmt.Sprintf(format, args...)))
}

// fail ends the ledger for good.
func (h *health) fail(reason string) fatalError {
	e := fatalError("pebble: " + reason)
	h.logger.Error(string(e))
	h.fatal.CompareAndSwap(nil, &e)
	return e
}
