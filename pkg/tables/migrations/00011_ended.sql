-- +goose NO TRANSACTION
-- +goose Up

-- Whether a run has an end time, which may be 0. Rows of older builds do not tell a
-- run that was ended at 0 from one that has no end: it has none until the tables are
-- built again.
ALTER TABLE runs ADD COLUMN IF NOT EXISTS ended Bool DEFAULT end_time != 0 COMMENT 'the run has an end time' AFTER end_time;

ALTER TABLE runs COMMENT COLUMN end_time 'milliseconds since the Unix epoch, 0 while there is none: see ended';
