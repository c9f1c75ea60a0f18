package natsserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/natsserver"
)

// waiting is told when the server has found its disk still full.
type waiting struct{ said chan struct{} }

func (waiting) Enabled(context.Context, slog.Level) bool { return true }
func (w waiting) WithAttrs([]slog.Attr) slog.Handler     { return w }
func (w waiting) WithGroup(string) slog.Handler          { return w }
func (w waiting) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "the event log's disk takes no writes" {
		select {
		case w.said <- struct{}{}:
		default:
		}
	}
	return nil
}

// TestAFullDiskLosesNothingAndIsLeftBehind fills the disk under large batches, twice,
// and stops the server on a full disk at last: what was acknowledged is there, no
// sequence is missing, and the files are in order.
func TestAFullDiskLosesNothingAndIsLeftBehind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("filling a disk needs a file system of its own, which only root can mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=48m"); err != nil {
		t.Skipf("filling a disk needs a file system of its own: mount: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	data := filepath.Join(dir, "nats")
	stillFull := waiting{make(chan struct{}, 1)}
	start := func() (*natsserver.Server, *eventlog.Log) {
		t.Helper()
		s, err := natsserver.Start(t.Context(), natsserver.Config{DataDir: data, Check: eventlog.CheckBeforeStart, Logger: slog.New(stillFull)})
		if err != nil {
			t.Fatal(err)
		}
		log, err := eventlog.Open(t.Context(), s.Conn(), eventlog.Config{Shards: 1, Writable: s.Writable})
		if err != nil {
			t.Fatal(errors.Join(err, s.Close()))
		}
		return s, log
	}
	filler := filepath.Join(dir, "filler")
	fill := func(leave int64) { // all but some bytes
		t.Helper()
		var fs syscall.Statfs_t
		if err := syscall.Statfs(dir, &fs); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filler, make([]byte, max(0, int64(fs.Bavail)*fs.Bsize-leave)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stream, subject := events.RunsStream(0), events.RunSubject(0, "0", "r", events.KindMeta)
	text := string(bytes.Repeat([]byte{'x'}, 4000))
	s, log := start()
	lane := log.NewLane(eventlog.LaneConfig{Stream: stream})
	var mu sync.Mutex
	acked := make(map[string]bool)
	n := 0
	// write commits batches of a few events from several goroutines until one is refused
	// since the disk is known to be full.
	write := func(batches int) {
		t.Helper()
		var wg sync.WaitGroup
		deadline := time.Now().Add(time.Minute)
		for range 4 {
			wg.Go(func() {
				for i := 0; batches == 0 || i < batches; i++ {
					mu.Lock()
					n++
					id := fmt.Sprint(n)
					mu.Unlock()
					_, err := lane.Do(t.Context(), func(_ context.Context, b *eventlog.Batch) error {
						for part := range 7 {
							e := &events.Event{Data: &events.Event_RunTagsSet{RunTagsSet: &events.RunTagsSet{RunId: id, Tags: []*events.Tag{{Key: fmt.Sprint(part), Value: text}}}}}
							if err := b.Append(subject, events.New("/test", "t", time.Now()), e, eventlog.Expect{}, nil); err != nil {
								return err
							}
						}
						return nil
					})
					switch {
					case err == nil:
						mu.Lock()
						acked[id] = true
						mu.Unlock()
					case batches == 0 && errors.Is(err, eventlog.ErrUnwritable):
						return
					case batches > 0 || time.Now().After(deadline):
						t.Errorf("write %s: %v", id, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	verify := func() {
		t.Helper()
		parts := make(map[string]int)
		for rec, err := range log.Read(t.Context(), stream, "", 1, 0) {
			if err != nil {
				t.Fatal(err)
			}
			parts[rec.GetRunTagsSet().GetRunId()]++
		}
		for id := range acked {
			if parts[id] == 0 {
				t.Errorf("batch %s was acknowledged and is lost", id)
			}
		}
		for id, n := range parts {
			if n != 7 {
				t.Errorf("%d of 7 events of batch %s are there", n, id)
			}
		}
	}
	write(5)
	for _, room := range []int64{1 << 20, 100 << 10} {
		fill(room)
		write(0)
		select {
		case <-stillFull.said:
		case <-time.After(time.Minute):
			t.Error("it does not look whether the disk has room")
		}
		if err := s.Health(); !errors.Is(err, natsserver.ErrUnhealthy) {
			t.Errorf("health on a full disk: %v", err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); s.Writable().Err() != nil; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("the server does not take writes again")
			}
		}
		write(3)
		verify()
	}
	fill(200 << 10)
	write(0)
	lane.Close()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	report, err := eventlog.CheckFiles(data, stream, nil)
	if err != nil || report.Err() != nil {
		t.Errorf("after a stop on a full disk: %v, %v", err, report.Err())
	}
	s, log = start()
	verify()
	t.Logf("%d of %d batches were acknowledged", len(acked), n)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
