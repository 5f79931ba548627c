"""Sequence files and intervals: FASTA, 2bit, BED, interval arithmetic. Knows nothing of shards or models."""
