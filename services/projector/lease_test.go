package projector

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
