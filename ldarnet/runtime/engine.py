"""DeepSpeed engine: fp32 weights, optional bf16 autocast, ZeRO stages 0 to 3."""

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
    """How a model is trained, independent of the task.

    Attributes:
        optimizer: AdamW settings and the gradient clipping norm.
        guard: which steps to skip.
        accumulation: micro-steps per optimizer step.
        zero_stage: 0 to 3.
        autocast: run matrix products in bf16.
        offload: keep the optimizer state in CPU memory.
    """

    optimizer: AdamWSection
    guard: GuardSection
    accumulation: int
    zero_stage: int
    autocast: bool
    offload: bool = False

    @classmethod
    def of(cls, config: RunConfig, world: World) -> "EngineOptions":
        """Options of a pretraining run."""
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
    """A model and its optimizer under DeepSpeed.

    Args:
        model: with the weights to start from; load a checkpoint's weights before.
        groups: parameter groups for AdamW, each with `name` and `base_lr` in addition to the keys of torch.
        options: how to train.
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
        """Gradient norms per module of an LDARNet model."""
        return GradientParts(self.model, self.deepspeed.optimizer, self.options.zero_stage, self._world)

    @property
    def groups(self) -> list[dict]:
        """Parameter groups of the optimizer."""
        return self.deepspeed.optimizer.param_groups

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> Any:
        """Forward pass of token ids (windows, bases).

        Args:
            input_ids: on the device.
            attention_mask: on the host, False on padding; by default, there is no padding.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_ids.shape, dtype=torch.bool)
        return self.deepspeed(input_ids=input_ids, attention_mask=attention_mask)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient of one micro-step; see `micro_step_loss` for the scale of the loss."""
        self.deepspeed.backward(loss)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()

    def update(self, factor: float, loss: torch.Tensor) -> tuple[dict[str, float], torch.Tensor | float]:
        """Take an optimizer step, unless the guard skips it.

        Args:
            factor: multiplies the base learning rate of every group.
            loss: global loss of the step, (), on the device.

        Returns:
            Learning rate by group, and global gradient norm before clipping.
        """
        for group in self.groups:
            group["lr"] = group["base_lr"] * factor
        self._norm = self._clip() if self.options.zero_stage == 0 else None
        self.guard.observe_loss(loss)
        self.deepspeed.step()
        return {group["name"]: group["lr"] for group in self.groups}, self._gradient_norm()

    def _decide(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Optimizer step pre-hook: the global gradient norm is known, the parameters are not updated yet."""
        skips = self.guard.skips(self._gradient_norm())
        if self.options.offload:
            skips = skips.cpu()  # torch's own copy would not be synchronized
        setattr(optimizer, "found_inf", skips)  # noqa: B010 (undeclared attribute)

    def _gradient_norm(self) -> torch.Tensor | float:
        return global_gradient_norm(self.deepspeed.optimizer) if self._norm is None else self._norm

    def _clip(self) -> torch.Tensor:
        """Clip the gradient and return its norm; without ZeRO, DeepSpeed would synchronize and not report it."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.optimizer.clip)


def deepspeed_config(options: EngineOptions, world: World, parameters: int) -> Mapping[str, Any]:
    """DeepSpeed configuration of these options.

    Args:
        options: how to train.
        world: the ranks.
        parameters: number of parameters.
    """
    stage = options.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        # The default buffers of 500 million elements are too large for small models.
        bucket = min(parameters, 500_000_000)
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if options.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": world.device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches are formed by our own loader
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": options.optimizer.clip if stage else 0.0,
        "steps_per_print": 10**9,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # An empty list keeps gradient reduction in fp32, so that ranks and micro-steps accumulate alike.
        "torch_autocast": {
            "enabled": options.autocast,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def autocast(precision: str, world: World) -> bool:
    """Whether to run matrix products in bf16, given `training.precision`."""
    return precision == "bf16" or (precision == "auto" and world.device.type == "cuda")


def micro_batch(config: RunConfig, ranks: int) -> int:
    """Windows per rank and micro-step.

    Raises:
        UserError: the windows of a micro-step cannot be split evenly over ranks.
    """
    micro_step = config.training.batch // config.training.accumulation
    if micro_step % ranks:
        raise UserError(
            f"training.batch={config.training.batch}: {micro_step} windows per micro-step "
            f"(training.accumulation={config.training.accumulation}) cannot be split evenly over {ranks} ranks; set "
            f"training.batch to a multiple of {ranks * config.training.accumulation}"
        )
    return micro_step // ranks


def check_same_kernels(kernels: dict[str, str], world: World) -> None:
    """Check that all ranks use the same kernels; every rank must call it.

    Raises:
        UserError: they differ; on all ranks.
    """
    kernels_of_rank_0 = world.from_main(lambda: kernels)
    with world.together():
        if kernels != kernels_of_rank_0:
            raise UserError(
                f"rank {world.rank}: kernels differ from rank 0 ({kernels}, rank 0: {kernels_of_rank_0}); run `ldarnet "
                "doctor` on both machines, or set ops.OPERATION=NAME"
            )
