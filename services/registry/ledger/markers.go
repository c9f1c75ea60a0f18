package ledger

import (
	"errors"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// markers is a file system on which Pebble's markers are durable in order. A marker
// names the current MANIFEST, and Pebble syncs the directory once after it has made
// the MANIFEST, then the marker, and removed the one before. A loss of power may keep
// any of that: a marker of what is not there, or none. Pebble syncs more from its
// pull request 5915 on.
type markers struct{ vfs.FS }

// Create makes a file; if it is a marker, what was made before it is on the disk
// before it is, and it is before it returns.
func (m markers) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if !strings.HasPrefix(m.PathBase(name), "marker.") {
		return m.FS.Create(name, category)
	}
	dir := m.PathDir(name)
	if err := m.syncDir(dir); err != nil {
		return nil, err
	}
	f, err := m.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	if err := m.syncDir(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (m markers) syncDir(dir string) error {
	d, err := m.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
