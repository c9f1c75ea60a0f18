package artifacts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/runledger/runledger/pkg/apierr"
)

const (
	// maxList bounds the files of one directory in one answer.
	maxList = 100_000
	// maxDeletedBytes bounds the paths that are deleted under one record, in bytes.
	maxDeletedBytes = 256 << 10
	// retryAfter is how long clients are asked to wait for a store that does not
	// work now.
	retryAfter = 10 * time.Second
)

// File is an entry of a directory.
type File struct {
	Name  string // the last element of its path
	IsDir bool
	Size  int64 // bytes, 0 for a directory
}

// Store holds artifacts by slash-separated path. Paths must be clean,
// relative and without "..".
type Store struct {
	files  files
	bucket *blob.Bucket // nil for a store on a file system
	locks  [256]sync.RWMutex
	seed   maphash.Seed
}

// OpenStore opens the store at a URL: file:///a/directory, which is made if it is
// not there, or one of gocloud.dev/blob, whose driver the caller imports. What
// killed processes have left of uploads on a file system is removed meanwhile.
func OpenStore(ctx context.Context, location string) (*Store, error) {
	s := &Store{seed: maphash.MakeSeed()}
	u, err := url.Parse(location)
	if err == nil && u.Scheme == "file" {
		s.files, err = openDisk(filepath.FromSlash(u.Path), time.Now())
	} else if err == nil {
		s.bucket, err = blob.OpenBucket(ctx, location)
		s.files = bucketFiles{s.bucket}
	}
	if err != nil {
		return nil, fmt.Errorf("open artifact store %s: %w", location, err)
	}
	return s, nil
}

// Ready reports whether artifacts can be read.
func (s *Store) Ready(ctx context.Context) error { return s.ready(ctx, false) }

// Writable reports whether artifacts can be read and written: on a file system
// also whether it is full.
func (s *Store) Writable(ctx context.Context) error { return s.ready(ctx, true) }

func (s *Store) ready(ctx context.Context, write bool) error {
	if err := s.files.ready(ctx, write); err != nil {
		return fmt.Errorf("artifact store: %w", err)
	}
	return nil
}

// Written says what is stored.
type Written struct {
	Size   int64 // bytes
	SHA256 [sha256.Size]byte
	// Replacing says that the bytes are not there yet, and other bytes are or may
	// be.
	Replacing bool
	// Unread says that Size and SHA256 are not known yet.
	Unread bool
}

// Write stores what r holds at name, whole or not at all; what r ends with other
// than io.EOF is the client's fault. record is called once it is there, on a file
// system also after a power failure; and before that, with Replacing, where
// another may be replaced. Its error is returned as it is. One of code
// RESOURCE_DOES_NOT_EXIST says that whose artifact it is has been purged: then it
// is removed again.
func (s *Store) Write(ctx context.Context, name string, r io.Reader, record func(Written) error) error {
	up, err := s.files.create(ctx, name)
	if err != nil {
		return storeError("write", name, err)
	}
	digest := sha256.New()
	body := &client{Reader: r}
	size, err := io.Copy(io.MultiWriter(up, digest), body)
	if err != nil || ctx.Err() != nil {
		up.abort()
		if body.err != nil || ctx.Err() != nil {
			return brokenUpload(name, errors.Join(body.err, ctx.Err()))
		}
		return storeError("write", name, err)
	}
	written := Written{Size: size, SHA256: [sha256.Size]byte(digest.Sum(nil))}
	defer s.lock(name)()
	err = up.commit(false)
	if errors.Is(err, errThere) {
		replacing := written
		replacing.Replacing = true
		if err := record(replacing); err != nil {
			up.abort()
			return err
		}
		err = up.commit(true)
	}
	if err != nil {
		if ctx.Err() != nil {
			return brokenUpload(name, errors.Join(err, ctx.Err()))
		}
		return storeError("write", name, err)
	}
	return s.recorded(ctx, name, record(written))
}

// recorded returns what recording a new artifact has returned, and removes the
// artifact if that is of what was purged.
func (s *Store) recorded(ctx context.Context, name string, err error) error {
	if apierr.CodeOf(err) != apierr.ResourceDoesNotExist {
		return err
	}
	if err := s.remove(context.WithoutCancel(ctx), name); err != nil {
		return err
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if err := s.files.prune(dir); err != nil {
			return storeError("delete", dir, err)
		}
	}
	return err
}

// client reads a request, and keeps why that ended.
type client struct {
	io.Reader
	err error // nil at the end of what the client sends
}

func (c *client) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// brokenUpload is the error of an upload that its client did not finish.
func brokenUpload(name string, err error) error {
	err = fmt.Errorf("receive artifact %q: %w", name, err)
	if e, ok := errors.AsType[*apierr.Error](err); ok {
		return e
	}
	return apierr.Wrap(err, apierr.BadRequest, fmt.Sprintf("The upload of '%s' broke off before its end: nothing was stored. Send it again.", name))
}

// lock is held while a file is put in place and while that is recorded: of two
// uploads at once in this process, the one that stays is recorded last. It
// returns what ends it.
func (s *Store) lock(name string) (unlock func()) {
	l := s.lockOf(name)
	l.Lock()
	return l.Unlock
}

