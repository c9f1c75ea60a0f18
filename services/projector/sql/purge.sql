DELETE FROM {table:Identifier} WHERE run_id IN {runs:Array(UUID)} SETTINGS lightweight_deletes_sync = 0
