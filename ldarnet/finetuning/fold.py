"""The training of one fold, from top to bottom: epochs of optimiser steps, each followed by validation and a save."""

import copy
import gc
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ldarnet.config.schema import GuardSection
from ldarnet.console import format_duration
from ldarnet.errors import UserError
from ldarnet.finetuning.batches import Epoch, padded
from ldarnet.finetuning.classifier import parameter_groups
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.fold_store import FoldState, FoldStore
from ldarnet.finetuning.job import FinetuneJob, LaunchContext
from ldarnet.finetuning.plateau import PlateauSchedule
from ldarnet.model.losses import batch_ratio_loss
from ldarnet.model.router import Boundaries
from ldarnet.runtime.checkpoint_files import load_weights
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions
from ldarnet.runtime.metrics_file import MetricsFile
from ldarnet.runtime.micro_step import micro_step_loss
from ldarnet.runtime.tracking import Tracker
from ldarnet.runtime.zero_state import (
    copy_to_host,
    engine_from_checkpoint,
    whole_moments,
    whole_parameters,
)

LONG_SECONDS = 600.0
"""What is left of a run is told where it can take longer."""

ONLY_FINITE = GuardSection(spike_sigma=None)  # type: ignore[call-arg]


class FoldTraining:
    """A fold under training, begun or continued; every rank calls every method.

    Args:
        job: what all folds share.
        fold: its number.
        context: of this launch.
        tracker: MLflow; None on other ranks than 0.

    Raises:
        UserError: its last checkpoint is damaged; on all ranks.
    """

    def __init__(self, job: FinetuneJob, fold: int, context: LaunchContext, tracker: Tracker | None) -> None:
        self.job, self.fold, self.world = job, fold, context.world
        self._phases, self._request, self._display = context.phases, context.request, context.display
        self._tracker = tracker
        self._folder = job.folder(fold)
        self._store, self.schedule = FoldStore(self._folder), PlateauSchedule(job.config)
        checkpoint = self.world.from_main(self._store.latest)
        with self.world.together():
            fingerprint = job.data.fingerprint
            self.state = self._store.read(checkpoint, fingerprint) if checkpoint else FoldState(fingerprint)
        if self.state.course:
            self.schedule.restore(self.state.course)
            self._display.info(f"fold {fold}  resumes after step {self.state.step}, in epoch {self.schedule.epoch + 1}")
        train, self._valid = job.folds[fold]
        self._ids = [job.ids[row] for row in train]
        self._labels = torch.from_numpy(job.rows.labels[train])
        self._engine = _engine(job, checkpoint, self.state, self.world)
        self._loss, self._skipped = torch.tensor(
            [self.state.loss, self.state.skipped], dtype=torch.float64, device=self.world.device
        ).unbind()
        kept = self.state.step if checkpoint else -1
        self._file = self.world.on_main(lambda: MetricsFile(self._folder, kept))
        self._lap = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Give the memory back: the next fold has an engine of its own."""
        if self._file is not None:
            self._file.close()
        self._engine.deepspeed.destroy()
        del self._engine
        gc.collect()

    def run(self) -> bool:
        """Train to the end, or until a signal; returns whether the last epoch is done. Everything is saved."""
        if not self.state.first:
            self.state.first = self._line(None)
        told = False
        while not self.schedule.over:
            if not self._epoch():
                self._save()
                return False
            self._end_epoch()
            if not told:
                self._tell_time()
                told = True
        return True

    def _tell_time(self) -> None:
        """Say what all that is left can take at most, where that is long, once an epoch has been seen."""
        seconds, epochs = self.state.seconds["all"] / self.schedule.epoch, self.job.config.training.epochs
        others = len(self.job.selected_folds) - self.job.selected_folds.index(self.fold) - 1
        here = 0 if self.schedule.over else epochs - self.schedule.epoch
        if (most := seconds * (epochs * others + here)) > LONG_SECONDS:
            self._display.info(
                f"fold {self.fold}  an epoch takes {format_duration(seconds)}; all that are left of {others + 1} "
                f"fold(s) at most {format_duration(most)}, less where folds end early"
            )

    def _epoch(self) -> bool:
        """Take the steps of an epoch that are left; False if a signal came between."""
        config, number = self.job.config, self.schedule.epoch + 1
        assert config.training.batch is not None
        epoch = Epoch.of(
            len(self._ids),
            config.training.batch,
            seed=(config.run.seed, self.fold, number),
            both_strands=config.training.reverse_complement,
        )
        while self.state.batch < len(epoch.batches):
            with self._phases.phase(self.state.step, "agree"):
                if self.world.sum_on_host(self._request.received is not None)[0]:
                    self._request.agree(self.world)
                    return False
            with self._phases.phase(self.state.step, "train"):
                self._step(epoch)
            self.state.step, self.state.batch = self.state.step + 1, self.state.batch + 1
            self._display.step(self.fold, number, self.state.batch, len(epoch.batches))
        return True

    def _step(self, epoch: Epoch) -> None:
        """Take one optimiser step, unless loss or gradient is not finite."""
        accumulation, size, device = self.job.config.training.accumulation, self.world.size, self.world.device
        rows = len(epoch.batches[self.state.batch])
        weight, total = self._ratio_weight, torch.zeros((), dtype=torch.float64, device=device)
        for micro_step in range(accumulation):
            share = epoch.share(self.state.batch, micro_step, accumulation, self.world.rank, size)
            ids, mask = padded(epoch.oriented(self._ids, share))
            output = self._engine.forward(ids.to(device, non_blocking=True), mask)
            labels = self._labels[share].to(device, non_blocking=True)
            nll = F.cross_entropy(output.logits.float(), labels, reduction="sum")
            ratio = self._ratio_loss(output.boundaries) if weight else None
            loss = micro_step_loss(
                nll, rows, accumulation=accumulation, world=self.world, ratio_loss=ratio, ratio_weight=weight
            )
            self._engine.backward(loss)
            total += nll.detach()
        total = self.world.sum_on_device(total)
        _, norm = self._engine.update(self.schedule.factor, total / rows)
        skipped = self._engine.guard.skips(norm).bool()
        self._loss += torch.where(skipped, 0.0, total)
        self._skipped += skipped

    def _ratio_loss(self, boundaries: tuple[Boundaries, ...]) -> Tensor:
        target = self._engine.model_config.target_ratio
        return batch_ratio_loss(boundaries, target, sum_over_ranks=self.world.sum_on_device, dtype=torch.float64)[0]

    @property
    def _ratio_weight(self) -> float:
        """Weight of the ratio loss; 0 for a baseline, which has no chunks."""
        shape, wanted = self._engine.model_config, self.job.config.training.ratio_weight
        if shape is None:
            return 0.0
        return shape.ratio_weight if wanted is None else wanted

    def _end_epoch(self) -> None:
        """Validate, and save where the fold stands."""
        steps, skipped = self.state.batch, int(self._skipped)
        if skipped == steps:
            raise UserError(
                f"fold {self.fold} has diverged: no loss or gradient of epoch {self.schedule.epoch + 1} was finite; "
                "fine-tune in another run.dir with a lower optimizer.lr"
            )
        if skipped:
            self._display.warn(f"fold {self.fold}: {skipped} of {steps} steps were skipped, as they were not finite")
        self.state.taken += steps - skipped
        share = (steps - skipped) / steps  # of the epoch's rows; batches differ by one row at most
        line = self._line(float(self._loss) / (share * len(self._ids)))
        self.schedule.note(line[self.job.config.evaluation.metric], line["loss"])
        if self.schedule.best_epoch == self.schedule.epoch:
            self.state.best_step, self.state.best = self.state.step, line
        self.state.batch = 0
        self._loss.zero_()
        self._skipped.zero_()
        self._save()

    def _line(self, train_loss: float | None) -> dict[str, Any]:
        """Validate, and write the line of metrics; `train_loss` is None before training."""
        seconds = self._count_seconds()
        bases = sum(map(len, self._ids))
        config = self.job.config
        found = run_over(
            [self.job.ids[row] for row in self._valid],
            self._forward,
            len(self.job.data.classes),
            batch=config.evaluation.batch,
            strands=config.evaluation.strands,
            world=self.world,
            phases=self._phases,
        ).metrics(self.job.rows.labels[self._valid])
        epoch = self.schedule.epoch + (train_loss is not None)
        if not math.isfinite(found["loss"]):
            raise UserError(
                f"fold {self.fold}: the validation loss after epoch {epoch} is not finite; fine-tune in another "
                "run.dir with a lower optimizer.lr"
            )
        self._count_seconds()
        line = {
            "epoch": epoch,
            "step": self.state.step,
            "split": "valid",
            **found,
            "train_loss": train_loss,
            "lr_factor": self.schedule.factor,
            "seconds": self.state.seconds["all"],
            "bases_per_second": None if train_loss is None else bases / max(seconds, 1e-9),
        }
        self.state.seconds["epoch"] = 0.0
        self._record(line)
        return line

    def _forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, tuple[Any, ...]]:
        output = self._engine.forward(ids, mask)
        return output.logits, output.boundaries

    def _record(self, line: dict[str, Any]) -> None:
        config = self.job.config
        metric, value = config.evaluation.metric, line[config.evaluation.metric]
        best = line["epoch"] > 0 and value is not None and self.schedule.is_better(value, line["loss"])
        self._display.epoch(self.fold, config.training.epochs, line, metric, best)
        self.world.on_main(lambda: self._file.write(line) if self._file else None)
        if self._tracker is not None:
            self._tracker.log(line)

    def _count_seconds(self) -> float:
        """Count the time since the last call; returns that of the epoch so far."""
        now = time.perf_counter()
        for key in self.state.seconds:
            self.state.seconds[key] += now - self._lap
        self._lap = now
        return self.state.seconds["epoch"]

    def _save(self) -> None:
        """Write where the fold stands; a save that fails ends the start, and the one before it stays."""
        if self.state.step == 0:
            return
        with self._phases.phase(self.state.step, "save"):
            self._count_seconds()
            self.state.course = self.schedule.memory()
            self.state.loss, self.state.skipped = float(self._loss), int(self._skipped)
            weights = copy_to_host(whole_parameters(self._engine), keep=self.world.is_main)
            moments = copy_to_host(whole_moments(self._engine), keep=self.world.is_main)
            self.world.on_main(lambda: self._store.write(weights, moments, self.state))


def _engine(job: FinetuneJob, checkpoint: Path | None, state: FoldState, world: World) -> Engine:
    """The engine in the state of a checkpoint, or in the first one."""
    training = job.config.training
    network = copy.deepcopy(job.network)
    assert network is not None
    if checkpoint is not None:
        load_weights(network, checkpoint)
    options = EngineOptions(job.config.optimizer, ONLY_FINITE, training.accumulation, training.zero_stage, job.autocast)
    updates = state.taken + state.batch - state.skipped
    return engine_from_checkpoint(network, parameter_groups(network, job.config), options, world, checkpoint, updates)
