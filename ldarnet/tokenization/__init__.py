"""Vocabularies of several bases per token, for models that read tokens instead of bases.

Each tokenizer is a file with a `Tokenization` and an entry in `METHODS`. `model.tokenizer.method` selects it.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ldarnet.tokenization.base import Tokenization
from ldarnet.tokenization.bpe import BPE
from ldarnet.tokenization.kmers import Kmers

METHODS: dict[str, type[Tokenization]] = {"kmers": Kmers, "bpe": BPE}
"""Method in `model.tokenizer` and in the `tokenizer` of a config.json -> class."""


def tokenization(settings: Mapping[str, Any]) -> Tokenization:
    """Build the tokenization that settings describe, such as ``{"method": "kmers", "k": 6}``.

    Raises:
        ValueError: unknown method, or settings that are missing, unknown or out of range.
    """
    if settings.get("method") not in METHODS:
        raise ValueError(f"tokenizer: method {settings.get('method')!r} is unknown; choose from {', '.join(METHODS)}")
    return _built(json.dumps(settings, sort_keys=True))


def tokenization_or_bases(settings: Mapping[str, Any] | None) -> Tokenization | None:
    """Build the tokenization of a model with this `tokenizer` in its configuration; None for bases.

    Raises:
        ValueError: see `tokenization`.
    """
    return None if settings is None else tokenization(settings)


def tokenization_of(vocabulary: Mapping[str, int], merges: Sequence[Any] | None = None) -> Tokenization:
    """Find the tokenization with a vocabulary.

    Args:
        vocabulary: token -> id.
        merges: merges of a BPE, pairs of tokens or texts of two tokens; None for other tokenizers.

    Raises:
        ValueError: no tokenization has this vocabulary.
    """
    for kind in METHODS.values():
        found = kind.of_vocabulary(sorted(vocabulary, key=vocabulary.__getitem__), merges)
        if found is not None and found.vocabulary == vocabulary:
            return found
    raise ValueError("not the vocabulary of an LDARNet tokenizer")


@lru_cache(maxsize=8)
def _built(settings: str) -> Tokenization:
    options = json.loads(settings)
    kind = METHODS[options.pop("method")]
    if options.keys() != set(kind.keys):
        raise ValueError(f"tokenizer: keys are {sorted(options)}; {kind.method} takes {', '.join(sorted(kind.keys))}")
    return kind(**options)


__all__ = ["METHODS", "Tokenization", "tokenization", "tokenization_of", "tokenization_or_bases"]
