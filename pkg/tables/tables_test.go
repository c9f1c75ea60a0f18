package tables_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
	"github.com/runledger/runledger/pkg/tables"
)

func TestMain(m *testing.M) { chdbtest.Main(m) }

func TestMigrateCanBeRepeated(t *testing.T) {
	conn, opts := chdbtest.Open(t)
	for range 2 {
		if err := tables.Migrate(t.Context(), opts, nil); err != nil {
			t.Fatal(err)
		}
	}
	var n uint64
	if err := conn.QueryRow(t.Context(), "SELECT count() FROM system.tables WHERE database = currentDatabase() AND engine = 'ReplacingMergeTree'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if n != 13 {
		t.Fatalf("%d tables, want 13", n)
	}
	// As after a crash in the middle of the first migration.
	for _, q := range []string{"DROP TABLE audit SYNC", "TRUNCATE TABLE goose_db_version"} {
		if err := conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if err := tables.Migrate(t.Context(), opts, nil); err != nil {
		t.Fatal(err)
	}
	// As after the loss of what says that some migrations were made.
	if err := conn.Exec(t.Context(), "ALTER TABLE goose_db_version DELETE WHERE version_id IN (0, 2, 5) SETTINGS mutations_sync = 2"); err != nil {
		t.Fatal(err)
	}
	if err := tables.Migrate(t.Context(), opts, nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.Exec(t.Context(), "SELECT count() FROM audit"); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateCreatesTheDatabase(t *testing.T) {
	conn, opts := chdbtest.Open(t)
	if err := conn.Exec(t.Context(), "DROP DATABASE "+opts.Auth.Database+" SYNC"); err != nil {
		t.Fatal(err)
	}
	if err := tables.Migrate(t.Context(), opts, nil); err != nil {
		t.Fatal(err)
	}
}

// Rows of a build that did not tell an end at 0 from none are read as that build read
// them.
func TestEndsOfAnOlderBuildStay(t *testing.T) {
	conn, opts := chdbtest.Open(t)
	migrate := func() {
		t.Helper()
		if err := tables.Migrate(t.Context(), opts, nil); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	for _, q := range []string{
		"ALTER TABLE runs DROP COLUMN ended",
		"ALTER TABLE goose_db_version DELETE WHERE version_id = 11 SETTINGS mutations_sync = 2",
		"INSERT INTO runs (run_id, end_time) SELECT toUUID(leftPad(toString(number), 32, '0')), number FROM numbers(3)",
	} {
		if err := conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	migrate()
	var ended []bool
	if err := conn.QueryRow(t.Context(), "SELECT groupArray(ended) FROM (SELECT ended FROM runs ORDER BY end_time)").Scan(&ended); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(ended, []bool{false, true, true}) {
		t.Errorf("runs that ended at 0, 1 and 2: %v", ended)
	}
}

// The engine itself treats two rows of one point as one, with the first
// sequence kept: NaN equals NaN, and 0 equals -0.
func TestMetricsCollapseByIdentity(t *testing.T) {
	conn, opts := chdbtest.Open(t)
	if err := tables.Migrate(t.Context(), opts, nil); err != nil {
		t.Fatal(err)
	}
	values := []float64{math.NaN(), 0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), 1.5, math.NaN(), 1.5}
	for seq, v := range values {
		batch, err := conn.PrepareBatch(t.Context(), "INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx)")
		if err != nil {
			t.Fatal(err)
		}
		if err := batch.Append("00000000-0000-4000-8000-000000000001", "loss", int64(1), int64(2), v, uint16(0), uint64(seq+1), uint32(0)); err != nil {
			t.Fatal(err)
		}
		if err := batch.Send(); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Exec(t.Context(), "OPTIMIZE TABLE metrics FINAL"); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), "SELECT value, seq FROM metrics ORDER BY seq")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var got string
	for rows.Next() {
		var v float64
		var seq uint64
		if err := rows.Scan(&v, &seq); err != nil {
			t.Fatal(err)
		}
		got += fmt.Sprintf("%v@%d ", v, seq)
	}
	if want := "NaN@1 0@2 +Inf@4 -Inf@5 1.5@6 "; got != want || rows.Err() != nil {
		t.Fatalf("got %s, want %s (%v)", got, want, rows.Err())
	}
}
