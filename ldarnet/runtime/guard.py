"""Steps that are not taken: decided on the device in every step, by all ranks alike, and told at the next look.

The optimiser's kernel reads the decision on the device (`found_inf`), so no rank waits for it. Weights, moments and
Adam's count of steps stay as they were; the position in the data and the schedule move on.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ldarnet.config.schema import GuardSection
from ldarnet.data import Batch, Windows
from ldarnet.data.windows import window_name
from ldarnet.errors import UserError
from ldarnet.runtime.distributed import World

WORST = 3
"""Windows named for a step that was skipped."""


@dataclass(frozen=True, slots=True)
class WindowLoss:
    """A window by its place in the order of those of its length, and its loss in nats per scored base."""

    loss: float
    length: int
    position: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A step that was not taken.

    Attributes:
        step: its number, from 1 as in the metrics.
        loss: MLM loss over all ranks, nats per scored base.
        norm: of the whole gradient.
        mean: of the accepted losses before it.
        deviation: their standard deviation.
        in_a_row: steps skipped up to this one, without one taken between.
        worst: this rank's windows of highest loss, highest first.
    """

    step: int
    loss: float
    norm: float
    mean: float
    deviation: float
    in_a_row: int
    worst: tuple[WindowLoss, ...]

    @property
    def finite(self) -> bool:
        """Whether it was a spike; else loss or gradient is not finite."""
        return math.isfinite(self.loss + self.norm)

    @property
    def reason(self) -> str:
        """Why, in words."""
        if not self.finite:
            return f"loss {self.loss:.4g} or gradient norm {self.norm:.4g} is not finite"
        return f"loss {self.loss:.4g} stands out from {self.mean:.4g} +- {self.deviation:.2g} of the steps before"


class Guard:
    """Decides which steps are skipped, and remembers what they were like until someone looks.

    A step is skipped if its loss or gradient is not finite, or if its loss stands out from the last accepted ones.
    All of it is computed on the device from numbers that are the same on all ranks.
    """

    def __init__(self, config: GuardSection, device: torch.device) -> None:
        self._sigma = math.inf if config.spike_sigma is None else config.spike_sigma
        self._losses = torch.zeros(config.window, dtype=torch.float64, device=device)  # accepted, oldest first
        self._accepted, self._in_a_row, self._known = torch.zeros(3, dtype=torch.int64, device=device).unbind()
        self._seen: list[tuple[int, Tensor, Tensor, list[tuple[int, int, Tensor]]]] = []

    def begin(self, loss: Tensor) -> None:
        """Take in a step's loss over all ranks, (), before the optimiser is called."""
        self._loss, self._mean, self._deviation = loss, self._losses.mean(), self._losses.std()
        self._spike = (self._known >= len(self._losses)) & (loss > self._mean + self._sigma * self._deviation)

    def skips(self, norm: Tensor | float) -> Tensor:
        """1 if the step is not to be taken, else 0: (), float32, on the device; `norm` is of the whole gradient."""
        return (self._spike | ~torch.isfinite(self._loss + norm)).float()

    def end(self, step: int, norm: Tensor | float, batches: Sequence[Batch], windows: Tensor) -> None:
        """Remember the step.

        Args:
            step: its number, from 1.
            norm: of the whole gradient.
            batches: this rank's.
            windows: summed losses of their windows, (windows,).
        """
        skipped = self.skips(norm).bool()
        self._in_a_row = torch.where(skipped, self._in_a_row + 1, 0)
        self._accepted, self._known = self._accepted + ~skipped, self._known + ~skipped
        self._losses = torch.where(skipped, self._losses, torch.cat([self._losses[1:], self._loss.view(1)]))
        numbers = (self._loss, torch.as_tensor(norm), self._mean, self._deviation, self._in_a_row)
        places = [(batch.input_ids.shape[1], batch.first_position, batch.target_counts) for batch in batches]
        self._seen.append((step, torch.stack([number.to(self._losses) for number in numbers]), windows, places))

    def forget(self) -> None:
        """Begin anew with the losses: those of windows of another length say nothing of what follows."""
        self._known = torch.zeros_like(self._known)

    def look(self) -> list[Skipped]:
        """The steps skipped since the last call, the same on all ranks; waits for the device."""
        seen, self._seen = self._seen, []
        rows = torch.stack([numbers for _, numbers, _, _ in seen]).tolist() if seen else []
        return [
            Skipped(step, *row[:4], in_a_row=int(row[4]), worst=worst_windows(windows, places))
            for (step, _, windows, places), row in zip(seen, rows, strict=True)
            if row[4]
        ]

    def memory(self) -> dict[str, Any]:
        """What a checkpoint keeps: steps taken, steps skipped in a row, and the last accepted losses, oldest first."""
        known, losses = int(self._known), self._losses.tolist()
        return {
            "accepted": int(self._accepted),
            "in_a_row": int(self._in_a_row),
            "losses": losses[max(0, len(losses) - known) :],
        }

    def restore(self, memory: dict[str, Any]) -> None:
        """Go on from what `memory` gave."""
        self._accepted.fill_(memory["accepted"])
        self._in_a_row.fill_(memory["in_a_row"])
        losses = torch.tensor(memory["losses"][-len(self._losses) :], dtype=torch.float64)
        self._known.fill_(len(losses))
        self._losses[len(self._losses) - len(losses) :] = losses.to(self._losses.device)


