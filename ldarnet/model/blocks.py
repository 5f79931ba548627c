"""Layers, and stacks of layers, on a packed row.

Shapes: T packed positions, D width, H heads, P head width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.layout import layer_letters
from ldarnet.model.linear import INITIAL_STD, start_weight
from ldarnet.ops import Packing, at_least_fp32, resolve, rms_norm, rotate

MLP_MULTIPLE = 128


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in at least float32; its result has the dtype of the weights."""

    def __init__(self, width: int) -> None:
        """Norm over the last dimension, ``width`` long."""
        super().__init__()
        self.weight = nn.Parameter(Tensor(width))

    def forward(self, x_TD: Tensor) -> Tensor:
        """Normalise; (T, D)."""
        return rms_norm(x_TD, at_least_fp32(self.weight)).to(self.weight.dtype)


class LocalAttention(nn.Module):
    """Multi-head attention within a window, rotary positions, no biases; (T, D) to (T, D)."""

    def __init__(self, config: LDARNetConfig, stage: int) -> None:
        """Build the attention of a stage."""
        super().__init__()
        width = config.d_model[stage]
        self.ops = config.ops
        self.heads = config.attn_cfg["num_heads"][stage]
        self.rotary = config.attn_cfg["rotary_emb_dim"][stage]
        self.window = config.attn_cfg["window_size"][stage]
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Attend within each sequence of a packed row."""
        q, k, v = self.qkv_proj(x_TD).unflatten(-1, (3, self.heads, -1)).unbind(1)
        q, k = rotate(q, packing.position, self.rotary), rotate(k, packing.position, self.rotary)
        attend = resolve("attention", x_TD.device.type, self.ops.get("attention", "auto")).function
        return self.out_proj(attend(q, k, v, packing, self.window).flatten(1))


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer 2020, arXiv 2002.05202), no biases; (T, D) to (T, D)."""

    def __init__(self, width: int, hidden: int) -> None:
        """Hidden width is rounded up to a multiple of 128."""
        super().__init__()
        hidden = -(-hidden // MLP_MULTIPLE) * MLP_MULTIPLE
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Apply to every position by itself."""
        y, gate = self.fc1(x_TD).chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * y)


class Layer(nn.Module):
    """A mixer, and for a capital letter an MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: LDARNetConfig, stage: int, letter: str) -> None:
        """Build the layer that a letter of the layout names."""
        super().__init__()
        width = config.d_model[stage]
        self.norm1 = RMSNorm(width)
        self.mixer = LocalAttention(config, stage) if letter in "tT" else BiMamba2(config, stage)
        self.norm2 = RMSNorm(width) if letter.isupper() else None
        self.mlp = SwiGLU(width, config.d_intermediate[stage]) if letter.isupper() else None

    def forward(self, residual_TD: Tensor, packing: Packing) -> Tensor:
        """(T, D) residual stream in at least float32, to the same."""
        residual_TD = residual_TD + self.mixer(self.norm1(residual_TD), packing)
        if self.mlp is not None and self.norm2 is not None:
            residual_TD = residual_TD + self.mlp(self.norm2(residual_TD))
        return residual_TD


class Stack(nn.Module):
    """Layers one after the other on a residual stream in at least float32, and a norm at the end; (T, D) to (T, D)."""

    def __init__(self, config: LDARNetConfig, stage: int, stack: str, branches: int) -> None:
        """Build a stack of a stage.

        Args:
            config: the model's configuration.
            stage: depth of the stage, 0 the outermost.
            stack: letters and counts, as in ``m3t1``.
            branches: residual branches from the outside down to this stack, itself included; the last projection of
                every branch starts with a standard deviation of 0.02 / sqrt(branches).
        """
        super().__init__()
        layers = [Layer(config, stage, letter) for letter in layer_letters(stack)]
        branch_ends = [layer.mixer.out_proj for layer in layers]
        branch_ends += [layer.mlp.fc2 for layer in layers if layer.mlp is not None]
        for projection in branch_ends:
            start_weight(projection, init.normal_, std=INITIAL_STD / branches**0.5)
        self.layers = nn.ModuleList(layers)
        self.norm = RMSNorm(config.d_model[stage])

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Apply to the sequences of a packed row."""
        residual_TD = at_least_fp32(x_TD)
        for layer in self.layers:
            residual_TD = layer(residual_TD, packing)
        return self.norm(residual_TD)
