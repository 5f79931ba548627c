"""The DeepSpeed engine around the model: fp32 weights, bf16 autocast where asked, any ZeRO stage."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ldarnet.config import RunConfig
from ldarnet.config.schema import AdamWSection, GuardSection
from ldarnet.errors import UserError
from ldarnet.runtime.deepspeed_internals import (
    check_optimizer,
    global_gradient_norm,
    keep_gradient_norms_on_device,
    load_deepspeed,
)
from ldarnet.runtime.distributed import World
from ldarnet.runtime.gradients import GradientParts
from ldarnet.runtime.guard import Guard
from ldarnet.runtime.optimizer import build_optimizer


@dataclass(frozen=True)
class EngineOptions:
    """How a model is trained, whatever it learns.

    Attributes:
        optimizer: of all groups of parameters, and the largest norm of the gradient.
        guard: which steps are not taken.
        accumulation: micro-steps per optimiser step.
        zero_stage: 0 to 3.
        autocast: whether matrix products run in bf16.
        offload: whether the optimiser is kept in the memory of the CPU.
    """

    optimizer: AdamWSection
    guard: GuardSection
    accumulation: int
    zero_stage: int
    autocast: bool
    offload: bool = False

    @classmethod
    def of(cls, config: RunConfig, world: World) -> "EngineOptions":
        """Those of a pretraining run."""
        training = config.training
        return cls(
            config.optimizer,
            config.guard,
            training.accumulation,
            training.zero_stage,
            autocast(training.precision, world),
            training.offload,
        )


class Engine:
    """A model and its optimiser under DeepSpeed.

    Args:
        model: its weights at construction are the ones that are trained, so a checkpoint's weights are loaded before.
        groups: its parameters for AdamW, each group with `name` and `base_lr` beside what torch reads.
        options: how it is trained.
        world: the ranks.
    """

    def __init__(self, model: torch.nn.Module, groups: list[dict], options: EngineOptions, world: World) -> None:
        self.options = options
        self.model_config: Any = getattr(model, "config", None)
        self._world = world
        torch.nn.Module.to(model, world.device)
        optimizer = build_optimizer(groups, options.optimizer)
        optimizer.register_step_pre_hook(self._decide)
        self.guard = Guard(options.guard, world.device)
        self._norm: torch.Tensor | float | None = None
        deepspeed = load_deepspeed()
        if options.zero_stage:
            keep_gradient_norms_on_device()
        self.deepspeed = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=deepspeed_config(options, world, sum(parameter.numel() for parameter in model.parameters())),
            dist_init_required=False,
        )[0]
        check_optimizer(self.deepspeed.optimizer, options.zero_stage)
        self.model: Any = model

    @cached_property
    def gradients(self) -> GradientParts:
        """The norms of the gradient by part of an LDARNet model."""
        return GradientParts(self.model, self.deepspeed.optimizer, self.options.zero_stage, self._world)

    @property
    def groups(self) -> list[dict]:
        """The optimiser's parameter groups."""
        return self.deepspeed.optimizer.param_groups

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        """The model's output for ids of shape (windows, bases).

        Args:
            input_ids: on the device.
            attention_mask: on the host, False on padding; without it nothing is.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_ids.shape, dtype=torch.bool)
        return self.deepspeed(input_ids=input_ids, attention_mask=attention_mask)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradients of one micro-step; DeepSpeed divides by their number and averages over ranks."""
        self.deepspeed.backward(loss)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()

    def update(self, factor: float, loss: torch.Tensor) -> tuple[dict[str, float], torch.Tensor | float]:
        """Take an optimiser step, unless the guard skips it.

        Args:
            factor: on the base learning rate of every group.
            loss: of the step over all ranks, (), on the device.

        Returns:
            The learning rate by group, and the norm of the whole gradient before clipping.
        """
        for group in self.groups:
            group["lr"] = group["base_lr"] * factor
        self._norm = self._clip() if self.options.zero_stage == 0 else None
        self.guard.begin(loss)
        self.deepspeed.step()
        return {group["name"]: group["lr"] for group in self.groups}, self._gradient_norm()

    def _decide(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Called by the optimiser before it updates parameters, when DeepSpeed has the norm of the whole gradient."""
        skips = self.guard.skips(self._gradient_norm())
        if self.options.offload:
            skips = skips.cpu()  # the optimiser's own copy would not be waited for
        setattr(optimizer, "found_inf", skips)  # noqa: B010 (not declared there)

    def _gradient_norm(self) -> torch.Tensor | float:
        return global_gradient_norm(self.deepspeed.optimizer) if self._norm is None else self._norm

    def _clip(self) -> torch.Tensor:
        """Clip the whole gradient and return its norm; without ZeRO DeepSpeed would wait for it and report none."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.optimizer.clip)


def deepspeed_config(options: EngineOptions, world: World, parameters: int) -> Mapping[str, Any]:
    """DeepSpeed's own configuration."""
    stage = options.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        # The defaults reserve buffers of 500 million elements whatever the model.
        bucket = min(parameters, 500_000_000)
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if options.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": world.device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # nothing is made of it
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": options.optimizer.clip if stage else 0.0,
        "steps_per_print": 10**9,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Listing no module keeps gradients fp32 on the wire, so that ranks and accumulation steps add up alike.
        "torch_autocast": {
            "enabled": options.autocast,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def autocast(precision: str, world: World) -> bool:
    """Whether matrix products run in bf16, given `training.precision`."""
    return precision == "bf16" or (precision == "auto" and world.device.type == "cuda")


def micro_batch(config: RunConfig, ranks: int) -> int:
    """Windows that one rank computes at once.

    Raises:
        UserError: the ranks cannot share a micro-step evenly.
    """
    micro_step = config.training.batch // config.training.accumulation
    if micro_step % ranks:
        raise UserError(
            f"training.batch={config.training.batch} in training.accumulation={config.training.accumulation} "
            f"micro-steps is {micro_step} windows each, which {ranks} ranks cannot share evenly; set training.batch to "
            f"a multiple of {ranks * config.training.accumulation}"
        )
    return micro_step // ranks


def same_kernels(kernels: dict[str, str], world: World) -> None:
    """Check that all ranks compute with the same kernels; every rank must call it.

    Raises:
        UserError: they do not; on all ranks.
    """
    chosen_on_main = world.from_main(lambda: kernels)
    with world.together():
        if kernels != chosen_on_main:
            raise UserError(
                f"rank {world.rank} would compute with {kernels}, rank 0 with {chosen_on_main}; see `ldarnet doctor` "
                "on both machines, or demand the same kernels of all by ops.OPERATION=NAME"
            )
