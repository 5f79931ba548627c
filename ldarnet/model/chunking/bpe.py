"""Boundaries of a byte-pair encoding."""

from __future__ import annotations

from functools import lru_cache

from ldarnet.model.chunking import Options, register
from ldarnet.model.chunking.given import Finder, GivenBoundaries
from ldarnet.ops import KernelOptions
from ldarnet.tokenization.bpe import BPE


@register("bpe")
class BytePairs(GivenBoundaries):
    """A boundary at the first base of each word of a byte-pair encoding.

    The encoding reads the input of the model, with its masked and random bases. A masked base and N are chunks of
    their own, which no word crosses, so boundaries do not depend on the base that a mask hides. ``target_ratio`` has
    no effect. ``merges`` are the merges of the encoding, as in :class:`ldarnet.tokenization.bpe.BPE`; without merges,
    every base is a chunk.
    """

    OPTIONS = {"merges": list}

    def __init__(self, options: Options, target_ratio: float, width: int, ops: KernelOptions) -> None:
        """Build the method.

        Raises:
            ValueError: a merge is not a pair of known words.
        """
        super().__init__(options, target_ratio, width, ops)
        self.finder(options)

    @classmethod
    def finder(cls, options: Options) -> Finder:
        """Function that finds the first base of each word."""
        merges = options["merges"]
        assert isinstance(merges, list)
        return _encoding(tuple(merges)).starts


@lru_cache(maxsize=8)
def _encoding(merges: tuple[str, ...]) -> BPE:
    return BPE(merges)
