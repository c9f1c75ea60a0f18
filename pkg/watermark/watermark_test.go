package watermark_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/pkg/watermark"
)

// project announces what it is asked for, as a projector that keeps up does.
func project(t *testing.T, a *watermark.Announcer, last func() uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		at := uint64(0)
		for {
			select {
			case <-ctx.Done():
				return
			case want := <-a.Wanted():
				at = max(at, min(want, last()))
				if err := a.Announce(at); err != nil {
					t.Error(err)
				}
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
}

func open(t *testing.T) (*watermark.Announcer, *watermark.Reader) {
	t.Helper()
	nc := natstest.Start(t)
	a, err := watermark.NewAnnouncer(nc, "RUNS_0")
	if err != nil {
		t.Fatal(err)
	}
	r, err := watermark.NewReader(nc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, r
}

func TestWaitAsksForWhatItNeeds(t *testing.T) {
	a, r := open(t)
	project(t, a, func() uint64 { return 1000 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for seq := uint64(1); seq <= 200; seq++ {
		wg.Go(func() {
			if err := r.Wait(ctx, "RUNS_0", seq); err != nil {
				t.Error(err)
			}
			if got := r.Watermark("RUNS_0"); got < seq {
				t.Errorf("watermark %d after waiting for %d", got, seq)
			}
		})
	}
	wg.Wait()
	if err := r.Wait(ctx, "RUNS_1", 0); err != nil {
		t.Errorf("waiting for nothing: %v", err)
	}
}

func TestWaitIsBounded(t *testing.T) {
	a, r := open(t)
	project(t, a, func() uint64 { return 5 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := r.Wait(ctx, "RUNS_0", 6); !errors.Is(err, watermark.ErrBehind) {
		t.Errorf("got %v, want ErrBehind", err)
	}
	if got := r.Watermark("RUNS_0"); got != 5 {
		t.Errorf("watermark %d, want 5", got)
	}
}

// TestRebuildLowersTheWatermark: after tables are rebuilt, a reader must not
// take their old state for the new one.
func TestRebuildLowersTheWatermark(t *testing.T) {
	a, r := open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := a.Announce(100); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(ctx, "RUNS_0", 100); err != nil {
		t.Fatal(err)
	}
	if err := a.Announce(1); err != nil {
		t.Fatal(err)
	}
	for r.Watermark("RUNS_0") != 1 {
		if ctx.Err() != nil {
			t.Fatal("the watermark stays at", r.Watermark("RUNS_0"))
		}
		time.Sleep(time.Millisecond)
	}
	if n := r.Lowered(); n != 1 {
		t.Errorf("lowered %d times, want once", n)
	}
	project(t, a, func() uint64 { return 100 })
	if err := r.Wait(ctx, "RUNS_0", 50); err != nil {
		t.Fatal(err)
	}
}
