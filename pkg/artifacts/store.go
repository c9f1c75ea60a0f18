// Package artifacts keeps the files of runs in a blob store and serves them
// through MLflow's proxied artifact API.
package artifacts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/runledger/runledger/pkg/apierr"
)

const (
	// maxList bounds the files of one directory in one answer.
	maxList   = 100_000
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
}

// OpenStore opens the store at a gocloud.dev/blob URL. The caller imports the
// driver of its scheme.
func OpenStore(ctx context.Context, url string) (*Store, error) {
	bucket, err := blob.OpenBucket(ctx, url)
	if err != nil {
		return nil, fmt.Errorf("open artifact store %s: %w", url, err)
	}
	return &Store{bucket: bucket}, nil
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

// Write stores what r holds at name, whole or not at all.
func (s *Store) Write(ctx context.Context, name string, r io.Reader) error {
	// A writer whose context ends before Close leaves nothing behind.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, name, &blob.WriterOptions{ContentType: ContentType(name)})
	if err != nil {
		return storeError("write", name, err)
	}
	if _, err := io.Copy(w, r); err != nil {
		cancel()
		return storeError("write", name, errors.Join(err, ignoreCanceled(w.Close())))
	}
	if err := w.Close(); err != nil {
		return storeError("write", name, err)
	}
	return nil
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

// Delete removes an artifact, or a directory with all in it. Nothing there is
// no error.
func (s *Store) Delete(ctx context.Context, name string) error {
	for it := s.bucket.List(&blob.ListOptions{Prefix: name + "/"}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return storeError("delete", name, err)
		}
		if err := s.remove(ctx, object.Key); err != nil {
			return err
		}
	}
	return s.remove(ctx, name)
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
func (s *Store) Close() error { return s.bucket.Close() }

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
