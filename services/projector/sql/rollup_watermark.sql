SELECT block AS rolled, version
FROM metric_rollups
WHERE run_id = {run:UUID} AND key = {key:String} AND width = 0
ORDER BY version DESC, block DESC
LIMIT 1
