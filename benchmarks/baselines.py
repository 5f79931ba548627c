"""The models that LDARNet's speed is measured against: the same function computed in other ways, and other functions.

`arrange` lets a model compute the same function with more work, from the very same parameters under the same names, so
that equal losses and gradients prove the comparison fair. `CONFIGURATIONS` names what is measured.

Shapes: T packed positions; B sequences of L positions in rows of equal length; D width, E width of a result.
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
from ldarnet.model.network import Routing, Stage
from ldarnet.ops import Packing, at_least_fp32

CONFIGURATIONS: dict[str, Callable[[], LDARNetConfig]] = {
    **{name: lambda name=name: LDARNetConfig.preset(name) for name in ("tiny", "ldarnet-2m", "ldarnet-110m")},
    "bimamba2-tiny": lambda: _uncompressed("tiny", "m2", 16),
    "transformer-tiny": lambda: _uncompressed("tiny", "T2", 16, hidden=32, heads=2),
    "bimamba2-128": lambda: _uncompressed("ldarnet-2m", "m4", 128),
    "bimamba2-110m": lambda: _uncompressed("ldarnet-110m", "m29", 768),
    "transformer-110m": lambda: _uncompressed("ldarnet-110m", "T12", 768, hidden=2944, heads=12),
}
"""Models by name. Without a hierarchy, at the resolution of bases: `bimamba2-*` are stacks of BiMamba-2 layers and
`transformer-*` of full attention with rotary positions and SwiGLU MLPs."""


def _uncompressed(like: str, stack: str, width: int, hidden: int = 0, heads: int = 1) -> LDARNetConfig:
    attention = {"num_heads": [heads], "rotary_emb_dim": [width // heads // 2 * 2], "window_size": [-1]}
    return LDARNetConfig.preset(like, arch_layout=[stack], d_model=[width], d_intermediate=[hidden], attn_cfg=attention)


class ForEachDirection(nn.Linear):
    """A projection of BiMamba-2 as the published code computes it: once for each reading direction.

    Both results are the same numbers, so that one kernel can read them in both directions, as ours does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply to the last dimension, twice; (T, D) to (T, E)."""
        return _SameNumbers.apply(super().forward(input), super().forward(self.again(input)))

    def again(self, x_TD: Tensor) -> Tensor:
        """The input of the second direction, in the order of the first."""
        return x_TD


class ForEachDirectionReversed(ForEachDirection):
    """The first projection, which also pays for reversing: a layer's input and, when it is done, its output."""

    def again(self, x_TD: Tensor) -> Tensor:
        """Reverse twice: the published code moves as many numbers, but computes in between."""
        return x_TD.flip(0).flip(0)


class _SameNumbers(torch.autograd.Function):
    """The mean of two equal tensors, without computing it."""

    @staticmethod
    def forward(ctx: Any, once: Tensor, again: Tensor) -> Tensor:
        return once.view_as(once)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        half = gradients[0] / 2
        return half, half


@dataclass(frozen=True)
class PaddedRows(Packing):
    """Sequences in rows of equal length, where the padding behind each counts as a sequence of its own.

    Attributes:
        length: of a row.
    """

    length: int

    @classmethod
    def of(cls, packing: Packing) -> PaddedRows:
        """Rows as long as the longest sequence; waits for the device, as the published code does."""
        length = max(packing.host_lengths)
        first_B = torch.arange(len(packing.lengths), device=packing.starts.device) * length
        total = len(first_B) * length
        starts = F.pad(torch.stack([first_B, first_B + packing.lengths], 1).flatten(), (0, 1), value=total)
        return cls(starts, total, length, length)


