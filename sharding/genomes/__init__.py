"""The genome that comes with the package: some chromosomes of baker's yeast (see SOURCE.md beside the sequence)."""

from pathlib import Path

BUNDLED_FASTA = Path(__file__).parent / "saccharomyces_cerevisiae" / "S288C_R64-2-1_some_chromosomes.fa.zst"
"""Used when no FASTA file is named."""

BUNDLED_SPLITS = {"valid": ["chrVI"]}
"""The chromosome held out of it when no split is named."""
