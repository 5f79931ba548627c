"""Byte-pair encoding of DNA (Sennrich, Haddow and Birch 2016), through the Hugging Face library `tokenizers`."""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ldarnet.alphabet import IGNORE_INDEX, MASK, PAD, TOKENS, A, N, T, decode
from ldarnet.tokenization.base import FIRST, MAX_VOCAB, RandomBits, Tokenization, hugging_face

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIECE = 64
"""Bases of the pieces that training counts pairs in. Long pieces make training slow: every merge rescans them."""


class BPE(Tokenization):
    """Tokens that arise from merging frequent pairs of neighboring tokens, starting from single bases.

    A base other than A, C, G and T is an N of its own, which no token crosses.
    """

    method = "bpe"
    keys = ("merges",)

    def __init__(self, merges: Sequence[str]) -> None:
        """Build the vocabulary.

        Args:
            merges: pairs of tokens to merge, such as ``"A CG"``, in the order in which they were learned.

        Raises:
            ValueError: a merge is not a pair of known tokens, or there are too many.
        """
        known: dict[str, None] = dict.fromkeys("ACGT")
        self._pairs: list[Any] = [tuple(str(merge).split(" ")) for merge in merges]
        if len(self._pairs) > MAX_VOCAB - FIRST:
            raise ValueError(f"tokenizer: more than {MAX_VOCAB - FIRST:,} merges")
        for pair in self._pairs:
            if len(pair) != 2 or not known.keys() >= set(pair):
                raise ValueError(f"tokenizer: {' '.join(pair)[:80]!r} is not a pair of tokens of earlier merges")
            known["".join(pair)] = None
        super().__init__(list(known)[4:])

    @property
    def settings(self) -> dict[str, Any]:
        """Method and merges."""
        return {"method": self.method, "merges": [" ".join(pair) for pair in self._pairs]}

    @classmethod
    def of_vocabulary(cls, tokens: Sequence[str], merges: Sequence[Any] | None) -> "BPE | None":
        """Build the BPE with these merges; see `Tokenization.of_vocabulary`."""
        if merges is None:
            return None
        return cls([merge if isinstance(merge, str) else " ".join(map(str, merge)) for merge in merges])

    @classmethod
    def train(cls, sequences: Iterable[str], vocab: int) -> "BPE":
        """Learn merges; the result depends only on the arguments.

        Args:
            sequences: nucleotide codes in uppercase.
            vocab: size of the vocabulary, including the seven ids of the alphabet. The result is smaller if no pair is
                left that occurs twice.
        """
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab - FIRST + 4, min_frequency=2, initial_alphabet=list("ACGT"), show_progress=False
        )
        pieces = (" ".join(re.findall(f"[ACGT]{{1,{PIECE}}}", sequence)) for sequence in sequences)
        tokenizer.train_from_iterator(pieces, trainer)
        return cls([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """Tokenize a sequence; see `Tokenization.encode`."""
        return np.array(self._encoder.encode(decode(ids), add_special_tokens=False).ids, dtype=np.int32)

    def starts(self, ids: np.ndarray) -> np.ndarray:
        """Mark the first base of each token of each row, (b, L) bool.

        Args:
            ids: (b, L) token ids of bases; [MASK] and [PAD] are tokens of one position, as N is.
        """
        starts = np.zeros(ids.shape, dtype=bool)
        for row, bases in zip(starts, ids, strict=True):
            lengths = self.lengths[self.encode(bases)]
            row[np.cumsum(lengths) - lengths] = True
        return starts

    def mask(self, inputs: np.ndarray, labels: np.ndarray, bits: RandomBits) -> tuple[np.ndarray, np.ndarray]:
        """Tokenize masked windows; see `Tokenization.mask`.

        A token that overlaps a target is a target as a whole. It is replaced as its first target base is: with [MASK],
        with a random token, or not at all.
        """
        rows = [self._masked_row(*pair, row, bits) for row, pair in enumerate(zip(inputs, labels, strict=True))]
        shape = len(rows), max(len(tokens) for tokens, _ in rows)
        padded = np.full(shape, PAD, dtype=np.int32), np.full(shape, IGNORE_INDEX, dtype=np.int32)
        for number, row in enumerate(rows):
            for array, values in zip(padded, row, strict=True):
                array[number, : len(values)] = values
        return padded

    def token_count(self, length: int) -> int | None:
        """None: the number of tokens depends on the sequence."""
        return None

    def backend(self) -> "Tokenizer":
        """Tokenizer of the Hugging Face library with the same tokens."""
        from tokenizers import models

        model = models.BPE(vocab=self.vocabulary, merges=self._pairs, unk_token=TOKENS[N])
        return hugging_face(model, r"[ACGT]+|[\s\S]")

    @cached_property
    def _encoder(self) -> "Tokenizer":
        return self.backend()

    def _masked_row(
        self, inputs: np.ndarray, labels: np.ndarray, row: int, bits: RandomBits
    ) -> tuple[np.ndarray, np.ndarray]:
        """Masked tokens and labels of a window, (T,) each."""
        target = labels != IGNORE_INDEX
        bases = np.where(target, labels, inputs).astype(np.uint8)
        tokens = self.encode(bases)
        starts = np.cumsum(self.lengths[tokens]) - self.lengths[tokens]
        scored = np.logical_or.reduceat(target, starts)
        # A token may overlap several spans; the first target base decides how it is replaced.
        first = np.minimum.reduceat(np.where(target, np.arange(len(inputs)), len(inputs)), starts)[scored]
        changed = np.logical_or.reduceat((inputs != bases) & (inputs != MASK), starts)[scored]
        masked = inputs[first] == MASK
        drawn = (bits(row, starts[scored]) % np.uint64(len(self.tokens) - FIRST + 4)).astype(np.int32)
        drawn += np.where(drawn > T, FIRST - T - 1, A).astype(np.int32)
        shown = tokens.copy()
        shown[scored] = np.where(masked, MASK, np.where(changed, drawn, tokens[scored]))
        return shown, np.where(scored, tokens, IGNORE_INDEX).astype(np.int32)
