"""Baselines for LDARNet's speed: slower implementations of the same network, and other architectures.

`arrange` switches a model to another implementation ("arrangement") of the same function. The parameters and their
names stay the same. Tests compare losses and gradients. `CONFIGURATIONS` lists the measured models.

Shapes: T positions of packed sequences, or B sequences of L positions each; D input width, E output width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.chunking import Routing, Tokens
from ldarnet.model.chunking.learned import Router
from ldarnet.model.linear import AutocastLinear
from ldarnet.model.network import Stage, State
from ldarnet.ops import Packing, at_least_fp32

PRESETS = ("tiny", "quickstart", "ldarnet-2m", "ldarnet-110m")
CONFIGURATIONS: dict[str, Callable[[], LDARNetConfig]] = {
    **{name: lambda name=name: LDARNetConfig.preset(name) for name in PRESETS},
    "bimamba2-tiny": lambda: _uncompressed("tiny", "m2", 16),
    "transformer-tiny": lambda: _uncompressed("tiny", "T2", 16, hidden=32, heads=2),
    "bimamba2-128": lambda: _uncompressed("ldarnet-2m", "m4", 128),
    "bimamba2-110m": lambda: _uncompressed("ldarnet-110m", "m29", 768),
    "transformer-110m": lambda: _uncompressed("ldarnet-110m", "T12", 768, hidden=2944, heads=12),
}
"""Models by name. `bimamba2-*` (stacks of BiMamba-2 layers) and `transformer-*` (full attention, rotary positions,
SwiGLU MLPs) have no hierarchy and run at single-base resolution."""


def _uncompressed(preset: str, stack: str, width: int, hidden: int = 0, heads: int = 1) -> LDARNetConfig:
    attention = {"num_heads": [heads], "rotary_emb_dim": [width // heads // 2 * 2], "window_size": [-1]}
    return LDARNetConfig.preset(
        preset, arch_layout=[stack], d_model=[width], d_intermediate=[hidden], attn_cfg=attention
    )


class PerDirectionLinear(AutocastLinear):
    """BiMamba-2 projection that is computed once per scan direction, as in the published code.

    The directions share their weights. LDARNet computes the projection once, and its kernel scans the result in both
    directions.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Compute the projection once per direction, and average the results: (T, D) to (T, E)."""
        return _MeanOfEqual.apply(super().forward(input), super().forward(self.second_input(input)))

    def second_input(self, x_TD: Tensor) -> Tensor:
        """Return the input of the second direction. Subclasses may add work, but must not change the values."""
        return x_TD


class PerDirectionReversedLinear(PerDirectionLinear):
    """`PerDirectionLinear` with the extra cost of reversing the input and the output of a BiMamba-2 layer."""

    def second_input(self, x_TD: Tensor) -> Tensor:
        """Reverse the input twice: the values stay the same, but the cost is that of the published code."""
        return x_TD.flip(0).flip(0)


class _MeanOfEqual(torch.autograd.Function):
    """Mean of two tensors with equal values: returns the first. Each input gets half of the gradient."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        half = gradients[0] / 2
        return half, half


@dataclass(frozen=True)
class PaddedRows(Packing):
    """Packing of sequences padded to rows of equal length; the padding of each row is a separate sequence.

    Attributes:
        length: positions per row, including padding.
    """

    length: int

    @classmethod
    def of(cls, packing: Packing) -> PaddedRows:
        """Convert a packing to padded rows. Synchronizes host and device, as the published code does."""
        length = max(packing.host_lengths)
        first_B = torch.arange(len(packing.lengths), device=packing.starts.device) * length
        total = len(first_B) * length
        starts = F.pad(torch.stack([first_B, first_B + packing.lengths], 1).flatten(), (0, 1), value=total)
        return cls(starts, total, length, length)


class PaddedStage(Stage):
    """Innermost stage as in the published code: all sequences are padded to the longest one in the batch."""

    def forward(
        self, x_TD: Tensor, packing: Packing, tokens: Tokens
    ) -> tuple[Tensor, tuple[Routing, ...], tuple[State, ...]]:
        """Run the stage on padded rows. The returned output excludes the padding; the returned states include it."""
        assert self.innermost, "only an innermost stage can be padded: others would route the padding"
        rows = PaddedRows.of(packing)
        index_T = packing.sequence * rows.length + packing.position
        # Pad with ones: normalizing zeros would divide by almost zero.
        padded = x_TD.new_ones(rows.total, x_TD.shape[1]).index_copy(0, index_T, x_TD)
        y_TD, routings, states = super().forward(padded, rows, tokens)
        return y_TD.index_select(0, index_T), routings, states


