package projector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

const (
	leaseBucket = "runledger-leases"
	// sharedAgain is how often a lease that is held for moments is looked at.
	sharedAgain = 100 * time.Millisecond
)

// errLeaseLost means that the lease was not renewed in time, or that somebody
// else has taken it: writing must stop.
var errLeaseLost = errors.New("lease lost")

// leaseValue is what the bucket holds for a name.
//
// A lease is held from the moment of a successful write for TTL. Whoever wants
// it waits until a revision has stood unchanged for that long by its own
// monotonic clock, which began after the holder's, and then replaces exactly
// that revision. So no two clocks are compared, and of several that try one
// wins.
type leaseValue struct {
	Holder string        `json:"holder"` // "" when it was given back
	Epoch  uint64        `json:"epoch"`  // one more at each change of hands
	TTL    time.Duration `json:"ttl"`    // nanoseconds
}

// leases hands out leases to one holder.
type leases struct {
	kv     jetstream.KeyValue
	holder string
	ttl    time.Duration
	own    sync.Mutex // held around a lease that several goroutines want
	logger *slog.Logger
}

// openLeases creates the bucket when it is missing.
func openLeases(ctx context.Context, js jetstream.JetStream, replicas int, holder string, ttl time.Duration, logger *slog.Logger) (*leases, error) {
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      leaseBucket,
		Description: "who projects which stream",
		History:     1,
		Storage:     jetstream.FileStorage,
		Replicas:    replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("open the bucket of leases: %w", err)
	}
	return &leases{kv: kv, holder: holder, ttl: ttl, logger: logger}, nil
}

// lease is held until keep returns or release is called.
type lease struct {
	*leases
	name     string
	epoch    uint64
	revision uint64
	until    atomic.Pointer[time.Time]
}

// under waits until it holds the lease of name, and calls do while it keeps it.
// When the lease is lost, the context of do ends. waiting is called with the
// holder that it waits for, and looks again after a while.
func (l *leases) under(ctx context.Context, name string, again time.Duration, waiting func(holder string), do func(context.Context, *lease) error) error {
	held, err := l.acquire(ctx, name, again, waiting)
	if err != nil {
		return err
	}
	defer held.release()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return held.keep(ctx) })
	group.Go(func() error {
		defer cancel() // ends keep
		return do(ctx, held)
	})
	return group.Wait()
}

// shared is like under, for a lease that several goroutines of one projector
// want: they wait for each other here.
func (l *leases) shared(ctx context.Context, name string, do func(context.Context, *lease) error) error {
	l.own.Lock()
	defer l.own.Unlock()
	return l.under(ctx, name, min(sharedAgain, l.ttl/3), func(string) {}, do)
}

// acquire waits until it holds the lease of name, or until ctx ends.
func (l *leases) acquire(ctx context.Context, name string, again time.Duration, waiting func(holder string)) (*lease, error) {
	var seen uint64
	var since time.Time
	for {
		entry, err := l.kv.Get(ctx, name)
		switch {
		case errors.Is(err, jetstream.ErrKeyNotFound):
			if held, err := l.take(ctx, name, 0, 1); err != nil || held != nil {
				return held, err
			}
			continue
		case err != nil:
			return nil, fmt.Errorf("read the lease of %s: %w", name, err)
		}
		var v leaseValue
		if err := json.Unmarshal(entry.Value(), &v); err != nil {
			return nil, fmt.Errorf("read the lease of %s: %w", name, err)
		}
		if entry.Revision() != seen {
			seen, since = entry.Revision(), time.Now()
		}
		if v.Holder == "" || v.Holder == l.holder || time.Since(since) > v.TTL {
			held, err := l.take(ctx, name, entry.Revision(), v.Epoch+1)
			if err != nil || held != nil {
				return held, err
			}
			continue
		}
		waiting(v.Holder)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(again):
		}
	}
}

// take replaces a revision, 0 for none. It returns nil when somebody else was
// faster.
func (l *leases) take(ctx context.Context, name string, revision, epoch uint64) (*lease, error) {
	held := &lease{leases: l, name: name, epoch: epoch, revision: revision}
	err := held.write(ctx, l.holder)
	switch {
	case isTaken(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("take the lease of %s: %w", name, err)
	}
	l.logger.Debug("took a lease", slog.String("name", name), slog.Uint64("epoch", epoch))
	return held, nil
}

func isTaken(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

func (l *lease) write(ctx context.Context, holder string) error {
	value, err := json.Marshal(leaseValue{Holder: holder, Epoch: l.epoch, TTL: l.ttl})
	if err != nil {
		return err
	}
	until := time.Now().Add(l.ttl)
	if l.revision == 0 {
		l.revision, err = l.kv.Create(ctx, l.name, value)
	} else {
		var revision uint64
		if revision, err = l.kv.Update(ctx, l.name, value, l.revision); err == nil {
			l.revision = revision
		}
	}
	if err == nil {
		l.until.Store(&until)
	}
	return err
}

// check returns errLeaseLost unless the lease is held now.
func (l *lease) check() error {
	if until := l.until.Load(); time.Now().After(*until) {
		return fmt.Errorf("%s: not renewed since %v: %w", l.name, until.Add(-l.ttl).Format(time.RFC3339), errLeaseLost)
	}
	return nil
}

// keep renews the lease until ctx ends (it then returns nil) or it is lost.
func (l *lease) keep(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(l.ttl / 3):
		}
		if err := l.renew(ctx); err != nil {
			return err
		}
	}
}

// renew repeats attempts without an answer while the lease lasts. An attempt
// whose answer was lost makes the next one fail: the lease is then given up,
// and taken again as the holder's own.
func (l *lease) renew(ctx context.Context) error {
	until := *l.until.Load()
	for {
		attempt, cancel := context.WithTimeout(ctx, l.ttl/3)
		err := l.write(attempt, l.holder)
		cancel()
		switch {
		case err == nil || ctx.Err() != nil:
			return nil
		case isTaken(err):
			return fmt.Errorf("%s: somebody else took it: %w", l.name, errLeaseLost)
		case time.Now().After(until):
			return fmt.Errorf("%s: %w: %w", l.name, err, errLeaseLost)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(l.ttl/10, time.Until(until))):
		}
	}
}

// release gives the lease back, so that nobody has to wait for its end.
func (l *lease) release() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if l.check() != nil {
		return
	}
	if err := l.write(ctx, ""); err != nil && !isTaken(err) {
		l.logger.Warn("give a lease back", slog.String("stream", l.name), slog.Any("error", err))
	}
}
