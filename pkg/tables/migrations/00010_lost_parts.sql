-- +goose NO TRANSACTION
-- +goose Up

-- What the parts of all tables held when the checkpoint was written: parts that are
-- lost are noticed by it, see the projector. Empty in those of older builds.
ALTER TABLE checkpoints ADD COLUMN IF NOT EXISTS parts String COMMENT 'block numbers by table, as JSON' CODEC(ZSTD(1));

-- A part whose rows are all deleted stays: without it, its blocks would seem lost.
-- Parts that cannot be read are set aside when the table is loaded, whatever their
-- number and size, so that the table can be rebuilt.
ALTER TABLE metrics MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE latest_metrics MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE run_attributes MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE runs MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE experiments MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE audit MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE checkpoints MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE logged_models MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE logged_model_metrics MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE run_datasets MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE run_models MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE artifacts MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;

ALTER TABLE metric_rollups MODIFY SETTING remove_empty_parts = 0, max_suspicious_broken_parts = 1000000000, max_suspicious_broken_parts_bytes = 1000000000000000;
