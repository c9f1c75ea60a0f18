package artifacts

import (
	"context"
	"path"

	"github.com/runledger/runledger/pkg/apierr"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/mlflow"
)

// Purge deletes all files at the artifact URI of a run or logged model, the
// directories with them, and the one that the id names, if that is empty.
// With dry it only counts. elsewhere says that the URI is of another store, and
// that nothing was done. record is told of files before they are deleted. After an
// error some files may be deleted: repeat it.
func (s *Store) Purge(ctx context.Context, uri, id string, dry bool, record func(at Place, e *events.Event) error) (files, bytes int64, elsewhere bool, err error) {
	if _, ok := mlflow.ProxiedPath(uri); !ok {
		return 0, 0, true, nil
	}
	root, err := rootOf(uri, id)
	if err != nil {
		return 0, 0, false, err
	}
	dirs := []string{root.name}
	if root.older != root.name {
		dirs = append(dirs, root.older)
	}
	removal := removal{store: s, record: func(names []string) error { return eachDeletion(names, record) }}
	for _, dir := range dirs {
		// Nothing but what is under the id is ever deleted for good.
		home := path.Dir(dir)
		if id == "" || path.Base(home) != id {
			return 0, 0, false, apierr.Errorf(apierr.InvalidParameterValue, "The artifacts of %s are at '%s', which others may use", id, uri)
		}
		for e, err := range s.files.walk(ctx, dir) {
			if err == nil && e.kind == regular {
				files, bytes = files+1, bytes+e.size
			}
			if err == nil && !dry {
				err = removal.add(ctx, e)
			}
			if err != nil {
				return files, bytes, false, storeError("purge", dir, err)
			}
		}
		if dry {
			continue
		}
		for _, e := range []entry{{name: dir, kind: directory}, {name: home, kind: directory}} {
			if err := removal.add(ctx, e); err != nil {
				return files, bytes, false, storeError("purge", dir, err)
			}
		}
	}
	if err := removal.end(ctx); err != nil {
		return files, bytes, false, storeError("purge", uri, err)
	}
	return files, bytes, false, nil
}
