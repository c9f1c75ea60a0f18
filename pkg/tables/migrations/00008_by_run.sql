-- +goose NO TRANSACTION
-- +goose Up

-- What a page of runs shows is read by run, and these tables are ordered by key:
-- merges add a copy of the rows in the order of runs. Inserts do not, which would
-- take twice as long with it; parts without the copy are read as they are. FINAL
-- does not use it, so its reader has to look for the newest row. Parts that are
-- there already get it in the background.
ALTER TABLE latest_metrics MODIFY SETTING
    deduplicate_merge_projection_mode = 'rebuild', materialize_projections_on_insert = 0, materialize_projections_on_merge = 1;

ALTER TABLE latest_metrics ADD PROJECTION IF NOT EXISTS by_run
    (SELECT experiment_id, run_id, key, step, timestamp, value, seq ORDER BY run_id, key);

ALTER TABLE latest_metrics MATERIALIZE PROJECTION by_run;

ALTER TABLE run_attributes MODIFY SETTING
    deduplicate_merge_projection_mode = 'rebuild', materialize_projections_on_insert = 0, materialize_projections_on_merge = 1;

ALTER TABLE run_attributes ADD PROJECTION IF NOT EXISTS by_run
    (SELECT experiment_id, run_id, kind, key, value, deleted, seq ORDER BY run_id, kind, key);

ALTER TABLE run_attributes MATERIALIZE PROJECTION by_run;
