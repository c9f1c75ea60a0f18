package eventlog_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver/natstest"
)

func open(t *testing.T) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func tagged(run, value string) *events.Event {
	return &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{
		RunId: run, Tags: []*events.Tag{{Key: "k", Value: value}},
	}}}
}

func attrs() events.Attributes { return events.New("/test", "tester", time.Now()) }

func readAll(t *testing.T, log *eventlog.Log, stream, filter string) []eventlog.Record {
	t.Helper()
	var recs []eventlog.Record
	for rec, err := range log.Read(t.Context(), stream, filter, 1, 0) {
		if err != nil {
			t.Fatal(err)
		}
		recs = append(recs, rec)
	}
	return recs
}

func TestLaneCommitsConcurrentCommandsInOrder(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(1)
	subject := events.RunSubject(1, "0", "r", events.KindMeta)
	var seq uint64
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	const n = 2500
	var wg sync.WaitGroup
	positions := make([]eventlog.Position, n)
	for i := range n {
		wg.Go(func() {
			var err error
			positions[i], err = lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
				return b.Append(subject, attrs(), tagged("r", fmt.Sprint(i)), eventlog.Expect{Subject: subject, Seq: seq},
					func(s uint64) { seq = s })
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	recs := readAll(t, log, stream, "")
	if len(recs) != n || seq != n {
		t.Fatalf("%d events, last %d, want %d", len(recs), seq, n)
	}
	for i, p := range positions {
		if got := recs[p.Seq-1].GetRunTagsSet().GetTags()[0].GetValue(); got != fmt.Sprint(i) {
			t.Fatalf("command %d was told sequence %d, which holds %s", i, p.Seq, got)
		}
	}
}

func TestTwoLanesNeverBothWin(t *testing.T) {
	log := open(t)
	stream, subject := events.RunsStream(0), events.RunSubject(0, "0", "r", events.KindMeta)
	const each = 100
	var wg sync.WaitGroup
	for w := range 2 {
		// The state of each writer: how many events there are, read again on conflict.
		var count int
		var last uint64
		lane := log.NewLane(eventlog.LaneConfig{Stream: stream, Reset: func(ctx context.Context) error {
			count, last = 0, 0
			for rec, err := range log.Read(ctx, stream, subject, 1, 0) {
				if err != nil {
					return err
				}
				count, last = count+1, rec.Seq
			}
			return nil
		}})
		wg.Go(func() {
			defer lane.Close()
			for range each {
				for {
					_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
						err := b.Append(subject, attrs(), tagged("r", fmt.Sprint(count)), eventlog.Expect{Subject: subject, Seq: last},
							func(s uint64) { last = s })
						count++
						return err
					})
					if errors.Is(err, eventlog.ErrBusy) {
						continue
					}
					if err != nil {
						t.Errorf("writer %d: %v", w, err)
					}
					break
				}
			}
		})
	}
	wg.Wait()
	for i, rec := range readAll(t, log, stream, "") {
		if got := rec.GetRunTagsSet().GetTags()[0].GetValue(); got != fmt.Sprint(i) {
			t.Fatalf("event %d was decided on a count of %s", i, got)
		}
	}
}

func TestRefusedCommandLeavesNoTrace(t *testing.T) {
	log := open(t)
	stream, subject := events.RunsStream(0), events.RunSubject(0, "0", "r", events.KindMeta)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	defer lane.Close()
	refusal := errors.New("no")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
				if err := b.Append(subject, attrs(), tagged("r", fmt.Sprint(i)), eventlog.Expect{}, nil); err != nil {
					return err
				}
				if i%2 == 1 {
					return refusal
				}
				return nil
			})
			if (i%2 == 1) != errors.Is(err, refusal) {
				t.Errorf("command %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if recs := readAll(t, log, stream, ""); len(recs) != 50 {
		t.Fatalf("%d events, want 50", len(recs))
	}
	lane.Close()
	if _, err := lane.Do(t.Context(), nil); !errors.Is(err, eventlog.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

func TestReadAndFollow(t *testing.T) {
	log := open(t)
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0)})
	defer lane.Close()
	const n = 3000
	for i := range n / 500 {
		_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			for j := range 500 {
				run := fmt.Sprintf("r%d", (i*500+j)%3)
				if err := b.Append(events.RunSubject(0, "7", run, events.KindMeta), attrs(), tagged(run, "v"), eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := len(readAll(t, log, events.RunsStream(0), "run.0.*.r1.meta")); got != n/3 {
		t.Errorf("filtered read has %d events, want %d", got, n/3)
	}
	subject, seq, err := log.LastFor(t.Context(), events.RunsStream(0), "run.0.*.r0.*")
	if err != nil || subject != "run.0.7.r0.meta" || seq != n-2 {
		t.Errorf("last of r0: %s %d %v", subject, seq, err)
	}
	if _, seq, err := log.LastFor(t.Context(), events.RunsStream(0), "run.0.*.nobody.*"); seq != 0 || err != nil {
		t.Errorf("last of nobody: %d %v", seq, err)
	}
	enough := errors.New("enough")
	next := uint64(11)
	err = log.Follow(t.Context(), events.RunsStream(0), 11, func(rec eventlog.Record) error {
		if rec.Seq != next {
			t.Fatalf("sequence %d, want %d", rec.Seq, next)
		}
		next++
		if rec.Seq == n {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
}

func TestShardCountIsFixed(t *testing.T) {
	nc := natstest.Start(t)
	log, err := eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 2})
	if err != nil || log.Shards() != 2 {
		t.Fatal(log, err)
	}
	if log, err = eventlog.Open(t.Context(), nc, eventlog.Config{}); err != nil || log.Shards() != 2 {
		t.Fatal(log, err)
	}
	if _, err = eventlog.Open(t.Context(), nc, eventlog.Config{Shards: 3}); !errors.Is(err, eventlog.ErrShardCount) {
		t.Fatal(err)
	}
}

func TestOpenRefusesImpossibleCounts(t *testing.T) {
	nc := natstest.Start(t)
	for _, c := range []eventlog.Config{{Shards: -1}, {Shards: events.MaxShards + 1}, {MaxBytes: -1}, {Replicas: -1}} {
		if _, err := eventlog.Open(t.Context(), nc, c); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestFullStreamRefusesAndSaysSo(t *testing.T) {
	log, err := eventlog.Open(t.Context(), natstest.Start(t), eventlog.Config{Shards: 1, MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0)})
	defer lane.Close()
	var acked int
	for range 1000 {
		_, err = lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			for range 3 {
				if err := b.Append("run.0.0.r.meta", attrs(), tagged("r", "v"), eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			break
		}
		acked += 3
	}
	if !errors.Is(err, eventlog.ErrFull) {
		t.Fatalf("got %v after %d events, want ErrFull", err, acked)
	}
	if got := len(readAll(t, log, events.RunsStream(0), "")); got != acked {
		t.Errorf("%d events, %d were acknowledged", got, acked)
	}
}

func TestQueueIsBounded(t *testing.T) {
	log := open(t)
	lane := log.NewLane(eventlog.LaneConfig{Stream: events.RunsStream(0), Queue: 1})
	defer lane.Close()
	begun, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = lane.Do(t.Context(), func(context.Context, *eventlog.Batch) error {
			close(begun)
			<-release
			return nil
		})
	})
	<-begun
	nothing := func(context.Context, *eventlog.Batch) error { return nil }
	wg.Go(func() { _, _ = lane.Do(t.Context(), nothing) })
	for deadline := time.Now().Add(time.Minute); lane.Waiting() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the command does not wait")
		}
	}
	if _, err := lane.Do(t.Context(), nothing); !errors.Is(err, eventlog.ErrBusy) {
		t.Errorf("got %v, want ErrBusy", err)
	}
	close(release)
	wg.Wait()
}

// TestSeparateMessagesHoldTheirExpectations: messages of commands that do not
// need each other are committed each for itself, and each only if the log is
// still what it was decided on.
func TestSeparateMessagesHoldTheirExpectations(t *testing.T) {
	log := open(t)
	const runs, each = 6, 60
	stream := events.RunsStream(0)
	meta := func(run int) string { return events.RunSubject(0, "0", fmt.Sprint("r", run), events.KindMeta) }
	metric := func(run int) string { return events.RunSubject(0, "0", fmt.Sprint("r", run), events.KindMetric) }
	newLane := func() (*eventlog.Lane, []uint64) {
		last := make([]uint64, runs)
		return log.NewLane(eventlog.LaneConfig{Stream: stream, Reset: func(ctx context.Context) error {
			for run := range runs {
				var err error
				if _, last[run], err = log.LastFor(ctx, stream, meta(run)); err != nil {
					return err
				}
			}
			return nil
		}}), last
	}
	var wg sync.WaitGroup
	for w := range 2 {
		lane, last := newLane()
		defer lane.Close()
		for run := range runs {
			wg.Go(func() {
				for i := range each {
					writesMeta := i%4 == 3
					var decidedOn uint64
					var pos eventlog.Position
					err := eventlog.ErrBusy
					for errors.Is(err, eventlog.ErrBusy) {
						pos, err = lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
							decidedOn = last[run]
							subject, committed := metric(run), func(uint64) {}
							if writesMeta {
								subject, committed = meta(run), func(seq uint64) { last[run] = seq }
							}
							return b.Append(subject, attrs(), tagged("r", fmt.Sprint(decidedOn)), eventlog.Expect{Subject: meta(run), Seq: decidedOn}, committed)
						})
					}
					if err != nil {
						t.Errorf("writer %d: %v", w, err)
					}
					for rec, err := range log.Read(t.Context(), stream, "", pos.Seq, pos.Seq) {
						if err != nil || rec.GetRunTagsSet().GetTags()[0].GetValue() != fmt.Sprint(decidedOn) {
							t.Errorf("the command decided on %d was told sequence %d, which holds %v (%v)", decidedOn, pos.Seq, rec.Event, err)
						}
					}
				}
			})
		}
	}
	wg.Wait()
	last := map[string]uint64{}
	recs := readAll(t, log, stream, "")
	if len(recs) != 2*runs*each {
		t.Errorf("%d events, want %d", len(recs), 2*runs*each)
	}
	for _, rec := range recs {
		run := events.RunOfSubject(rec.Subject)
		if got := rec.GetRunTagsSet().GetTags()[0].GetValue(); got != fmt.Sprint(last[run]) {
			t.Fatalf("the event at %d was decided on %s, but the run was at %d", rec.Seq, got, last[run])
		}
		if rec.Subject == events.RunSubject(0, "0", run, events.KindMeta) {
			last[run] = rec.Seq
		}
	}
}

