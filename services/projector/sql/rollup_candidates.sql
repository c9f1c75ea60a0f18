SELECT run_id, CAST(key, 'String') AS metric
FROM metrics
WHERE shard = {shard:UInt16}
GROUP BY run_id, key
HAVING count() >= {points:UInt64}
SETTINGS optimize_aggregation_in_order = 1, max_threads = 1
