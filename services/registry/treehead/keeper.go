package treehead

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// suffix ends the name of a file with a tree head; the size is before it, with
// zeros so that the names sort.
const suffix = ".note"

// Keeper signs tree heads and keeps each in a file of its own, which is never
// changed: one for every size that was asked for. It never signs a tree that does
// not contain the one before.
type Keeper struct {
	key Key
	dir string

	mu    sync.Mutex
	sizes []uint64 // of the heads that are kept, ascending
}

// Tree is a tree that grows.
type Tree interface {
	Size() uint64 // number of entries
	Hashes() tlog.HashReader
}

// OpenKeeper finds the tree heads in dir, which is made if it is not there, and
// will sign with key.
func OpenKeeper(dir string, key Key) (*Keeper, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("tree heads: %w", err)
	}
	sizes, err := list(dir)
	if err != nil {
		return nil, err
	}
	return &Keeper{key: key, dir: dir, sizes: sizes}, nil
}

// list returns the sizes of the heads in dir, ascending.
func list(dir string) ([]uint64, error) {
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("tree heads: %w", err)
	}
	var sizes []uint64
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), suffix)
		if !ok {
			continue
		}
		size, err := strconv.ParseUint(name, 10, 63)
		if err != nil || f.Name() != fileName(size) {
			return nil, fmt.Errorf("tree heads: %s: want a size before %s", filepath.Join(dir, f.Name()), suffix)
		}
		sizes = append(sizes, size)
	}
	slices.Sort(sizes)
	return sizes, nil
}

// ReadDir returns the signed tree heads that a Keeper left in dir, the smallest
// first. They are not checked.
func ReadDir(dir string) ([][]byte, error) {
	sizes, err := list(dir)
	if err != nil {
		return nil, err
	}
	var heads [][]byte
	for _, size := range sizes {
		signed, err := os.ReadFile(filepath.Join(dir, fileName(size)))
		if err != nil {
			return nil, fmt.Errorf("tree heads: %w", err)
		}
		heads = append(heads, signed)
	}
	return heads, nil
}

func fileName(size uint64) string { return fmt.Sprintf("%012d%s", size, suffix) }

// VerifierKey returns the public half of the key that signs.
func (k *Keeper) VerifierKey() string { return k.key.Verifier }

// Latest returns the size of the largest tree whose head is kept.
func (k *Keeper) Latest() (size uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.sizes) == 0 {
		return 0, false
	}
	return k.sizes[len(k.sizes)-1], true
}

// Sizes returns at most limit sizes of trees whose heads are kept, ascending,
// from one on, and whether there are more.
func (k *Keeper) Sizes(from uint64, limit int) (sizes []uint64, more bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at, _ := slices.BinarySearch(k.sizes, from)
	end := min(at+limit, len(k.sizes))
	return slices.Clone(k.sizes[at:end]), end < len(k.sizes)
}

// Read returns the signed head of a tree that Sizes lists.
func (k *Keeper) Read(size uint64) ([]byte, error) {
	signed, err := os.ReadFile(filepath.Join(k.dir, fileName(size)))
	if err != nil {
		return nil, fmt.Errorf("tree head: %w", err)
	}
	return signed, nil
}

// Sign returns the signed head of a tree, and whether it is a new one: the head of
// a size is signed once. It is on disk when Sign returns. It returns ErrForked for
// a tree that does not contain the last that was signed, and ErrBehind for a
// smaller one.
func (k *Keeper) Sign(tree Tree, now time.Time) (signed []byte, isNew bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	size, hashes := tree.Size(), tree.Hashes()
	if n := len(k.sizes); n > 0 {
		last := k.sizes[n-1]
		signed, err := k.check(last, size, hashes)
		if err != nil || last == size {
			return signed, false, err
		}
	}
	root, err := tlog.TreeHash(int64(size), hashes)
	if err != nil {
		return nil, false, fmt.Errorf("hash the tree of %d entries: %w", size, err)
	}
	signed, err = Sign(Head{Size: size, Root: root, Time: now.UTC().Truncate(time.Second)}, k.key)
	if err != nil {
		return nil, false, err
	}
	if err := writeFile(filepath.Join(k.dir, fileName(size)), signed); err != nil {
		return nil, false, fmt.Errorf("keep a tree head: %w", err)
	}
	k.sizes = append(k.sizes, size)
	return signed, true, nil
}

// check compares the tree with the last head that was signed, and returns that.
// Another key may have signed it: the tree must contain it all the same.
func (k *Keeper) check(last, size uint64, hashes tlog.HashReader) ([]byte, error) {
	signed, err := k.Read(last)
	if err != nil {
		return nil, err
	}
	head, err := Peek(signed)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(k.dir, fileName(last)), err)
	}
	if head.Size != last {
		return nil, fmt.Errorf("%s: %w: it is of %d entries", filepath.Join(k.dir, fileName(last)), ErrMalformed, head.Size)
	}
	if size < last {
		return nil, fmt.Errorf("%w: %d entries, %d were signed", ErrBehind, size, last)
	}
	root, err := tlog.TreeHash(int64(last), hashes)
	if err != nil {
		return nil, fmt.Errorf("hash the tree of %d entries: %w", last, err)
	}
	if root != head.Root {
		return nil, fmt.Errorf("%w: the root of %d entries is %v, %v was signed", ErrForked, last, root, head.Root)
	}
	return signed, nil
}

// writeFile makes a file that is whole and on disk when it appears, readable by
// its owner alone.
func writeFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the error that counts is the one before
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
