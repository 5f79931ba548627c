"""Layers, and stacks of layers, that operate on packed rows.

Shapes: T packed positions, D width, H heads, P head dimension.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import initialization as init

from ldarnet.model.bimamba2 import BiMamba2
from ldarnet.model.configuration import LDARNetConfig
from ldarnet.model.kernel_options import kernel_options
from ldarnet.model.layout import layer_letters, mlp_width
from ldarnet.model.linear import INITIAL_STD, AutocastLinear, init_weight
from ldarnet.ops import KernelOptions, Packing, at_least_fp32, kernel_for, matmul_dtype


class AddNorm(nn.Module):
    """Residual addition followed by RMSNorm, in at least float32."""

    def __init__(self, width: int, ops: KernelOptions) -> None:
        """Build the layer for ``width`` features."""
        super().__init__()
        self.ops = ops
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, branch_TD: Tensor | None, residual_TD: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Add the branch to the residual stream; return the normalized sum in ``dtype`` and the unnormalized sum.

        Both results have shape (T, D). If the branch is None, the sum is the residual stream.
        """
        return kernel_for("add_norm", residual_TD, self.ops)(branch_TD, residual_TD, self.weight, dtype)


class LocalAttention(nn.Module):
    """Multi-head attention within a local window, to both sides or to the left if causal; maps (T, D) to (T, D).

    Uses rotary position embedding and no biases.
    """

    def __init__(self, config: LDARNetConfig, stage: int) -> None:
        """Build the attention layer for a stage; stage 0 is the outermost."""
        super().__init__()
        width = config.d_model[stage]
        self.ops = kernel_options(config)
        self.heads = config.attn_cfg["num_heads"][stage]
        self.rotary = config.attn_cfg["rotary_emb_dim"][stage]
        self.window = config.attn_cfg["window_size"][stage]
        self.options = {"causal": True} if config.causal else {}
        self.qkv_proj = AutocastLinear(width, 3 * width, bias=False)
        self.out_proj = AutocastLinear(width, width, bias=False)

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices in each projection: q, k and v in ``qkv_proj``."""
        width = self.out_proj.out_features
        return {"qkv_proj.weight": (width, width, width), "out_proj.weight": (width,)}

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Attend within each sequence of a packed row."""
        qkv = self.qkv_proj(x_TD)
        q, k, v = kernel_for("rotary", qkv, self.ops)(qkv, packing, self.heads, self.rotary)
        attended = kernel_for("attention", q, self.ops)(q, k, v, packing, self.window, **self.options)
        return self.out_proj(attended.flatten(1))


class SwiGLU(nn.Module):
    """Gated MLP without biases (Shazeer 2020, arXiv 2002.05202); maps (T, D) to (T, D)."""

    def __init__(self, width: int, hidden: int, ops: KernelOptions) -> None:
        """Build the MLP; ``hidden`` is rounded up to a multiple of 128."""
        super().__init__()
        self.ops = ops
        hidden = mlp_width(hidden)
        self.fc1 = AutocastLinear(width, 2 * hidden, bias=False)
        self.fc2 = AutocastLinear(hidden, width, bias=False)

    def matrix_rows(self) -> dict[str, tuple[int, ...]]:
        """Rows of the matrices in each layer: value and gate in ``fc1``."""
        hidden = self.fc2.in_features
        return {"fc1.weight": (hidden, hidden), "fc2.weight": (self.fc2.out_features,)}

    def forward(self, x_TD: Tensor) -> Tensor:
        """Apply the MLP to each position."""
        y_and_gate = self.fc1(x_TD)
        return self.fc2(kernel_for("swiglu", y_and_gate, self.ops)(y_and_gate))


class Layer(nn.Module):
    """Pre-norm layer: a mixer, followed by a SwiGLU MLP if the layout letter is uppercase."""

    def __init__(self, config: LDARNetConfig, stage: int, letter: str) -> None:
        """Build the layer for a layout letter: m or M for BiMamba-2, t or T for attention."""
        super().__init__()
        width, ops = config.d_model[stage], kernel_options(config)
        self.norm1 = AddNorm(width, ops)
        self.mixer = LocalAttention(config, stage) if letter in "tT" else BiMamba2(config, stage)
        self.norm2 = AddNorm(width, ops) if letter.isupper() else None
        self.mlp = SwiGLU(width, config.d_intermediate[stage], ops) if letter.isupper() else None

    def forward(self, branch_TD: Tensor | None, residual_TD: Tensor, packing: Packing) -> tuple[Tensor, Tensor]:
        """Apply the layer to a packed row, but do not add the output of its last branch to the residual stream.

        Args:
            branch_TD: output of the previous layer's last branch; None in the first layer.
            residual_TD: residual stream, to which ``branch_TD`` has not been added yet.
            packing: sequence boundaries.

        Returns:
            The output of the last branch (mixer or MLP) and the residual stream, both (T, D).
        """
        dtype = matmul_dtype(self.norm1.weight, residual_TD.device)
        normed_TD, residual_TD = self.norm1(branch_TD, residual_TD, dtype)
        out_TD = self.mixer(normed_TD, packing)
        if self.mlp is not None and self.norm2 is not None:
            normed_TD, residual_TD = self.norm2(out_TD, residual_TD, dtype)
            out_TD = self.mlp(normed_TD)
        return out_TD, residual_TD


class Stack(nn.Module):
    """Stack of layers with a final norm; maps (T, D) to (T, D). The residual stream is at least float32.

    Attributes:
        gradient_checkpointing: whether activation checkpointing is enabled. With it, layers save only their inputs and
            are recomputed in the backward pass. Set by ``LDARNetPreTrainedModel.set_activation_checkpointing`` and
            ``gradient_checkpointing_enable``.
    """

    def __init__(self, config: LDARNetConfig, stage: int, stack: str, branches: int) -> None:
        """Build a stack.

        Args:
            config: model configuration.
            stage: index of the stage, 0 for the outermost.
            stack: layout letters with counts, as in ``m3t1``.
            branches: number of residual branches in this stage and the stages that enclose it; the output projection of
                each branch is initialized with std 0.02 / sqrt(branches).
        """
        super().__init__()
        layers = [Layer(config, stage, letter) for letter in layer_letters(stack)]
        branch_ends = [layer.mixer.out_proj for layer in layers]
        branch_ends += [layer.mlp.fc2 for layer in layers if layer.mlp is not None]
        for projection in branch_ends:
            init_weight(projection, init.normal_, std=INITIAL_STD / branches**0.5)
        self.stage = stage
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        self.layers = nn.ModuleList(layers)
        self.norm = AddNorm(config.d_model[stage], kernel_options(config))

    def forward(self, x_TD: Tensor, packing: Packing) -> Tensor:
        """Apply the layers and the final norm to a packed row."""
        branch_TD, residual_TD = None, at_least_fp32(x_TD)
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            run = partial(self._gradient_checkpointing_func, layer) if checkpointing else layer
            branch_TD, residual_TD = run(branch_TD, residual_TD, packing)
        return self.norm(branch_TD, residual_TD, self.norm.weight.dtype)[0]
