// Package artifacts keeps the files of runs in a blob store and serves them
// through MLflow's proxied artifact API.
package artifacts

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"mime"
	"os"
	"path"
	"regexp"
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

	octets    = "application/octet-stream"
	plainText = "text/plain"
)

// unfinished matches what gocloud.dev/blob/fileblob names a file until its
// upload is done; it stays when the process is killed before that.
var unfinished = regexp.MustCompile(`\.[0-9a-f]{16}\.tmp$`)

// File is an entry of a directory.
type File struct {
	Name  string // the last element of its path
	IsDir bool
	Size  int64 // bytes, 0 for a directory
}

// Store holds artifacts by slash-separated path. Paths must be clean,
// relative and without "..".
type Store struct {
	bucket *blob.Bucket
	disk   *disk // nil for a store that is not on a file system
	locks  [256]sync.Mutex
	seed   maphash.Seed
}

// OpenStore opens the store at a gocloud.dev/blob URL. The caller imports the
// driver of its scheme. What killed processes have left of uploads on a file
// system is removed meanwhile.
func OpenStore(ctx context.Context, location string) (*Store, error) {
	bucket, err := blob.OpenBucket(ctx, location)
	if err != nil {
		return nil, fmt.Errorf("open artifact store %s: %w", location, err)
	}
	return &Store{bucket: bucket, disk: openDisk(location, time.Now()), seed: maphash.MakeSeed()}, nil
}

// Ready reports whether the store answers.
func (s *Store) Ready(ctx context.Context) error {
	ok, err := s.bucket.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("no such bucket or directory")
	}
	if err != nil {
		return fmt.Errorf("artifact store: %w", err)
	}
	return nil
}

// Written says what was stored.
type Written struct {
	Size   int64 // bytes
	SHA256 [sha256.Size]byte
}

// Write stores what r holds at name, whole or not at all. record is called once
// it is there, on a file system also after a power failure; its error is
// returned as it is.
func (s *Store) Write(ctx context.Context, name string, r io.Reader, record func(Written) error) error {
	// A writer whose context ends before Close leaves nothing behind.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var file *os.File // on a file system: what is renamed when the writer is closed
	w, err := s.bucket.NewWriter(ctx, name, &blob.WriterOptions{
		ContentType: ContentType(name),
		BeforeWrite: func(as func(any) bool) error { as(&file); return nil },
	})
	if err != nil {
		return storeError("write", name, err)
	}
	digest := sha256.New()
	size, err := io.Copy(io.MultiWriter(w, digest), r)
	if err == nil && file != nil {
		err = file.Sync()
	}
	if err != nil {
		cancel()
		return storeError("write", name, errors.Join(err, ignoreCanceled(w.Close())))
	}
	defer s.lock(name)()
	if err := w.Close(); err != nil {
		return storeError("write", name, err)
	}
	if file != nil {
		if err := s.disk.syncDirs(file.Name()); err != nil {
			return storeError("write", name, err)
		}
	}
	return record(Written{Size: size, SHA256: [sha256.Size]byte(digest.Sum(nil))})
}

// lock is held while a file is put in place and while that is recorded: of two
// uploads at once in this process, the one that stays is recorded last. It
// returns what ends it.
func (s *Store) lock(name string) (unlock func()) {
	l := &s.locks[maphash.String(s.seed, name)%uint64(len(s.locks))]
	l.Lock()
	return l.Unlock
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) || gcerrors.Code(err) == gcerrors.Canceled {
		return nil
	}
	return err
}

// Reader reads one artifact. It must be closed.
type Reader struct {
	io.ReadSeekCloser
	Size    int64 // bytes
	ModTime time.Time
}

// Open opens an artifact; RESOURCE_DOES_NOT_EXIST when there is none.
func (s *Store) Open(ctx context.Context, name string) (*Reader, error) {
	r, err := s.bucket.NewReader(ctx, name, nil)
	if err != nil {
		return nil, storeError("read", name, err)
	}
	return &Reader{ReadSeekCloser: r, Size: r.Size(), ModTime: r.ModTime()}, nil
}

