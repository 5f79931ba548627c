"""Measure whether torch.compile speeds up training, and whether varying numbers of chunks cause recompilation.

    python -m benchmarks.torch_compile quickstart ldarnet-2m

The results file describes the variants. Their ranking on a GPU may differ from that on a CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.nn import functional as F

from benchmarks.record import ProgramParser, add_result_options, heading, result_file, run_program, write_result
from ldarnet.markdown import table
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.blocks import Layer
from ldarnet.ops import at_least_fp32, choose_backends, resolve
from ldarnet.ops.norm import EPSILON
from ldarnet.ops.registry import register

BATCHES = ((2, 1.0), (3, 1.0), (1, 1.0), (2, 0.75), (4, 0.5), (3, 0.25), (5, 0.5))
"""(windows, length relative to the longest) of each batch; the shape of the first batch is used for timing."""
VARIANTS = ("plain", "operations", "layers")
METHOD = """`plain` is the unchanged model. In `operations`, the elementwise operations (add_norm, gated_norm, swiglu)
are written in PyTorch and compiled one by one. In `layers`, every layer is compiled as a whole; it includes these
operations in PyTorch and excludes all other operations. Shapes are dynamic. Compiled graphs are counted for the first
batch and for the six other batches."""


def add_norm(
    branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Plain PyTorch version of :func:`ldarnet.ops.norm.add_norm`, for torch.compile."""
    sum_TD = residual_TD if branch_TD is None else residual_TD + branch_TD
    return (F.rms_norm(sum_TD, weight_D.shape, eps=EPSILON) * weight_D).to(dtype), sum_TD


def gated_norm(y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor, dz: object = None) -> Tensor:
    """Plain PyTorch version of :func:`ldarnet.ops.gated_norm.gated_norm`, for torch.compile; autograd allocates dz."""
    del dz
    gated = at_least_fp32(y_TKE) * F.silu(at_least_fp32(z_TE))[:, None]
    return (F.rms_norm(gated, gated.shape[-1:], eps=EPSILON) * weight_KE).mean(1).to(y_TKE.dtype)


def swiglu(x_TF: Tensor) -> Tensor:
    """Plain PyTorch version of :func:`ldarnet.ops.swiglu.swiglu`, for torch.compile."""
    y, gate = at_least_fp32(x_TF).chunk(2, dim=-1)
    return (F.silu(gate) * y).to(x_TF.dtype)


PYTORCH_OPS = {"add_norm": add_norm, "gated_norm": gated_norm, "swiglu": swiglu}


@dataclass
class Variant:
    """A variant of the model and its measurements.

    Attributes:
        seconds: seconds of each timed step.
        first: seconds of the first step, including compilation; 0 for ``plain``.
        graphs: number of graphs compiled for the first batch, and number compiled for all later batches together.
        loss: maximum relative error of the loss over all batches, compared with the plain variant.
        gradient: maximum relative error of the gradient over all batches. The error of a batch is the norm of the
            difference from the plain variant's gradient, divided by the norm of that gradient.
    """

    model: LDARNetForMaskedLM
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    graphs: tuple[int, int] = (0, 0)
    loss: float = 0.0
    gradient: float = 0.0


def build(preset: str, device: torch.device) -> dict[str, Variant]:
    """Build all variants of a model, with equal weights; ``plain`` uses the default backends of the device."""
    plain = choose_backends(device.type, torch.float32)
    operations, layers = dict(plain), dict(plain)
    for operation, backend in plain.items():
        if operation in PYTORCH_OPS:
            register(operation, "compiled")(torch.compile(PYTORCH_OPS[operation], dynamic=True))
            register(operation, "pytorch")(PYTORCH_OPS[operation])
            operations[operation], layers[operation] = "compiled", "pytorch"
        else:
            function = resolve(operation, device.type, torch.float32, backend).function
            register(operation, "excluded")(torch.compiler.disable(function))
            layers[operation] = "excluded"
    variants = {}
    for name, ops in zip(VARIANTS, (plain, operations, layers), strict=True):
        torch.manual_seed(0)
        model = LDARNetForMaskedLM(LDARNetConfig.preset(preset, ops=ops))
        torch.nn.Module.to(model, device)
        variants[name] = Variant(model)
    for module in variants["layers"].model.modules():
        if isinstance(module, Layer):
            module.compile(dynamic=True)
    return variants


