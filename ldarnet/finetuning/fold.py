"""Training of one fold: each epoch consists of optimizer steps, then validation and a checkpoint."""

import copy
import gc
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ldarnet.config.schema import GuardSection
from ldarnet.console import format_count, format_duration
from ldarnet.errors import UserError
from ldarnet.finetuning.batches import Epoch, padded
from ldarnet.finetuning.classifier import parameter_groups, tokenizer_of
from ldarnet.finetuning.evaluation import run_over
from ldarnet.finetuning.fold_store import FoldState, FoldStore
from ldarnet.finetuning.job import FinetuneJob, LaunchContext
from ldarnet.finetuning.plateau import PlateauSchedule
from ldarnet.model.boundaries import Boundaries
from ldarnet.model.losses import batch_ratio_loss
from ldarnet.ops import to_device
from ldarnet.runtime.checkpoint_files import load_weights
from ldarnet.runtime.distributed import World
from ldarnet.runtime.engine import Engine, EngineOptions
from ldarnet.runtime.host_buffers import HostBuffers
from ldarnet.runtime.metrics_file import MetricsFile
from ldarnet.runtime.micro_step import micro_step_loss
from ldarnet.runtime.tracking import Tracker
from ldarnet.runtime.zero_state import engine_from_checkpoint, whole_moments, whole_weights

LONG_SECONDS = 600.0
"""Log the remaining time if its upper bound exceeds this many seconds."""

ONLY_FINITE = GuardSection(spike_sigma=None)  # type: ignore[call-arg]


