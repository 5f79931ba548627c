"""LDARNet: DNA models that learn their own tokens, and the system that trains them."""

from typing import TYPE_CHECKING, Any

from ldarnet.version import __version__

if TYPE_CHECKING:
    from ldarnet.model import (
        DNATokenizer,
        LDARNetConfig,
        LDARNetForMaskedLM,
        LDARNetForSequenceClassification,
        LDARNetModel,
        load_published_checkpoint,
        save_published_checkpoint,
    )

__all__ = [
    "DNATokenizer",
    "LDARNetConfig",
    "LDARNetForMaskedLM",
    "LDARNetForSequenceClassification",
    "LDARNetModel",
    "__version__",
    "load_published_checkpoint",
    "save_published_checkpoint",
]


def __getattr__(name: str) -> Any:
    """What is of the model is imported when it is asked for: transformers takes seconds, and shards need none of it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ldarnet import model

    return getattr(model, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
