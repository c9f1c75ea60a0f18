package artifacts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"

	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"
)

// bucketFiles are files in an object store.
type bucketFiles struct{ bucket *blob.Bucket }

type bucketUpload struct {
	*blob.Writer
	cancel context.CancelFunc
}

func (b bucketFiles) create(ctx context.Context, name string) (upload, error) {
	// A writer whose context ends before Close leaves nothing behind.
	ctx, cancel := context.WithCancel(ctx)
	w, err := b.bucket.NewWriter(ctx, name, &blob.WriterOptions{ContentType: ContentType(name)})
	if err != nil {
		cancel()
		return nil, err
	}
	return &bucketUpload{Writer: w, cancel: cancel}, nil
}

func (u *bucketUpload) commit(replace bool) error {
	if !replace {
		// Not every object store can refuse to replace.
		return errThere
	}
	defer u.cancel()
	return u.Close()
}

func (u *bucketUpload) abort() {
	u.cancel()
	_ = u.Close() // says that it was canceled
}

func (b bucketFiles) open(ctx context.Context, name string) (*Reader, error) {
	r, err := b.bucket.NewReader(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	return &Reader{ReadSeekCloser: r, Size: r.Size(), ModTime: r.ModTime()}, nil
}

func (b bucketFiles) exists(ctx context.Context, name string) (bool, error) {
	return b.bucket.Exists(ctx, name)
}

// objects yields what the store has below a directory.
func (b bucketFiles) objects(ctx context.Context, dir, delimiter string) iter.Seq2[*blob.ListObject, error] {
	prefix := dir
	if dir != "" {
		prefix += "/"
	}
	return func(yield func(*blob.ListObject, error) bool) {
		for it := b.bucket.List(&blob.ListOptions{Prefix: prefix, Delimiter: delimiter}); ; {
			object, err := it.Next(ctx)
			if errors.Is(err, io.EOF) || !yield(object, err) || err != nil {
				return
			}
		}
	}
}

func (b bucketFiles) list(ctx context.Context, dir string) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		for object, err := range b.objects(ctx, dir, "/") {
			if err != nil {
				yield(File{}, err)
				return
			}
			if !yield(File{Name: path.Base(object.Key), IsDir: object.IsDir, Size: object.Size}, nil) {
				return
			}
		}
	}
}

func (b bucketFiles) walk(ctx context.Context, dir string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		for object, err := range b.objects(ctx, dir, "") {
			if err != nil {
				yield(entry{}, err)
				return
			}
			if !yield(entry{name: object.Key, size: object.Size}, nil) {
				return
			}
		}
	}
}

func (b bucketFiles) remove(ctx context.Context, name string) error {
	if err := b.bucket.Delete(ctx, name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return err
	}
	return nil
}

// prune has nothing to do: an object store has no directories.
func (b bucketFiles) prune(string) error { return nil }

func (b bucketFiles) ready(ctx context.Context, _ bool) error {
	ok, err := b.bucket.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("no such bucket")
	}
	return err
}

func (b bucketFiles) close() error {
	if err := b.bucket.Close(); err != nil {
		return fmt.Errorf("close artifact store: %w", err)
	}
	return nil
}
