# Copyright the LDARNet authors.
# SPDX-License-Identifier: Apache-2.0
"""Layers and hierarchy of LDARNet (arXiv 2606.04552) in plain PyTorch, for `modeling_ldarnet.py`.

Shapes: B sequences, L positions, M chunks, D width, H heads, P head dimension, N state width. The positions of a
sequence are on the left; `real`, (B, L) bool, is False on the padding to their right.
"""

import re

import torch
from torch import nn
from torch.nn import functional as F

EPSILON = 1e-5
BLOCK = 64
QUERIES = 512
METHODS = ("learned", "frozen", "grid", "file", "none")


def wide(x):
    """Cast to at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def compact(mask):
    """Indices of the true positions of each row, (B, M), and False where a row has fewer than M of them."""
    counts = mask.sum(1)
    index = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(counts.max())]
    return index, torch.arange(index.shape[1], device=mask.device) < counts[:, None]


def take(x, index):
    """Select positions, (B, L, ...) to (B, M, ...)."""
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:]))


def scan(x, scale, log_decay, b, c):
    """Compute y_t = c_t . s_t with s_t = exp(log_decay_t) s_{t-1} + b_t (scale_t x_t)^T, in blocks of positions.

    Shapes: x and y (B, L, H, P), scale and log_decay (B, L, H), b and c (B, L, N).
    """
    L = x.shape[1]
    x, log_decay, b, c = (
        F.pad(v, (0, 0) * (v.dim() - 2) + (0, -L % BLOCK)).unflatten(1, (-1, BLOCK))
        for v in (x * scale[..., None], log_decay, b, c)
    )
    reach = log_decay.cumsum(2)
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=x.device).triu(1)[..., None]
    within = (reach[:, :, :, None] - reach[:, :, None]).masked_fill(future, -torch.inf).exp()
    y = torch.einsum("bktsh,bkshp->bkthp", (c @ b.mT)[..., None] * within, x)
    added = torch.einsum("bksn,bkshp->bkhnp", b, (reach[:, :, -1:] - reach).exp()[..., None] * x)
    state, entering = torch.zeros_like(added[:, 0]), []
    for k in range(added.shape[1]):
        entering.append(state)
        state = state * reach[:, k, -1].exp()[..., None, None] + added[:, k]
    y = y + torch.einsum("bktn,bkhnp->bkthp", c, torch.stack(entering, 1)) * reach.exp()[..., None]
    return y.flatten(1, 2)[:, :L]


class WideLinear(nn.Linear):
    """Linear layer in at least float32."""

    def forward(self, x):
        """Apply the layer."""
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(wide(x), wide(self.weight), None if self.bias is None else wide(self.bias))


class Norm(nn.Module):
    """RMSNorm of at least float32 inputs; returns the dtype of the weight."""

    def __init__(self, width):
        """Build the norm."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        """Normalize the last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), EPSILON).to(self.weight.dtype)


