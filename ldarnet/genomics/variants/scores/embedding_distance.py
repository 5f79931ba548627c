"""Distance between the hidden states of both alleles."""

from __future__ import annotations

import torch

from ldarnet.genomics.variants.passes import Readings
from ldarnet.genomics.variants.score import VariantScore


def _embedding_distance(readings: Readings) -> float:
    at_ref, at_alt = (torch.from_numpy(at) for at in readings.pair.aligned())
    distances = []
    for ref, alt in zip(readings.ref, readings.alt, strict=True):
        device = ref.hidden.device
        difference = alt.hidden[at_alt.to(device)].double() - ref.hidden[at_ref.to(device)].double()
        distances.append(float(difference.norm()))
    return sum(distances) / len(distances)


SCORE = VariantScore(
    "embedding_distance",
    "LDAR_DISTANCE",
    "Float",
    "Euclidean distance between the final hidden states with ALT and with REF over all bases of the window; without "
    "the inserted or deleted bases; 0 if equal; mean of both strands",
    _embedding_distance,
)