def worst_windows(windows: Tensor, places: Sequence[tuple[int, int, Tensor]]) -> tuple[WindowLoss, ...]:
    """The windows of highest loss; one whose loss is not a number comes first.

    Args:
        windows: summed losses, (windows,).
        places: bases of a window, position of the first one and scored bases of each, (b,), batch by batch.
    """
    scored = torch.cat([scored for _, _, scored in places]).clamp(min=1)
    means = windows.cpu().double() / scored
    where = [(length, first + row) for length, first, scored in places for row in range(len(scored))]
    order = means.nan_to_num(nan=math.inf, posinf=math.inf).argsort(descending=True, stable=True)[:WORST]
    return tuple(WindowLoss(float(means[row]), *where[row]) for row in order.tolist())


def describe_skips(skipped: Sequence[Skipped], windows: Mapping[int, Windows], world: World) -> list[str]:
    """A line for each step, with the windows of highest loss over all ranks; every rank must call it alike.

    Args:
        skipped: what `look` gave on this rank.
        windows: the training windows by their length.
        world: the ranks.
    """
    if not skipped:
        return []
    ranks = world.gather([[entry.worst for entry in skipped]])
    lines = []
    for number, entry in enumerate(skipped):
        losses = [loss for worst in ranks for loss in worst[number]]
        highest = sorted(losses, key=lambda loss: math.inf if math.isnan(loss.loss) else loss.loss, reverse=True)
        named = ", ".join(f"{_name(loss, windows)} ({loss.loss:.4g})" for loss in highest[:WORST])
        lines.append(f"step {entry.step} skipped: {entry.reason}; windows of highest loss: {named}")
    return lines


def stop_after(skipped: Sequence[Skipped], limit: int) -> None:
    """End training where `limit` steps in a row were skipped.

    Raises:
        UserError: they were; on all ranks alike.
    """
    last = next((entry for entry in skipped if entry.in_a_row >= limit), None)
    if last is None:
        return
    remedy = (
        "see the windows named above; if the data has changed for good there, continue with a higher guard.spike_sigma"
        if last.finite
        else "train in another run.dir with a lower optimizer.lr or optimizer.clip, or a longer schedule.warmup"
    )
    raise UserError(
        f"training has diverged: {last.in_a_row} steps in a row were skipped up to step {last.step}, the last because "
        f"{last.reason}; {remedy} (checkpoints of this run stay as they are)"
    )


def _name(loss: WindowLoss, windows: Mapping[int, Windows]) -> str:
    of_length = windows[loss.length]
    places = of_length.locations(np.array([loss.position]))
    return window_name(of_length.shards, places.contig[0], places.start[0], loss.length)
