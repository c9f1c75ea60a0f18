package chdbtest_test

import (
	"testing"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
)

func TestMain(m *testing.M) { chdbtest.Main(m) }

func TestOpenGivesEachTestItsOwnDatabase(t *testing.T) {
	first, firstOpts := chdbtest.Open(t)
	second, secondOpts := chdbtest.Open(t)
	if firstOpts.Auth.Database == secondOpts.Auth.Database {
		t.Fatalf("both databases are %s", firstOpts.Auth.Database)
	}
	if err := first.Exec(t.Context(), "CREATE TABLE points (x Int64) ENGINE = MergeTree ORDER BY x"); err != nil {
		t.Fatalf("create a table: %v", err)
	}
	var n uint64
	if err := first.QueryRow(t.Context(), "SELECT count() FROM points").Scan(&n); err != nil {
		t.Fatalf("read the table where it is: %v", err)
	}
	if err := second.QueryRow(t.Context(), "SELECT count() FROM points").Scan(&n); err == nil {
		t.Fatal("the second database has the first one's table")
	}
}
