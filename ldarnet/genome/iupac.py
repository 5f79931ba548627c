"""IUPAC nucleotide codes."""

IUPAC_CODES = b"ACGTUNRYKMSWBDHV"
"""The IUPAC nucleotide codes, upper case."""
