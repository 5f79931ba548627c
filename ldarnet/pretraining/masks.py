"""Targets of training and validation: masks as configured by the sections `data` and `validation`, or next bases."""

from collections.abc import Mapping

from ldarnet.config import RunConfig
from ldarnet.data import Masking, NextBase
from ldarnet.tokenization import Tokenization

MASK_SEED = 0
"""Seed of validation masks; does not depend on `run.seed`, so that losses are comparable across seeds."""


NEXT = "next"
"""Name of the targets of a causal model in validation."""


def training_masking(config: RunConfig, tokenizer: Tokenization | None = None) -> Masking | NextBase:
    """Targets of training windows, as bases or as tokens: masked positions, or next bases if the model is causal."""
    data = config.data
    if config.model.causal:
        return NextBase(tokenizer)
    return Masking(data.mask_rate, data.mask_share, data.random_share, config.run.seed, data.mask_span, tokenizer)


def validation_maskings(config: RunConfig, tokenizer: Tokenization | None = None) -> Mapping[str, Masking | NextBase]:
    """Targets of validation windows, as bases or as tokens, by name: `span1` for masks of single bases.

    The only targets of a causal model are named `next`. The metrics of the first one select the best checkpoint.
    """
    if config.model.causal:
        return {NEXT: NextBase(tokenizer)}
    data, validation = config.data, config.validation
    rate = data.mask_rate if validation.mask_rate is None else validation.mask_rate
    spans = validation.mask_spans or [data.mask_span]
    shares = data.mask_share, data.random_share
    return {f"span{span}": Masking(rate, *shares, MASK_SEED, span, tokenizer) for span in spans}
