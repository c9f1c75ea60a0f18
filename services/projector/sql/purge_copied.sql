ALTER TABLE {table:Identifier} DELETE WHERE run_id IN {runs:Array(UUID)} SETTINGS mutations_sync = 0
