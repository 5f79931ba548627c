"""Base class of tokenizations.

Shapes: b windows, L bases of a window, T tokens of a window, V tokens of the vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ldarnet import alphabet

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FIRST = alphabet.VOCAB_SIZE
"""Id of the first token of several bases; the ids below are those of :mod:`ldarnet.alphabet`."""
MAX_VOCAB = 2**16 + FIRST

RandomBits = Callable[[int, np.ndarray], np.ndarray]
"""Maps the index of a window and positions in it to 64 random bits for each position, (n,) uint64."""


class Tokenization(ABC):
    """Tokens of one or several bases. Every base of a sequence belongs to exactly one token.

    Ids 0 to 6 are A, C, G, T, N, [MASK] and [PAD], as in models that read bases; tokens of several bases follow.

    Attributes:
        method: name in the configuration.
        keys: names of the other settings.
        tokens: the tokens by id.
        lengths: (V,) int64, number of bases of each token; 0 for [MASK] and [PAD]. N may stand for more than one base.
        composition: (V, 4) int64, number of A, C, G and T of each token.
    """

    method: ClassVar[str]
    keys: ClassVar[tuple[str, ...]]

    def __init__(self, words: Sequence[str]) -> None:
        """Build the vocabulary; ``words`` are the tokens of several bases, in the order of their ids."""
        self.tokens = (*alphabet.TOKENS, *words)
        self.lengths = np.array([len(token) if token.isalpha() else 0 for token in self.tokens])
        self.composition = np.array([[token.count(base) for base in "ACGT"] for token in self.tokens])
        self.composition[alphabet.N : FIRST] = 0

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id."""
        return {token: number for number, token in enumerate(self.tokens)}

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings that :func:`ldarnet.tokenization.tokenization` builds this tokenization from."""

    @classmethod
    @abstractmethod
    def of_vocabulary(cls, tokens: Sequence[str], merges: Sequence[Any] | None) -> "Tokenization | None":
        """Build the tokenization that may have these tokens; None if they are not of this kind."""

    @abstractmethod
    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Tokenize the bases of a sequence, (L,) uint8 without [MASK] and [PAD]; returns token ids, (T,) int32."""

    def encoded_lengths(self, ids: np.ndarray) -> np.ndarray:
        """Number of bases of each token of a sequence, (T,); arguments as in `encode`."""
        return self.lengths[self.encode(ids)]

    @abstractmethod
    def mask(self, inputs: np.ndarray, labels: np.ndarray, bits: RandomBits) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize masked windows.

        Args:
            inputs: (b, L) uint8, the masked bases.
            labels: (b, L) int8, the true base at target positions, -100 elsewhere.
            bits: source of random tokens.

        Returns:
            Masked token ids, (b, T) int32, with [PAD] after the last token of a window; and labels, (b, T) int32, the
            true token at targets, -100 elsewhere.
        """

    @abstractmethod
    def token_count(self, length: int) -> int | None:
        """Number of tokens of ``length`` bases; None if it depends on the sequence."""

    @abstractmethod
    def backend(self) -> "Tokenizer":
        """Tokenizer of the Hugging Face library with the same tokens."""


def hugging_face(model: Any, pattern: str) -> "Tokenizer":
    """Tokenizer of the Hugging Face library that applies ``model`` to every match of ``pattern``.

    Lowercase a, c, g and t are converted to uppercase.
    """
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(base.lower(), base) for base in "ACGT"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer
