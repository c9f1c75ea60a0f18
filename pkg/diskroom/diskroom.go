// Package diskroom tells whether a disk is full, and whether it takes writes again.
package diskroom

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const (
	// low is below how much a disk counts as full, and least how much must be free
	// for it to count as one that is not: with less, it would be full again at once.
	low   = 8 << 20
	least = 16 << 20
	probe = 64 << 10
)

// Low returns an error that wraps syscall.ENOSPC if less than 8 MiB are free on a
// directory's volume.
func Low(dir string) error { return atLeast(dir, low) }

func atLeast(dir string, want uint64) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("free space of %s: %w", dir, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < want {
		return fmt.Errorf("%d KiB free on the volume of %s, want %d: %w", free>>10, dir, want>>10, syscall.ENOSPC)
	}
	return nil
}

// Check returns nil if the directory's volume has at least 16 MiB free and a file
// in it can be written and synced, and the reason otherwise. It leaves nothing.
func Check(dir string) (err error) {
	if err := atLeast(dir, least); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "room-*.tmp")
	if err != nil {
		return fmt.Errorf("try a write: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(make([]byte, probe))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("try a write: %w", err)
	}
	return nil
}
