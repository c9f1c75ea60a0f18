SELECT bitShiftRight(step, {width:UInt8}) AS block
FROM metrics
WHERE run_id = {run:UUID} AND key = {key:String} AND seq > {after:UInt64}
GROUP BY block
ORDER BY block