class BiMamba2(nn.Module):
    """Mamba-2 in both directions with shared projections, or left to right if causal."""

    def __init__(self, config, stage):
        """Build the mixer of a stage."""
        super().__init__()
        ssm, width, K = config.ssm_cfg, config.d_model[stage], 1 if config.causal else 2
        self.inner, self.state, self.headdim = ssm["expand"] * width, ssm["d_state"], ssm["headdim"]
        self.heads, channels = self.inner // self.headdim, self.inner + 2 * self.state
        self.in_proj = nn.Linear(width, self.inner + channels + self.heads, bias=False)
        self.out_proj = nn.Linear(self.inner, width, bias=False)
        self.conv_weight = nn.Parameter(torch.zeros(K, channels, ssm["d_conv"]))
        self.conv_bias = nn.Parameter(torch.zeros(K, channels))
        self.A_log, self.D, self.dt_bias = (nn.Parameter(torch.zeros(K, self.heads)) for _ in range(3))
        self.norm_weight = nn.Parameter(torch.ones(K, self.inner))

    def forward(self, x, real):
        """Mix the positions of each sequence."""
        z, xbc, dt = self.in_proj(x).split([self.inner, self.inner + 2 * self.state, self.heads], -1)
        z, xbc, dt = wide(z), wide(xbc).masked_fill(~real[..., None], 0), wide(dt)
        y = sum(self._direction(k, z, xbc, dt, real) for k in range(len(self.A_log))) / len(self.A_log)
        return self.out_proj(y.to(x.dtype))

    def _direction(self, k, z, xbc, dt, real):
        if k:  # right to left
            z, xbc, dt, real = z.flip(1), xbc.flip(1), dt.flip(1), real.flip(1)
        weight, taps = wide(self.conv_weight[k])[:, None], self.conv_weight.shape[-1]
        xbc = F.conv1d(F.pad(xbc.mT, (taps - 1, 0)), weight, wide(self.conv_bias[k]), groups=len(weight))
        x, b, c = F.silu(xbc.mT).split([self.inner, self.state, self.state], -1)
        x = x.unflatten(-1, (self.heads, self.headdim))
        step = F.softplus(dt + wide(self.dt_bias[k])).masked_fill(~real[..., None], 0)
        y = scan(x, step, step * -wide(self.A_log[k]).exp(), b, c) + wide(self.D[k])[:, None] * x
        y = F.rms_norm(y.flatten(2) * F.silu(z), (self.inner,), wide(self.norm_weight[k]), EPSILON)
        return y.flip(1) if k else y


class LocalAttention(nn.Module):
    """Multi-head attention within a window, to both sides or to the left if causal, with rotary position embedding."""

    def __init__(self, config, stage):
        """Build the attention layer of a stage."""
        super().__init__()
        width, attention = config.d_model[stage], config.attn_cfg
        self.heads, self.rotary = attention["num_heads"][stage], attention["rotary_emb_dim"][stage]
        self.window, self.causal = attention["window_size"][stage], config.causal
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(self, x, real):
        """Attend within each sequence, one block of queries at a time."""
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self._rotate(q), self._rotate(k)
        L, parts = x.shape[1], []
        window = L if self.window < 0 else self.window
        for first in range(0, L, QUERIES):
            last = min(first + QUERIES, L)
            low, high = max(0, first - window), last if self.causal else min(L, last + window)
            distance = torch.arange(first, last, device=x.device)[:, None] - torch.arange(low, high, device=x.device)
            near = (distance.abs() <= window) & (distance >= 0) if self.causal else distance.abs() <= window
            # queries on padding see everything, so that no row of scores is empty
            visible = near & (real[:, None, low:high] | ~real[:, first:last, None])
            block = (q[:, :, first:last], k[:, :, low:high], v[:, :, low:high])
            parts.append(F.scaled_dot_product_attention(*block, attn_mask=visible[:, None]))
        return self.out_proj(torch.cat(parts, 2).transpose(1, 2).flatten(2))

    def _rotate(self, x):
        pairs, dtype = self.rotary // 2, torch.promote_types(x.dtype, torch.float32)
        frequency = 10000.0 ** -(torch.arange(0, self.rotary, 2, device=x.device, dtype=dtype) / self.rotary)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * frequency
        first, second, rest = wide(x).split([pairs, pairs, x.shape[-1] - 2 * pairs], -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1).to(x.dtype)


