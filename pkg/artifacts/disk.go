package artifacts

import (
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// abandonedAfter is the age at which an unfinished upload is taken for one that
// a killed process has left: other processes may be writing to the directory.
const abandonedAfter = time.Hour

// disk is the directory of a store on a file system: what
// gocloud.dev/blob/fileblob leaves to do so that files survive a power failure.
type disk struct {
	root    string
	stop    context.CancelFunc
	cleanup sync.WaitGroup
}

// openDisk returns the directory of a store, nil for one that is elsewhere, and
// begins to remove the uploads that nobody has written to for abandonedAfter.
func openDisk(location string, now time.Time) *disk {
	u, err := url.Parse(location)
	if err != nil || u.Scheme != "file" {
		return nil
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &disk{root: filepath.FromSlash(u.Path), stop: stop}
	d.cleanup.Go(func() { d.removeUnfinished(ctx, now.Add(-abandonedAfter)) })
	return d
}

func (d *disk) close() {
	if d != nil {
		d.stop()
		d.cleanup.Wait()
	}
}

// removeUnfinished removes the uploads that were last written to before a time.
// What cannot be read or removed stays, and is in nobody's way.
func (d *disk) removeUnfinished(ctx context.Context, before time.Time) {
	_ = filepath.WalkDir(d.root, func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if err != nil || !entry.Type().IsRegular() || !unfinished.MatchString(path) {
			return nil
		}
		if info, err := entry.Info(); err == nil && info.ModTime().Before(before) {
			_ = os.Remove(path)
		}
		return nil
	})
}

// syncDirs puts the entry of a file on the disk, and those of the directories
// between it and the root, which may be new too.
func (d *disk) syncDirs(file string) error {
	for dir := filepath.Dir(file); ; dir = filepath.Dir(dir) {
		// One that was deleted meanwhile has nothing to keep.
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if rel, err := filepath.Rel(d.root, dir); err != nil || !filepath.IsLocal(rel) || rel == "." {
			return nil
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
