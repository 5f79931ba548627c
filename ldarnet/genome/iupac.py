"""Nucleotide codes."""

IUPAC_CODES = b"ACGTUNRYKMSWBDHV"
"""The nucleotide codes of IUPAC, upper case."""
