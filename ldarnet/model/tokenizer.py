"""The Hugging Face tokenizer: one token per base or per group of bases, no special tokens around a sequence."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models
from transformers import BatchEncoding, PreTrainedTokenizerFast

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.model.integrity import HINT, check_saved, update_manifest
from ldarnet.tokenization import tokenization, tokenization_of
from ldarnet.tokenization.base import hugging_face

VOCABULARY = {token: index for index, token in enumerate(alphabet.TOKENS)}
_NON_IUPAC = re.compile("[^ACGTNRYSWKMBDHV]", re.IGNORECASE)
_SPECIAL_TOKENS = re.compile(r"\[(MASK|PAD)\]")


def _build_tokenizer() -> Tokenizer:
    return hugging_face(models.WordLevel(VOCABULARY, unk_token=alphabet.TOKENS[alphabet.N]), r"[\s\S]")


class DNATokenizer(PreTrainedTokenizerFast):
    """DNA tokenizer with the vocabulary of :mod:`ldarnet.alphabet`, ids 0 to 6.

    Lowercase a, c, g and t are converted to uppercase; every other character becomes N, with a warning if it is not an
    IUPAC nucleotide code. Decoding keeps N even with ``skip_special_tokens``; data collators never mask N.

    The tokenizer of a model that reads groups of bases (``config.tokenizer``) has their tokens after these ids. There,
    N may stand for several bases.
    """

    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, **kwargs: Any) -> None:
        """Build the tokenizer of models that read bases; see also `of`."""
        if not {"tokenizer_object", "tokenizer_file"} & kwargs.keys():
            vocabulary = kwargs.pop("vocab", None)  # of a tokenizer.json that transformers loads
            merges = kwargs.pop("merges", None)
            several = isinstance(vocabulary, dict) and len(vocabulary) > len(VOCABULARY)
            kwargs["tokenizer_object"] = (
                tokenization_of(vocabulary, merges).backend() if several else _build_tokenizer()
            )
        special = {
            "mask_token": alphabet.TOKENS[alphabet.MASK],
            "pad_token": alphabet.TOKENS[alphabet.PAD],
        }
        super().__init__(**(special | {"padding_side": "right"} | kwargs))

    @classmethod
    def of(cls, config: Any) -> DNATokenizer:
        """Build the tokenizer of a model from its configuration."""
        if config.tokenizer is None:
            return cls()
        return cls(tokenizer_object=tokenization(config.tokenizer).backend())

    @classmethod
    def convert_to_native_format(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read tokenizer.json as transformers does, and also the merges of a byte-pair encoding."""
        options = super().convert_to_native_format(*args, **kwargs)
        vocabulary, file = options.get("vocab"), kwargs.get("tokenizer_file")
        if file is not None and isinstance(vocabulary, dict) and len(vocabulary) > len(VOCABULARY):
            from ldarnet.model.saved import read_merges

            options["merges"] = read_merges(Path(file), hint=HINT)
        return options

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, verify: bool | None = None, **kwargs: Any
    ) -> Any:
        """Load a tokenizer as `PreTrainedTokenizerFast.from_pretrained` does, and check its files.

        Args:
            pretrained_model_name_or_path: folder, or name on the Hugging Face Hub.
            args: passed to `PreTrainedTokenizerFast.from_pretrained`.
            verify: whether to compare the files with the manifest of the folder, if there is one. The default is False
                if the environment variable `LDARNET_VERIFY` is 0, and True otherwise.
            kwargs: passed to `PreTrainedTokenizerFast.from_pretrained`.

        Raises:
            UserError: a file does not match the manifest or is malformed, or the vocabulary is not that of the model in
                the folder; without a model, not one of LDARNet.
        """
        folder = check_saved(pretrained_model_name_or_path, kwargs.get("subfolder"), verify)
        if folder is None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        from ldarnet.model.saved import check_tokenizer

        check_tokenizer(folder, VOCABULARY, hint=HINT)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError:  # no such file
            raise
        except Exception as error:  # many types, some of them from the Rust library
            reason = str(error).partition("\n")[0]
            raise UserError(f"{folder}: not a valid tokenizer ({reason[:200]}); {HINT}") from None

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        """Save as `PreTrainedTokenizerFast.save_pretrained` does; if the folder has a manifest, rewrite it."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        update_manifest(Path(save_directory))
        return files

    def _convert_token_to_id_with_added_voc(self, token: str) -> Any:
        if len(token) == 1:  # as in encoding: lowercase is accepted, and any other character is N
            return VOCABULARY.get(token.upper() if token in "acgt" else token, alphabet.N)
        return super()._convert_token_to_id_with_added_voc(token)

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
        """Return 1 for N, [MASK] and [PAD], which are never prediction targets, and 0 for other tokens."""
        return [int(alphabet.N <= token <= alphabet.PAD) for token in [*token_ids_0, *(token_ids_1 or [])]]
