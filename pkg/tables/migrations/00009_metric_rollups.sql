-- +goose NO TRANSACTION
-- +goose Up

-- Long series, summed up in blocks of 2^width steps: what is drawn of a column is
-- drawn of its blocks. A block is the row of its greatest version, and has every
-- point of the series up to that sequence. The row of width 0 is the series'
-- watermark: its block is the width of the blocks, and all of those have what is up
-- to its version. A block with points behind that is read from metrics.
CREATE TABLE IF NOT EXISTS metric_rollups
(
    run_id     UUID CODEC(ZSTD(1)),
    key        LowCardinality(String) CODEC(ZSTD(1)),
    width      UInt8 COMMENT 'a block has 2^width steps',
    block      Int64 COMMENT 'its steps, less their last width bits' CODEC(DoubleDelta, ZSTD(1)),
    version    UInt64 COMMENT 'sequence in the stream of the shard' CODEC(DoubleDelta, ZSTD(1)),
    points     UInt64 CODEC(ZSTD(1)),
    nans       UInt64 CODEC(ZSTD(1)),
    infinities UInt64 CODEC(ZSTD(1)),
    negatives  UInt64 COMMENT 'negative infinities' CODEC(ZSTD(1)),
    first_step Int64 COMMENT 'this and all below is of the finite values' CODEC(DoubleDelta, ZSTD(1)),
    first      Float64 CODEC(ZSTD(1)),
    last_step  Int64 CODEC(DoubleDelta, ZSTD(1)),
    last       Float64 CODEC(ZSTD(1)),
    min_step   Int64 COMMENT 'of the first of the lowest' CODEC(Delta, ZSTD(1)),
    min        Float64 CODEC(ZSTD(1)),
    max_step   Int64 COMMENT 'of the first of the highest' CODEC(Delta, ZSTD(1)),
    max        Float64 CODEC(ZSTD(1)),
    sum        Float64 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (run_id, key, width, block)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, index_granularity = 1024;
