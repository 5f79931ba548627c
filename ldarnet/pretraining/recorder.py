"""Where a run's numbers go: metrics.jsonl, MLflow, the display, the checkpoints."""

import math
from dataclasses import replace
from typing import Any, Self

import torch

from ldarnet.config import RunConfig
from ldarnet.data import Quarantined
from ldarnet.errors import UserError
from ldarnet.io import run_files
from ldarnet.model.cost import dense_bf16_peak
from ldarnet.pretraining.async_checkpoint import Saver
from ldarnet.pretraining.health import RouterHealth
from ldarnet.pretraining.meters import SpeedMeter, Utilization, host_metrics
from ldarnet.pretraining.profiler import Profiler
from ldarnet.pretraining.progress import PretrainProgress
from ldarnet.pretraining.setup import Inputs
from ldarnet.pretraining.validation import stage_metrics
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.distributed import World, user_error
from ldarnet.runtime.engine import Engine, autocast
from ldarnet.runtime.guard import describe_skips, stop_after
from ldarnet.runtime.losses import StepTotals
from ldarnet.runtime.metrics_file import MetricsFile
from ldarnet.runtime.rank_log import LOG
from ldarnet.runtime.router_metrics import router_metrics
from ldarnet.runtime.signals import StopRequest
from ldarnet.runtime.timers import Phases
from ldarnet.runtime.tracking import Tracker


