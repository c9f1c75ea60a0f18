SELECT DISTINCT parts FROM checkpoints WHERE parts != ''
