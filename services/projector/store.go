package projector

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go"
	"github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"

	"github.com/runledger/runledger/pkg/chconn"
	"github.com/runledger/runledger/pkg/events"
)

//go:embed sql/*.sql
var sqlFiles embed.FS

const (
	// statementTimeout bounds one statement; its outcome is then unknown.
	statementTimeout = time.Minute
	// knownChunk bounds the suspects of one query.
	knownChunk = 100_000
	// purgeMark is in the id of each query that deletes.
	purgeMark = "purge/"
	// purgeChunk bounds the runs of one deletion.
	purgeChunk = 1000
)

// insertSettings make one INSERT of one block one part: written before the
// statement returns, never split, merged with nothing.
var insertSettings = []ch.Setting{
	ch.SettingInt("async_insert", 0),
	ch.SettingInt("insert_deduplicate", 0),
	ch.SettingInt("optimize_on_insert", 0),
	ch.SettingInt("min_insert_block_size_rows", 0),
	ch.SettingInt("min_insert_block_size_bytes", 0),
	ch.SettingInt("max_insert_block_size", maxFlushRows+events.MaxPoints),
}

// readSettings let the index on run_id serve FINAL: it is part of the sorting
// key, so all versions of a row pass it or none. Rows whose deletion waits for
// its turn count as deleted.
var readSettings = []ch.Setting{
	ch.SettingInt("apply_mutations_on_fly", 1),
	ch.SettingInt("use_skip_indexes_if_final", 1),
	ch.SettingInt("use_skip_indexes_if_final_exact_mode", 0),
}

// failpoint is called around each insert; an error acts like the loss of the
// process at that point. Tests set it.
type failpoint func(stream, table string, done bool) error

// store is one stream's connection to ClickHouse. It is not safe for
// concurrent use.
type store struct {
	client *ch.Client
	stream string
	shard  uint16
	// The ids of queries that write begin with database, of this stream with prefix.
	database, prefix string
	epoch            uint64
	fail             failpoint
	sql              map[string]string
}

// dial connects to ClickHouse.
func dial(ctx context.Context, o *clickhouse.Options, stream string, epoch uint64, fail failpoint) (*store, error) {
	sql, err := readSQL()
	if err != nil {
		return nil, err
	}
	client, err := chconn.Dial(ctx, o, "runledger-projector")
	if err != nil {
		return nil, err
	}
	s := &store{
		client: client, stream: stream, epoch: epoch, fail: fail, sql: sql,
		database: fmt.Sprintf("runledger/%s/", o.Auth.Database),
	}
	s.prefix = s.database + stream + "/"
	if n, ok := events.ShardOfStream(stream); ok {
		s.shard = uint16(n)
	}
	return s, nil
}

func readSQL() (map[string]string, error) {
	entries, err := sqlFiles.ReadDir("sql")
	if err != nil {
		return nil, err
	}
	sql := make(map[string]string, len(entries))
	for _, e := range entries {
		text, err := sqlFiles.ReadFile("sql/" + e.Name())
		if err != nil {
			return nil, err
		}
		sql[strings.TrimSuffix(e.Name(), ".sql")] = strings.TrimSpace(string(text))
	}
	return sql, nil
}

func (s *store) close() { _ = s.client.Close() }

// query is one of the statements of the sql directory.
type query struct {
	name   string
	params map[string]any
	wanted proto.Input // the external table "wanted", may be nil
	result proto.Results
	each   func(rows int) error // called with each block of the result
}

func (s *store) query(ctx context.Context, q query) error {
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	cq := ch.Query{
		Body:       s.sql[q.name],
		Parameters: chconn.Parameters(q.params),
		Settings:   readSettings,
		Result:     q.result,
		OnResult: func(_ context.Context, b proto.Block) error {
			if q.each == nil || b.Rows == 0 {
				return nil
			}
			return q.each(b.Rows)
		},
	}
	if q.wanted != nil {
		cq.ExternalTable, cq.ExternalData = "wanted", q.wanted
	}
	if err := s.client.Do(ctx, cq); err != nil {
		return fmt.Errorf("%s of %s: %w", q.name, s.stream, err)
	}
	return nil
}

