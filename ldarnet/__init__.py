"""LDARNet: DNA language models with learned tokenization."""

from typing import TYPE_CHECKING, Any

from ldarnet.version import __version__

if TYPE_CHECKING:
    from ldarnet.model import (
        DNATokenizer,
        LDARNetConfig,
        LDARNetForCausalLM,
        LDARNetForMaskedLM,
        LDARNetForSequenceClassification,
        LDARNetForTokenClassification,
        LDARNetModel,
        load_published_checkpoint,
        save_published_checkpoint,
    )

__all__ = [
    "DNATokenizer",
    "LDARNetConfig",
    "LDARNetForCausalLM",
    "LDARNetForMaskedLM",
    "LDARNetForSequenceClassification",
    "LDARNetForTokenClassification",
    "LDARNetModel",
    "__version__",
    "load_published_checkpoint",
    "save_published_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import `ldarnet.model` on first access to one of its names.

    It imports transformers, which takes seconds. Building shard sets does not need it.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldarnet import model

    return getattr(model, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
