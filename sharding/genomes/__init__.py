"""The bundled genome: six chromosomes of baker's yeast; see SOURCE.md beside the sequence."""

from pathlib import Path

BUNDLED_FASTA = Path(__file__).parent / "saccharomyces_cerevisiae" / "S288C_R64-2-1_some_chromosomes.fa.zst"
"""Input of a build if no genome is given."""

BUNDLED_SPLITS = {"valid": ["chrVI"]}
"""Default splits of `BUNDLED_FASTA`."""
