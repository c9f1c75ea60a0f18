package registry_test

import (
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/runledger/runledger/pkg/natsserver/natstest"
	"github.com/runledger/runledger/services/registry"
)

// checkRefused fails the test unless a command is refused with 503 and
// Retry-After, readiness fails, and reads are answered only to who takes old data,
// all within a bound.
func checkRefused(t *testing.T, s *server) {
	t.Helper()
	write := s.send("POST", "registered-models/create", fields{"name": "refused"})
	if write.status != http.StatusServiceUnavailable || write.header.Get("Retry-After") == "" {
		t.Errorf("write: %d %v %v", write.status, write.header, write.body)
	}
	if err := s.service.Ready(t.Context()); err == nil {
		t.Error("ready")
	}
	checkOldOnlyWhenAsked(t, s, "before", true)
}

// The ledger's disk is full: commands are refused, and what the log took is in the
// ledger when there is room again, without a restart.
func TestTheDiskIsFull(t *testing.T) {
	var full atomic.Bool
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	}))
	log, dir := openLog(t, natstest.Start(t)), t.TempDir()
	s := startWith(t, registry.Config{Log: log, Dir: dir, FS: fs})
	s.create("before")
	full.Store(true)
	// The log takes this one before the ledger notices.
	during := s.send("POST", "registered-models/create", fields{"name": "during"})
	if during.status != http.StatusOK || during.header.Get("Runledger-Stale") != "true" {
		t.Errorf("while it fills: %d %v %v", during.status, during.header, during.body)
	}
	checkRefused(t, s)
	full.Store(false)
	eventually(t, "readiness when there is room again", func() bool { return s.service.Ready(t.Context()) == nil })
	s.model("during")
	s.create("refused") // it left no trace
	if got := s.size(); got != 3 {
		t.Errorf("%v entries, want 3", got)
	}
	s.close()
	s = start(t, log, dir)
	defer s.close()
	if got := s.size(); got != 3 {
		t.Errorf("%v entries after a restart, want 3", got)
	}
}

// The ledger's disk takes no writes for a while: nothing waits for it without end.
func TestTheDiskStalls(t *testing.T) {
	t.Parallel()        // it waits for what does not come
	var mu sync.RWMutex // held by the stall
	fs := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			mu.RLock()
			defer mu.RUnlock()
		}
		return nil
	}))
	s := startWith(t, registry.Config{Log: openLog(t, natstest.Start(t)), Dir: t.TempDir(), FS: fs})
	defer s.close()
	s.create("before")
	mu.Lock()
	during := s.send("POST", "registered-models/create", fields{"name": "during"})
	if during.status != http.StatusOK || during.header.Get("Runledger-Stale") != "true" {
		t.Errorf("as it stalls: %d %v %v", during.status, during.header, during.body)
	}
	checkRefused(t, s)
	mu.Unlock()
	eventually(t, "readiness when the disk works again", func() bool { return s.service.Ready(t.Context()) == nil })
	s.model("during")
	s.create("refused")
	if got := s.size(); got != 3 {
		t.Errorf("%v entries, want 3", got)
	}
}
