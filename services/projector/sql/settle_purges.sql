KILL QUERY WHERE query_id LIKE {pattern:String} SYNC FORMAT Null
