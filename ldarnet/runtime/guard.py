"""Skip steps with a non-finite or spiking loss.

The guard decides on the device, identically on all ranks, and logs skipped steps at the next logged step. The fused
optimizer reads the decision on the device (`found_inf`), without synchronization. A skipped step advances the data
position and the schedules, but does not change weights, moments or Adam's step count.
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
from ldarnet.ops import to_host
from ldarnet.runtime.distributed import World

MAX_LISTED_WINDOWS = 3
"""Maximum number of windows listed per skipped step."""


@dataclass(frozen=True, slots=True)
class WindowLoss:
    """Loss of one window, in nats per target position, with the window's length and position in the training order."""

    loss: float
    length: int
    position: int


@dataclass(frozen=True, slots=True)
class SkippedStep:
    """A step that the guard skipped.

    Attributes:
        step: step number, counted from 1 as in the metrics.
        loss: global MLM loss, nats per target position.
        norm: global gradient norm.
        mean: mean loss of the last accepted steps.
        deviation: standard deviation of the loss of the last accepted steps.
        in_a_row: number of consecutive skipped steps, including this one.
        worst: this rank's windows with the highest loss, in descending order.
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
        """Whether loss and gradient of the skipped step are finite. If they are, it was skipped as a loss spike."""
        return math.isfinite(self.loss + self.norm)

    @property
    def reason(self) -> str:
        """Why the step was skipped."""
        if not self.finite:
            return f"loss {self.loss:.4g} or gradient norm {self.norm:.4g} is not finite"
        return f"loss {self.loss:.4g} is a spike (last accepted steps: {self.mean:.4g} +- {self.deviation:.2g})"


class Guard:
    """Decides on the device which steps to skip, and collects skipped steps until they are logged.

    A step is skipped if its loss or gradient is not finite, or if its loss spikes above the losses of the last accepted
    steps. The decision depends only on values that are identical on all ranks.

    Args:
        config: spike threshold, and number of accepted losses to compare each loss with.
        device: device of the loss.
    """

    def __init__(self, config: GuardSection, device: torch.device) -> None:
        self._sigma = math.inf if config.spike_sigma is None else config.spike_sigma
        # Losses of the last accepted steps, oldest first.
        self._losses = torch.zeros(config.window, dtype=torch.float64, device=device)
        self._accepted, self._in_a_row, self._known = torch.zeros(3, dtype=torch.int64, device=device).unbind()
        self._pending: list[tuple[int, Tensor, Tensor, list[tuple[int, int, Tensor]]]] = []

    def observe_loss(self, loss: Tensor) -> None:
        """Set the global loss of the current step, a scalar on the device; call before the optimizer step."""
        self._loss, self._mean, self._deviation = loss, self._losses.mean(), self._losses.std()
        self._spike = (self._known >= len(self._losses)) & (loss > self._mean + self._sigma * self._deviation)

    def skips(self, norm: Tensor | float) -> Tensor:
        """Decide whether to skip the current step, given its global gradient norm.

        Returns:
            float32 scalar on the device: 1 to skip the step, otherwise 0.
        """
        return (self._spike | ~torch.isfinite(self._loss + norm)).float()

    def record(self, step: int, norm: Tensor | float, batches: Sequence[Batch], windows: Tensor) -> None:
        """Record a step; call after the optimizer step.

        Args:
            step: step number, counted from 1.
            norm: global gradient norm.
            batches: local micro-batches.
            windows: summed loss of each window in `batches`, (windows,).
        """
        skipped = self.skips(norm).bool()
        self._in_a_row = torch.where(skipped, self._in_a_row + 1, 0)
        self._accepted, self._known = self._accepted + ~skipped, self._known + ~skipped
        self._losses = torch.where(skipped, self._losses, torch.cat([self._losses[1:], self._loss.view(1)]))
        numbers = (self._loss, torch.as_tensor(norm), self._mean, self._deviation, self._in_a_row)
        layout = [(batch.length, batch.first_position, batch.target_counts) for batch in batches]
        self._pending.append((step, torch.stack([number.to(self._losses) for number in numbers]), windows, layout))

    def reset_losses(self) -> None:
        """Forget the accepted losses when the window length changes: losses at different lengths are not comparable."""
        self._known = torch.zeros_like(self._known)

    def pending_numbers(self) -> Tensor:
        """Return the values from which `take_skipped` finds skipped steps, (steps, 5) float64 on the device.

        Rows: steps since the last call of `take_skipped`. Columns: loss, gradient norm, mean and standard deviation of
        the last accepted losses, number of consecutive skipped steps.
        """
        numbers = [numbers for _, numbers, _, _ in self._pending]
        return torch.stack(numbers) if numbers else self._losses.new_zeros(0, 5)

    def take_skipped(self, numbers: Tensor | None = None) -> list[SkippedStep]:
        """Return the steps skipped since the last call.

        All ranks return the same steps; only `SkippedStep.worst` differs between ranks.

        Args:
            numbers: return value of `pending_numbers`, copied to the host; by default, this method copies it.
        """
        if numbers is None:
            (numbers,) = to_host([self.pending_numbers()], self._losses.device)
        pending, rows = self._pending, numbers.tolist()
        self._pending = []
        return [
            SkippedStep(step, *row[:4], in_a_row=int(row[4]), worst=worst_windows(windows, layout))
            for (step, _, windows, layout), row in zip(pending, rows, strict=True)
            if row[4]
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in a checkpoint.

        Contains the number of accepted steps, the number of consecutive skipped steps, and the losses of the last
        accepted steps, oldest first.
        """
        counters = [self._known, self._accepted, self._in_a_row]
        (known, accepted, in_a_row), losses = (
            values.tolist() for values in to_host([torch.stack(counters), self._losses], self._losses.device)
        )
        return {
            "accepted": int(accepted),
            "in_a_row": int(in_a_row),
            "losses": losses[max(0, len(losses) - int(known)) :],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by `state_dict`."""
        self._accepted.fill_(state["accepted"])
        self._in_a_row.fill_(state["in_a_row"])
        losses = torch.tensor(state["losses"][-len(self._losses) :], dtype=torch.float64)
        self._known.fill_(len(losses))
        self._losses[len(self._losses) - len(losses) :] = losses.to(self._losses.device)


def worst_windows(windows: Tensor, layout: Sequence[tuple[int, int, Tensor]]) -> tuple[WindowLoss, ...]:
    """Find the windows with the highest loss; NaN counts as highest.

    Args:
        windows: summed loss of each window, (windows,).
        layout: for each batch, a tuple of the window length, the position of the batch's first window in the training
            order, and a tensor with the number of target positions of each window.
    """
    targets = torch.cat([targets for _, _, targets in layout]).clamp(min=1)
    means = windows.cpu().double() / targets
    keys = [(length, first + row) for length, first, targets in layout for row in range(len(targets))]
    order = means.nan_to_num(nan=math.inf, posinf=math.inf).argsort(descending=True, stable=True)[:MAX_LISTED_WINDOWS]
    return tuple(WindowLoss(float(means[row]), *keys[row]) for row in order.tolist())


def describe_skips(skipped: Sequence[SkippedStep], windows: Mapping[int, Windows], world: World) -> list[str]:
    """Return one line per skipped step, with the reason and the windows with the highest loss.

    Every rank must call this function.

    Args:
        skipped: return value of `Guard.take_skipped` on this rank.
        windows: training windows, keyed by window length in bases.
        world: the process group.
    """
    if not skipped:
        return []
    ranks = world.gather([[entry.worst for entry in skipped]])
    lines = []
    for number, entry in enumerate(skipped):
        losses = [loss for worst in ranks for loss in worst[number]]
        highest = sorted(losses, key=lambda loss: math.inf if math.isnan(loss.loss) else loss.loss, reverse=True)
        listed = ", ".join(f"{_window_name(loss, windows)} ({loss.loss:.4g})" for loss in highest[:MAX_LISTED_WINDOWS])
        lines.append(f"step {entry.step} skipped: {entry.reason}; windows with the highest loss: {listed}")
    return lines


def stop_after(skipped: Sequence[SkippedStep], limit: int) -> None:
    """Stop training with an error after `limit` consecutive skipped steps.

    Raises:
        UserError: at least `limit` consecutive steps were skipped; raised on all ranks.
    """
    last = next((entry for entry in skipped if entry.in_a_row >= limit), None)
    if last is None:
        return
    hint = (
        "check the windows listed above; if the data is correct, resume with a higher guard.spike_sigma"
        if last.finite
        else "train in another run.dir with a lower optimizer.lr or optimizer.clip, or a longer schedule.warmup"
    )
    raise UserError(
        f"training diverged: {last.in_a_row} consecutive steps up to step {last.step} were skipped: {last.reason}; "
        f"{hint}; the checkpoints of this run are unchanged"
    )


def _window_name(loss: WindowLoss, windows: Mapping[int, Windows]) -> str:
    training = windows[loss.length]
    locations = training.locations(np.array([loss.position]))
    return window_name(training.shards, locations.contig[0], locations.start[0], loss.length)
