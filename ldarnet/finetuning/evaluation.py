"""Distributed inference over rows, and metrics of the outputs."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from ldarnet.alphabet import reverse_complement
from ldarnet.finetuning.batches import padded
from ldarnet.ops import to_device
from ldarnet.runtime.distributed import World
from ldarnet.runtime.timers import StepTimers
from ldarnet.tasks.metrics import scores
from ldarnet.tokenization import Tokenization

T = TypeVar("T")
Forward = Callable[[Tensor, Tensor], tuple[Tensor, tuple[Any, ...]]]
"""Maps token ids (device) and mask (host), both (B, L), to outputs (B, width) and router boundaries."""


@dataclass(frozen=True)
class Outputs:
    """Model outputs for n rows, identical on every rank; `ldarnet.finetuning.targets` interprets them.

    Attributes:
        values: (strands, n, width) float32; strand 0 is the sequence as given, strand 1 its reverse complement.
        bases_per_chunk: mean bases per chunk of each router stage, outermost first; empty for models without a router.
        lengths: number of bases of each row if there is one output per base; `values` then has the bases of all rows,
            one row after the other, in the order of strand 0. None if there is one output per row.
    """

    values: np.ndarray
    bases_per_chunk: list[float]
    lengths: list[int] | None = None

    @property
    def log_probabilities(self) -> np.ndarray:
        """Log of the mean probability over strands, (n, classes) float64; `values` must be class logits."""
        by_strand = log_softmax(self.values.astype(np.float64), axis=2)
        return logsumexp(by_strand, axis=0) - np.log(len(by_strand))

    def metrics(self, labels: np.ndarray) -> dict[str, Any]:
        """Compute the mean cross-entropy per row in nats, every registered metric, and bases per chunk."""
        logs = self.log_probabilities
        loss = -float(logs[np.arange(len(labels)), labels].mean())
        return {"loss": loss, **scores(labels, np.exp(logs)), "bases_per_chunk": self.bases_per_chunk}


def best_by(metric: str, fitted: Iterable[tuple[T, dict[str, Any]]]) -> tuple[T, dict[str, Any]]:
    """Select the (model, metrics) pair with the highest `metric`.

    If several pairs have the highest value, the first is selected. Undefined values (None) rank last.
    """
    return max(fitted, key=lambda pair: -math.inf if pair[1][metric] is None else pair[1][metric])


def run_over(
    rows: list[np.ndarray],
    forward: Forward,
    width: int,
    *,
    batch: int,
    strands: int,
    world: World,
    timers: StepTimers,
    tokenizer: Tokenization | None = None,
    per_base: bool = False,
) -> Outputs:
    """Run a model on rows, distributed over ranks. Collective: every rank makes the same number of forward passes.

    Args:
        rows: ids of the bases, (L,) uint8 each; at least one row.
        forward: runs the model on a batch.
        width: size of the last dimension of the outputs.
        batch: rows per rank and forward pass.
        strands: 1, or 2 to also run the reverse complement of each row.
        world: ranks to distribute the rows over.
        timers: step timers of this rank.
        tokenizer: tokens of the model; None for a model that reads bases.
        per_base: whether outputs are (B, L, width) instead of (B, width).
    """
    # Longest rows first: batches need little padding, and an out-of-memory error occurs in the first pass.
    by_length = np.argsort([-len(row) for row in rows], kind="stable")
    passes = -(-len(rows) // (batch * world.size))
    parts = np.array_split(by_length, passes * world.size)
    lengths = list(map(len, rows))
    ends = np.cumsum(lengths)
    values = np.zeros((strands, ends[-1] if per_base else len(rows), width), dtype=np.float32)
    totals = torch.zeros(0, dtype=torch.float64, device=world.device)
    with torch.no_grad():  # inference_mode breaks tensors that ZeRO stage 3 keeps between passes
        for part in parts[world.rank :: world.size]:
            # Ranks without rows process a dummy row and discard its outputs.
            chosen = [rows[row] for row in (part if len(part) else by_length[:1])]
            for strand in range(strands):
                with timers.phase(timers.now.step, "evaluate"):
                    oriented = chosen if strand == 0 else [reverse_complement(row) for row in chosen]
                    ids, mask = padded(oriented, tokenizer)
                    output, boundaries = forward(to_device(ids, world.device, torch.int64), mask)
                    if not len(totals) and boundaries:
                        totals = totals.new_zeros(len(boundaries), 2)
                    if len(part) and not per_base:
                        values[strand, part] = output.float().cpu().numpy()
                    elif len(part):
                        for row, of_row in zip(part, output.float().cpu().numpy(), strict=True):
                            found = of_row[: len(rows[row])]
                            values[strand, ends[row] - len(found) : ends[row]] = found if strand == 0 else found[::-1]
                    for total, stage in zip(totals, boundaries if len(part) else (), strict=False):
                        total += torch.stack([stage.mask.sum(), stage.lengths.sum()])
    values = world.sum_array(values)
    chunks = world.sum_array(totals.cpu().numpy())
    return Outputs(values, [float(chunks[0, 1] / number) for number, _ in chunks], lengths if per_base else None)
