"""The Hugging Face tokenizer: one token per base, no special tokens around a sequence."""

from __future__ import annotations

import re
import warnings
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from ldarnet import alphabet

_NON_IUPAC = re.compile("[^ACGTNRYSWKMBDHV]", re.IGNORECASE)
_SPECIAL_TOKENS = re.compile(r"\[(MASK|PAD)\]")


def _build_tokenizer() -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate(alphabet.TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=alphabet.TOKENS[alphabet.N]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(base.lower(), base) for base in "ACGT"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


class DNATokenizer(PreTrainedTokenizerFast):
    """DNA tokenizer with the vocabulary of :mod:`ldarnet.alphabet`, ids 0 to 6.

    Lowercase a, c, g and t are converted to uppercase; every other character becomes N, with a warning if it is not an
    IUPAC nucleotide code. Decoding always keeps N; data collators never mask it.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, **kwargs: Any) -> None:
        """Build the tokenizer; the vocabulary is fixed."""
        if not {"tokenizer_object", "tokenizer_file"} & kwargs.keys():
            kwargs["tokenizer_object"] = _build_tokenizer()
        special = {
            "mask_token": alphabet.TOKENS[alphabet.MASK],
            "pad_token": alphabet.TOKENS[alphabet.PAD],
        }
        super().__init__(**(special | {"padding_side": "right"} | kwargs))

    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> BatchEncoding:
        encoded = super()._encode_plus(text, *arguments, **options)
        for sequence in [text] if isinstance(text, str) else text:
            if isinstance(sequence, str) and (unknown := _NON_IUPAC.search(_SPECIAL_TOKENS.sub("", sequence))):
                hint = "convert U to T" if unknown[0] in "Uu" else "is this DNA?"
                warnings.warn(f"{unknown[0]!r} is not a nucleotide code and was replaced by N; {hint}", stacklevel=3)
        return encoded

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 for N, [MASK] and [PAD], which are never prediction targets, and 0 for A, C, G and T."""
        return [int(token >= alphabet.N) for token in [*token_ids_0, *(token_ids_1 or [])]]
