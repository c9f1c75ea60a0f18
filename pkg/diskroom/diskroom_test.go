package diskroom_test

import (
	"errors"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/runledger/runledger/pkg/diskroom"
)

func TestADiskIsFullAndHasRoomAgain(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("filling a disk needs a file system of its own, which only root can mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("filling a disk needs a file system of its own: mount: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	for _, tt := range []struct {
		used      int // MiB of 32
		low, full bool
	}{{0, false, false}, {12, false, false}, {20, false, true}, {28, true, true}, {0, false, false}} {
		filler := filepath.Join(dir, "filler")
		if err := os.WriteFile(filler, make([]byte, tt.used<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := diskroom.Low(dir); errors.Is(err, syscall.ENOSPC) != tt.low || (err != nil) != tt.low {
			t.Errorf("low with %d MiB of 32 used: %v", tt.used, err)
		}
		if err := diskroom.Check(dir); errors.Is(err, syscall.ENOSPC) != tt.full || (err != nil) != tt.full {
			t.Errorf("check with %d MiB of 32 used: %v", tt.used, err)
		}
		if entries, err := os.ReadDir(dir); len(entries) != 1 || err != nil {
			t.Errorf("it left %v, %v", entries, err)
		}
	}
}

func TestADiskThatTakesNoWritesHasNoRoom(t *testing.T) {
	dir := t.TempDir()
	if err := diskroom.Low(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no directory: %v", err)
	}
	signal.Ignore(syscall.SIGXFSZ)
	defer signal.Reset(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 10, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	err := diskroom.Check(dir)
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Errorf("a write that fails: %v", err)
	}
	if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil {
		t.Errorf("it left %v, %v", entries, err)
	}
}
