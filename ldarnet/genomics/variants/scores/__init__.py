"""Scores of variants, one per module; see `ldarnet.genomics.variants.score`."""