// settle ends every insert of the stream that still runs on the server, and
// waits for its end. After that the tables do not change under the watermarks:
// a statement is known to the server before its data are sent.
func (s *store) settle(ctx context.Context) error {
	return s.query(ctx, query{name: "settle", params: map[string]any{"prefix": s.prefix}})
}

// settlePurges does the same with deletes, those of other streams too.
func (s *store) settlePurges(ctx context.Context) error {
	return s.query(ctx, query{name: "settle_purges", params: map[string]any{"pattern": s.database + "%" + purgeMark + "%"}})
}

// checkpoint is the row of a stream in checkpoints.
type checkpoint struct {
	seq         uint64
	incarnation string
	recorded    bool // what the tables held is with it
}

func (s *store) checkpoint(ctx context.Context, stream string) (checkpoint, error) {
	var (
		c           checkpoint
		seq         proto.ColUInt64
		incarnation proto.ColStr
		recorded    proto.ColUInt8
	)
	err := s.query(ctx, query{
		name:   "checkpoint",
		params: map[string]any{"stream": stream},
		result: proto.Results{{Name: "seq", Data: &seq}, {Name: "incarnation", Data: &incarnation}, {Name: "recorded", Data: &recorded}},
		each: func(int) error {
			c = checkpoint{seq: seq.Row(0), incarnation: incarnation.Row(0), recorded: recorded.Row(0) == 1}
			return nil
		},
	})
	return c, err
}

// maxSeq returns the greatest sequence of the stream in a table, 0 when none
// is from or beyond it.
func (s *store) maxSeq(ctx context.Context, t tableName, from uint64) (uint64, error) {
	var (
		seq  proto.ColUInt64
		last uint64
	)
	q := query{
		name:   "watermark_all",
		params: map[string]any{"table": string(t), "from": from},
		result: proto.Results{{Name: "last", Data: &seq}},
		each: func(int) error {
			last = seq.Row(0)
			return nil
		},
	}
	switch t {
	case tableRuns, tableAttributes, tableLatest, tableMetrics, tableDatasets, tableRunModels, tableModels, tableModelMetrics, tableArtifacts:
		q.name, q.params["shard"] = "watermark_shard", s.shard
	case tableAudit:
		q.name, q.params["stream"] = "watermark_stream", s.stream
	}
	err := s.query(ctx, q)
	return last, err
}

// insert writes rows as one part. Its outcome is unknown when it fails.
func (s *store) insert(ctx context.Context, t tableName, rows proto.Input) error {
	if err := s.failed(t, false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	err := s.client.Do(ctx, ch.Query{
		Body:     rows.Into(string(t)),
		QueryID:  s.prefix + uuid.NewString(),
		Input:    rows,
		Settings: insertSettings,
	})
	if err != nil {
		return fmt.Errorf("insert into %s from %s: %w", t, s.stream, err)
	}
	return s.failed(t, true)
}

// purge deletes the rows of runs from a table. It is on disk when this returns,
// and counts for every read with apply_mutations_on_fly; the engine carries it
// out when it gets to it, and does not make the projection wait for a merge. A
// deletion whose outcome is unknown may be repeated.
//
// From a table with a copy in another order the rows are deleted by writing its
// parts again: the engine (26.7) leaves rows in the copy that it only marks.
func (s *store) purge(ctx context.Context, t tableName, runs []*run) error {
	statement := "purge"
	if t == tableAttributes || t == tableLatest {
		statement = "purge_copied"
	}
	step := "delete from " + t
	if err := s.failed(step, false); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, statementTimeout)
	defer cancel()
	ids := make([]string, len(runs))
	for i, r := range runs {
		ids[i] = r.id.String()
	}
	err := s.client.Do(ctx, ch.Query{
		Body:       s.sql[statement],
		QueryID:    s.prefix + purgeMark + uuid.NewString(),
		Parameters: chconn.Parameters(map[string]any{"table": string(t), "runs": ids}),
	})
	if err != nil {
		return fmt.Errorf("delete from %s for %s: %w", t, s.stream, err)
	}
	return s.failed(step, true)
}

