"""DeepSpeed engine: fp32 weights, optional bf16 autocast, ZeRO stages 0 to 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from ldarnet.config import RunConfig
from ldarnet.config.optimization import AdamWSection
from ldarnet.config.schema import GuardSection
from ldarnet.errors import UserError
from ldarnet.runtime.deepspeed_internals import (
    check_groups,
    check_optimizer,
    fragment_in_group,
    global_gradient_norm,
    keep_gradient_norms_on_device,
    load_deepspeed,
)
from ldarnet.runtime.distributed import World
from ldarnet.runtime.gradients import GradientParts
from ldarnet.runtime.guard import Guard
from ldarnet.runtime.muon import MuonAdamW
from ldarnet.runtime.optimizer import build_optimizer

BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx10_2", "bf16", "sve_bf16")
"""Instruction sets with bf16 matrix products, as torch names them."""


@dataclass(frozen=True)
class EngineOptions:
    """Training options that do not depend on the task.

    Attributes:
        optimizer: settings of AdamW and gradient clipping norm.
        guard: settings of the guard, which skips steps with a non-finite or spiking loss.
        accumulation: micro-steps per optimizer step.
        zero_stage: ZeRO stage, 0 to 3.
        autocast: run matrix multiplications in bf16 instead of fp32.
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
        """Create the options of a pretraining run from its configuration."""
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
    """A model and its optimizer, trained with DeepSpeed.

    Args:
        model: model with its initial weights; to resume, load the weights of the checkpoint first.
        groups: parameter groups for `build_optimizer`; each has `name` and `base_lr` in addition to torch's keys.
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
        check_groups(self.deepspeed.optimizer, optimizer, groups)
        if isinstance(optimizer, MuonAdamW):
            find = partial(fragment_in_group, self.deepspeed.optimizer, options.zero_stage)
            optimizer.locate(find, world)
        self.model: Any = model

    @cached_property
    def gradients(self) -> GradientParts:
        """Per-module gradient norms; only for LDARNet models."""
        return GradientParts(self.model, self.deepspeed.optimizer, self.options.zero_stage, self._world)

    @property
    def groups(self) -> list[dict]:
        """Parameter groups of the optimizer."""
        return self.deepspeed.optimizer.param_groups

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        boundaries: torch.Tensor | None = None,
    ) -> Any:
        """Run the forward pass.

        Args:
            input_ids: token ids, (windows, bases), on the device.
            attention_mask: bool, (windows, bases), on the host, False at padding; by default, there is no padding.
            boundaries: see `LDARNetModel.forward`; bool, (windows, bases), on the host.
        """
        if attention_mask is None:
            attention_mask = torch.ones(input_ids.shape, dtype=torch.bool)
        given = {} if boundaries is None else {"boundaries": boundaries}
        return self.deepspeed(input_ids=input_ids, attention_mask=attention_mask, **given)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradient of one micro-step; `loss` is the return value of `micro_step_loss`."""
        self.deepspeed.backward(loss)
        if not self.deepspeed.is_gradient_accumulation_boundary():
            self.deepspeed.step()

    def update(self, factor: float, loss: torch.Tensor) -> tuple[dict[str, float], torch.Tensor | float]:
        """Take an optimizer step, unless the guard skips it.

        Args:
            factor: learning rate multiplier, applied to `base_lr` of every group.
            loss: global loss of the step, a scalar on the device.

        Returns:
            Learning rate by group name, and global gradient norm before clipping.
        """
        for group in self.groups:
            group["lr"] = group["base_lr"] * factor
        self._norm = self._clip() if self.options.zero_stage == 0 else None
        self.guard.observe_loss(loss)
        self.deepspeed.step()
        return {group["name"]: group["lr"] for group in self.groups}, self._gradient_norm()

    def _decide(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Set `found_inf` of the optimizer to 1 if the guard skips the step, otherwise to 0.

        Pre-hook of the optimizer; runs after the global gradient norm is computed.
        """
        skips = self.guard.skips(self._gradient_norm())
        if self.options.offload:
            skips = skips.cpu()  # torch would copy it asynchronously and might read it too early
        setattr(optimizer, "found_inf", skips)  # noqa: B010 (undeclared attribute)

    def _gradient_norm(self) -> torch.Tensor | float:
        return global_gradient_norm(self.deepspeed.optimizer) if self._norm is None else self._norm

    def _clip(self) -> torch.Tensor:
        """Clip the gradient and return its norm before clipping; for ZeRO stage 0 only.

        In stage 0, DeepSpeed's own clipping would synchronize with the device and would not report the norm.
        """
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.optimizer.clip)


def deepspeed_config(options: EngineOptions, world: World, parameters: int) -> Mapping[str, Any]:
    """Build the DeepSpeed configuration; `parameters` is the number of parameters of the model."""
    stage = options.zero_stage
    zero: dict[str, Any] = {"stage": stage}
    if stage:
        # The default buffers of 500 million elements are too large for small models. DeepSpeed needs an even number.
        bucket = min(parameters + parameters % 2, 500_000_000)
        zero |= {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    if options.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": world.device.type == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches are formed by our own loader
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": options.optimizer.clip if stage else 0.0,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it would synchronize with the device in every micro-step
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # An empty list keeps gradient reduction over ranks in fp32, like accumulation over micro-steps.
        "torch_autocast": {
            "enabled": options.autocast,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
    }


def autocast(precision: str, world: World) -> bool:
    """Whether a value of `training.precision` means bf16 autocast on this device."""
    return precision == "bf16" or (precision == "auto" and world.device.type == "cuda")


def slow_bf16(in_bf16: bool, world: World) -> str | None:
    """Warning that this CPU has no bf16 matrix products, if bf16 autocast is used on such a CPU; None otherwise."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # not in every supported version of torch
    if not in_bf16 or world.device.type != "cpu" or not capabilities or any(map(capabilities.get, BF16_INSTRUCTIONS)):
        return None
    return (
        "training.precision=bf16: this CPU has no bf16 matrix products (AMX, AVX-512 BF16 or Arm BF16) and emulates "
        "them slowly; use training.precision=fp32"
    )


def micro_batch(config: RunConfig, ranks: int) -> int:
    """Compute the micro-batch size: the number of windows per rank and micro-step.

    Raises:
        UserError: `training.batch` cannot be split evenly over ranks and micro-steps.
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
    """Check that all ranks use the same kernels; every rank must call this function.

    Raises:
        UserError: the kernels of a rank differ from those of rank 0; raised on all ranks.
    """
    kernels_of_rank_0 = world.from_main(lambda: kernels)
    with world.together():
        if kernels != kernels_of_rank_0:
            raise UserError(
                f"rank {world.rank}: kernels {kernels} differ from those of rank 0, {kernels_of_rank_0}; compare the "
                "output of `ldarnet doctor` on both machines, or select the same kernels with ops.OPERATION=NAME"
            )
