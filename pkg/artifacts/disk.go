package artifacts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// workDir is where uploads are until they are whole, in the root of a store on
	// a file system. No artifact is in it: see onDisk.
	workDir = ".runledger-uploads"
	// workEscape tells the names of artifacts from workDir.
	workEscape = "~"
	// abandonedAfter is the age at which an unfinished upload is taken for one that
	// a killed process has left: other processes may be writing to the directory.
	abandonedAfter = time.Hour
	// spare is how much must fit into a store that is not full, in bytes.
	spare = 1 << 20
	// dirChunk is how many entries of a directory are read at a time.
	dirChunk = 1000
)

// errLink is a path that leads through a symbolic link. It might lead anywhere,
// also to the artifacts of others, which are then not what the log says.
var errLink = errors.New("a symbolic link, which is not followed")

// disk are files in a directory, whose names there are those of the artifacts.
type disk struct {
	dir     string
	root    *os.Root
	stop    context.CancelFunc
	cleanup sync.WaitGroup
}

// openDisk opens a directory, which it makes if it is not there, and begins to
// remove the uploads that nobody has written to for abandonedAfter.
func openDisk(dir string, now time.Time) (*disk, error) {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &disk{dir: dir, root: root, stop: stop}
	d.cleanup.Go(func() { d.removeUnfinished(ctx, now.Add(-abandonedAfter)) })
	return d, nil
}

func (d *disk) close() error {
	d.stop()
	d.cleanup.Wait()
	return d.root.Close()
}

// removeUnfinished removes the uploads that were last written to before a time.
// What cannot be read or removed stays, and is in nobody's way.
func (d *disk) removeUnfinished(ctx context.Context, before time.Time) {
	for e, err := range d.entries(workDir) {
		if err != nil || ctx.Err() != nil {
			return
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.ModTime().Before(before) {
			_ = d.root.Remove(path.Join(workDir, e.Name()))
		}
	}
}

// onDisk returns the path at which an artifact or a directory is, "." for the
// root: its name, but where that would be workDir.
func onDisk(name string) string {
	first, _, _ := strings.Cut(name, "/")
	switch {
	case name == "":
		return "."
	case isWork(first):
		return first + workEscape + name[len(first):]
	}
	return name
}

// ofDisk returns the name of what is in the root at a path, "" for workDir.
func ofDisk(first string) string {
	switch {
	case first == workDir:
		return ""
	case isWork(first):
		return strings.TrimSuffix(first, workEscape)
	}
	return first
}

func isWork(first string) bool {
	rest, ok := strings.CutPrefix(first, workDir)
	return ok && strings.Trim(rest, workEscape) == ""
}

// at returns the path of an artifact, unless it leads through a symbolic link.
// What is not there yet leads nowhere.
func (d *disk) at(name string) (string, error) {
	p := onDisk(name)
	for i := 0; i <= len(p); i++ {
		if i < len(p) && p[i] != '/' {
			continue
		}
		info, err := d.root.Lstat(p[:i])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return p, nil
		case err != nil:
			return "", err
		case info.Mode().Type() == fs.ModeSymlink:
			return "", &fs.PathError{Op: "open", Path: p[:i], Err: errLink}
		}
	}
	return p, nil
}

type diskUpload struct {
	*os.File
	disk       *disk
	name, temp string
	synced     bool
}

func (d *disk) create(_ context.Context, name string) (upload, error) {
	if _, err := d.at(name); err != nil {
		return nil, err
	}
	temp := path.Join(workDir, rand.Text())
	f, err := d.createWork(temp)
	if err != nil {
		return nil, err
	}
	return &diskUpload{File: f, disk: d, name: name, temp: temp}, nil
}

