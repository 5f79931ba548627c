"""Non-overlapping k-mers: base p of a sequence belongs to token ``p // k``."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.alphabet import IGNORE_INDEX, MASK, TOKENS, N
from ldarnet.tokenization.base import FIRST, RandomBits, Tokenization, hugging_face

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MAX_K = 8


class Kmers(Tokenization):
    """Non-overlapping k-mers from the start of the sequence.

    A k-mer with a base other than A, C, G and T is one N. The last ``L % k`` bases of a sequence of L bases are tokens
    of one base each, which are never masked.
    """

    method = "kmers"
    keys = ("k",)

    def __init__(self, k: int) -> None:
        """Build the vocabulary of all 4^k k-mers, in lexicographic order.

        Raises:
            ValueError: k is not from 2 to 8.
        """
        if not isinstance(k, int) or not 2 <= k <= MAX_K:
            raise ValueError(f"tokenizer: k must be from 2 to {MAX_K}, not {k!r}")
        super().__init__(["".join(bases) for bases in product("ACGT", repeat=k)])
        self.k = k
        self._powers = 4 ** np.arange(k - 1, -1, -1, dtype=np.int32)

    @property
    def settings(self) -> dict[str, Any]:
        """Method and k."""
        return {"method": self.method, "k": self.k}

    @classmethod
    def of_vocabulary(cls, tokens: Sequence[str], merges: Sequence[Any] | None) -> "Kmers | None":
        """Build the k-mers that may have these tokens; see `Tokenization.of_vocabulary`."""
        k = len(tokens[-1])
        return cls(k) if not merges and 2 <= k <= MAX_K and len(tokens) == FIRST + 4**k else None

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Tokenize a sequence; see `Tokenization.encode`."""
        return self._tokens(ids[None])[0]

    def encoded_lengths(self, ids: np.ndarray) -> np.ndarray:
        """Number of bases of each token; see `Tokenization.encoded_lengths`. N may stand for a whole k-mer."""
        kmers, rest = divmod(len(ids), self.k)
        return np.array([self.k] * kmers + [1] * rest, dtype=np.int64)

    def mask(self, inputs: np.ndarray, labels: np.ndarray, bits: RandomBits) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize masked windows; see `Tokenization.mask`. Masks must cover whole k-mers; ``bits`` are not used."""
        targets = np.full((len(labels), self.token_count(labels.shape[1])), IGNORE_INDEX, dtype=np.int32)
        kmers = self._kmers(labels)
        scored = (kmers != IGNORE_INDEX).all(axis=2)
        targets[:, : scored.shape[1]][scored] = kmers[scored] @ self._powers + FIRST
        return self._tokens(inputs), targets

    def token_count(self, length: int) -> int:
        """Number of tokens of ``length`` bases."""
        return length // self.k + length % self.k

    def backend(self) -> "Tokenizer":
        """Tokenizer of the Hugging Face library with the same tokens."""
        from tokenizers import models

        return hugging_face(models.WordLevel(self.vocabulary, unk_token=TOKENS[N]), rf"[\s\S]{{{self.k}}}|[\s\S]")

    def _kmers(self, ids: np.ndarray) -> np.ndarray:
        """Complete k-mers of windows, (b, L // k, k)."""
        return ids[:, : ids.shape[1] // self.k * self.k].reshape(len(ids), -1, self.k)

    def _tokens(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of windows, (b, T) int32; k-mers of [MASK] are [MASK]."""
        kmers = self._kmers(ids)
        tokens = kmers @ self._powers + FIRST
        tokens[(kmers >= N).any(axis=2)] = N
        tokens[(kmers == MASK).all(axis=2)] = MASK
        rest = ids[:, kmers.shape[1] * self.k :]
        return np.concatenate([tokens, rest], axis=1, dtype=np.int32)
