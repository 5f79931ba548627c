"""Programs that download genomes, and build, verify, summarize and export shard sets."""
