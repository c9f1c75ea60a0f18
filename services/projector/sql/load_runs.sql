SELECT experiment_id, run_id, name, user_id, CAST(status, 'Int8') AS status_number, start_time, end_time, ended, artifact_uri,
       CAST(lifecycle, 'Int8') AS lifecycle_number, deleted_time, seq
FROM runs FINAL
WHERE (experiment_id, run_id) IN (SELECT experiment_id, run_id FROM wanted)