class SwiGLU(nn.Module):
    """Gated MLP; the hidden width is rounded up to a multiple of 128."""

    def __init__(self, width, hidden):
        """Build the MLP."""
        super().__init__()
        hidden = -(-hidden // 128) * 128
        self.fc1 = nn.Linear(width, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        """Apply the MLP to each position."""
        y, gate = self.fc1(x).chunk(2, -1)
        return self.fc2((F.silu(wide(gate)) * wide(y)).to(y.dtype))


class Layer(nn.Module):
    """Pre-norm layer for a layout letter: m or M BiMamba-2, t or T attention; uppercase adds an MLP."""

    def __init__(self, config, stage, letter):
        """Build the layer."""
        super().__init__()
        width = config.d_model[stage]
        self.norm1 = Norm(width)
        self.mixer = (LocalAttention if letter in "tT" else BiMamba2)(config, stage)
        self.norm2 = Norm(width) if letter.isupper() else None
        self.mlp = SwiGLU(width, config.d_intermediate[stage]) if letter.isupper() else None

    def forward(self, x, real):
        """Apply the layer; x is at least float32."""
        x = x + self.mixer(self.norm1(x), real)
        return x if self.mlp is None else x + self.mlp(self.norm2(x))


class Stack(nn.Module):
    """Layers and a final norm; the layout is letters with counts, such as m3t1."""

    def __init__(self, config, stage, layout):
        """Build the stack."""
        super().__init__()
        letters = "".join(letter * int(count) for letter, count in re.findall(r"([mMtT])(\d+)", layout))
        self.layers = nn.ModuleList(Layer(config, stage, letter) for letter in letters)
        self.norm = Norm(config.d_model[stage])

    def forward(self, x, real):
        """Apply the layers to a batch."""
        x = wide(x)
        for layer in self.layers:
            x = layer(x, real)
        return self.norm(x).masked_fill(~real[..., None], 0)


class Router(nn.Module):
    """Boundaries of a stage: probability (B, L), mask (B, L), and the positions that the ratio loss counts (B, L)."""

    def __init__(self, config, width):
        """Build the chunking method that the configuration selects."""
        super().__init__()
        self.options, self.ratio, self.mask_token = config.chunking, config.target_ratio, config.mask_token_id
        method, phase = self.options["method"], self.options.get("phase", "fixed")
        if method not in METHODS or phase != "fixed":
            raise ValueError(f"chunking: {method}, phase={phase}, needs the package ldarnet; install and import it")
        if method == "learned":
            self.q_proj, self.k_proj = (WideLinear(width, width, bias=False) for _ in range(2))

    def forward(self, h, real, tokens, given):
        """Select boundaries from encoder outputs, (B, L, D), and from tokens or given boundaries, (B, L) or None."""
        method, start = self.options["method"], torch.arange(real.shape[1], device=real.device) == 0
        if method in ("grid", "none", "file"):
            if method == "file" and given is None:
                raise ValueError("boundaries: chunking method file needs them; pass (B, L) bool")
            steps = torch.arange(real.shape[1], device=real.device) % (self.ratio if method == "grid" else 1)
            mask = ((steps == 0) if given is None else given | start) & real
            return mask.to(wide(h).dtype), mask, real
        protection = self.options.get("mask_protection", "none")
        if protection == "none":
            return *self._select(h, real), real
        masked = masked_tokens(tokens, self.mask_token)
        if protection == "outside":  # as if masked positions did not exist
            counted = (~masked | start) & real
            index, kept = compact(counted)
            p, mask = (take(v, (counted.cumsum(1) - 1).clamp(min=0)) for v in self._select(take(h, index), kept))
            return p.masked_fill(~counted, 0), mask & counted, counted
        p, mask = self._select(h, real)
        forced = (masked | F.pad(masked[:, :-1], (1, 0))) & real
        return torch.where(forced, 1.0, p), mask | forced, real & ~forced

    def _select(self, h, real):
        if self.options["method"] == "frozen":
            q = k = wide(h.detach())
        else:
            q, k = self.q_proj(h), self.k_proj(h)
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        cosine = (q[:, 1:] * k[:, :-1]).sum(-1)
        if self.options["similarity"] == "bidirectional":
            cosine = (cosine + (q[:, :-1] * k[:, 1:]).sum(-1)) / 2
        p = F.pad(((1 - cosine) / 2).clamp(0, 1), (1, 0), value=1.0).masked_fill(~real, 0)
        if self.options["selection"] == "threshold":
            return p, p > 0.5
        order = p.detach().masked_fill(~real, -1).argsort(dim=1, descending=True, stable=True)
        share = torch.ceil(real.sum(1, keepdim=True).double() / self.ratio)
        chosen = torch.arange(real.shape[1], device=real.device) < share
        return p, torch.zeros_like(real).scatter(1, order, chosen)


def masked_tokens(tokens, mask_token):
    """Where the input is [MASK], (B, L) bool."""
    if tokens is None:
        raise ValueError("inputs_embeds: the chunking options of this model need token ids; pass input_ids")
    return tokens == mask_token


class Stage(nn.Module):
    """A stage and all stages inside it: encoder, router, chunking, inner stage, dechunking, decoder."""

    def __init__(self, config, layout, stage=0):
        """Build the stage for `[stack]` or `[encoder, inner layout, decoder]`."""
        super().__init__()
        width, self.outer = config.d_model[stage], config.d_model[max(stage - 1, 0)]
        self.pad_dimension = nn.Parameter(torch.zeros(width - self.outer)) if width > self.outer else None
        self.innermost = len(layout) == 1
        if self.innermost:
            self.main = Stack(config, stage, layout[0])
            return
        self.options, self.mask_token = config.chunking, config.mask_token_id
        self.encoder = Stack(config, stage, layout[0])
        self.residual_proj = WideLinear(width, width) if self.options["residual"] != "none" else None
        self.router = Router(config, width)
        self.main = Stage(config, layout[1], stage + 1)
        self.decoder = Stack(config, stage, layout[2])

    def forward(self, x, real, tokens, given=None):
        """Return the output, the boundaries of each stage, and the output of each stack, in the order of execution."""
        if self.pad_dimension is not None:
            x = torch.cat([x, self.pad_dimension.expand(*x.shape[:2], -1).to(x.dtype)], -1)
        if self.innermost:
            y = self.main(x, real)
            return y[..., : self.outer], [], [y]
        h = self.encoder(x, real)
        p, mask, counted = self.router(h, real, tokens, given)
        index, chunks = compact(mask)
        inner_tokens = None if tokens is None else take(tokens, index)
        z, boundaries, states = self.main(take(h, index), chunks, inner_tokens)
        z = take(self._smooth(wide(z), take(p, index), chunks), (mask.cumsum(1) - 1).clamp(min=0))
        confidence = torch.where(mask, p, 1 - p)
        y = z * (1 + (confidence - confidence.detach()))[..., None]  # straight-through estimator
        if self.residual_proj is not None:
            residual = self.residual_proj(h)
            if self.options["residual"] == "masked":
                residual = residual.masked_fill(masked_tokens(tokens, self.mask_token)[..., None], 0)
            y = y + residual
        y = self.decoder(y, real)
        return y[..., : self.outer], [(p, mask, counted), *boundaries], [h, *states, y]

    def _smooth(self, z, p, real):
        smoothing = self.options["smoothing"]
        if smoothing == "none":
            return z
        after = p
        if smoothing == "mirrored":  # the boundary after each chunk; 1 after the last one
            after = torch.where(F.pad(real[:, 1:], (0, 1)), F.pad(p[:, 1:], (0, 1)), 1.0)
        left = moving_average(z, p, real)
        if smoothing == "forward":
            return left
        return (left + moving_average(z.flip(1), after.flip(1), real.flip(1)).flip(1)) / 2


def moving_average(z, p, real):
    """Exponential smoothing f_j = p_j z_j + (1 - p_j) f_{j-1}, with p clamped to [1e-4, 1 - 1e-4]."""
    p = p.clamp(1e-4, 1 - 1e-4)
    decay, ones = torch.log1p(-p).masked_fill(~real, 0), torch.ones_like(p)[..., None]
    return scan(z[:, :, None], p.masked_fill(~real, 0)[..., None], decay[..., None], ones, ones)[:, :, 0]
