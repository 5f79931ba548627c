"""Masked log-likelihood ratio."""

from __future__ import annotations

import math

import torch

from ldarnet.genomics.variants.alleles import AllelePair
from ldarnet.genomics.variants.passes import Readings, Strands
from ldarnet.genomics.variants.score import VariantScore


def log_ratio(pair: AllelePair, strands: Strands) -> float:
    """Log-probability of ALT minus that of REF, summed over the changed bases; mean of both strands."""
    at = pair.changed()
    columns = torch.from_numpy(pair.alt[at].astype("int64")), torch.from_numpy(pair.ref[at].astype("int64"))
    rows = torch.from_numpy(at)
    ratios = []
    for strand in strands:
        logs = strand.log_probabilities.cpu()
        ratios.append(float((logs[rows, columns[0]] - logs[rows, columns[1]]).sum()))
    return sum(ratios) / len(ratios)


def _masked_llr(readings: Readings) -> float:
    return math.nan if readings.masked is None else log_ratio(readings.pair, readings.masked)


SCORE = VariantScore(
    "llr",
    "LDAR_LLR",
    "Float",
    "Masked log-likelihood ratio in nats: log p(ALT) - log p(REF) with the changed bases masked; negative if the model "
    "prefers REF; mean of both strands; substitutions only",
    _masked_llr,
    larger_effect="lower",
)
