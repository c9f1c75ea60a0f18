SELECT experiment_id, name, artifact_location, CAST(lifecycle, 'Int8') AS lifecycle_number, creation_time, last_update_time, tags, seq
FROM experiments FINAL
WHERE experiment_id IN (SELECT experiment_id FROM wanted)
