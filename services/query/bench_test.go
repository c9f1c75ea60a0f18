package query_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/runledger/runledger/pkg/chdb/chdbtest"
	"github.com/runledger/runledger/pkg/events"
	"github.com/runledger/runledger/services/query"
)

const (
	benchRuns = 100_000
	benchKeys = 10
)

// manyRuns fills an experiment with runs, each with parameters and metrics.
func manyRuns(f *fixture, experiment, runs, keys int) {
	f.t.Helper()
	for _, q := range []string{
		// The ids are random, but the same in the three tables.
		`INSERT INTO runs (experiment_id, run_id, name, user_id, status, start_time, end_time, artifact_uri, lifecycle, deleted_time, shard, seq)
		 SELECT %[1]d, reinterpretAsUUID(sipHash128(number)), concat('run-', toString(number)), 'ada', number %% 5 + 1, 1700000000000 + number, 1700000100000 + number,
		        concat('mlflow-artifacts:/1/', lower(hex(sipHash128(number))), '/artifacts'), 1, 0, number %% 4, number
		 FROM numbers(%[2]d)`,
		`INSERT INTO run_attributes (experiment_id, kind, key, run_id, value, deleted, shard, seq)
		 SELECT %[1]d, 1, concat('p', toString(k)), reinterpretAsUUID(sipHash128(number)), toString(sipHash64(number, k) %% 10), 0, number %% 4, number
		 FROM numbers(%[2]d) ARRAY JOIN range(%[3]d) AS k`,
		`INSERT INTO run_attributes (experiment_id, kind, key, run_id, value, deleted, shard, seq)
		 SELECT %[1]d, 2, 'mlflow.runName', reinterpretAsUUID(sipHash128(number)), concat('run-', toString(number)), 0, number %% 4, number
		 FROM numbers(%[2]d)`,
		`INSERT INTO latest_metrics (experiment_id, key, run_id, step, timestamp, value, shard, seq)
		 SELECT %[1]d, concat('m', toString(k)), reinterpretAsUUID(sipHash128(number)), 100, 1700000000000, sipHash64(number, k, 'v') / 18446744073709551616, number %% 4, number
		 FROM numbers(%[2]d) ARRAY JOIN range(%[3]d) AS k`,
	} {
		if err := f.conn.Exec(f.t.Context(), fmt.Sprintf(q, experiment, runs, keys)); err != nil {
			f.t.Fatal(err)
		}
	}
	// The engine has merged their rows, and a few runs have been written again since.
	for _, table := range []string{"runs", "run_attributes", "latest_metrics"} {
		for _, q := range []string{
			"OPTIMIZE TABLE " + table + " FINAL",
			"INSERT INTO " + table + " SELECT * REPLACE (seq + 1000000 AS seq) FROM " + table + " WHERE seq % 100 = 0",
		} {
			if err := f.conn.Exec(f.t.Context(), q); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	f.publish(events.RunSubject(0, strconv.Itoa(experiment), newRunID(), events.KindMeta),
		&events.Event{Data: &events.Event_RunCreated{RunCreated: &events.RunCreated{}}})
}

func BenchmarkSearchRuns(b *testing.B) {
	f := newFixture(b)
	f.project()
	manyRuns(f, 1, benchRuns, benchKeys)
	for _, c := range []struct {
		name string
		body map[string]any
	}{
		{"newest100", map[string]any{"max_results": 100}},
		{"filtered100", map[string]any{"max_results": 100, "filter": "params.p3 = '3' AND metrics.m5 > 0.9", "order_by": []string{"metrics.m5 DESC"}}},
		{"wide100", map[string]any{"max_results": 100, "filter": "params.p3 != '3' AND metrics.m5 > 0.1", "order_by": []string{"metrics.m5 DESC"}}},
		{"byMetric100", map[string]any{"max_results": 100, "order_by": []string{"metrics.m5 DESC"}}},
		{"like100", map[string]any{"max_results": 100, "filter": "tags.mlflow.runName ILIKE '%RUN-99%'"}},
		{"newest1000", map[string]any{"max_results": 1000}},
		{"all10000", map[string]any{"max_results": 10000}},
	} {
		b.Run(c.name, func(b *testing.B) {
			c.body["experiment_ids"] = []string{"1"}
			for b.Loop() {
				if page := f.post("/runs/search", c.body); page.Code != 200 {
					b.Fatal(page.Body)
				}
			}
		})
	}
	// What any answer to filtered100 has to read and sort.
	b.Run("filtered100/bare", func(b *testing.B) {
		for b.Loop() {
			if err := f.conn.Exec(b.Context(), `SELECT run_id FROM latest_metrics WHERE experiment_id = 1 AND key = 'm5' AND value > 0.9 AND run_id IN (
				SELECT run_id FROM run_attributes WHERE experiment_id = 1 AND kind = 'parameter' AND key = 'p3' AND value = '3'
			) ORDER BY value DESC LIMIT 100 FORMAT Null`); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkCatalogue pages through what 100,000 runs have: in experiment 1 of 2000
// keys 20 each, in experiment 2 all of 100. Cold is the first read of a page, warm
// one after which nothing was written, and the others one after one run was.
func BenchmarkCatalogue(b *testing.B) {
	f := newFixture(b)
	f.insertExperiments(testExperiment{id: 1}, testExperiment{id: 2})
	const metrics = "INSERT INTO latest_metrics (experiment_id, key, run_id, step, timestamp, value, shard, seq) "
	exec := func(q string) {
		if err := f.conn.Exec(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
	manyRuns(f, 1, benchRuns, 1)
	exec(metrics + `SELECT 1, concat('metric/', toString((number * 20 + k) % 2000)), reinterpretAsUUID(sipHash128(number)), 10, 1, sipHash64(number, k) / 1e19, number % 4, number
		FROM numbers(100000) ARRAY JOIN range(20) AS k`)
	manyRuns(f, 2, benchRuns, 100)
	// The shards are projected beyond all of these rows.
	last := uint64(10_000_000)
	announced := f.announce(last)
	path := func(experiment int) string { return fmt.Sprintf("/api/v1/experiments/%d/catalogue", experiment) }
	for _, c := range []struct {
		name       string
		experiment int
		args       []string
	}{
		{"first100", 1, []string{"kind", "metrics"}},
		{"prefix", 1, []string{"kind", "metrics", "prefix", "metric/199"}},
		{"parameters", 1, []string{"kind", "parameters"}},
		{"first1000", 1, []string{"kind", "metrics", "max_results", "1000"}},
		{"dense", 2, []string{"kind", "metrics"}},
		{"denseParameters", 2, []string{"kind", "parameters"}},
	} {
		read := func(b *testing.B) {
			if w := f.do(f.request(path(c.experiment), c.args...)); w.Code != 200 {
				b.Fatal(w.Body)
			}
		}
		b.Run(c.name+"/cold", func(b *testing.B) {
			for b.Loop() {
				f.service.ForgetCatalogues()
				read(b)
			}
		})
		b.Run(c.name+"/warm", func(b *testing.B) {
			for b.Loop() {
				read(b)
			}
		})
		write := func(b *testing.B) {
			b.StopTimer()
			last++
			exec(metrics + fmt.Sprintf(`SELECT %[1]d, key, run_id, step, timestamp, value, shard, %[2]d FROM latest_metrics WHERE experiment_id = %[1]d AND run_id = reinterpretAsUUID(sipHash128(toUInt64(0)))`,
				c.experiment, last))
			exec(fmt.Sprintf(`INSERT INTO run_attributes SELECT * REPLACE (toUInt64(%[2]d) AS seq) FROM run_attributes WHERE experiment_id = %[1]d AND run_id = reinterpretAsUUID(sipHash128(toUInt64(0)))`,
				c.experiment, last))
			announced(last)
			b.StartTimer()
		}
		b.Run(c.name+"/oneRunWritten", func(b *testing.B) {
			write(b)
			read(b) // the run is apart from here on
			for b.Loop() {
				write(b)
				read(b)
			}
		})
	}
	for name, experiment := range map[string]int{"first100": 1, "dense": 2} {
		b.Run(name+"/bare", func(b *testing.B) {
			for b.Loop() {
				exec(fmt.Sprintf(`SELECT key, count(), min(value), max(value) FROM latest_metrics WHERE experiment_id = %d
					GROUP BY key ORDER BY key LIMIT 100 SETTINGS optimize_aggregation_in_order = 1 FORMAT Null`, experiment))
			}
		})
	}
}

// The time of a page must not depend on where it is in the series.
func BenchmarkMetricHistory(b *testing.B) {
	f := newFixture(b)
	f.project()
	const size = 25_000
	for _, points := range []int{10_000_000, 50_000_000} {
		run := f.longSeries("loss", points)
		for _, c := range []struct {
			name string
			at   int
		}{{"first", 0}, {"middle", points / 2}, {"last", points - size}} {
			b.Run(fmt.Sprintf("%dM/%s", points/1_000_000, c.name), func(b *testing.B) {
				args := []string{"run_id", run, "metric_key", "loss", "max_results", strconv.Itoa(size)}
				if c.at > 0 {
					args = append(args, "page_token", query.HistoryToken(run, "loss", historyStart+int64(c.at)*10, int64(c.at), 1))
				}
				peak := watchMemory(b)
				for b.Loop() {
					if w := f.get("/metrics/get-history", args...); w.Code != 200 {
						b.Fatal(w.Body)
					}
				}
				peak()
			})
		}
	}
}

// watchMemory forgets how much memory the engine and this process have used at
// most, and returns how to report it. See proc(5), clear_refs and VmHWM.
func watchMemory(b *testing.B) (report func()) {
	b.Helper()
	pids := map[string]int{"server": os.Getpid(), "engine": chdbtest.Start(b).Pid()}
	for _, pid := range pids {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			b.Skip("no record of the memory that is used: ", err)
		}
	}
	return func() {
		b.Helper()
		for name, pid := range pids {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				b.Fatal(err)
			}
			_, line, _ := strings.Cut(string(status), "VmHWM:")
			var kilobytes float64
			if _, err := fmt.Sscan(line, &kilobytes); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(kilobytes/1024, name+"-MiB")
		}
	}
}

func BenchmarkHistoryInterval(b *testing.B) {
	f := newFixture(b)
	f.project()
	ids := []string{"metric_key", "loss"}
	for range 100 {
		ids = append(ids, "run_ids", f.longSeries("loss", 10_000))
	}
	for name, args := range map[string][]string{
		"long":    {"metric_key", "loss", "run_ids", f.longSeries("loss", 10_000_000)},
		"runs100": ids,
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if w := f.get("/metrics/get-history-bulk-interval", append(args, "max_results", "320")...); w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

func BenchmarkAudit(b *testing.B) {
	f := newFixture(b)
	f.project()
	const streams, each = 6, 1_700_000
	for stream := range streams {
		// As the projector writes them: a batch is a part, of one stream.
		if err := f.conn.Exec(b.Context(), fmt.Sprintf(`INSERT INTO audit
			SELECT 'RUNS_%[1]d', number + 1, toString(generateUUIDv4()), toDateTime64(1760000000 + number * 1.7, 6, 'UTC'),
			       ['run_created', 'run_updated', 'run_tags_set', 'run_parameters_logged', 'run_deleted'][number %% 5 + 1],
			       concat('user', toString(sipHash64(number) %% 50)), if(number %% 100 = 0, 'because of drift', ''), toString(generateUUIDv4()),
			       'run', lower(hex(sipHash128(number %% 400000, %[1]d))), toString(number %% 20),
			       concat('{"run_tags_set":{"run_id":"', lower(hex(sipHash128(number %% 400000, %[1]d))), '","tags":[{"key":"mlflow.note","value":"', toString(sipHash64(number, 1)), '"}]}}')
			FROM numbers(%[2]d)
			SETTINGS max_insert_block_size = 100000, min_insert_block_size_rows = 100000`, stream, each)); err != nil {
			b.Fatal(err)
		}
	}
	var run string
	if err := f.conn.QueryRow(b.Context(), "SELECT lower(hex(sipHash128(toUInt64(77), 3)))").Scan(&run); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		args       []string
	}{
		{"countByActorAndDay", "/counts", []string{"by", "actor,day"}},
		{"newest100", "", nil},
		{"ofActor", "", []string{"actor", "user7"}},
		{"ofRun", "", []string{"entity_kind", "run", "entity_id", run}},
		{"ofHour", "", []string{"from", "2025-11-01T00:00:00Z", "to", "2025-11-01T01:00:00Z"}},
		{"withText", "", []string{"text", "12345678"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if w := f.do(f.request("/api/v1/audit"+c.path, c.args...)); w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
	// The floor: what the count reads, read by ClickHouse alone.
	b.Run("scanOfActorAndDay", func(b *testing.B) {
		for b.Loop() {
			var n uint64
			if err := f.conn.QueryRow(b.Context(), "SELECT count() FROM audit WHERE NOT ignore(actor, day)").Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// awaitMerges returns when the engine has nothing to merge for the moment: it would
// take its time from what is measured.
func (f *fixture) awaitMerges() {
	f.t.Helper()
	for quiet, deadline := 0, time.Now().Add(10*time.Minute); quiet < 5; {
		if time.Now().After(deadline) {
			f.t.Fatal("the engine merges for more than ten minutes")
		}
		var merges uint64
		if err := f.conn.QueryRow(f.t.Context(), "SELECT count() FROM system.merges").Scan(&merges); err != nil {
			f.t.Fatal(err)
		}
		if quiet++; merges > 0 {
			quiet = 0
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// counter is a client that keeps nothing: a recorder's buffer would be part of what
// a long answer takes.
type counter struct {
	header        http.Header
	status, bytes int
}

func (c *counter) Header() http.Header { return c.header }

func (c *counter) WriteHeader(status int) { c.status = status }

func (c *counter) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return len(b), nil
}

// A series by columns, beside a scan by ClickHouse alone of what it reads.
func BenchmarkSeries(b *testing.B) {
	f := newFixture(b)
	f.project()
	register := func(points, runs int) (ids []string) {
		for range runs {
			id := f.longSeries("loss", points)
			f.insert(testRun{id: id, experiment: 1, metrics: []point{{key: "loss"}}})
			ids = append(ids, id)
		}
		return ids
	}
	for _, c := range []struct {
		name         string
		points, runs int
		columns      int
	}{
		{"1x1M", 1_000_000, 1, 1000},
		{"1x10M", 10_000_000, 1, 1000},
		{"1x50M", 50_000_000, 1, 1000},
		{"100x10k", 10_000, 100, 1000},
		{"1000x10k", 10_000, 1000, 300},
	} {
		ids := register(c.points, c.runs)
		uuids := make([]string, len(ids))
		for i, id := range ids {
			uuids[i] = testRun{id: id}.uuid().String()
		}
		f.awaitMerges()
		draw := func(accept string) func(b *testing.B) {
			return func(b *testing.B) {
				body, err := json.Marshal(map[string]any{"run_ids": ids, "metric_keys": []string{"loss"}, "columns": c.columns})
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					r := httptest.NewRequest(http.MethodPost, "/api/v1/series", bytes.NewReader(body))
					r.Header.Set("Content-Type", "application/json")
					r.Header.Set("Accept", accept)
					w := &counter{header: http.Header{}}
					f.server.ServeHTTP(w, r)
					if w.status != 200 {
						b.Fatal(w.status)
					}
					b.ReportMetric(float64(w.bytes)/1e6, "MB")
				}
			}
		}
		b.Run(c.name+"/json", draw("application/json"))
		b.Run(c.name+"/arrow", draw("application/vnd.apache.arrow.stream"))
		if c.points >= 1<<16 {
			for _, id := range ids {
				f.rollUp(id, "loss", 7)
			}
			b.Run(c.name+"/blocks", draw("application/json"))
		}
		b.Run(c.name+"/scan", func(b *testing.B) {
			for b.Loop() {
				var n uint64
				if err := f.conn.QueryRow(b.Context(), "SELECT count() FROM metrics WHERE run_id IN {ids:Array(UUID)} AND key = 'loss' AND NOT ignore(step, value)",
					clickhouse.Named("ids", uuids)).Scan(&n); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// 100,000 entries of the registry in 1000 models, and 100,000 runs, each with a
// commit and a data set.
func BenchmarkLineage(b *testing.B) {
	f := newFixture(b)
	f.project()
	manyRuns(f, 1, benchRuns, 1)
	run := "replaceAll(toString(reinterpretAsUUID(sipHash128(number))), '-', '')"
	for _, q := range []string{
		`INSERT INTO run_attributes (experiment_id, kind, key, run_id, value, deleted, shard, seq)
		 SELECT 1, 2, 'mlflow.source.git.commit', reinterpretAsUUID(sipHash128(number)), lower(hex(sipHash128(intDiv(number, 100)))), 0, number % 4, number FROM numbers(100000)`,
		`INSERT INTO run_datasets (experiment_id, run_id, name, digest, shard, seq)
		 SELECT 1, reinterpretAsUUID(sipHash128(number)), 'digits', concat('d', toString(intDiv(number, 100))), number % 4, number FROM numbers(100000)`,
		`INSERT INTO logged_models (experiment_id, model_id, name, source_run_id, status, lifecycle, shard, seq)
		 SELECT 1, concat('m-', ` + run + `), 'tree', ` + run + `, 2, 1, number % 4, number FROM numbers(100000)`,
		// A model gets a version, a stage, an alias and a tag again and again.
		`INSERT INTO audit (stream, seq, time, type, entity_kind, entity_id, data)
		 SELECT 'REGISTRY', number + 1, now64(6), concat('runledger.', ['model_version_created', 'model_version_stage_set', 'alias_set', 'model_version_tag_set'][kind + 1]),
		        if(kind = 2, 'registered_model', 'model_version'), if(kind = 2, name, concat(name, '/', version)),
		        [concat('{"model_version_created":{"name":"', name, '","version":"', version, '","source":"models:/m-', ` + run + `, '","run_id":"', ` + run + `, '","model_id":"m-', ` + run + `, '"}}'),
		         concat('{"model_version_stage_set":{"name":"', name, '","version":"', version, '","from_stage":"None","to_stage":"Production","archived_versions":["', toString(intDiv(number, 4000)), '"]}}'),
		         concat('{"alias_set":{"name":"', name, '","alias":"champion","version":"', version, '"}}'),
		         concat('{"model_version_tag_set":{"name":"', name, '","version":"', version, '","tag":{"key":"k","value":"v"}}}')][kind + 1]
		 FROM (SELECT number, number % 4 AS kind, concat('model ', toString(intDiv(number, 4) % 1000)) AS name, toString(intDiv(number, 4000) + 1) AS version FROM numbers(100000))`,
	} {
		if err := f.conn.Exec(b.Context(), q); err != nil {
			b.Fatal(err)
		}
	}
	var id, commit string
	if err := f.conn.QueryRow(b.Context(), "SELECT "+run+", lower(hex(sipHash128(toUInt64(7)))) FROM (SELECT toUInt64(800) AS number)").Scan(&id, &commit); err != nil {
		b.Fatal(err)
	}
	for name, args := range map[string][]string{
		"run": {"run_id", id}, "model": {"model_id", "m-" + id}, "commit100runs": {"commit", commit}, "dataset100runs": {"dataset_digest", "d7"},
	} {
		b.Run(name, func(b *testing.B) {
			found := f.lineage(args...)
			for b.Loop() {
				if w := f.do(f.request("/api/v1/lineage", args...)); w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
			b.ReportMetric(float64(len(found.Versions)), "versions")
		})
	}
}

// The heaviest sweep: curves of groups, beside a scan by ClickHouse alone of
// what it reads.
func BenchmarkSweepCurves(b *testing.B) {
	f := newFixture(b)
	f.project()
	var ids, uuids []string
	for i := range 1000 {
		id := f.longSeries("loss", 10_000)
		f.insert(testRun{id: id, experiment: 1, params: map[string]string{"lr": strconv.Itoa(i % 10)}, metrics: []point{{key: "loss"}}})
		ids, uuids = append(ids, id), append(uuids, testRun{id: id}.uuid().String())
	}
	f.awaitMerges()
	b.Run("1000x10k", func(b *testing.B) {
		body := map[string]any{"run_ids": ids, "metric_keys": []string{"loss"}, "columns": 500, "group_by": []string{"params.lr"}}
		for b.Loop() {
			if w := f.postV1("/sweeps/curves", body); w.Code != 200 {
				b.Fatal(w.Body)
			}
		}
	})
	b.Run("scan", func(b *testing.B) {
		for b.Loop() {
			var n uint64
			if err := f.conn.QueryRow(b.Context(), "SELECT count() FROM metrics WHERE run_id IN {ids:Array(UUID)} AND key = 'loss' AND NOT ignore(step, value)",
				clickhouse.Named("ids", uuids)).Scan(&n); err != nil {
				b.Fatal(err)
			}
		}
	})
}
