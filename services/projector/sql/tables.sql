SELECT name, toString(uuid) AS id FROM system.tables WHERE database = currentDatabase() AND name IN {tables:Array(String)}
