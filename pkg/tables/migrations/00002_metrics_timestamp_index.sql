-- +goose NO TRANSACTION
-- +goose Up

-- A history is paged by (timestamp, step, value), and the table is ordered by
-- step: the index leaves out what is before and after a page. Timestamps grow
-- with steps, as a rule. Parts that are there already get it in the background.
ALTER TABLE metrics ADD INDEX IF NOT EXISTS timestamp_range timestamp TYPE minmax GRANULARITY 1;

ALTER TABLE metrics MATERIALIZE INDEX timestamp_range;
