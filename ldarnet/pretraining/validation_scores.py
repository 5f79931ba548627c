"""Loss and accuracy sums over the validation windows, for models that read bases and for models that read tokens."""

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ldarnet import alphabet
from ldarnet.model.token_losses import base_log_probabilities, bases_of
from ldarnet.ops import to_device
from ldarnet.tokenization import Tokenization
from ldarnet.tokenization.kmers import Kmers

BASES = (alphabet.A, alphabet.C, alphabet.G, alphabet.T)


class ValidationScores(Protocol):
    """Sums over validation windows.

    Attributes:
        sums: float64 on the device; add up the sums of all ranks before calling `metrics`.
    """

    sums: Tensor

    def add(self, losses: Tensor, logits: Tensor, input_ids: Tensor, labels: Tensor) -> None:
        """Add a batch of B windows of L positions.

        Args:
            losses: (B, L) float64, loss of each position in nats.
            logits: (B, L, V).
            input_ids: (B, L), the masked input.
            labels: (B, L), true id at targets, otherwise -100.
        """

    def metrics(self, sums: Tensor, bases: int) -> dict[str, Any]:
        """Compute metrics from the global sums and the number of bases in all windows."""


def scores_of(tokenizer: Tokenization | None, device: torch.device, *, causal: bool = False) -> ValidationScores:
    """Scores of a model that reads these tokens; None for bases."""
    if causal:
        return _NextScores(tokenizer, device)
    if tokenizer is None:
        return _BaseScores(device)
    return _KmerScores(tokenizer, device) if isinstance(tokenizer, Kmers) else _TokenScores(tokenizer, device)


def _loss_metrics(masked: float, copied: float, masked_bases: list[float], copied_bases: float) -> dict[str, Any]:
    """Metrics of losses summed over masked and over unmasked targets, per target base.

    Args:
        masked: loss over masked targets.
        copied: loss over unmasked targets.
        masked_bases: number of A, C, G and T of the masked targets.
        copied_bases: number of bases of the unmasked targets.
    """
    scored = sum(masked_bases)
    mask_loss = masked / max(scored, 1)
    return {
        "mlm_loss": (masked + copied) / max(scored + copied_bases, 1),
        "mask_loss": mask_loss,
        "bits_per_masked_base": mask_loss / math.log(2),
        "copy_loss": copied / max(copied_bases, 1),
        "composition_loss": _entropy(masked_bases),
        "scored": int(scored + copied_bases),
    }


def _entropy(counts: list[float]) -> float:
    """Entropy in nats of a distribution given by counts; 0 without counts."""
    total = sum(counts)
    return -sum(number * math.log(number / total) for number in counts if number) / max(total, 1)


