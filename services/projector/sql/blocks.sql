SELECT concat(table, '/', splitByChar('/', path)[-3]) AS directory, toUInt64(min_block_number) AS low, toUInt64(max_block_number) AS high
FROM system.parts
WHERE database = currentDatabase() AND active AND table IN {tables:Array(String)}
ORDER BY directory, low
