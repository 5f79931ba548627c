"""Masks of training and validation, as configured by the sections `data` and `validation`."""

from ldarnet.config import RunConfig
from ldarnet.data import Masking
from ldarnet.tokenization import Tokenization

MASK_SEED = 0
"""Seed of validation masks; does not depend on `run.seed`, so that losses are comparable across seeds."""


def training_masking(config: RunConfig, tokenizer: Tokenization | None = None) -> Masking:
    """Masking of training windows, as bases or as tokens."""
    data = config.data
    return Masking(data.mask_rate, data.mask_share, data.random_share, config.run.seed, data.mask_span, tokenizer)


def validation_maskings(config: RunConfig, tokenizer: Tokenization | None = None) -> dict[str, Masking]:
    """Maskings of validation windows, as bases or as tokens, by name: `span1` for masks of single bases.

    The metrics of the first one select the best checkpoint.
    """
    data, validation = config.data, config.validation
    rate = data.mask_rate if validation.mask_rate is None else validation.mask_rate
    spans = validation.mask_spans or [data.mask_span]
    shares = data.mask_share, data.random_share
    return {f"span{span}": Masking(rate, *shares, MASK_SEED, span, tokenizer) for span in spans}
