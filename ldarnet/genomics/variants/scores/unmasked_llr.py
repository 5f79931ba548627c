"""Log-likelihood ratio without masking."""

from __future__ import annotations

import math

from ldarnet.genomics.variants.passes import Readings
from ldarnet.genomics.variants.score import VariantScore
from ldarnet.genomics.variants.scores.masked_llr import log_ratio


def _unmasked_llr(readings: Readings) -> float:
    return log_ratio(readings.pair, readings.ref) if readings.pair.is_substitution else math.nan


SCORE = VariantScore(
    "llr_unmasked",
    "LDAR_LLR_UNMASKED",
    "Float",
    "Unmasked log-likelihood ratio in nats: log p(ALT) - log p(REF) where the model reads REF; negative if the model "
    "prefers REF; mean of both strands; substitutions only",
    _unmasked_llr,
    larger_effect="lower",
)