def step(variant: Variant, ids: Tensor) -> tuple[Tensor, float]:
    """Run a forward and backward pass; return the loss and the elapsed seconds."""
    variant.model.zero_grad()
    begin = time.perf_counter()
    loss = variant.model(ids, labels=ids).loss
    loss.backward()
    loss = loss.detach().cpu()
    if ids.is_cuda:
        torch.cuda.synchronize()
    return loss, time.perf_counter() - begin


def gradient(variant: Variant) -> Tensor:
    """All gradients of a variant, concatenated into a vector."""
    return torch.cat(
        [parameter.grad.flatten() for parameter in variant.model.parameters() if parameter.grad is not None]
    )


def try_batches(variants: dict[str, Variant], length: int, device: torch.device) -> None:
    """Run every batch of `BATCHES` in all variants; record errors relative to ``plain`` and count compiled graphs."""
    for number, (windows, fraction) in enumerate(BATCHES):
        ids = torch.randint(0, 4, (windows, int(length * fraction)), device=device)
        expected, _ = step(variants["plain"], ids)
        exact = gradient(variants["plain"])
        for variant in (variants["operations"], variants["layers"]):
            before = counters["stats"]["unique_graphs"]
            loss, seconds = step(variant, ids)
            variant.loss = max(variant.loss, ((loss - expected).abs() / expected).item())
            variant.gradient = max(variant.gradient, ((gradient(variant) - exact).norm() / exact.norm()).item())
            compiled = counters["stats"]["unique_graphs"] - before
            variant.graphs = (compiled, 0) if number == 0 else (variant.graphs[0], variant.graphs[1] + compiled)
            variant.first = variant.first or seconds


def measure(preset: str, length: int, rounds: int, device: torch.device) -> list[list[object]]:
    """Measure all variants with interleaved steps; return one table row per variant."""
    torch.compiler.reset()
    inductor.force_disable_caches = True  # the first step must compile
    variants = build(preset, device)
    try_batches(variants, length, device)
    ids = torch.randint(0, 4, (BATCHES[0][0], length), device=device)
    for number in range(rounds):
        for name in VARIANTS[:: 1 if number % 2 else -1]:
            variants[name].seconds.append(step(variants[name], ids)[1])
    plain = variants["plain"].seconds
    return [
        [
            f"{preset}, {name}",
            f"{ids.numel() / statistics.median(variant.seconds):,.0f}",
            f"{ids.numel() / min(variant.seconds):,.0f}",
            statistics.median(a / b for a, b in zip(plain, variant.seconds, strict=True)),
            f"{variant.first:.1f}" if variant.first else "-",
            *(variant.graphs if variant.first else ("-", "-")),
            f"{variant.loss:.1e}",
            f"{variant.gradient:.1e}",
        ]
        for name, variant in variants.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the presets and write the results file."""
    parser = ProgramParser("torch_compile", __doc__)
    parser.add_argument("presets", nargs="+", metavar="PRESET", help="model presets")
    parser.add_argument("--length", type=int, default=1024, help="bases of the longest window")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps per variant")
    add_result_options(parser, "torch-compile")
    options = parser.parse_args(arguments)
    file = result_file(options.name, options.out)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for preset in options.presets for row in measure(preset, options.length, options.rounds, device)]
    header = [
        "variant",
        "bases/s, median",
        "best",
        "speedup over plain",
        "first step, s",
        "graphs, first batch",
        "graphs, six more",
        "loss error",
        "gradient error",
    ]
    sizes = ", ".join(f"{windows} x {int(options.length * fraction)}" for windows, fraction in BATCHES)
    threads = torch.get_num_threads()
    text = f"""{heading("torch.compile", options)}
- Configuration: unchanged presets, fp32, {threads} thread{"s" * (threads != 1)}, random bases, new weights, seed 0
- Batches: {sizes} bases; the first is timed, {options.rounds} steps per variant, with interleaved variants
- Speedup over plain: median over paired steps

{METHOD}

{table(header, rows)}
"""
    print(text)
    write_result(file, text)


if __name__ == "__main__":
    run_program(main)
