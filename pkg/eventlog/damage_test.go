package eventlog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsfiles"
	"github.com/runledger/runledger/pkg/natsserver"
)

const damagedRun = "0123456789abcdef0123456789abcdef"

// filledLog is a stopped server's directory: run events 1 to n of one run, and of
// another one as many, in turn.
func filledLog(t *testing.T, n int) (dir, subject string) {
	t.Helper()
	dir = t.TempDir()
	s, log := openIn(t, dir)
	stream := events.RunsStream(0)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	for i := range n {
		for _, run := range []string{damagedRun, "b"} {
			if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
				at := events.RunSubject(0, "0", run, events.KindMeta)
				return b.Append(at, attrs(), tagged(run, fmt.Sprintf("value-%03d", i)), eventlog.Expect{}, nil)
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
	lane.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, events.RunSubject(0, "0", damagedRun, events.KindMeta)
}

func openIn(t *testing.T, dir string) (*natsserver.Server, *eventlog.Log) {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	log, err := eventlog.Open(t.Context(), s.Conn(), eventlog.Config{Shards: 1})
	if err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	return s, log
}

func messages(dir, name string) string {
	return filepath.Join(dir, "jetstream", "$G", "streams", events.RunsStream(0), "msgs", name)
}

// flipIn changes one bit of the event that has the text.
func flipIn(t *testing.T, path, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, []byte(text))
	if at < 0 {
		t.Fatalf("%s is not in %s", text, path)
	}
	data[at] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func readError(t *testing.T, log *eventlog.Log, filter string, from, to uint64) (n int, err error) {
	t.Helper()
	for _, err := range log.Read(t.Context(), events.RunsStream(0), filter, from, to) {
		if err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// A server skips an event that it cannot read, and a reader of one run does not
// see that a sequence is missing.
func TestAnEventThatCannotBeReadIsNoticedByWhoeverReadsItsSubject(t *testing.T) {
	const n = 5
	whole, subject := filledLog(t, n)
	pattern := events.RunSubject(0, events.Any, damagedRun, events.KindMeta)
	stream := events.RunsStream(0)
	for i := range n {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			flipIn(t, messages(dir, "1.blk"), fmt.Sprintf("value-%03d", i)) // of the damaged run, which comes first
			s, log := openIn(t, dir)
			defer func() { _ = s.Close() }()
			// The other run is as it was.
			if got, err := readError(t, log, events.RunSubject(0, "0", "b", events.KindMeta), 1, 0); got != n || err != nil {
				t.Errorf("the other run: %d events, %v", got, err)
			}
			if err := log.Damage(stream); err != nil {
				t.Errorf("noticed too early: %v", err)
			}
			last := uint64(2*n - 1)
			for _, filter := range []string{subject, pattern} {
				if got, err := readError(t, log, filter, 1, last); !errors.Is(err, eventlog.ErrDamaged) {
					t.Errorf("read of %s: %d events, %v", filter, got, err)
				}
				if got, err := readError(t, log, filter, 1, 0); !errors.Is(err, eventlog.ErrDamaged) {
					t.Errorf("read of %s to the end: %d events, %v", filter, got, err)
				}
				_, _, err := log.LastFor(t.Context(), stream, filter)
				if damaged := i == n-1; errors.Is(err, eventlog.ErrDamaged) != damaged {
					t.Errorf("last of %s: %v", filter, err)
				}
			}
			if i < n-1 {
				// A part that is whole can be read.
				if got, err := readError(t, log, subject, uint64(2*i+2), last); got != n-1-i || err != nil {
					t.Errorf("behind it: %d events, %v", got, err)
				}
			}
			if got, err := readError(t, log, "", 1, 0); got != 2*i || !errors.Is(err, eventlog.ErrDamaged) {
				t.Errorf("read of the stream: %d events, %v", got, err)
			}
			if err := log.Follow(t.Context(), stream, 1, func(eventlog.Record) error { return nil }); !errors.Is(err, eventlog.ErrDamaged) {
				t.Errorf("follow: %v", err)
			}
			// Nothing more is written.
			lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
			defer lane.Close()
			_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
				return b.Append(subject, attrs(), tagged("r", "v"), eventlog.Expect{}, nil)
			})
			if !errors.Is(err, eventlog.ErrDamaged) {
				t.Errorf("write: %v", err)
			}
			report, err := eventlog.CheckFiles(dir, stream, nil)
			if err != nil || !errors.Is(report.Err(), eventlog.ErrDamaged) || fmt.Sprint(report.Missing) != fmt.Sprintf("[%d]", 2*i+1) || report.Keep() != uint64(2*i) {
				t.Errorf("check of the files: %+v, %v", report, err)
			}
		})
	}
}