class PaddedStage(Stage):
    """An inner stage as published: the chunks of every sequence padded to the longest sequence of the batch."""

    def forward(self, x_TD: Tensor, packing: Packing) -> tuple[Tensor, tuple[Routing, ...]]:
        """Run the stage on padded rows and drop the padding."""
        assert self.innermost, "a stage between others would route its padding"
        rows = PaddedRows.of(packing)
        place_T = packing.sequence * rows.length + packing.position
        # Padding is not zero, which a norm would divide by almost nothing.
        padded = x_TD.new_ones(rows.total, x_TD.shape[1]).index_copy(0, place_T, x_TD)
        y_TD, routings = super().forward(padded, rows)
        return y_TD.index_select(0, place_T), routings


class TransformersMixers(BiMamba2):
    """BiMamba-2 from transformers' Mamba-2 mixer in its PyTorch form, once for each direction, padding masked."""

    block = 256
    """Positions that the mixer takes at a time; this is its own default."""

    @cached_property
    def mixer(self) -> nn.Module:
        """The mixer, without parameters of its own; it is no submodule."""
        # Not imported on a GPU, where it would look for compiled extensions.
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
        """(T, D) to the same."""
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
        """The mixer with the parameters of a direction; (B, L, D) to the same."""
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
    """The same in the blocks that it is fastest with on a CPU, of 32, 64, 128 and 256."""

    block = 64


MIXERS: dict[str, type[BiMamba2]] = {
    "transformers": TransformersMixers,
    "transformers-64": TransformersMixersInSmallBlocks,
}
ARRANGEMENTS = ("ours", "published", *MIXERS)
STRENGTHS = [0.05 * number for number in range(41)]
"""Of what all bases have in common, that a router can be calibrated with."""


def arrange(model: LDARNetForMaskedLM, arrangement: str) -> None:
    """Let a model compute the same function in another way, from windows of equal length.

    - ``ours``: as it is.
    - ``published``: each direction of a BiMamba-2 layer computes both projections, one reverses what it reads and what
      it returns, and chunks are padded to the longest sequence. Everything else is computed by the same kernels.
    - ``transformers``: each direction is transformers' Mamba-2 mixer, and chunks are padded.
    - ``transformers-64``: the same in blocks of 64 positions, its fastest on a CPU, in place of 256.
    """
    # Only the code of modules is exchanged: parameters, and their names, stay.
    for module in model.modules() if arrangement != "ours" else ():
        match module:
            case BiMamba2() if arrangement in MIXERS:
                module.__class__ = MIXERS[arrangement]
            case BiMamba2():
                module.in_proj.__class__ = ForEachDirectionReversed
                module.out_proj.__class__ = ForEachDirection
            case Stage() if module is not model.model.backbone:
                module.__class__ = PaddedStage


@torch.no_grad()
def calibrate_router(model: LDARNetForMaskedLM, input_ids: Tensor, bases_per_chunk: float = 4.0) -> None:
    """Let the outermost router of an untrained model begin a chunk at about every fourth base, as a trained one does.

    A fresh router finds about every other base unlike its neighbour. With both projections at I + s u u^T, where u is
    the mean direction of what is routed, everything looks more alike for s > 0; of a grid of s the best is taken.

    Args:
        model: changed in place.
        input_ids: (B, L), what the share of boundaries is taken over.
        bases_per_chunk: wanted.
    """
    stage: Stage = model.model.backbone
    if stage.innermost:
        return
    seen: list[tuple[Tensor, Packing]] = []
    hook = stage.encoder.register_forward_hook(lambda _, inputs, output: seen.append((output, inputs[1])))
    model(input_ids)
    hook.remove()
    h_TD, packing = seen[0]
    u_D = F.normalize(at_least_fp32(h_TD).mean(0), dim=0)
    identity, along = torch.eye(len(u_D), device=u_D.device), u_D.outer(u_D)

    def miss(strength: float) -> float:
        for projection in (stage.router.q_proj, stage.router.k_proj):
            projection.weight.copy_(identity + strength * along)
        return abs(stage.router(h_TD, packing)[1].float().mean().item() - 1 / bases_per_chunk)

    miss(min(STRENGTHS, key=miss))
