package projector

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/natsserver"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

func testLeases(t *testing.T, js jetstream.JetStream, holder string, ttl time.Duration) *leases {
	t.Helper()
	l, err := openLeases(t.Context(), js, 1, holder, ttl, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLeaseChangesHands(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	const ttl = 300 * time.Millisecond
	waits := 0
	waiting := func(string) { waits++ }
	take := func(holder string) *lease {
		t.Helper()
		held, err := testLeases(t, js, holder, ttl).acquire(t.Context(), "s", ttl/3, waiting)
		if err != nil {
			t.Fatal(err)
		}
		return held
	}

	first := take("a")
	if first.epoch != 1 || first.check() != nil {
		t.Fatalf("epoch %d, %v", first.epoch, first.check())
	}
	// The same holder was killed and is back.
	back := take("a")
	if back.epoch != 2 || waits != 0 {
		t.Fatalf("epoch %d after %d waits", back.epoch, waits)
	}
	if err := first.keep(t.Context()); !errors.Is(err, errLeaseLost) {
		t.Fatalf("the earlier life keeps the lease: %v", err)
	}
	// Another one waits until it has not been renewed for its time.
	heir := take("b")
	if heir.epoch != 3 || waits == 0 {
		t.Fatalf("epoch %d after %d waits", heir.epoch, waits)
	}
	if err := back.check(); !errors.Is(err, errLeaseLost) {
		t.Fatalf("the former holder still holds it: %v", err)
	}
	// What is given back is free.
	heir.release()
	waits = 0
	if last := take("c"); last.epoch != 4 || waits != 0 {
		t.Fatalf("epoch %d after %d waits", last.epoch, waits)
	}
}

// A lease lasts as long as its holder said, whatever those say who wait for it, and
// anew from each renewal on.
func TestLeaseLastsFromItsRenewal(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(natstest.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	const short = 20 * time.Millisecond
	for name, c := range map[string]struct {
		ttl    time.Duration
		renews bool
	}{"long": {time.Hour, false}, "renewed": {short, true}} {
		first, err := testLeases(t, js, "a", c.ttl).acquire(t.Context(), name, short, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		begun := time.Now()
		heir, err := testLeases(t, js, "b", short).acquire(ctx, name, time.Millisecond, func(holder string) {
			if holder != "a" {
				t.Errorf("%s: waits for %q", name, holder)
			}
			if time.Since(begun) > 5*short {
				cancel()
			} else if c.renews {
				if err := first.write(t.Context(), "a"); err != nil {
					t.Error(err)
				}
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: taken by another holder: %v, %v", name, heir, err)
		}
	}
}

// Whatever ends the work under a lease, the lease is given back, so that the next one
// need not wait for its end; and it is lost to a holder that cannot renew it.
func TestLeaseEndsWithItsWork(t *testing.T) {
	t.Parallel()
	server, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	js, err := jetstream.New(server.Conn())
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	a := testLeases(t, js, "a", time.Hour)
	if err := a.under(t.Context(), "s", time.Second, func(string) {}, func(context.Context, *lease) error { return failed }); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	heir, err := testLeases(t, js, "b", time.Hour).acquire(ctx, "s", time.Millisecond, func(holder string) {
		t.Errorf("still held by %s", holder)
		cancel()
	})
	if err != nil {
		t.Fatal(err)
	}
	// The server is gone, and the time is over.
	other, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		t.Fatal(err)
	}
	js, err = jetstream.New(other)
	if err != nil {
		t.Fatal(err)
	}
	if heir.kv, err = js.KeyValue(t.Context(), leaseBucket); err != nil {
		t.Fatal(err)
	}
	other.Close()
	past := time.Now().Add(-time.Second)
	heir.until.Store(&past)
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := heir.renew(ctx); !errors.Is(err, errLeaseLost) {
		t.Errorf("a lease that cannot be renewed: %v", err)
	}
}