func (d *disk) createWork(temp string) (*os.File, error) {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if info, err := d.root.Lstat(workDir); err == nil && !info.IsDir() {
		return nil, fmt.Errorf("%s: %w", workDir, errLink)
	}
	f, err := d.root.OpenFile(temp, flags, 0o666)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := d.root.Mkdir(workDir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return d.root.OpenFile(temp, flags, 0o666)
}

func (u *diskUpload) commit(replace bool) error {
	if !u.synced {
		if err := errors.Join(u.Sync(), u.Close()); err != nil {
			return errors.Join(err, u.disk.root.Remove(u.temp))
		}
		u.synced = true
	}
	put := u.disk.root.Rename
	if !replace {
		put = u.disk.link
	}
	err := u.place(put)
	if errors.Is(err, errThere) {
		return err
	}
	if err != nil {
		return errors.Join(err, u.disk.root.Remove(u.temp))
	}
	return u.disk.syncDirs(path.Dir(onDisk(u.name)))
}

// link moves a file to where nothing is; errThere when there is a file, or when
// the file system cannot tell.
func (d *disk) link(from, to string) error {
	err := d.root.Link(from, to)
	if err == nil {
		return d.root.Remove(from)
	}
	if info, statErr := d.root.Lstat(to); statErr == nil && info.IsDir() {
		return &fs.PathError{Op: "link", Path: to, Err: syscall.EISDIR}
	}
	for _, cannot := range []error{fs.ErrExist, errors.ErrUnsupported, syscall.EPERM, syscall.EMLINK} {
		if errors.Is(err, cannot) {
			return errThere
		}
	}
	return err
}

func (u *diskUpload) place(put func(from, to string) error) error {
	const attempts = 10
	for i := range attempts {
		to, err := u.disk.at(u.name)
		if err == nil {
			err = u.disk.root.MkdirAll(path.Dir(to), 0o777)
		}
		if err == nil {
			err = put(u.temp, to)
		}
		// Somebody may remove an empty directory at this moment.
		if !errors.Is(err, fs.ErrNotExist) || i == attempts-1 {
			return err
		}
	}
	return nil
}

func (u *diskUpload) abort() {
	_ = errors.Join(u.Close(), u.disk.root.Remove(u.temp)) // otherwise it is abandoned
}

// syncDirs puts the entries of a directory and of those between it and the root,
// which may be new too, on the disk.
func (d *disk) syncDirs(dir string) error {
	for ; ; dir = path.Dir(dir) {
		// One that was deleted meanwhile has nothing to keep.
		if err := d.syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == "." {
			return nil
		}
	}
}

func (d *disk) syncDir(dir string) error {
	f, err := d.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d *disk) open(_ context.Context, name string) (*Reader, error) {
	p, err := d.at(name)
	if nowhere(err) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	// Opening a named pipe must not wait for who writes to it.
	f, err := d.root.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Reader{ReadSeekCloser: f, Size: info.Size(), ModTime: info.ModTime()}, nil
}

func (d *disk) exists(_ context.Context, name string) (bool, error) {
	p, err := d.at(name)
	if err == nil {
		var info fs.FileInfo
		if info, err = d.root.Lstat(p); err == nil {
			return info.Mode().IsRegular(), nil
		}
	}
	if nowhere(err) {
		err = nil
	}
	return false, err
}

// entries yields what is in the directory at a path, nothing when there is none.
func (d *disk) entries(p string) iter.Seq2[fs.DirEntry, error] {
	return func(yield func(fs.DirEntry, error) bool) {
		f, err := d.root.OpenFile(p, os.O_RDONLY|syscall.O_DIRECTORY, 0)
		if nowhere(err) {
			return
		}
		if err != nil {
			yield(nil, err)
			return
		}
		defer func() { _ = f.Close() }() // read only: nothing to lose
		for {
			entries, err := f.ReadDir(dirChunk)
			for _, e := range entries {
				if !yield(e, nil) {
					return
				}
			}
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

func (d *disk) list(_ context.Context, dir string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for e, err := range d.children(dir) {
			if err == nil && e.kind == alien {
				continue
			}
			if !yield(File{Name: path.Base(e.name), IsDir: e.kind == directory, Size: e.size}, err) || err != nil {
				return
			}
		}
	}
}

// children yields what is in a directory of artifacts.
func (d *disk) children(dir string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		p, err := d.at(dir)
		if nowhere(err) {
			return
		}
		if err != nil {
			yield(entry{}, err)
			return
		}
		for e, err := range d.entries(p) {
			if err != nil {
				yield(entry{}, err)
				return
			}
			name := e.Name()
			if dir == "" {
				if name = ofDisk(name); name == "" {
					continue
				}
			}
			found := entry{name: path.Join(dir, name), kind: alien}
			switch {
			case e.IsDir():
				found.kind = directory
			case e.Type().IsRegular():
				info, err := e.Info()
				if errors.Is(err, fs.ErrNotExist) {
					continue // removed meanwhile
				}
				if err != nil {
					yield(entry{}, err)
					return
				}
				found.kind, found.size = regular, info.Size()
			}
			if !yield(found, nil) {
				return
			}
		}
	}
}

func (d *disk) walk(ctx context.Context, dir string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) { d.walkInto(ctx, dir, yield) }
}

func (d *disk) walkInto(ctx context.Context, dir string, yield func(entry, error) bool) bool {
	// The directory is closed before the next is opened, and may change once it is
	// read.
	var children []entry
	for e, err := range d.children(dir) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			yield(entry{}, err)
			return false
		}
		children = append(children, e)
	}
	slices.SortFunc(children, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for _, e := range children {
		if e.kind == directory && !d.walkInto(ctx, e.name, yield) {
			return false
		}
		if !yield(e, nil) {
			return false
		}
	}
	return true
}

func (d *disk) remove(_ context.Context, name string) error {
	if _, err := d.at(path.Dir(name)); err != nil {
		return gone(err)
	}
	return gone(d.root.Remove(onDisk(name)))
}

func (d *disk) prune(name string) error {
	p, err := d.at(name)
	if err != nil {
		return gone(err)
	}
	if info, err := d.root.Lstat(p); err != nil || !info.IsDir() {
		return gone(err)
	}
	return gone(d.root.Remove(p))
}

// gone leaves out the errors of removing what is not there, or a directory that
// is not empty.
func gone(err error) error {
	if nowhere(err) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	return err
}

// nowhere reports whether an error says that nothing is at a path: also since it
// leads through a file, or is longer than any that is there.
func nowhere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG)
}

func (d *disk) ready(_ context.Context, write bool) error {
	info, err := os.Stat(d.dir)
	if err != nil {
		return err
	}
	if opened, err := d.root.Stat("."); err != nil || !os.SameFile(info, opened) {
		return errors.Join(fmt.Errorf("%s is another directory than at the start: restart", d.dir), err)
	}
	if !write {
		return nil
	}
	temp := path.Join(workDir, rand.Text())
	f, err := d.createWork(temp)
	if err != nil {
		return fullError(err)
	}
	_, err = f.Write(make([]byte, spare))
	return fullError(errors.Join(err, f.Close(), d.root.Remove(temp)))
}

// fullError says of an error that the disk is full, if that is what it says.
func fullError(err error) error {
	if isFull(err) {
		return fmt.Errorf("full: less than %d bytes fit in: %w", spare, err)
	}
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
