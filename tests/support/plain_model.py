"""Naive LDARNet for one sequence, loaded from a checkpoint in the published format.

It runs two full Mamba-2 passes per layer, a Python loop over positions per recurrence, and attention with a dense mask.
It shares no code with the package.
"""

import math
import re

import torch
from torch.nn import functional as F


def rms(x, weight):
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight


class PlainModel:
    """Maps ids (L,) to logits (L, 7) and a list of (boundary probability, boundary mask), one per router."""

    def __init__(self, content):
        self.tensors = {name: tensor.double() for name, tensor in content["model"].items()}
        self.config = content["config"]

    def __call__(self, ids):
        self.boundaries = []
        x = self.tensors["embeddings.weight"][ids]
        x = self.stage("backbone", self.config["arch_layout"], 0, x)
        return x @ self.tensors["lm_head.weight"].T, self.boundaries

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T

    def stage(self, name, layout, depth, x):
        width = x.shape[-1]
        if f"{name}.pad_dimension" in self.tensors:
            x = torch.cat([x, self.tensors[f"{name}.pad_dimension"].expand(len(x), -1)], -1)
        if len(layout) == 1:
            return self.stack(f"{name}.main_network", layout[0], depth, x)[:, :width]
        h = self.stack(f"{name}.encoder", layout[0], depth, x)
        residual = self.linear(f"{name}.residual_proj", h) + self.tensors[f"{name}.residual_proj.bias"]
        q, k = (F.normalize(self.linear(f"{name}.routing_module.{w}_proj_layer", h), dim=-1) for w in "qk")
        p = [torch.ones((), dtype=h.dtype)]
        for t in range(1, len(h)):
            cos = (q[t - 1] @ k[t] + q[t] @ k[t - 1]) / 2
            p.append(((1 - cos) / 2).clamp(0, 1))
        p = torch.stack(p)
        mask = p > 0.5
        self.boundaries.append((p, mask))
        chunks = self.stage(f"{name}.main_network", layout[1], depth + 1, h[mask])
        gate = p[mask].clamp(1e-4, 1 - 1e-4)
        smooth = torch.zeros_like(chunks)
        for order in (range(len(chunks)), reversed(range(len(chunks)))):
            z = torch.zeros_like(chunks[0])
            for j in order:
                z = gate[j] * chunks[j] + (1 - gate[j]) * z
                smooth[j] += z / 2
        y = smooth[mask.cumsum(0) - 1] + residual
        return self.stack(f"{name}.decoder", layout[2], depth, y)[:, :width]

    def stack(self, name, letters, depth, x):
        letters = "".join(letter * int(number) for letter, number in re.findall(r"([mMtT])(\d+)", letters))
        for i, letter in enumerate(letters):
            layer = f"{name}.layers.{i}"
            mixer = self.attention if letter in "tT" else self.bimamba
            x = x + mixer(f"{layer}.mixer", depth, rms(x, self.tensors[f"{layer}.norm1.weight"]))
            if letter.isupper():
                y, gate = self.linear(f"{layer}.mlp.fc1", rms(x, self.tensors[f"{layer}.norm2.weight"])).chunk(2, -1)
                x = x + self.linear(f"{layer}.mlp.fc2", F.silu(gate) * y)
        return rms(x, self.tensors[f"{name}.rmsnorm.weight"])

    def bimamba(self, name, depth, x):
        return (self.mamba(f"{name}.fwd", x) + self.mamba(f"{name}.bwd", x.flip(0)).flip(0)) / 2

    def mamba(self, name, x):
        ssm, get = self.config["ssm_cfg"], lambda part: self.tensors[f"{name}.{part}"]
        inner, state = ssm["expand"] * x.shape[-1], ssm["d_state"]
        heads = len(get("D"))
        z, xbc, dt = self.linear(f"{name}.in_proj", x).split([inner, inner + 2 * state, heads], -1)
        taps = ssm["d_conv"]
        history = torch.cat([xbc.new_zeros(taps - 1, xbc.shape[-1]), xbc])
        weight = get("conv1d.weight")[:, 0]
        xbc = torch.stack([(history[t : t + taps].T * weight).sum(-1) for t in range(len(x))]) + get("conv1d.bias")
        u, b, c = F.silu(xbc).split([inner, state, state], -1)
        dt, a = F.softplus(dt + get("dt_bias")), -get("A_log").exp()
        s, rows = x.new_zeros(heads, inner // heads, state), []
        for t in range(len(x)):
            ut = u[t].view(heads, -1)
            s = (dt[t] * a).exp()[:, None, None] * s + dt[t][:, None, None] * ut[:, :, None] * b[t]
            rows.append(((s @ c[t]) + get("D")[:, None] * ut).flatten())
        return self.linear(f"{name}.out_proj", rms(torch.stack(rows) * F.silu(z), get("norm.weight")))

    def attention(self, name, depth, x):
        settings = {key: values[depth] for key, values in self.config["attn_cfg"].items()}
        heads, half, length = settings["num_heads"], settings["rotary_emb_dim"] // 2, len(x)
        q, k, v = self.linear(f"{name}.Wqkv", x).view(length, 3, heads, -1).unbind(1)
        frequency = 10000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
        rotation = torch.polar(torch.ones(length, half, dtype=x.dtype), torch.arange(length)[:, None] * frequency)[
            :, None
        ]
        for w in (q, k):
            pair = torch.complex(w[..., :half].clone(), w[..., half : 2 * half].clone()) * rotation
            w[..., :half], w[..., half : 2 * half] = pair.real, pair.imag
        score = torch.einsum("ihp,jhp->hij", q, k) / math.sqrt(q.shape[-1])
        distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
        if settings["window_size"] >= 0:
            score = score.masked_fill(distance > settings["window_size"], -math.inf)
        return self.linear(f"{name}.out_proj", torch.einsum("hij,jhp->ihp", score.softmax(-1), v).flatten(1))
