SELECT model_id, name, artifact_uri, model_type, source_run_id, CAST(status, 'Int8') AS status_number,
       CAST(lifecycle, 'Int8') AS lifecycle_number, creation_time, last_update_time, params, tags, seq
FROM logged_models FINAL
WHERE (experiment_id, model_id) IN (SELECT experiment_id, model_id FROM wanted)
