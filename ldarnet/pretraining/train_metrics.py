"""Compute the training lines of metrics.jsonl."""

from dataclasses import replace
from typing import Any

from ldarnet.data import stage_at
from ldarnet.model.cost import dense_bf16_peak
from ldarnet.pretraining.callbacks.base import RunContext
from ldarnet.pretraining.meters import SpeedMeter, Utilization, host_metrics
from ldarnet.pretraining.step_totals import LoggedValues
from ldarnet.pretraining.validation import stage_metrics
from ldarnet.runtime.checkpoint import TrainingState
from ldarnet.runtime.engine import autocast
from ldarnet.runtime.router_metrics import router_metrics


class TrainMetrics:
    """Measures throughput and assembles the training line of each logged step; every rank must call every method.

    Attributes:
        meter: measures throughput since the last logged step.
    """

    def __init__(self, run: RunContext) -> None:
        config, world = run.config, run.world
        self._run = run
        self.meter = SpeedMeter(run.resumed.seconds)
        peak = dense_bf16_peak(world.device_name) if autocast(config.training.precision, world) else None
        self._utilization = Utilization(
            run.engine.model_config, config.data.length, world.size, peak, run.inputs.bases_per_token
        )

    def count_step(self) -> None:
        """Count the bases of a completed step."""
        self.meter.add(self._run.config.training.batch * self._run.config.data.length)

    def line(
        self,
        state: TrainingState,
        values: LoggedValues,
        scored: int,
        lr: dict[str, float],
    ) -> dict[str, Any]:
        """Assemble the training line of the last completed step.

        Args:
            state: training state after the step.
            values: losses, router counts and gradient norms of the step.
            scored: number of target positions in the global batch.
            lr: parameter group -> learning rate.
        """
        run, data_length = self._run, self._run.config.data.length
        length = stage_at(run.inputs.parts, state.step - 1).length
        model, target_loss, ratio_loss = run.inputs.model, values.nll / max(scored, 1), values.ratio
        stages, speed, spent = stage_metrics(values.stages), self.meter.lap(), run.timers.take()
        return {
            "step": state.step,
            "split": "train",
            "epoch": state.position / len(run.inputs.by_length[data_length]),
            "length": length,
            **({} if model.causal else {"loss": target_loss + model.config.ratio_weight * ratio_loss}),
            model.loss_name: target_loss,
            "ratio_loss": ratio_loss,
            **stages,
            "target_ratio": run.inputs.schedule.target_ratio(state.step - 1),
            **router_metrics(values.router),
            "gradient_norm": values.norm,
            "gradient_norms": run.engine.gradients.norms(values.squares, values.norm),
            "lr": lr,
            "bases_per_second": speed,
            **replace(self._utilization, length=length).metrics(speed, stages["bases_per_chunk"]),
            "bases": state.position * data_length,
            "seconds": self.meter.seconds,
            **host_metrics(spent, run.world),
            "checkpoint_stall_seconds": spent.get("save", 0.0),
        }
