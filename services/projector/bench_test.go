package projector

import (
	"testing"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
	"github.com/runledger/runledger/pkg/eventlog"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/pkg/tables"
)

const benchRows = 200_000

// benchRecords returns events with benchRows points of 20 runs.
func benchRecords() []eventlog.Record {
	var out []eventlog.Record
	runs := make([]string, 20)
	for i := range runs {
		runs[i] = newRunID()
		out = append(out, eventlog.Record{Stream: "RUNS_0", Seq: uint64(i + 1), Subject: events.RunSubject(0, "7", runs[i], events.KindMeta), Event: &events.Event{
			Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{RunId: runs[i], ExperimentId: "7"}},
		}})
	}
	for i := range benchRows / 1000 {
		run := runs[i%len(runs)]
		out = append(out, eventlog.Record{Stream: "RUNS_0", Seq: uint64(len(out) + 1), Subject: events.RunSubject(0, "7", run, events.KindMetric), Event: &events.Event{
			Data: &events.Event_MetricsLogged{MetricsLogged: events.NewMetricsLogged(run, append(series("loss", i*500, 500), series("acc", i*500, 500)...))},
		}})
	}
	return out
}

func benchFold(b *testing.B, records []eventlog.Record) *folder {
	f, err := newFolder("RUNS_0", map[tableName]uint64{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := f.prepare(records); err != nil {
		b.Fatal(err)
	}
	for _, rec := range records {
		if err := f.fold(rec); err != nil {
			b.Fatal(err)
		}
	}
	return f
}

// BenchmarkFold folds 200 000 points of decoded events into columns.
func BenchmarkFold(b *testing.B) {
	records := benchRecords()
	for b.Loop() {
		if f := benchFold(b, records); len(f.metrics.run) != benchRows || len(f.suspects) > 0 {
			b.Fatal(len(f.metrics.run), len(f.suspects))
		}
	}
	b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "points/s")
}

// BenchmarkInsert inserts 200 000 rows into metrics, the way the projector does
// and through the columns of clickhouse-go.
func BenchmarkInsert(b *testing.B) {
	w := &world{t: b}
	w.conn, w.opts = chdbtest.Open(b)
	if err := tables.Migrate(b.Context(), w.opts, nil); err != nil {
		b.Fatal(err)
	}
	f := benchFold(b, benchRecords())
	empty := func() {
		b.StopTimer()
		if err := w.conn.Exec(b.Context(), "TRUNCATE TABLE metrics"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.Run("ch-go", func(b *testing.B) {
		s, err := dial(b.Context(), w.opts, "RUNS_0", 1, nil)
		if err != nil {
			b.Fatal(err)
		}
		defer s.close()
		for b.Loop() {
			if err := s.insert(b.Context(), tableMetrics, f.metrics.input()); err != nil {
				b.Fatal(err)
			}
			empty()
		}
		b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
	b.Run("clickhouse-go", func(b *testing.B) {
		ctx := clickhouse.Context(b.Context(), clickhouse.WithSettings(clickhouse.Settings{"async_insert": 0, "optimize_on_insert": 0}))
		keys := make([]string, benchRows)
		for i := range keys {
			keys[i] = f.metrics.key.Row(i)
		}
		for b.Loop() {
			batch, err := w.conn.PrepareBatch(ctx, "INSERT INTO metrics (run_id, key, step, timestamp, value, shard, seq, idx)")
			if err != nil {
				b.Fatal(err)
			}
			for i, column := range []any{
				[]uuid.UUID(f.metrics.run), keys, []int64(f.metrics.step), []int64(f.metrics.timestamp), []float64(f.metrics.value),
				[]uint16(f.metrics.shard), []uint64(f.metrics.seq), []uint32(f.metrics.idx),
			} {
				if err := batch.Column(i).Append(column); err != nil {
					b.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				b.Fatal(err)
			}
			empty()
		}
		b.ReportMetric(benchRows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
	})
}