// A subject that nothing was written to is no damage, and neither is one that is
// written to while it is read.
func TestAReadDuringWritesIsNoDamage(t *testing.T) {
	dir, subject := filledLog(t, 20)
	s, log := openIn(t, dir)
	defer func() { _ = s.Close() }()
	stream := events.RunsStream(0)
	ctx, cancel := context.WithCancel(t.Context())
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	done := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
				return b.Append(subject, attrs(), tagged("r", "v"), eventlog.Expect{}, nil)
			}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 50 {
		if _, err := readError(t, log, subject, 1, 0); err != nil {
			t.Fatal(err)
		}
		if got, err := readError(t, log, events.RunSubject(0, "0", "b", events.KindMeta), 1, 0); got != 20 || err != nil {
			t.Fatalf("%d events, %v", got, err)
		}
		if got, err := readError(t, log, subject, 1, 21); got != 11 || err != nil {
			t.Fatalf("%d events, %v", got, err)
		}
		if _, seq, err := log.LastFor(t.Context(), stream, "run.0.0.nobody.meta"); seq != 0 || err != nil {
			t.Fatalf("nobody: %d, %v", seq, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	lane.Close()
	if err := log.Damage(stream); err != nil {
		t.Error(err)
	}
}

// The server forgets the end of a stream that was cut off, and goes on behind it:
// there is a hole.
func TestAShortenedStreamIsNotOpened(t *testing.T) {
	dir, _ := filledLog(t, 10)
	data, err := os.ReadFile(messages(dir, "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(messages(dir, "1.blk"), data[:len(data)-600], 0o600); err != nil {
		t.Fatal(err)
	}
	err = eventlog.CheckBeforeStart(dir)
	if !errors.Is(err, eventlog.ErrDamaged) {
		t.Fatalf("before the start: %v", err)
	}
	t.Log(err)
	report, err := eventlog.CheckFiles(dir, events.RunsStream(0), nil)
	if err != nil || report.End() != 20 || len(report.Missing) != 1 || report.Missing[0].Last != 20 {
		t.Fatalf("%+v, %v", report, err)
	}
	s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	_, err = eventlog.Open(t.Context(), s.Conn(), eventlog.Config{})
	if !errors.Is(err, eventlog.ErrDamaged) {
		t.Fatalf("opened: %v", err)
	}
	t.Log(err)
}

// A crash leaves an old index, and part of a write that was not acknowledged: that
// is no damage. A bad event before others that are good is, and the server would
// cut them off.
func TestACrashIsNoDamageAndABadEventBehindItIs(t *testing.T) {
	dir, _ := filledLog(t, 10)
	data, err := os.ReadFile(messages(dir, "1.blk"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(messages(dir, "1.blk"), append(data, data[:100]...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := eventlog.CheckBeforeStart(dir); err != nil {
		t.Errorf("part of a write: %v", err)
	}
	flipIn(t, messages(dir, "1.blk"), "value-004")
	if err := eventlog.CheckBeforeStart(dir); !errors.Is(err, eventlog.ErrDamaged) {
		t.Errorf("a bit in event 9: %v", err)
	}
	report, err := eventlog.CheckFiles(dir, events.RunsStream(0), nil)
	if err != nil || fmt.Sprint(report.Missing) != "[9]" {
		t.Errorf("%+v, %v", report, err)
	}
}

// An atomic batch is there as a whole or not at all, also where a loss is accepted.
func TestALossIsAcceptedUpToTheBatchBefore(t *testing.T) {
	dir := t.TempDir()
	s, log := openIn(t, dir)
	stream, subject := events.RunsStream(0), events.RunSubject(0, "0", damagedRun, events.KindMeta)
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	for _, size := range []int{1, 2, 3} {
		if _, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
			for i := range size {
				if err := b.Append(subject, attrs(), tagged("r", fmt.Sprint("batch-", size, "-", i)), eventlog.Expect{}, nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	lane.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	flipIn(t, messages(dir, "1.blk"), "batch-3-1")
	report, err := eventlog.CheckFiles(dir, stream, nil)
	if err != nil || report.Keep() != 3 || fmt.Sprint(report.Missing) != "[5]" {
		t.Fatalf("kept up to %d, %+v, %v", report.Keep(), report, err)
	}
	moved := func(path string) error { return os.Rename(path, path+".old") }
	if err := natsfiles.Cut(dir, stream, report.Keep(), moved); err != nil {
		t.Fatal(err)
	}
	s, log = openIn(t, dir)
	defer func() { _ = s.Close() }()
	if recs := readAll(t, log, stream, ""); len(recs) != 3 || recs[2].More {
		t.Errorf("%d events are left", len(recs))
	}
}
