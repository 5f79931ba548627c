"""Scores of variants: what a model predicts for the reference and the alternate allele."""