// List returns the entries of a directory ("" is the root), sorted by name. A
// directory that does not exist is empty.
func (s *Store) List(ctx context.Context, dir string) ([]File, error) {
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	var files []File
	for it := s.bucket.List(&blob.ListOptions{Prefix: prefix, Delimiter: "/"}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, storeError("list", dir, err)
		}
		if len(files) == maxList {
			return nil, apierr.Errorf(apierr.InvalidParameterValue, "Directory '%s' holds more than %d files", dir, maxList)
		}
		if unfinished.MatchString(object.Key) {
			continue
		}
		files = append(files, File{Name: path.Base(object.Key), IsDir: object.IsDir, Size: object.Size})
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return files, nil
}

// Delete removes an artifact, or a directory with all in it. Nothing there is no
// error. record is called with the paths of some artifacts before they are
// removed, until all are; its error is returned as it is, and the rest stays.
func (s *Store) Delete(ctx context.Context, name string, record func(names []string) error) error {
	var names []string
	size := 0 // of the names, in bytes
	removeAll := func() error {
		if len(names) == 0 {
			return nil
		}
		if err := record(names); err != nil {
			return err
		}
		for _, n := range names {
			if err := s.remove(ctx, n); err != nil {
				return err
			}
		}
		names, size = names[:0], 0
		return nil
	}
	for it := s.bucket.List(&blob.ListOptions{Prefix: name + "/"}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return storeError("delete", name, err)
		}
		if unfinished.MatchString(object.Key) {
			continue // somebody is writing it
		}
		names = append(names, object.Key)
		if size += len(object.Key); size >= maxDeletedBytes {
			if err := removeAll(); err != nil {
				return err
			}
		}
	}
	isFile, err := s.bucket.Exists(ctx, name)
	if err != nil {
		return storeError("delete", name, err)
	}
	if isFile {
		names = append(names, name)
	}
	if err := removeAll(); err != nil || isFile {
		return err
	}
	return s.remove(ctx, name) // an empty directory
}

// remove removes one artifact. On a file system the name may be a directory
// that held artifacts; what is left of it holds none.
func (s *Store) remove(ctx context.Context, name string) error {
	err := s.bucket.Delete(ctx, name)
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound && !errors.Is(err, syscall.ENOTEMPTY) {
		return storeError("delete", name, err)
	}
	return nil
}

// Close releases the store.
func (s *Store) Close() error {
	s.disk.close()
	return s.bucket.Close()
}

func storeError(doing, name string, err error) error {
	err = fmt.Errorf("%s artifact %q: %w", doing, name, err)
	if e, ok := errors.AsType[*apierr.Error](err); ok {
		return e
	}
	if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EISDIR) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENAMETOOLONG) {
		return apierr.Wrap(err, apierr.InvalidParameterValue, fmt.Sprintf("'%s' cannot be a file here", name))
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return apierr.Wrap(err, apierr.ResourceDoesNotExist, fmt.Sprintf("No such artifact: '%s'", name))
	case gcerrors.InvalidArgument:
		return apierr.Wrap(err, apierr.InvalidParameterValue, "Invalid path")
	case gcerrors.Canceled, gcerrors.DeadlineExceeded:
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The artifact was not transferred in time")
	default:
		return apierr.Wrap(err, apierr.TemporarilyUnavailable, "The artifact store does not answer")
	}
}

// ContentType returns the type that MLflow serves a file as
// (mlflow/utils/mime_type_utils.py): text for what is text, octets for what is
// unknown.
func ContentType(name string) string {
	ext := path.Ext(name)
	switch {
	case slices.Contains(textFiles, path.Base(name)), slices.Contains(textExtensions, ext):
		return plainText
	case ext == "":
		return octets
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return octets
}

var (
	textFiles      = []string{"MLmodel", "MLproject"}
	textExtensions = []string{
		".txt", ".log", ".err", ".cfg", ".conf", ".cnf", ".cf", ".ini", ".properties", ".prop", ".hocon", ".toml", ".yaml",
		".yml", ".xml", ".json", ".js", ".py", ".py3", ".csv", ".tsv", ".md", ".rst", ".ipynb",
	}
)
