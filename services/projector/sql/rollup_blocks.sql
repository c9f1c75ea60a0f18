INSERT INTO metric_rollups (run_id, key, width, block, version, points, nans, infinities, negatives,
                            first_step, first, last_step, last, min_step, min, max_step, max, sum)
SELECT run_id, key, {width:UInt8}, bitShiftRight(step, {width:UInt8}) AS block, {version:UInt64},
       count(), countIf(isNaN(value)), countIf(value = inf), countIf(value = -inf),
       minIf(step, finite), argMinIf(value, (step, timestamp, value), finite),
       maxIf(step, finite), argMaxIf(value, (step, timestamp, value), finite),
       argMinIf(step, (value, step), finite), minIf(value, finite),
       argMinIf(step, (-value, step), finite), maxIf(value, finite),
       sumIf(value, finite)
FROM (
    SELECT run_id, key, step, timestamp, value, isFinite(value) AS finite
    FROM metrics FINAL
    WHERE run_id = {run:UUID} AND key = {key:String} AND step BETWEEN {low:Int64} AND {high:Int64}
)
GROUP BY run_id, key, block
SETTINGS max_threads = 1