func (s *store) failed(t tableName, done bool) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(s.stream, string(t), done)
}

// setCheckpoint writes the stream's row in checkpoints, with what the tables hold.
func (s *store) setCheckpoint(ctx context.Context, c checkpoint, hold blocks) error {
	parts, err := json.Marshal(hold)
	if err != nil {
		return fmt.Errorf("encode the blocks of the tables: %w", err)
	}
	var (
		stream      = lowCardinality()
		incarnation proto.ColStr
		held        proto.ColBytes
		seq, epoch  proto.ColUInt64
		at          = new(proto.ColDateTime64).WithPrecision(proto.PrecisionMilli)
	)
	stream.Append(s.stream)
	incarnation.Append(c.incarnation)
	seq.Append(c.seq)
	epoch.Append(s.epoch)
	at.Append(time.Now().UTC())
	held.Append(parts)
	return s.insert(ctx, tableCheckpoints, proto.Input{
		{Name: "stream", Data: stream},
		{Name: "seq", Data: &seq},
		{Name: "incarnation", Data: &incarnation},
		{Name: "epoch", Data: &epoch},
		{Name: "written_at", Data: at},
		{Name: "parts", Data: &held},
	})
}

func wantedRuns(runs []*run) proto.Input {
	var (
		experiment proto.ColUInt64
		id         proto.ColUUID
	)
	for _, r := range runs {
		experiment.Append(r.experiment)
		id.Append(r.id)
	}
	return proto.Input{{Name: "experiment_id", Data: &experiment}, {Name: "run_id", Data: &id}}
}

// loadRuns reads the rows of runs into those that have one.
func (s *store) loadRuns(ctx context.Context, runs []*run) error {
	byID := make(map[uuid.UUID]*run, len(runs))
	for _, r := range runs {
		byID[r.id] = r
	}
	var (
		experiment, seq               proto.ColUInt64
		id                            proto.ColUUID
		name, user, uri               proto.ColStr
		status, lifecycle             proto.ColInt8
		startTime, endTime, deletedAt proto.ColInt64
		ended                         proto.ColBool
	)
	return s.query(ctx, query{
		name:   "load_runs",
		wanted: wantedRuns(runs),
		result: proto.Results{
			{Name: "experiment_id", Data: &experiment},
			{Name: "run_id", Data: &id},
			{Name: "name", Data: &name},
			{Name: "user_id", Data: &user},
			{Name: "status_number", Data: &status},
			{Name: "start_time", Data: &startTime},
			{Name: "end_time", Data: &endTime},
			{Name: "ended", Data: &ended},
			{Name: "artifact_uri", Data: &uri},
			{Name: "lifecycle_number", Data: &lifecycle},
			{Name: "deleted_time", Data: &deletedAt},
			{Name: "seq", Data: &seq},
		},
		each: func(n int) error {
			for i := range n {
				r, ok := byID[id.Row(i)]
				if !ok {
					continue
				}
				r.info = runInfo{
					name: name.Row(i), user: user.Row(i), status: status.Row(i),
					startTime: startTime.Row(i), endTime: endTime.Row(i), ended: ended.Row(i), artifactURI: uri.Row(i),
					lifecycle: lifecycle.Row(i), deletedTime: deletedAt.Row(i), seq: seq.Row(i),
				}
			}
			return nil
		},
	})
}