class Recorder:
    """Turns a step's totals into lines; every rank calls it, rank 0 writes.

    Args:
        config: of the run.
        inputs: what it reads and builds on.
        display: what the user sees.
        state: where the run stands; lines of metrics.jsonl beyond it are dropped.
        world: the ranks.
        engine: with the model that is trained.
        phases: of this rank.

    Attributes:
        phases: what this rank is doing, and for how long.
        profiler: traces the steps that are asked for.
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        display: PretrainProgress,
        state: TrainingState,
        world: World,
        engine: Engine,
        phases: Phases,
    ) -> None:
        self.config = config
        self.world = world
        self.display = display
        self.meter = SpeedMeter(state.seconds)
        self.phases = phases
        self.profiler = Profiler(
            config.run.dir, world.rank, config.tracking.profile if world.is_main else None, display.info
        )
        self._engine = engine
        self._windows = inputs.by_length
        self._schedule = inputs.schedule
        self._ratio_weight = engine.model_config.ratio_weight
        peak = dense_bf16_peak(world.device_name) if autocast(config.training.precision, world) else None
        self._utilization = Utilization(engine.model_config, config.data.length, world.size, peak)
        self._routers = RouterHealth(state.total_steps, inputs.schedule.target_ratio)
        self._file = world.on_main(lambda: MetricsFile(config.run.dir, state.step, kept=self._judge))
        self._samples = world.on_main(lambda: MetricsFile(config.run.dir, state.step, run_files.BOUNDARIES))
        self._tracker = Tracker(config, display.info, inputs.kernels) if world.is_main else None
        self._told_of: set[str] = set()
        self._status = "FAILED"
        self._total_steps = state.total_steps
        self._skipped = state.step - state.guard["accepted"]
        self._quarantined = 0
        self._not_saved = 0
        self._reasons: set[str] = set()

    def __enter__(self) -> Self:
        self.profiler.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.profiler.__exit__()
        if self._file is not None and self._samples is not None and self._tracker is not None:
            self._file.close()
            self._samples.close()
            self._tracker.close(self._status)

    def _judge(self, line: dict[str, Any]) -> None:
        """Let the routers' health go on from a line of an earlier start."""
        if line["split"] == "train":
            self._routers.look(line)

    def due(self, step: int) -> bool:
        """Whether step number `step`, from 1, is looked at and recorded."""
        return step % self.config.training.log_every == 0 or step in (1, self._total_steps)

    def count(self) -> None:
        """Count the bases of a step."""
        self.meter.add(self.config.training.batch * self.config.data.length)

    def _look(self) -> None:
        """Tell which steps the guard skipped since the last look.

        Raises:
            UserError: too many in a row; on all ranks.
        """
        skipped = self._engine.guard.look()
        self._skipped += len(skipped)
        for text in describe_skips(skipped, self._windows, self.world):
            LOG.warning(text)
            self.display.warn(text)
        stop_after(skipped, self.config.guard.stop_after)

    def quarantined(self, windows: list[Quarantined]) -> None:
        """Count the windows of a step, of all ranks, that could not be read; say each reason once."""
        self._quarantined += len(windows)
        for window in windows:
            if window.reason not in self._reasons:
                self._reasons.add(window.reason)
                self.display.info(f"not scored: window {window.window} and others like it: {window.reason}")

    def train(
        self,
        state: TrainingState,
        totals: StepTotals,
        scored: int,
        rates: dict[str, float],
        norm: torch.Tensor | float,
        length: int,
    ) -> None:
        """Record the step just taken, on windows of `length` bases.

        Raises:
            UserError: too many steps in a row were skipped; on all ranks.
        """
        self._look()
        mlm_loss, ratio_loss = totals.nll.item() / max(scored, 1), totals.ratio.item()
        stages, speed, spent = stage_metrics(totals.stages), self.meter.lap(), self.phases.take()
        line = {
            "step": state.step,
            "split": "train",
            "epoch": state.position / len(self._windows[self.config.data.length]),
            "length": length,
            "loss": mlm_loss + self._ratio_weight * ratio_loss,
            "mlm_loss": mlm_loss,
            "ratio_loss": ratio_loss,
            **stages,
            "target_ratio": self._schedule.target_ratio(state.step - 1),
            **router_metrics(totals.router, self.world),
            "gradient_norm": float(norm),
            "gradient_norms": self._engine.gradients.norms(float(norm)),
            "lr": rates,
            "bases_per_second": speed,
            **replace(self._utilization, length=length).metrics(speed, stages["bases_per_chunk"]),
            "bases": state.position * self.config.data.length,
            "seconds": self.meter.seconds,
            **host_metrics(spent, self.world),
            "checkpoint_stall_seconds": spent.get("save", 0.0),
            **({"quarantined": self._quarantined} if self._quarantined else {}),
            **({"skipped": self._skipped} if self._skipped else {}),
            **({"checkpoint_failures": self._not_saved} if self._not_saved else {}),
        }
        if self.world.is_main and stages["bases_per_chunk"]:
            for text in self._routers.look(line):
                LOG.warning(text)
                self.display.warn(text)
        line["warnings"] = {f"{kind}/stage{stage}": it.text for (kind, stage), it in self._routers.warnings.items()}
        self._write(line)
        self.display.step(line)

    def validation(self, state: TrainingState, metrics: dict[str, Any], sample: dict[str, Any]) -> None:
        """Record a validation after `state.step` steps, and a sample of the boundaries if there is one.

        Raises:
            UserError: its loss is not finite; on all ranks.
        """
        if not math.isfinite(metrics["mlm_loss"]):
            raise UserError(
                f"the validation loss after step {state.step} is not finite; train in another run.dir with a lower "
                "optimizer.lr (checkpoints of this run stay as they are)"
            )
        line = {"step": state.step, "split": "valid", **metrics}
        self._write(line)
        if sample and self._samples is not None:
            self._append(self._samples, {"step": state.step, **sample})
        self.display.validation(line)

    def save(self, saver: Saver, engine: Engine, state: TrainingState) -> TrainingState:
        """Begin to write a checkpoint; returns the state in it.

        Raises:
            UserError: too many steps in a row were skipped; on all ranks.
        """
        self._look()
        state = state.advanced(seconds=self.meter.seconds, guard=engine.guard.memory())
        with self.phases.phase(state.step - 1, "save"), self.meter.paused():
            return saver.save(engine, state)

    def not_saved(self, text: str) -> None:
        """Count and shout a checkpoint that could not be written or copied; on rank 0, from the thread that writes."""
        self._not_saved += 1
        LOG.error(text)
        self.display.warn(text)

    def finish(self, state: TrainingState, request: StopRequest) -> None:
        """Say how the start ended and how to go on.

        Raises:
            UserError: lines of metrics are still not written; on all ranks.
        """
        self.world.on_main(self._flush)
        self._status = "FINISHED" if state.step == state.total_steps else "KILLED"
        LOG.info("%s after step %d of %d", request.received or "as planned", state.step, state.total_steps)
        if state.step < state.total_steps:
            reason = f"stopped by {request.received}" if request.received else "stopped"
            saved = f"; everything is saved in {self.config.run.dir}. Run the same command again to continue."
            where = f"after step {state.step} of {state.total_steps}{saved}"
            self.display.info(f"{reason} {where if state.step else 'before the first step; there is nothing to save.'}")

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None or self._tracker is None:
            return
        self._append(self._file, line)
        self._tracker.log(line)

    def _append(self, file: MetricsFile, line: dict[str, Any]) -> None:
        try:
            file.write(line)
        except (UserError, OSError) as error:
            self._warn_once(f"{str(user_error(error)).partition(';')[0]}; its lines wait in memory")

    def _warn_once(self, text: str) -> None:
        if text not in self._told_of:
            self._told_of.add(text)
            LOG.error(text)
            self.display.warn(text)

    def _flush(self) -> None:
        """Write the lines that could not be written before."""
        for file in (self._file, self._samples):
            if file is not None:
                file.flush()
