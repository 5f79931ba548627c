"""The callback interface: hooks, callback order, and the run context that callbacks can access."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ldarnet.config import RunConfig
from ldarnet.data import QuarantinedWindow
from ldarnet.plugins import load_folder
from ldarnet.pretraining.progress import PretrainProgress
from ldarnet.pretraining.setup import Inputs
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine
from ldarnet.runtime.guard import SkippedStep
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.timers import StepTimers


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The objects that make up a run, on one rank.

    Attributes:
        config: run configuration.
        inputs: data, model and schedule.
        engine: the DeepSpeed engine with the model being trained.
        world: the ranks.
        timers: timers of the phases of a step, on this rank.
        console: prints on rank 0, silent on other ranks.
        resumed: training state at launch; step 0 in a new run.
    """

    config: RunConfig
    inputs: Inputs
    engine: Engine
    world: World
    timers: StepTimers
    console: PretrainProgress
    resumed: TrainingState

    def warn(self, text: str) -> None:
        """Write a warning to the log of this rank; on rank 0, also print it."""
        LOG.warning(text)
        self.console.warn(text)


class Callback:
    """Base class of callbacks: override the hooks you need; by default they do nothing.

    All ranks call the same hooks in the same order, so hooks may use collectives. The exception is
    `on_checkpoint_failed`, which is only called on rank 0. To run code on rank 0 only, check
    `self.context.world.is_main`. If the code may raise an error, use `self.context.world.on_main` instead, which raises
    the error on all ranks.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context

    def on_run_start(self) -> None:
        """Called before the first step of this launch."""

    def before_step(self, step: int) -> None:
        """Called before each step; `step` is the number of completed steps."""

    def on_quarantine(self, windows: list[QuarantinedWindow]) -> None:
        """Called before a step with unreadable windows, which the loss excludes.

        Args:
            windows: the unreadable windows of all ranks; the same list on every rank.
        """

    def on_skipped_steps(self, skipped: list[SkippedStep]) -> None:
        """Called before `on_step_logged` and before a checkpoint is saved, if the guard skipped steps.

        Args:
            skipped: the steps that the guard skipped since the last logged step or checkpoint; at least one.
        """

    def on_step_logged(self, line: dict[str, Any]) -> None:
        """Called with each training line of metrics.jsonl; callbacks with an order below `WRITERS` may add keys."""

    def on_validation(self, line: dict[str, Any]) -> None:
        """Called with each validation line of metrics.jsonl; callbacks with an order below `WRITERS` may add keys."""

    def on_checkpoint_failed(self, reason: str) -> None:
        """Called if a checkpoint could not be written or copied; on rank 0 only, from the checkpoint thread."""

    def on_run_end(self, state: TrainingState, received: str | None) -> None:
        """Called after the last step and checkpoint of this launch, unless an error ended the launch.

        Args:
            state: training state after the last step.
            received: name of the signal that stopped the launch, if any.
        """

    def close(self) -> None:
        """Release resources; called on callbacks in reverse order at the end of every launch, even after an error."""


WRITERS = 50
"""Lowest order of callbacks that write lines; callbacks with a lower order may still add keys."""

_REGISTERED: dict[type[Callback], int] = {}

CallbackClass = TypeVar("CallbackClass", bound=type[Callback])


def register(*, order: int) -> Callable[[CallbackClass], CallbackClass]:
    """Class decorator that adds a callback to every run.

    Args:
        order: position among the callbacks, lowest first; ties are resolved by class name.
    """

    def add(callback: CallbackClass) -> CallbackClass:
        _REGISTERED[callback] = order
        return callback

    return add


@contextmanager
def running_callbacks(context: RunContext) -> Iterator[list[Callback]]:
    """Create and start all registered callbacks, in order; close them at the end of the block.

    Raises:
        UserError: a callback cannot start; raised on all ranks.
    """
    load_folder("ldarnet.pretraining.callbacks")
    classes = sorted(_REGISTERED, key=lambda callback: (_REGISTERED[callback], callback.__name__))
    callbacks = [create(context) for create in classes]
    with ExitStack() as stack:
        for callback in callbacks:
            stack.callback(callback.close)
            callback.on_run_start()
        yield callbacks
