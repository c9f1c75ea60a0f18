SELECT count() AS points, min(step) AS low, max(step) AS high
FROM metrics
WHERE run_id = {run:UUID} AND key = {key:String}
