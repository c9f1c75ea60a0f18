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
	"github.com/runledger/runledger/pkg/events"
)

// purgeChunk bounds the files that are listed before they are deleted.
const purgeChunk = 1000

// Purge deletes all files at the artifact URI of a run or logged model, the
// directories that it empties, and the one that the id names, if that is empty.
// With dry it only counts. elsewhere says that the URI is of another store, and
// that nothing was done. record is told of files before they are deleted. After an
// error some files may be deleted: repeat it.
func (s *Store) Purge(ctx context.Context, uri, id string, dry bool, record func(at Place, e *events.Event) error) (files, bytes int64, elsewhere bool, err error) {
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
	var found []string
	remove := func() error {
		whole := slices.DeleteFunc(slices.Clone(found), unfinished.MatchString)
		if err := eachDeletion(whole, record); err != nil {
			return err
		}
		for _, name := range found {
			if err := s.remove(ctx, name); err != nil {
				return err
			}
		}
		found = found[:0]
		return nil
	}
	for it := s.bucket.List(&blob.ListOptions{Prefix: dir + "/"}); ; {
		object, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return files, bytes, false, storeError("purge", dir, err)
		}
		files, bytes = files+1, bytes+object.Size
		if dry {
			continue
		}
		for parent := path.Dir(object.Key); parent != dir; parent = path.Dir(parent) {
			emptied[parent] = struct{}{}
		}
		if found = append(found, object.Key); len(found) == purgeChunk {
			if err := remove(); err != nil {
				return files, bytes, false, err
			}
		}
	}
	if dry {
		return files, bytes, false, nil
	}
	if err := remove(); err != nil {
		return files, bytes, false, err
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
