"""The Hugging Face tokenizer: one token a base, no tokens added around a sequence."""

from __future__ import annotations

import re
import warnings
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import BatchEncoding, PreTrainedTokenizerFast

from ldarnet import alphabet

_STRANGE = re.compile("[^ACGTNRYSWKMBDHV]", re.IGNORECASE)
_IN_BRACKETS = re.compile(r"\[(MASK|PAD)\]")


def _one_token_a_base() -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate(alphabet.TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=alphabet.TOKENS[alphabet.N]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(base.lower(), base) for base in "ACGT"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


class DNATokenizer(PreTrainedTokenizerFast):
    """Letters to ids 0..6 as in :mod:`ldarnet.alphabet`: lower case is read as upper case, other letters as N.

    N is a letter like the others, which decoding keeps; data collators that ask for special tokens leave it unmasked.
    Letters that are no code of IUPAC for a base or several become N with a warning.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, **kwargs: Any) -> None:
        """Build the tokenizer; it takes no vocabulary, since the alphabet is fixed."""
        if not {"tokenizer_object", "tokenizer_file"} & kwargs.keys():
            kwargs["tokenizer_object"] = _one_token_a_base()
        special = {
            "mask_token": alphabet.TOKENS[alphabet.MASK],
            "pad_token": alphabet.TOKENS[alphabet.PAD],
        }
        super().__init__(**(special | {"padding_side": "right"} | kwargs))

    def _encode_plus(self, text: Any, *arguments: Any, **options: Any) -> BatchEncoding:
        encoded = super()._encode_plus(text, *arguments, **options)
        for sequence in [text] if isinstance(text, str) else text:
            if isinstance(sequence, str) and (strange := _STRANGE.search(_IN_BRACKETS.sub("", sequence))):
                remedy = "write T for U, as in DNA" if strange[0] in "Uu" else "is this DNA?"
                warnings.warn(f"{strange[0]!r} is no letter of DNA and is read as N; {remedy}", stacklevel=3)
        return encoded

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 where no base is to be predicted: at N, [MASK] and [PAD]; 0 at A, C, G and T."""
        return [int(token >= alphabet.N) for token in [*token_ids_0, *(token_ids_1 or [])]]