def _masked(input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions of masked targets and of unmasked targets."""
    target, masked = labels != alphabet.IGNORE_INDEX, input_ids == alphabet.MASK
    return target & masked, target & ~masked


class _BaseScores:
    """Scores of a model that reads bases.

    Columns of `sums`: loss over masked targets, loss over unmasked targets, number of unmasked targets, number of
    masked targets that are predicted correctly, and number of masked targets for each of A, C, G, T.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(4 + len(BASES), dtype=torch.float64, device=device)

    def add(self, losses: Tensor, logits: Tensor, input_ids: Tensor, labels: Tensor) -> None:
        masked, copied = _masked(input_ids, labels)
        right = (logits.argmax(-1) == labels) & masked
        bases = [(masked & (labels == base)).sum() for base in BASES]
        sums = [(losses * masked).sum(), (losses * copied).sum(), copied.sum(), right.sum(), *bases]
        self.sums += torch.stack(sums).double()

    def metrics(self, sums: Tensor, bases: int) -> dict[str, Any]:
        masked, copied, copied_bases, right, *masked_bases = sums.tolist()
        losses = _loss_metrics(masked, copied, masked_bases, copied_bases)
        return losses | {"accuracy": right / max(sum(masked_bases), 1)}


class _TokenScores:
    """Scores of a model that reads tokens.

    Columns of `sums`: loss over masked target tokens, loss over unmasked target tokens, number of bases of unmasked
    target tokens, number of masked target tokens, number of them that are predicted correctly, number of tokens, and
    number of A, C, G and T of masked target tokens.
    """

    extra = 0

    def __init__(self, tokenizer: Tokenization, device: torch.device) -> None:
        self.sums = torch.zeros(10 + self.extra, dtype=torch.float64, device=device)
        self._lengths = to_device(torch.from_numpy(tokenizer.lengths), device)
        self._composition = to_device(torch.from_numpy(tokenizer.composition), device)

    def add(self, losses: Tensor, logits: Tensor, input_ids: Tensor, labels: Tensor) -> None:
        masked, copied = _masked(input_ids, labels)
        right = (logits.argmax(-1) == labels) & masked
        composition = (self._composition[labels.clamp(min=0)] * masked[..., None]).sum((0, 1))
        sums = [
            (losses * masked).sum(),
            (losses * copied).sum(),
            (self._lengths[labels.clamp(min=0)] * copied).sum(),
            masked.sum(),
            right.sum(),
            (input_ids != alphabet.PAD).sum(),
            *composition,
            *self._more(logits[masked], labels[masked]),
        ]
        self.sums += torch.stack([value.double() for value in sums])

    def _more(self, logits: Tensor, tokens: Tensor) -> list[Tensor]:
        """More sums over masked target tokens: logits (n, V) and true tokens (n,)."""
        return []

    def metrics(self, sums: Tensor, bases: int) -> dict[str, Any]:
        masked, copied, copied_bases, targets, right, tokens, *masked_bases = sums[:10].tolist()
        losses = _loss_metrics(masked, copied, masked_bases, copied_bases)
        return losses | {"token_accuracy": right / max(targets, 1), "bases_per_token": bases / max(tokens, 1)}


class _KmerScores(_TokenScores):
    """Scores of a model that reads k-mers.

    Additional columns of `sums`: loss of masked bases under the marginalized distributions, and number of masked bases
    that these predict correctly.
    """

    extra = 2

    def __init__(self, tokenizer: Kmers, device: torch.device) -> None:
        super().__init__(tokenizer, device)
        self._k = tokenizer.k

    def _more(self, logits: Tensor, tokens: Tensor) -> list[Tensor]:
        logs, bases = base_log_probabilities(logits.double(), self._k), bases_of(tokens, self._k)
        return [-logs.gather(2, bases[..., None]).sum(), (logs.argmax(-1) == bases).sum()]

    def metrics(self, sums: Tensor, bases: int) -> dict[str, Any]:
        loss, right = sums[10:].tolist()
        masked_bases = max(sums[6:10].sum().item(), 1)
        return super().metrics(sums, bases) | {"marginal_loss": loss / masked_bases, "accuracy": right / masked_bases}


class _NextScores:
    """Scores of a causal model, which predicts the next base or token.

    Columns of `sums`: loss, number of targets, number of targets that are predicted correctly, number of input tokens,
    and number of A, C, G and T of the targets.
    """

    def __init__(self, tokenizer: Tokenization | None, device: torch.device) -> None:
        self.sums = torch.zeros(4 + len(BASES), dtype=torch.float64, device=device)
        composition = torch.eye(len(BASES)) if tokenizer is None else torch.from_numpy(tokenizer.composition)
        self._composition, self._reads_bases = to_device(composition, device), tokenizer is None

    def add(self, losses: Tensor, logits: Tensor, input_ids: Tensor, labels: Tensor) -> None:
        target = labels != alphabet.IGNORE_INDEX
        right = (logits.argmax(-1) == labels) & target
        composition = (self._composition[labels.clamp(min=0)] * target[..., None]).sum((0, 1))
        sums = [losses.sum(), target.sum(), right.sum(), (input_ids != alphabet.PAD).sum(), *composition]
        self.sums += torch.stack([value.double() for value in sums])

    def metrics(self, sums: Tensor, bases: int) -> dict[str, Any]:
        loss, targets, right, tokens, *counts = sums.tolist()
        mean, accuracy = loss / max(sum(counts), 1), right / max(targets, 1)
        metrics = {
            "next_base_loss": mean,
            "bits_per_base": mean / math.log(2),
            "composition_loss": _entropy(counts),
            "scored": int(sum(counts)),
        }
        if self._reads_bases:
            return metrics | {"next_base_accuracy": accuracy}
        return metrics | {"next_token_accuracy": accuracy, "bases_per_token": bases / max(tokens, 1)}
