SELECT seq, incarnation, parts != '' AS recorded FROM checkpoints WHERE stream = {stream:String} ORDER BY seq DESC, written_at DESC LIMIT 1
