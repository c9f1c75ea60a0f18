package artifacts

import (
	"context"
	"errors"
	"io"
	"iter"
)

// files is where a store keeps its bytes. Names are those of artifacts: clean,
// relative and without "..". Errors are as storeError knows them.
type files interface {
	// create begins to write a file that nobody can see before it is committed.
	create(ctx context.Context, name string) (upload, error)
	// open returns fs.ErrNotExist for what is not a file.
	open(ctx context.Context, name string) (*Reader, error)
	exists(ctx context.Context, name string) (bool, error)
	// list yields the entries of a directory, in no order; none when there is no
	// such directory.
	list(ctx context.Context, dir string) iter.Seq2[File, error]
	// walk yields all that is below a directory, what is in a directory before the
	// directory itself.
	walk(ctx context.Context, dir string) iter.Seq2[entry, error]
	// remove removes a file. Nothing there is no error.
	remove(ctx context.Context, name string) error
	// prune removes a directory if it is there and empty.
	prune(name string) error
	// ready reports whether files can be read; with write, whether they can be
	// written too.
	ready(ctx context.Context, write bool) error
	close() error
}

// errThere is a file that must be replaced.
var errThere = errors.New("a file is there")

// upload is a file that is being written. It ends with commit or abort.
type upload interface {
	io.Writer
	// commit puts the file in its place, on a file system also after a power
	// failure. Unless replace is set it returns errThere when another file is
	// there, or may be, and the upload goes on. Any other error ends it.
	commit(replace bool) error
	abort()
}

// entry is what walk finds.
type entry struct {
	name string // whole, not below the directory
	size int64  // bytes
	kind kind
}

type kind int

const (
	regular kind = iota
	directory
	alien // no artifact: a symbolic link, a device, a named pipe
)
