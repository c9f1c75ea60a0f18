SELECT run_id, CAST(key, 'String') AS metric, step, timestamp, value, seq
FROM latest_metrics FINAL
WHERE experiment_id IN (SELECT experiment_id FROM wanted) AND run_id IN (SELECT run_id FROM wanted)
