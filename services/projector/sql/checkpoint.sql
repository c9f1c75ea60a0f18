SELECT seq, incarnation FROM checkpoints WHERE stream = {stream:String} ORDER BY seq DESC LIMIT 1
