package ledgertest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// Deleted is the value of a key that is not there.
const Deleted = "(deleted)"

// Tamper changes keys of a ledger that is not open, as somebody with access to the
// disk can. It returns what undoes it.
func Tamper(t testing.TB, dir string, change map[string]string) (undo map[string]string) {
	t.Helper()
	db, err := pebble.Open(dir, &pebble.Options{FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	undo = make(map[string]string)
	for key, value := range change {
		old, closer, err := db.Get([]byte(key))
		switch {
		case errors.Is(err, pebble.ErrNotFound):
			undo[key], err = Deleted, nil
		case err != nil:
			t.Fatal(err)
		default:
			undo[key] = string(old)
			err = closer.Close()
		}
		if value == Deleted {
			err = errors.Join(err, db.Delete([]byte(key), pebble.NoSync))
		} else {
			err = errors.Join(err, db.Set([]byte(key), []byte(value), pebble.NoSync))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return undo
}

type silent struct{}

func (silent) Infof(string, ...any)           {}
func (silent) Errorf(string, ...any)          {}
func (silent) Fatalf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
