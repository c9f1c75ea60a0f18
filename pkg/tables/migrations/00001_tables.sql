-- +goose NO TRANSACTION
-- +goose Up

-- ClickHouse has no transactions for DDL: every statement can be repeated.
-- Rows of one batch of the projector become one part, on disk when the insert
-- returns; the deduplication window stays 0 (the data is the checkpoint).

-- The set of metric points: a point is (run_id, key, step, timestamp, value).
-- The projector inserts a point once, under the sequence that first had it;
-- the engine's key is the second line of defence, and keeps the smallest seq.
CREATE TABLE IF NOT EXISTS metrics
(
    run_id     UUID CODEC(ZSTD(1)),
    key        LowCardinality(String) CODEC(ZSTD(1)),
    step       Int64 CODEC(DoubleDelta, ZSTD(1)),
    timestamp  Int64 COMMENT 'milliseconds since the Unix epoch' CODEC(Delta, ZSTD(1)),
    value      Float64 CODEC(ZSTD(1)),
    shard      UInt16 CODEC(ZSTD(1)),
    seq        UInt64 COMMENT 'sequence in the stream of the shard' CODEC(DoubleDelta, ZSTD(1)),
    idx        UInt32 COMMENT 'place in the event' CODEC(DoubleDelta, ZSTD(1)),
    precedence UInt64 MATERIALIZED bitNot(seq) CODEC(DoubleDelta, ZSTD(1)),
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(precedence)
ORDER BY (run_id, key, step, timestamp, value)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One current row a run and key: the greatest (step, timestamp, value), NaN
-- compared as 0. Read with FINAL.
CREATE TABLE IF NOT EXISTS latest_metrics
(
    experiment_id UInt64,
    key           LowCardinality(String),
    run_id        UUID,
    step          Int64,
    timestamp     Int64,
    value         Float64,
    shard         UInt16,
    seq           UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1,
    INDEX run run_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY (experiment_id, key, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Parameters and tags, one current row each. Read with FINAL, which leaves
-- deleted tags out.
CREATE TABLE IF NOT EXISTS run_attributes
(
    experiment_id UInt64,
    kind          Enum8('parameter' = 1, 'tag' = 2),
    key           LowCardinality(String),
    run_id        UUID,
    value         String CODEC(ZSTD(1)),
    deleted       UInt8,
    shard         UInt16,
    seq           UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1,
    INDEX run run_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq, deleted)
ORDER BY (experiment_id, kind, key, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One current row a run. Read with FINAL.
CREATE TABLE IF NOT EXISTS runs
(
    experiment_id UInt64,
    run_id        UUID,
    name          String,
    user_id       String,
    status        Enum8('RUNNING' = 1, 'SCHEDULED' = 2, 'FINISHED' = 3, 'FAILED' = 4, 'KILLED' = 5),
    start_time    Int64 COMMENT 'milliseconds since the Unix epoch',
    end_time      Int64 COMMENT 'milliseconds since the Unix epoch, 0 while there is none',
    artifact_uri  String,
    lifecycle     Enum8('active' = 1, 'deleted' = 2),
    deleted_time  Int64 COMMENT 'milliseconds since the Unix epoch, 0 unless deleted',
    shard         UInt16,
    seq           UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1,
    INDEX run run_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY (experiment_id, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One current row an experiment. Read with FINAL.
CREATE TABLE IF NOT EXISTS experiments
(
    experiment_id     UInt64,
    name              String,
    artifact_location String,
    lifecycle         Enum8('active' = 1, 'deleted' = 2),
    creation_time     Int64 COMMENT 'milliseconds since the Unix epoch',
    last_update_time  Int64 COMMENT 'milliseconds since the Unix epoch',
    tags              Map(String, String),
    seq               UInt64
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY experiment_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- One row for every event but metric batches, of every stream. Read with
-- FINAL where a count must be exact.
CREATE TABLE IF NOT EXISTS audit
(
    stream        LowCardinality(String),
    seq           UInt64,
    event_id      String,
    time          DateTime64(6, 'UTC'),
    type          LowCardinality(String),
    actor         LowCardinality(String),
    reason        String,
    request_id    String,
    entity_kind   LowCardinality(String) COMMENT 'run, experiment, registered_model or model_version',
    entity_id     String,
    experiment_id String,
    data          String COMMENT 'the event as protobuf JSON' CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
ORDER BY (stream, seq)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- How far each stream has been projected into every table: written last.
CREATE TABLE IF NOT EXISTS checkpoints
(
    stream      LowCardinality(String),
    seq         UInt64,
    incarnation String COMMENT 'id of the first event of the stream',
    epoch       UInt64 COMMENT 'of the lease under which it was written',
    written_at  DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY stream
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
