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

// A request that came while nobody listened is repeated.
func TestAWaitOutlivesALostRequest(t *testing.T) {
	nc := natstest.Start(t)
	r, err := watermark.NewReader(nc)
	if err != nil {
		t.Fatal(err)
	}
	lost, err := nc.SubscribeSync("runledger.flush.RUNS_0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Wait(ctx, "RUNS_0", 7) }()
	if m, err := lost.NextMsgWithContext(ctx); err != nil || string(m.Data) != "7" {
		t.Fatalf("%v, %v", m, err)
	}
	a, err := watermark.NewAnnouncer(nc, "RUNS_0")
	if err != nil {
		t.Fatal(err)
	}
	project(t, a, func() uint64 { return 100 })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}

func TestStreamsAreToldApart(t *testing.T) {
	nc := natstest.Start(t)
	r, err := watermark.NewReader(nc)
	if err != nil {
		t.Fatal(err)
	}
	var announcers []*watermark.Announcer
	for _, stream := range []string{"RUNS_0", "RUNS_1"} {
		a, err := watermark.NewAnnouncer(nc, stream)
		if err != nil {
			t.Fatal(err)
		}
		announcers = append(announcers, a)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	flush := func(stream, text string) {
		t.Helper()
		if err := errors.Join(nc.Publish("runledger.flush."+stream, []byte(text)), nc.Flush()); err != nil {
			t.Fatal(err)
		}
	}
	// Of several requests the greatest is kept; one that is no number is none.
	for _, text := range []string{"5", "9", "3", "x"} {
		flush("RUNS_1", text)
	}
	flush("RUNS_0", "4")
	for i, want := range []uint64{4, 9} {
		got := uint64(0)
		for got < want && ctx.Err() == nil { // what has arrived so far may be less
			select {
			case got = <-announcers[i].Wanted():
			case <-ctx.Done():
			}
		}
		if got != want {
			t.Errorf("stream %d: %d is wanted, want %d", i, got, want)
		}
	}
	for _, seq := range []uint64{6, 6} { // the same again is no lower one
		if err := announcers[1].Announce(seq); err != nil {
			t.Fatal(err)
		}
	}
	if err := announcers[0].Announce(5); err != nil {
		t.Fatal(err)
	}
	if err := r.Wait(ctx, "RUNS_0", 5); err != nil {
		t.Fatal(err)
	}
	if one, two, lowered := r.Watermark("RUNS_0"), r.Watermark("RUNS_1"), r.Lowered(); one != 5 || two != 6 || lowered != 0 {
		t.Errorf("watermarks %d and %d, lowered %d times", one, two, lowered)
	}
	// Who is closed hears no more.
	if err := errors.Join(announcers[0].Close(), r.Close()); err != nil {
		t.Fatal(err)
	}
	flush("RUNS_0", "8")
	if err := announcers[0].Announce(8); err != nil {
		t.Fatal(err)
	}
	flush("RUNS_1", "8")
	<-announcers[1].Wanted()
	select {
	case seq := <-announcers[0].Wanted():
		if seq == 8 { // the request of Wait may have been left
			t.Errorf("closed, and asked for %d", seq)
		}
	default:
	}
	if seq := r.Watermark("RUNS_0"); seq != 5 {
		t.Errorf("closed, and at %d", seq)
	}
}

func TestReportsAndRequestsArriveWhereTheyBelong(t *testing.T) {
	nc := natstest.Start(t)
	told := make(chan string, 10)
	reports, err := watermark.OnDamage(nc, func(what string) { told <- "damage: " + what })
	if err != nil {
		t.Fatal(err)
	}
	requests, err := watermark.OnReplace(nc, func() { told <- "replace" })
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		send func() error
		want string
	}{
		{func() error { return watermark.ReportDamage(nc, "metrics") }, "damage: metrics"},
		{func() error { return watermark.RequestReplace(nc) }, "replace"},
		{func() error { return watermark.ReportDamage(nc, "runs") }, "damage: runs"},
	} {
		if err := tt.send(); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-told:
			if got != tt.want {
				t.Errorf("%q was told, want %q", got, tt.want)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%q was not told", tt.want)
		}
	}
	if err := errors.Join(reports.Unsubscribe(), requests.Unsubscribe()); err != nil {
		t.Error(err)
	}
}
