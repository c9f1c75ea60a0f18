-- +goose NO TRANSACTION
-- +goose Up

-- One current row a logged model. Read with FINAL.
CREATE TABLE IF NOT EXISTS logged_models
(
    experiment_id    UInt64,
    model_id         String,
    name             String,
    artifact_uri     String,
    model_type       String,
    source_run_id    String COMMENT 'empty when unknown',
    status           Enum8('PENDING' = 1, 'READY' = 2, 'FAILED' = 3),
    lifecycle        Enum8('active' = 1, 'deleted' = 2),
    creation_time    Int64 COMMENT 'milliseconds since the Unix epoch',
    last_update_time Int64 COMMENT 'milliseconds since the Unix epoch',
    params           Map(String, String) CODEC(ZSTD(1)),
    tags             Map(String, String) CODEC(ZSTD(1)),
    shard            UInt16,
    seq              UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY (experiment_id, model_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The points of logged models, which are points of the runs that they were
-- logged to as well. shard and seq are those of the run's event. Read with
-- FINAL: a point is there once for each event that had it until a merge.
CREATE TABLE IF NOT EXISTS logged_model_metrics
(
    model_id       String CODEC(ZSTD(1)),
    key            LowCardinality(String) CODEC(ZSTD(1)),
    step           Int64 CODEC(DoubleDelta, ZSTD(1)),
    timestamp      Int64 COMMENT 'milliseconds since the Unix epoch' CODEC(Delta, ZSTD(1)),
    value          Float64 CODEC(ZSTD(1)),
    run_id         UUID CODEC(ZSTD(1)),
    dataset_name   String CODEC(ZSTD(1)),
    dataset_digest String CODEC(ZSTD(1)),
    shard          UInt16 CODEC(ZSTD(1)),
    seq            UInt64 CODEC(DoubleDelta, ZSTD(1)),
    idx            UInt32 COMMENT 'place in the event' CODEC(DoubleDelta, ZSTD(1)),
    precedence     UInt64 MATERIALIZED bitNot(seq) CODEC(DoubleDelta, ZSTD(1)),
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(precedence)
ORDER BY (model_id, key, step, timestamp, value, run_id, dataset_name, dataset_digest)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The data sets that runs read. Read with FINAL.
CREATE TABLE IF NOT EXISTS run_datasets
(
    experiment_id UInt64,
    run_id        UUID,
    name          String,
    digest        String,
    source_type   LowCardinality(String),
    source        String CODEC(ZSTD(1)),
    schema        String CODEC(ZSTD(1)),
    profile       String CODEC(ZSTD(1)),
    tags          Map(String, String) COMMENT 'of the use of the data set by the run',
    idx           UInt32 COMMENT 'place in the event',
    shard         UInt16,
    seq           UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1,
    INDEX run run_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY (experiment_id, name, digest, run_id)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The logged models that runs read and wrote. Read with FINAL.
CREATE TABLE IF NOT EXISTS run_models
(
    experiment_id UInt64,
    run_id        UUID,
    direction     Enum8('input' = 1, 'output' = 2),
    model_id      String,
    step          Int64 COMMENT '0 for an input',
    idx           UInt32 COMMENT 'place in the event',
    shard         UInt16,
    seq           UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq)
ORDER BY (experiment_id, run_id, direction, model_id, step)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
