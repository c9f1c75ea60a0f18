package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
)

// dataDir is a data directory that this process alone uses.
type dataDir struct {
	path string
	// id names the directory for good. Whoever holds the lock is the only one
	// to act under it.
	id   string
	lock *flock.Flock
}

func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &dataDir{path: path, lock: flock.New(filepath.Join(path, "lock"))}
	locked, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	if !locked {
		return nil, fmt.Errorf("data directory %s is in use by another runledger%s: stop that one, or give this one a directory of its own with --data",
			path, owner(d.file("pid")))
	}
	if d.id, err = d.identify(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	// Only for the message above: whoever finds the directory locked.
	if err := os.WriteFile(d.file("pid"), []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("data directory: %w", err), d.Close())
	}
	return d, nil
}

// file returns the path of a file or directory in d.
func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

func (d *dataDir) identify() (string, error) {
	data, err := os.ReadFile(d.file("id"))
	if err == nil {
		id, err := uuid.ParseBytes(data)
		if err != nil {
			return "", fmt.Errorf("data directory: file id: %w", err)
		}
		return id.String(), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("data directory: %w", err)
	}
	id := uuid.NewString()
	temporary := d.file("id.new")
	if err := os.WriteFile(temporary, []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if err := os.Rename(temporary, d.file("id")); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	return id, nil
}

// Close gives the directory up.
func (d *dataDir) Close() error { return d.lock.Unlock() }

func owner(pidFile string) string {
	data, err := os.ReadFile(pidFile)
	if err != nil {
		return ""
	}
	return " (process " + strings.TrimSpace(string(data)) + ")"
}