// TestCommandsThatWriteNothingAreAnswered has each command bring the next one,
// so that the queue is never empty: the first must be answered nevertheless.
func TestCommandsThatWriteNothingAreAnswered(t *testing.T) {
	lane := open(t).NewLane(eventlog.LaneConfig{Stream: events.StreamExperiments})
	defer lane.Close()
	var (
		wg     sync.WaitGroup
		stop   atomic.Bool
		decide eventlog.Decide
	)
	do := func() {
		if _, err := lane.Do(t.Context(), decide); err != nil {
			t.Error(err)
		}
	}
	decide = func(context.Context, *eventlog.Batch) error {
		if !stop.Load() {
			wg.Go(do)
			for lane.Waiting() == 0 {
				runtime.Gosched()
			}
		}
		return nil
	}
	answered := make(chan struct{})
	wg.Go(func() { do(); close(answered) })
	<-answered
	stop.Store(true)
	wg.Wait()
}

func TestPanickingCommandFailsAloneAndHasTheStateReset(t *testing.T) {
	log := open(t)
	stream := events.RunsStream(1)
	subject := events.RunSubject(1, "0", "r", events.KindMeta)
	var seq uint64
	var resets int
	held, release := make(chan struct{}), make(chan struct{})
	onceHeld := sync.OnceFunc(func() { close(held) }) // it is decided again
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream, Reset: func(context.Context) (err error) {
		resets++
		_, seq, err = log.LastFor(context.Background(), stream, subject)
		return err
	}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	write := func(value string) error {
		_, err := lane.Do(ctx, func(_ context.Context, b *eventlog.Batch) error {
			if value == "hold" {
				onceHeld()
				<-release // so that those behind it share its batch
			}
			if err := b.Append(subject, attrs(), tagged("r", value), eventlog.Expect{Subject: subject, Seq: seq}, func(s uint64) { seq = s }); err != nil {
				return err
			}
			if value == "panic" {
				panic("of this command")
			}
			return nil
		})
		return err
	}
	values := []string{"hold", "a", "panic", "b", "panic", "c"}
	errs := make([]error, len(values))
	var wg sync.WaitGroup
	for i, value := range values {
		wg.Go(func() { errs[i] = write(value) })
		if i == 0 {
			<-held
		}
		for lane.Waiting() < i {
			runtime.Gosched()
		}
	}
	close(release)
	wg.Wait()
	for i, value := range values {
		if (errs[i] != nil) != (value == "panic") {
			t.Errorf("%s: %v", value, errs[i])
		}
	}
	if err := write("d"); err != nil {
		t.Errorf("after the panics: %v", err)
	}
	lane.Close()
	var got []string
	for _, rec := range readAll(t, log, stream, "") {
		got = append(got, rec.GetRunTagsSet().GetTags()[0].GetValue())
	}
	if want := []string{"hold", "a", "b", "c", "d"}; !slices.Equal(got, want) || resets != 2 {
		t.Errorf("the log holds %v after %d resets, want %v after 2", got, resets, want)
	}
}
