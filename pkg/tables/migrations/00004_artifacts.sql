-- +goose NO TRANSACTION
-- +goose Up

-- One current row an artifact. Whose it is follows from its path in the store.
-- Read with FINAL, which leaves deleted artifacts out.
CREATE TABLE IF NOT EXISTS artifacts
(
    run_id       String COMMENT 'empty for an artifact that is no run''s',
    model_id     String COMMENT 'empty for an artifact that is no logged model''s',
    store_path   String CODEC(ZSTD(1)),
    path         String COMMENT 'below the artifacts of its owner' CODEC(ZSTD(1)),
    size         UInt64 COMMENT 'bytes',
    sha256       FixedString(32),
    content_type LowCardinality(String),
    actor        LowCardinality(String),
    uploaded_at  DateTime64(6, 'UTC'),
    deleted      UInt8,
    shard        UInt16,
    seq          UInt64,
    INDEX seq_range (shard, seq) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(seq, deleted)
ORDER BY (run_id, model_id, store_path)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
