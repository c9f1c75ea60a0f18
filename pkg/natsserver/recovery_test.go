package natsserver

import (
	"errors"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/runledger/runledger/pkg/natsfiles"
)

func TestTheServerSyncsAndOpensNoPort(t *testing.T) {
	dir := t.TempDir()
	refused := errors.New("no")
	if s, err := Start(t.Context(), Config{DataDir: dir, Check: func(string) error { return refused }}); !errors.Is(err, refused) {
		t.Fatal("started in spite of the check", s, err)
	}
	for range 2 {
		s, err := Start(t.Context(), Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		running, conn := s.server.Load(), s.Conn()
		if c := running.JetStreamConfig(); !c.SyncAlways || c.StoreDir != dir+"/jetstream" || running.Addr() != nil {
			t.Errorf("%+v at %v", c, running.Addr())
		}
		if err := errors.Join(s.Health(), s.Writable().Err()); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if running.Running() || !conn.IsClosed() || s.Writable().Err() == nil {
			t.Errorf("after Close: running %v, connected %v, writable: %v", running.Running(), !conn.IsClosed(), s.Writable().Err())
		}
	}
}

// A write fails although there is room: the server is started again, after its files
// were checked and its indexes dropped, and the connection finds it.
func TestAFailedWriteIsLeftBehind(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	limit := func(bytes uint64) {
		t.Helper()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: bytes, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer limit(was.Cur)
	dir := t.TempDir()
	var checks atomic.Int32
	var indexed atomic.Bool
	s, err := Start(t.Context(), Config{DataDir: dir, Check: func(dir string) error {
		checks.Add(1)
		if checks.Load() > 1 {
			f, err := natsfiles.Read(dir, "S", nil)
			indexed.Store(indexed.Load() || f.Index > 0)
			return err
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(s.Conn(), jetstream.WithDefaultTimeout(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s"}}); err != nil {
		t.Fatal(err)
	}
	limit(256 << 10)
	acked, deadline := uint64(0), time.Now().Add(time.Minute)
	for writable := s.Writable(); writable.Err() == nil && time.Now().Before(deadline); {
		if ack, err := js.Publish(t.Context(), "s", make([]byte, 10<<10)); err == nil {
			acked = ack.Sequence
		}
	}
	if err := s.Health(); err != nil && !errors.Is(err, ErrUnhealthy) {
		t.Error(err)
	}
	limit(was.Cur)
	var ack *jetstream.PubAck
	for err = errors.New("never"); err != nil && time.Now().Before(deadline); {
		ack, err = js.Publish(t.Context(), "s", nil)
	}
	if err != nil || ack.Sequence <= acked {
		t.Fatalf("acknowledged up to %d, then %+v, %v", acked, ack, err)
	}
	for s.Writable().Err() != nil {
		if time.Now().After(deadline) {
			t.Fatal("it takes writes and does not say so")
		}
		time.Sleep(time.Millisecond)
	}
	if checks.Load() < 2 || indexed.Load() {
		t.Errorf("%d checks of the files, with an index: %v", checks.Load(), indexed.Load())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if f, err := natsfiles.Read(dir, "S", nil); err != nil || f.Messages != ack.Sequence || len(f.Missing) > 0 || len(f.Damage) > 0 {
		t.Errorf("%+v, %v", f, err)
	}
}