class TransformersMixers(BiMamba2):
    """BiMamba-2 built from the PyTorch Mamba-2 mixer of Hugging Face transformers, run once per direction."""

    block = 256
    """Positions per block (`chunk_size`); the default of transformers."""

    @cached_property
    def mixer(self) -> nn.Module:
        """Mixer on the meta device. It has no weights and is not a registered submodule."""
        # Lazy import: on a GPU machine, transformers searches for compiled extensions.
        from transformers.models.mamba2 import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        width, taps = self.in_proj.in_features, self.conv_weight.shape[-1]
        config = Mamba2Config(
            hidden_size=width, num_heads=self.heads, head_dim=self.headdim, state_size=self.d_state, n_groups=1,
            expand=self.inner // width, conv_kernel=taps, num_hidden_layers=1, chunk_size=self.block,
        )  # fmt: skip
        with torch.device("meta"):
            return Mamba2Mixer(config, layer_idx=0)

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Run the mixer in both directions, and average the outputs: (T, D) to (T, D)."""
        if isinstance(packing, PaddedRows):
            length, real_BL = packing.length, (packing.sequence % 2 == 0).view(-1, packing.length)
        else:
            length, real_BL = packing.max_length, None
            assert packing.total == length * len(packing.lengths), "windows must be of equal length"
        x_BLD = x_TD.unflatten(0, (-1, length))
        forward_BLD = self.one_way(x_BLD, real_BL, 0)
        backward_BLD = self.one_way(x_BLD.flip(1), None if real_BL is None else real_BL.flip(1), 1).flip(1)
        return ((forward_BLD + backward_BLD) / 2).flatten(0, 1)

    def one_way(self, x_BLD: Tensor, real_BL: Tensor | None, direction: int) -> Tensor:
        """Run the mixer with the parameters of one direction: (B, L, D) to (B, L, D).

        Args:
            x_BLD: input; reversed by the caller for the backward direction.
            real_BL: (B, L) bool, false at padding; None if there is no padding.
            direction: 0 for forward, 1 for backward.
        """
        parameters = {
            "in_proj.weight": self.in_proj.weight,
            "out_proj.weight": self.out_proj.weight,
            "conv1d.weight": self.conv_weight[direction][:, None],
            "conv1d.bias": self.conv_bias[direction],
            "A_log": self.A_log[direction],
            "D": self.D[direction],
            "dt_bias": self.dt_bias[direction],
            "norm.weight": self.norm_weight[direction],
        }
        return functional_call(self.mixer, parameters, (x_BLD,), {"attention_mask": real_BL})


class TransformersMixersInSmallBlocks(TransformersMixers):
    """`TransformersMixers` with blocks of 64 positions, the fastest block size on a CPU (of 32, 64, 128 and 256)."""

    block = 64


MIXERS: dict[str, type[BiMamba2]] = {
    "transformers": TransformersMixers,
    "transformers-64": TransformersMixersInSmallBlocks,
}
ARRANGEMENTS = ("ours", "published", *MIXERS)
STRENGTHS = [0.05 * number for number in range(41)]
"""Values of s that `calibrate_router` tries."""


def arrange(model: LDARNetForMaskedLM, arrangement: str) -> None:
    """Switch a model to another implementation of the same function; windows must have equal length.

    - ``ours``: unchanged.
    - ``published``: emulates the published code, with the kernels of ``ours``. Each direction of a BiMamba-2 layer
      computes the input and output projections, the backward direction reverses its input and output, and the chunks of
      all sequences are padded to the longest sequence.
    - ``transformers``: each direction runs the Mamba-2 mixer of transformers, and chunks are padded.
    - ``transformers-64``: ``transformers`` with blocks of 64 positions (the fastest on a CPU) instead of 256.
    """
    # Only replace the classes of modules, so that parameters and their names stay the same.
    for module in model.modules() if arrangement != "ours" else ():
        match module:
            case BiMamba2() if arrangement in MIXERS:
                module.__class__ = MIXERS[arrangement]
            case BiMamba2():
                module.in_proj.__class__ = PerDirectionReversedLinear
                module.out_proj.__class__ = PerDirectionLinear
            case Stage() if module is not model.model.backbone:
                module.__class__ = PaddedStage


@torch.no_grad()
def calibrate_router(model: LDARNetForMaskedLM, input_ids: Tensor, bases_per_chunk: float = 4.0) -> None:
    """Calibrate the outermost router of an untrained model, so that it compresses about as much as a trained model.

    A newly initialized router puts a boundary at about every other base. This function sets the query and key
    projections of the router to I + s u u^T, where u is the mean direction of the router input. A larger s makes
    neighboring positions more similar, so there are fewer boundaries. The function selects the s from `STRENGTHS` whose
    boundary rate is closest to the target.

    Args:
        model: untrained model; its router weights are modified in place.
        input_ids: (B, L) ids of the sequences on which the boundary rate is measured.
        bases_per_chunk: target compression ratio; the target boundary rate is its inverse.
    """
    stage: Stage = model.model.backbone
    if stage.innermost:
        return
    router = stage.router
    assert isinstance(router, Router), "only a learned router can be calibrated"
    captured: list[tuple[Tensor, Packing]] = []
    tokens = Tokens(None, model.config.mask_token_id)
    hook = stage.encoder.register_forward_hook(lambda _, inputs, output: captured.append((output, inputs[1])))
    model(input_ids)
    hook.remove()
    h_TD, packing = captured[0]
    u_D = F.normalize(at_least_fp32(h_TD).mean(0), dim=0)
    identity, along = torch.eye(len(u_D), device=u_D.device), u_D.outer(u_D)

    def deviation(strength: float) -> float:
        for projection in (router.q_proj, router.k_proj):
            projection.weight.copy_(identity + strength * along)
        return abs(router(h_TD, packing, tokens).boundary.float().mean().item() - 1 / bases_per_chunk)

    deviation(min(STRENGTHS, key=deviation))