// loadLatest reads the rows of latest_metrics into their runs.
func (s *store) loadLatest(ctx context.Context, runs []*run) error {
	byID := make(map[uuid.UUID]*run, len(runs))
	for _, r := range runs {
		byID[r.id] = r
	}
	var (
		id              proto.ColUUID
		key             proto.ColStr
		step, timestamp proto.ColInt64
		value           proto.ColFloat64
		seq             proto.ColUInt64
	)
	return s.query(ctx, query{
		name:   "load_latest",
		wanted: wantedRuns(runs),
		result: proto.Results{
			{Name: "run_id", Data: &id},
			{Name: "metric", Data: &key},
			{Name: "step", Data: &step},
			{Name: "timestamp", Data: &timestamp},
			{Name: "value", Data: &value},
			{Name: "seq", Data: &seq},
		},
		each: func(n int) error {
			for i := range n {
				if r, ok := byID[id.Row(i)]; ok {
					r.latest[key.Row(i)] = &latest{
						known: true, step: step.Row(i), timestamp: timestamp.Row(i), value: value.Row(i), seq: seq.Row(i),
					}
				}
			}
			return nil
		},
	})
}

// loadExperiments reads the rows of experiments into those that have one.
func (s *store) loadExperiments(ctx context.Context, experiments []*experiment) error {
	byID := make(map[uint64]*experiment, len(experiments))
	var wanted proto.ColUInt64
	for _, e := range experiments {
		byID[e.id] = e
		wanted.Append(e.id)
	}
	var (
		id, seq          proto.ColUInt64
		name, location   proto.ColStr
		lifecycle        proto.ColInt8
		created, updated proto.ColInt64
		tags             = proto.NewMap(new(proto.ColStr), new(proto.ColStr))
	)
	return s.query(ctx, query{
		name:   "load_experiments",
		wanted: proto.Input{{Name: "experiment_id", Data: &wanted}},
		result: proto.Results{
			{Name: "experiment_id", Data: &id},
			{Name: "name", Data: &name},
			{Name: "artifact_location", Data: &location},
			{Name: "lifecycle_number", Data: &lifecycle},
			{Name: "creation_time", Data: &created},
			{Name: "last_update_time", Data: &updated},
			{Name: "tags", Data: tags},
			{Name: "seq", Data: &seq},
		},
		each: func(n int) error {
			for i := range n {
				e, ok := byID[id.Row(i)]
				if !ok {
					continue
				}
				e.name, e.artifactLocation, e.lifecycle = name.Row(i), location.Row(i), lifecycle.Row(i)
				e.creationTime, e.lastUpdateTime, e.seq = created.Row(i), updated.Row(i), seq.Row(i)
				maps.Copy(e.tags, tags.Row(i))
			}
			return nil
		},
	})
}

// known calls found with each of the points that the table of metrics holds.
func (s *store) known(ctx context.Context, points []pointID, found func(pointID)) error {
	for len(points) > 0 {
		n := min(len(points), knownChunk)
		if err := s.knownChunk(ctx, points[:n], found); err != nil {
			return err
		}
		points = points[n:]
	}
	return nil
}

func (s *store) knownChunk(ctx context.Context, points []pointID, found func(pointID)) error {
	var want, got pointColumns
	for _, p := range points {
		want.run.Append(p.run)
		want.key.Append(p.Key)
		want.step.Append(p.Step)
		want.timestamp.Append(p.Timestamp)
		want.bits.Append(p.Value)
	}
	return s.query(ctx, query{
		name:   "known_points",
		params: map[string]any{"nan": events.ValueBits(math.NaN())},
		wanted: proto.Input{
			{Name: "run_id", Data: &want.run},
			{Name: "key", Data: &want.key},
			{Name: "step", Data: &want.step},
			{Name: "timestamp", Data: &want.timestamp},
			{Name: "bits", Data: &want.bits},
		},
		result: proto.Results{
			{Name: "run_id", Data: &got.run},
			{Name: "metric", Data: &got.key},
			{Name: "step", Data: &got.step},
			{Name: "timestamp", Data: &got.timestamp},
			{Name: "bits", Data: &got.bits},
		},
		each: func(n int) error {
			for i := range n {
				found(pointID{run: got.run.Row(i), Identity: events.Identity{
					Key: got.key.Row(i), Step: got.step.Row(i), Timestamp: got.timestamp.Row(i), Value: got.bits.Row(i),
				}})
			}
			return nil
		},
	})
}

type pointColumns struct {
	run             proto.ColUUID
	key             proto.ColStr
	step, timestamp proto.ColInt64
	bits            proto.ColUInt64
}
