"""Sequence files and intervals: FASTA, 2bit, BED, interval arithmetic. Independent of shards and models."""
