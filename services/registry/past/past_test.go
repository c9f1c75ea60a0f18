package past_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry/internal/ledgertest"
	"github.com/runledger/runledger/services/registry/ledger"
	"github.com/runledger/runledger/services/registry/past"
)

// newPast returns the past of a ledger of n entries, and their events: a model,
// which then gets tag after tag. The clock goes back now and then.
func newPast(t *testing.T, n int) (*past.Past, []eventlog.Record) {
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.StreamRegistry})
	defer lane.Close()
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Date(2026, 3, 3, 14, 0, 0, 0, time.UTC)
	for i := 0; i < n; {
		_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			for range min(n-i, eventlog.MaxEvents) {
				e := &events.Event{Data: &events.Event_RegisteredModelCreated{RegisteredModelCreated: &events.RegisteredModelCreated{Name: "m"}}}
				if i > 0 {
					e = &events.Event{Data: &events.Event_RegisteredModelTagSet{RegisteredModelTagSet: &events.RegisteredModelTagSet{
						Name: "m", Tag: &events.Tag{Key: fmt.Sprint(i % 7), Value: fmt.Sprint(i)},
					}}}
				}
				at = at.Add(time.Duration(random.IntN(120)-20) * time.Second)
				i++
				if err := b.Append(events.ModelSubject("m"), events.New("/test", "", at), e, eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var recs []eventlog.Record
	for rec, err := range log.Read(t.Context(), events.StreamRegistry, "", 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	l, err := ledger.Open(t.TempDir(), ledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Apply(recs...); err != nil {
		t.Fatal(err)
	}
	return past.New(log, l), recs
}

func TestAtIsAFoldAndKeepsFewStates(t *testing.T) {
	p, recs := newPast(t, 1200)
	p.SetSpacing(3)
	random := rand.New(rand.NewPCG(3, 4))
	for range 60 {
		n := random.IntN(len(recs) + 1)
		st, err := p.At(t.Context(), uint64(n))
		if err != nil {
			t.Fatal(err)
		}
		if st.Seq() != uint64(n) {
			t.Fatalf("as of %d: the state of %d", n, st.Seq())
		}
		ledgertest.Equal(t, fmt.Sprint("as of ", n), ledgertest.Plain(st), ledgertest.Fold(recs[:n]))
	}
	if kept, spacing := p.Kept(); kept < past.MaxKept/3 || kept > past.MaxKept || spacing != 24 {
		t.Errorf("%d states are kept, one in %d", kept, spacing)
	}
	if _, err := p.At(t.Context(), uint64(len(recs)+1)); err == nil {
		t.Error("a state of the future")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p, _ = newPast(t, 10)
	if st, err := p.At(ctx, 5); err == nil {
		t.Errorf("a state for nobody: %v", st.Seq())
	}
}

func TestBeforeIsTheLongestPrefix(t *testing.T) {
	p, recs := newPast(t, 1200)
	check := func(at time.Time) {
		t.Helper()
		want := 0
		for want < len(recs) && !recs[want].Time.After(at) {
			want++
		}
		if got, err := p.Before(t.Context(), at); err != nil || got != uint64(want) {
			t.Fatalf("at %v: %d, %v, want %d", at, got, err, want)
		}
	}
	for _, rec := range recs {
		check(rec.Time)
		check(rec.Time.Add(-time.Nanosecond))
		check(rec.Time.Add(time.Nanosecond))
	}
}
