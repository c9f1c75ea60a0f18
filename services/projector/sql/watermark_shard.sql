SELECT max(seq) AS last FROM {table:Identifier} WHERE shard = {shard:UInt16} AND seq >= {from:UInt64}
