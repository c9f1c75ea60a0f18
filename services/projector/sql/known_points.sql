SELECT run_id, CAST(key, 'String') AS metric, step, timestamp,
       multiIf(isNaN(value), {nan:UInt64}, value = 0, 0, reinterpretAsUInt64(value)) AS bits
FROM metrics
WHERE (run_id, key, step, timestamp) IN (SELECT run_id, key, step, timestamp FROM wanted)
  AND (run_id, key, step, timestamp, bits) IN (SELECT run_id, key, step, timestamp, bits FROM wanted)
