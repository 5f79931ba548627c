"""Masks of training and validation, as configured by the sections `data` and `validation`."""

from ldarnet.config import RunConfig
from ldarnet.data import Masking

MASK_SEED = 0
"""Seed of validation masks; does not depend on `run.seed`, so that losses are comparable across seeds."""


def training_masking(config: RunConfig) -> Masking:
    """Masking of training windows."""
    data = config.data
    return Masking(data.mask_rate, data.mask_share, data.random_share, config.run.seed, data.mask_span)


def validation_maskings(config: RunConfig) -> dict[str, Masking]:
    """Maskings of validation windows by name, `span1` for masks of single bases.

    The metrics of the first one select the best checkpoint.
    """
    data, validation = config.data, config.validation
    rate = data.mask_rate if validation.mask_rate is None else validation.mask_rate
    spans = validation.mask_spans or [data.mask_span]
    return {f"span{span}": Masking(rate, data.mask_share, data.random_share, MASK_SEED, span) for span in spans}
