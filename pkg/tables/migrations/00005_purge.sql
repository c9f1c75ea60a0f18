-- +goose NO TRANSACTION
-- +goose Up

-- What is purged keeps one row, so that the greatest sequence of the table stays
-- what it was: without names and values, and with the place of its artifacts
-- until those are purged too. Readers leave it out.
ALTER TABLE runs MODIFY COLUMN lifecycle Enum8('active' = 1, 'deleted' = 2, 'purged' = 3);

ALTER TABLE experiments MODIFY COLUMN lifecycle Enum8('active' = 1, 'deleted' = 2, 'purged' = 3);

ALTER TABLE logged_models MODIFY COLUMN lifecycle Enum8('active' = 1, 'deleted' = 2, 'purged' = 3);
