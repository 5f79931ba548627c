"""Per-base probabilities of models that predict k-mers.

Shapes: n positions, V tokens, k bases of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ldarnet.tokenization.base import FIRST


def base_log_probabilities(logits: Tensor, k: int) -> Tensor:
    """Marginalize the predicted distribution over k-mers to one distribution over A, C, G and T per base.

    Other tokens are excluded: probabilities are conditional on the token being a k-mer.

    Args:
        logits: (n, V) of :class:`ldarnet.tokenization.kmers.Kmers`.
        k: bases per token.

    Returns:
        Log-probabilities, (n, k, 4).
    """
    logs = logits[:, FIRST:].log_softmax(-1)
    bases = [logs.view(len(logs), 4**base, 4, 4 ** (k - 1 - base)).logsumexp((1, 3)) for base in range(k)]
    return torch.stack(bases, dim=1)


def bases_of(tokens: Tensor, k: int) -> Tensor:
    """Bases of k-mer tokens, (n,) to (n, k)."""
    powers = 4 ** torch.arange(k - 1, -1, -1, device=tokens.device)
    return (tokens[:, None] - FIRST) // powers % 4
