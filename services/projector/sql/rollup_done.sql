INSERT INTO metric_rollups (run_id, key, width, block, version)
SELECT {run:UUID}, {key:String}, 0, {width:Int64}, {version:UInt64}
