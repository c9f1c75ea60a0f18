SELECT max(seq) AS last FROM {table:Identifier} WHERE stream = {stream:String} AND seq >= {from:UInt64}
