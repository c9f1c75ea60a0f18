SELECT max(seq) AS last FROM {table:Identifier} WHERE seq >= {from:UInt64}
