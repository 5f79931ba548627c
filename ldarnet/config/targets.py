"""Checks of the settings that select what a model predicts: masked bases, tokens or next bases."""

from __future__ import annotations

from typing import Any

from ldarnet.config.model import ModelSection
from ldarnet.config.validation import ValidationSection

MASKS = {
    "data": ("mask_rate", "mask_share", "random_share", "mask_span"),
    "validation": ("mask_rate", "mask_spans"),
}
"""Section -> keys of masks."""


def check_tokens(model: ModelSection, data: Any, validation: ValidationSection) -> None:
    """Check that masks consist of whole tokens, if the model reads tokens.

    Raises:
        ValueError: a span is not a multiple of the tokens, or regions are configured.
    """
    if model.tokenizer is None:
        return
    unit = model.tokenizer.span
    spans = {"data.mask_span": [data.mask_span], "validation.mask_spans": validation.mask_spans}
    for key, span in ((key, span) for key, values in spans.items() for span in values if span % unit):
        if model.causal:
            break  # there are no masks
        raise ValueError(
            f"{key}: tokens of {unit} bases are masked as a whole, but the span is {span}; set it to "
            f"{unit} or a multiple of it"
        )
    if validation.regions is not None:
        raise ValueError("validation.regions is not supported for models that read tokens; set it to null")


def check_causal(model: ModelSection, data: Any, validation: ValidationSection) -> None:
    """Check that no masks are configured, if the model is causal.

    Raises:
        ValueError: a key of masks is not the default.
    """
    if not model.causal:
        return
    for name, section in {"data": data, "validation": validation}.items():
        for key in MASKS[name]:
            default = type(section).model_fields[key].get_default(call_default_factory=True)
            if getattr(section, key) != default:
                raise ValueError(
                    f"{name}.{key}: a causal model predicts the next base, and nothing is masked; remove this key, or "
                    "set model.causal=false"
                )
