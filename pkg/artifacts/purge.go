package artifacts

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"gocloud.dev/blob"

	"github.com/runledger/runledger/pkg/apierr"
)

// Purge deletes all files at the artifact URI of a run or logged model, the
// directories that it empties, and the one that the id names, if that is empty.
// With dry it only counts. elsewhere says that the URI is of another store, and
// that nothing was done. After an error some files may be deleted: repeat it.
func (s *Store) Purge(ctx context.Context, uri, id string, dry bool) (files, bytes int64, elsewhere bool, err error) {
	if !strings.HasPrefix(uri, Scheme) {
		return 0, 0, true, nil
	}
	dir, err := rootOf(uri, id)
	if err != nil {
		return 0, 0, false, err
	}
	// Nothing but what is under the id is ever deleted for good.
	home := path.Dir(dir)
	if id == "" || path.Base(home) != id {
		return 0, 0, false, apierr.Errorf(apierr.InvalidParameterValue, "The artifacts of %s are at '%s', which others may use", id, uri)
	}
	emptied := map[string]struct{}{home: {}, dir: {}}
	for it := s.bucket.List(&blob.ListOptions{Prefix: dir + "/"}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return files, bytes, false, storeError("purge", dir, err)
		}
		if !dry {
			if err := s.remove(ctx, object.Key); err != nil {
				return files, bytes, false, err
			}
		}
		files, bytes = files+1, bytes+object.Size
		for parent := path.Dir(object.Key); parent != dir; parent = path.Dir(parent) {
			emptied[parent] = struct{}{}
		}
	}
	if dry {
		return files, bytes, false, nil
	}
	// The deepest first. Only a file system has directories that can be left.
	dirs := make([]string, 0, len(emptied))
	for name := range emptied {
		dirs = append(dirs, name)
	}
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) })
	for _, name := range dirs {
		if err := s.remove(ctx, name); err != nil {
			return files, bytes, false, err
		}
	}
	return files, bytes, false, nil
}