class FoldTraining:
    """Trains one fold from the beginning, or resumes it from its last checkpoint; all methods are collective.

    Args:
        job: configuration, data and network shared by all folds.
        fold: fold number, from 0.
        context: process group, timers, stop request and console of this launch.
        tracker: MLflow tracker; None on ranks other than 0.

    Raises:
        UserError: the last checkpoint is damaged; raised on all ranks.
    """

    def __init__(self, job: FinetuneJob, fold: int, context: LaunchContext, tracker: Tracker | None) -> None:
        self.job, self.fold, self.world = job, fold, context.world
        self._timers, self._request, self._display = context.timers, context.request, context.display
        self._tracker = tracker
        self._folder = job.folder(fold)
        self._store, self.schedule = FoldStore(self._folder), PlateauSchedule(job.config)
        checkpoint = self.world.from_main(self._store.latest)
        with self.world.together():
            fingerprint = job.data.fingerprint
            self.state = self._store.read(checkpoint, fingerprint) if checkpoint else FoldState(fingerprint)
        if self.state.course:
            self.schedule.load_state_dict(self.state.course)
            self._display.info(f"fold {fold}  resumes after step {self.state.step}, in epoch {self.schedule.epoch + 1}")
        train, self._valid = job.folds[fold]
        self._ids = [job.ids[row] for row in train]
        self._targets = job.fitted_targets(fold)
        self._labels = self._targets.tensor(job.rows.labels[train])
        self._tokenizer = tokenizer_of(job.network)
        self._engine = _engine(job, checkpoint, self.state, self.world)
        self._loss, self._skipped = torch.tensor(
            [self.state.loss, self.state.skipped], dtype=torch.float64, device=self.world.device
        ).unbind()
        self._buffers = HostBuffers(self.world.device)
        completed_steps = self.state.step if checkpoint else -1
        self._file = self.world.on_main(lambda: MetricsFile(self._folder, completed_steps, warn=self._display.warn))
        self._lap = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the metrics file, and destroy the engine to free memory for the next fold."""
        if self._file is not None:
            self._file.close()
        self._engine.deepspeed.destroy()
        del self._engine
        gc.collect()

    def run(self) -> bool:
        """Train and save checkpoints until training ends or a signal arrives; return whether training is complete."""
        if not self.state.first:
            self.state.first = self._line(None)
        logged = False
        while not self.schedule.over:
            if not self._epoch():
                self._save()
                return False
            self._end_epoch()
            if not logged:
                self._log_remaining_time()
                logged = True
        return True

    def _log_remaining_time(self) -> None:
        """Log an upper bound on the remaining time if it exceeds LONG_SECONDS."""
        seconds, epochs = self.state.seconds["all"] / self.schedule.epoch, self.job.config.training.epochs
        others = len(self.job.selected_folds) - self.job.selected_folds.index(self.fold) - 1
        here = 0 if self.schedule.over else epochs - self.schedule.epoch
        if (limit := seconds * (epochs * others + here)) > LONG_SECONDS:
            self._display.info(
                f"fold {self.fold}  {format_duration(seconds)} per epoch; at most {format_duration(limit)} remaining "
                f"for {format_count(others + 1, 'fold')} (less with early stopping)"
            )

    def _epoch(self) -> bool:
        """Run the remaining steps of the current epoch; return False if a signal interrupts them."""
        config, number = self.job.config, self.schedule.epoch + 1
        assert config.training.batch is not None
        epoch = Epoch.of(
            len(self._ids),
            config.training.batch,
            seed=(config.run.seed, self.fold, number),
            both_strands=config.training.reverse_complement,
        )
        while self.state.batch < len(epoch.batches):
            with self._timers.phase(self.state.step, "agree"):
                if self.world.sum_on_host(self._request.received is not None)[0]:
                    self._request.agree(self.world)
                    return False
            with self._timers.phase(self.state.step, "train"):
                self._step(epoch)
            self.state.step, self.state.batch = self.state.step + 1, self.state.batch + 1
            self._display.step(self.fold, number, self.state.batch, len(epoch.batches))
        return True

    def _step(self, epoch: Epoch) -> None:
        """Run one optimizer step; skip the update if the loss or gradient is not finite."""
        accumulation, size, device = self.job.config.training.accumulation, self.world.size, self.world.device
        count = max(1, self._targets.count(self._labels, epoch.batches[self.state.batch]))
        weight, total = self._ratio_weight, torch.zeros((), dtype=torch.float64, device=device)
        for micro_step in range(accumulation):
            local = epoch.local_rows(self.state.batch, micro_step, accumulation, self.world.rank, size)
            ids, mask = padded(epoch.oriented(self._ids, local), self._tokenizer)
            output = self._engine.forward(to_device(ids, device, torch.int64), mask)
            labels = to_device(self._targets.batch(self._labels, local, epoch.flipped), device)
            label_loss = self._targets.loss(output.logits.float(), labels)
            ratio = self._ratio_loss(output.boundaries) if weight else None
            loss = micro_step_loss(
                label_loss, count, accumulation=accumulation, world=self.world, ratio_loss=ratio, ratio_weight=weight
            )
            self._engine.backward(loss)
            total += label_loss.detach()
        total = self.world.sum_on_device(total)
        _, norm = self._engine.update(self.schedule.factor, total / count)
        skipped = self._engine.guard.skips(norm).bool()
        self._loss += torch.where(skipped, 0.0, total)
        self._skipped += skipped

    def _ratio_loss(self, boundaries: tuple[Boundaries, ...]) -> Tensor:
        model = self._engine.model_config
        return batch_ratio_loss(
            boundaries,
            model.target_ratio,
            form=model.ratio_loss,
            sum_over_ranks=self.world.sum_on_device,
            dtype=torch.float64,
        )[0]

    @property
    def _ratio_weight(self) -> float:
        """Weight of the ratio loss; 0 for networks without a router."""
        model, weight = self._engine.model_config, self.job.config.training.ratio_weight
        if model is None:
            return 0.0
        return model.ratio_weight if weight is None else weight

    def _end_epoch(self) -> None:
        """Validate, update the schedule and save a checkpoint."""
        steps, skipped = self.state.batch, int(self._skipped)
        if skipped == steps:
            raise UserError(
                f"fold {self.fold} diverged: every step of epoch {self.schedule.epoch + 1} has a non-finite loss or "
                "gradient; start over with a lower optimizer.lr and a new run.dir"
            )
        if skipped:
            self._display.warn(
                f"fold {self.fold}: skipped {skipped} of {steps} steps because of a non-finite loss or gradient"
            )
        self.state.taken += steps - skipped
        # Number of labels in steps that were not skipped, up to rounding: batch sizes differ by at most one.
        labels = self._targets.count(self._labels, np.arange(len(self._ids)))
        trained = (steps - skipped) / steps * labels
        line = self._line(float(self._loss) / max(trained, 1))
        self.schedule.update(line[self.job.config.evaluation.metric], line["loss"])
        if self.schedule.best_epoch == self.schedule.epoch:
            self.state.best_step, self.state.best = self.state.step, line
        self.state.batch = 0
        self._loss.zero_()
        self._skipped.zero_()
        self._save()

    def _line(self, train_loss: float | None) -> dict[str, Any]:
        """Run validation, append its metrics to metrics.jsonl as a line, and return the line.

        Args:
            train_loss: mean training loss of the epoch; None before training starts.
        """
        seconds = self._count_seconds()
        bases = sum(map(len, self._ids))
        config = self.job.config
        outputs = run_over(
            [self.job.ids[row] for row in self._valid],
            self._forward,
            len(self.job.data.classes),
            batch=config.evaluation.batch,
            strands=config.evaluation.strands,
            world=self.world,
            timers=self._timers,
            tokenizer=self._tokenizer,
            per_base=self._targets.per_base,
        )
        metrics = self._targets.evaluate(outputs, self.job.rows.labels[self._valid])
        epoch = self.schedule.epoch + (train_loss is not None)
        if not math.isfinite(metrics["loss"]):
            raise UserError(
                f"fold {self.fold}: the validation loss after epoch {epoch} is not finite; start over with a lower "
                "optimizer.lr and a new run.dir"
            )
        self._count_seconds()
        line = {
            "epoch": epoch,
            "step": self.state.step,
            "split": "valid",
            **metrics,
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
        """Add the time since the last call to the totals; return the seconds spent in the current epoch."""
        now = time.perf_counter()
        for key in self.state.seconds:
            self.state.seconds[key] += now - self._lap
        self._lap = now
        return self.state.seconds["epoch"]

    def _save(self) -> None:
        """Write a checkpoint; if this fails, the launch ends and the previous checkpoint is kept."""
        if self.state.step == 0:
            return
        with self._timers.phase(self.state.step, "save"):
            self._count_seconds()
            self.state.course = self.schedule.state_dict()
            self.state.loss, self.state.skipped = float(self._loss), int(self._skipped)
            weights = self._buffers.copy(whole_weights(self._engine), keep=self.world.is_main)
            moments = self._buffers.copy(whole_moments(self._engine), keep=self.world.is_main)
            self._buffers.wait()
            for text in self.world.on_main(lambda: self._store.write(weights, moments, self.state)) or []:
                self._display.warn(text)


def _engine(job: FinetuneJob, checkpoint: Path | None, state: FoldState, world: World) -> Engine:
    """Build the engine; restore weights and optimizer state from `checkpoint` unless it is None."""
    training = job.config.training
    network = copy.deepcopy(job.network)
    assert network is not None
    if checkpoint is not None:
        load_weights(network, checkpoint)
    options = EngineOptions(job.config.optimizer, ONLY_FINITE, training.accumulation, training.zero_stage, job.autocast)
    updates = state.taken + state.batch - state.skipped
    return engine_from_checkpoint(network, parameter_groups(network, job.config), options, world, checkpoint, updates)
