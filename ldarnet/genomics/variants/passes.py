"""Forward passes over both alleles and both strands, which all scores of a variant share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldarnet import alphabet
from ldarnet.errors import UserError
from ldarnet.genomics.boundaries import Placed, placed_boundaries
from ldarnet.genomics.forward import run_model
from ldarnet.genomics.variants.alleles import AllelePair
from ldarnet.model import LDARNetForMaskedLM


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model computes for a window of L bases on one strand, at positions on the forward strand.

    Attributes:
        log_probabilities: (L, 4) float64, of A, C, G and T of the forward strand, in nats.
        hidden: (L, D) float, final hidden states.
        boundaries: boundaries of each stage, outermost first.
    """

    log_probabilities: Tensor
    hidden: Tensor
    boundaries: list[Placed]


Strands = tuple[Reading, Reading]
"""Readings of the forward strand and of the reverse complement."""


@dataclass(frozen=True, slots=True)
class Readings:
    """All that a score may use.

    Attributes:
        config: configuration of the model.
        pair: the windows.
        ref: readings of the window with the reference allele.
        alt: readings of the window with the alternate allele.
        masked: readings of the window with the changed bases masked; None for insertions and deletions.
    """

    config: Any
    pair: AllelePair
    ref: Strands
    alt: Strands
    masked: Strands | None


def read_pairs(model: LDARNetForMaskedLM, pairs: Sequence[AllelePair]) -> list[Readings]:
    """Run a model on both alleles of a batch of variants.

    Raises:
        UserError: a result is NaN or infinite.
    """
    substitutions = [index for index, pair in enumerate(pairs) if pair.is_substitution]
    ref = _both_strands(model, [pair.ref for pair in pairs])
    alt = _both_strands(model, [pair.alt for pair in pairs])
    masked = dict(zip(substitutions, _both_strands(model, [_masked(pairs[i]) for i in substitutions]), strict=True))
    return [Readings(model.config, pair, ref[i], alt[i], masked.get(i)) for i, pair in enumerate(pairs)]


def _masked(pair: AllelePair) -> np.ndarray:
    ids = pair.ref.copy()
    ids[pair.changed()] = alphabet.MASK
    return ids


def _both_strands(model: LDARNetForMaskedLM, batch: Sequence[np.ndarray]) -> list[Strands]:
    if not batch:
        return []
    forward, reverse = (_read(model, batch, reverse=reverse) for reverse in (False, True))
    return list(zip(forward, reverse, strict=True))


def _read(model: LDARNetForMaskedLM, batch: Sequence[np.ndarray], *, reverse: bool) -> list[Reading]:
    if reverse:
        batch = [alphabet.reverse_complement(ids) for ids in batch]
    output = run_model(model, batch)
    boundaries = placed_boundaries(output, batch, reverse=reverse)
    readings = []
    for row, ids in enumerate(batch):
        logs = output.logits[row, : len(ids), : alphabet.N].double().log_softmax(1)
        hidden = output.last_hidden_state[row, : len(ids)]
        if not torch.isfinite(logs).all() or not torch.isfinite(hidden).all():
            raise UserError("a result of the model is NaN or infinite; choose another model or checkpoint")
        if reverse:
            logs, hidden = logs.flip(0, 1), hidden.flip(0)  # the complements of A, C, G, T are T, G, C, A
        readings.append(Reading(logs, hidden, boundaries[row]))
    return readings
