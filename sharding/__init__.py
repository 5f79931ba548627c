"""Programs that download genomes, build shard sets, verify, summarize and export them."""