// lockReading is held while a file is opened and its record is looked up.
func (s *Store) lockReading(name string) (unlock func()) {
	l := s.lockOf(name)
	l.RLock()
	return l.RUnlock
}

func (s *Store) lockOf(name string) *sync.RWMutex {
	return &s.locks[maphash.String(s.seed, name)%uint64(len(s.locks))]
}

// Reader reads one artifact. It must be closed.
type Reader struct {
	io.ReadSeekCloser
	Size    int64 // bytes
	ModTime time.Time
}

// Open opens an artifact; RESOURCE_DOES_NOT_EXIST when there is none.
func (s *Store) Open(ctx context.Context, name string) (*Reader, error) {
	r, err := s.files.open(ctx, name)
	if err != nil {
		return nil, storeError("read", name, err)
	}
	return r, nil
}

// List returns the entries of a directory ("" is the root), sorted by name. A
// directory that does not exist is empty.
func (s *Store) List(ctx context.Context, dir string) ([]File, error) {
	var files []File
	for f, err := range s.files.list(ctx, dir) {
		if err != nil {
			return nil, storeError("list", dir, err)
		}
		if len(files) == maxList {
			return nil, apierr.Errorf(apierr.InvalidParameterValue, "Directory '%s' holds more than %d files", dir, maxList)
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// Delete removes an artifact, or a directory with all in it. Nothing there is no
// error. record is called with the paths of some artifacts before they are
// removed, until all are; its error is returned as it is, and the rest stays.
func (s *Store) Delete(ctx context.Context, name string, record func(names []string) error) error {
	removal := removal{store: s, record: record}
	for e, err := range s.files.walk(ctx, name) {
		if err == nil {
			err = removal.add(ctx, e)
		}
		if err != nil {
			return storeError("delete", name, err)
		}
	}
	isFile, err := s.files.exists(ctx, name)
	if err == nil && isFile {
		err = removal.add(ctx, entry{name: name})
	}
	if err == nil {
		err = removal.end(ctx)
	}
	if err == nil && !isFile {
		err = s.files.prune(name)
	}
	if err != nil {
		return storeError("delete", name, err)
	}
	return nil
}

// removal removes what is found, a part at a time.
type removal struct {
	store  *Store
	record func(names []string) error // is told of artifacts before they are removed
	found  []entry
	names  []string // of the artifacts in found
	size   int      // of what was found, in bytes of names
}

func (r *removal) add(ctx context.Context, e entry) error {
	r.found = append(r.found, e)
	if e.kind == regular {
		r.names = append(r.names, e.name)
	}
	if r.size += len(e.name); r.size >= maxDeletedBytes {
		return r.end(ctx)
	}
	return nil
}

func (r *removal) end(ctx context.Context) error {
	if len(r.names) > 0 {
		if err := r.record(r.names); err != nil {
			return recordError{err}
		}
	}
	for _, e := range r.found {
		remove := func() error { return r.store.files.remove(ctx, e.name) }
		if e.kind == directory {
			remove = func() error { return r.store.files.prune(e.name) }
		}
		if err := remove(); err != nil {
			return err
		}
	}
	r.found, r.names, r.size = r.found[:0], r.names[:0], 0
	return nil
}

func (s *Store) remove(ctx context.Context, name string) error {
	if err := s.files.remove(ctx, name); err != nil {
		return storeError("delete", name, err)
	}
	return nil
}

// Close releases the store.
func (s *Store) Close() error { return s.files.close() }

// recordError is the error of recording something, which is no error of a store.
type recordError struct{ error }

func storeError(doing, name string, err error) error {
	if e, ok := errors.AsType[recordError](err); ok {
		return e.error
	}
	if e, ok := errors.AsType[*apierr.Error](err); ok {
		return e
	}
	err = fmt.Errorf("%s artifact %q: %w", doing, name, err)
	for _, refusal := range []error{syscall.ENOTDIR, syscall.EISDIR, fs.ErrExist, syscall.ENAMETOOLONG, syscall.ENOTEMPTY} {
		if errors.Is(err, refusal) {
			return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("'%s' cannot be a file here", name))
		}
	}
	unavailable := func(message string) error {
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, message).WithRetryAfter(retryAfter)
	}
	code := gcerrors.Code(err)
	switch {
	case errors.Is(err, errLink):
		return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("'%s' leads through a symbolic link, which the artifact store does not follow", name))
	case errors.Is(err, errDamaged):
		return damaged(name)
	case errors.Is(err, fs.ErrNotExist), code == gcerrors.NotFound:
		return apierr.Wrap(err, apierr.ResourceDoesNotExist, fmt.Sprintf("No such artifact: '%s'", name))
	case code == gcerrors.InvalidArgument:
		return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("Invalid path '%s'", name))
	case isFull(err):
		return unavailable("The artifact store is full. Free space in it, then try again.")
	case code == gcerrors.Canceled, code == gcerrors.DeadlineExceeded:
		return unavailable("The artifact was not transferred in time")
	default:
		return unavailable("The artifact store does not answer")
	}
}
