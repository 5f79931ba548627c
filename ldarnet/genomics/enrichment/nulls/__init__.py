"""Null models, one per file or function; `NULLS` lists them."""

from collections.abc import Callable, Sequence

from ldarnet.genomics.enrichment.features import Loci
from ldarnet.genomics.enrichment.nulls.base import NullContext
from ldarnet.genomics.enrichment.nulls.kmers import kmer_regression
from ldarnet.genomics.enrichment.nulls.loci import matched, shifted
from ldarnet.genomics.enrichment.nulls.placements import gaps_permuted, random_boundaries
from ldarnet.genomics.enrichment.nulls.shuffles import dinucleotide_shuffle
from ldarnet.genomics.enrichment.resampling import NullSample

NullModel = Callable[[NullContext, Sequence[Loci]], list[NullSample | None]]

NULLS: dict[str, tuple[str, str, NullModel]] = {
    "shifted": ("probability", "the same loci, moved by 50 to 500 bases", shifted),
    "matched": ("probability", "loci with the same composition within 50 bases, and of the window itself", matched),
    "dinucleotide_shuffle": (
        "probability",
        "the same loci with shuffled bases, which keeps the counts of dinucleotides; the model reads them again",
        dinucleotide_shuffle,
    ),
    "random_boundaries": ("rate", "as many boundaries at random bases", random_boundaries),
    "gaps_permuted": ("rate", "chunks of the same lengths in random order", gaps_permuted),
    "kmer_regression": ("probability", "prediction from the k-mers within 6 bases of a boundary", kmer_regression),
}
"""Null model -> statistic (mean boundary probability, or share of selected boundaries), what it is compared with, and
function that returns a sample for each set of loci."""
