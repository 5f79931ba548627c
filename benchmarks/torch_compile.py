"""Whether torch.compile makes training faster, and whether every new number of chunks is compiled anew.

    python -m benchmarks.torch_compile quickstart ldarnet-2m

The results file tells what is compiled; on a GPU, which form is fastest may be another one.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from torch.nn import functional as F

from benchmarks.record import provenance, write_result
from ldarnet.markdown import table
from ldarnet.model import LDARNetConfig, LDARNetForMaskedLM
from ldarnet.model.blocks import Layer
from ldarnet.ops import at_least_fp32, choose_backends, resolve
from ldarnet.ops.norm import EPSILON
from ldarnet.ops.registry import register

BATCHES = ((2, 1.0), (3, 1.0), (1, 1.0), (2, 0.75), (4, 0.5), (3, 0.25), (5, 0.5))
"""Windows, and their length as a share of the longest; the first is the one that is timed."""
FORMS = ("plain", "operations", "layers")
METHOD = """`plain` is the model as it is. In `operations` the elementwise operations (add_norm, gated_norm, swiglu) are
written as formulas and compiled one by one. In `layers` every layer is compiled, these formulas within it, around the
operations that are no formulas. Shapes are dynamic. Graphs are counted at the first batch and over the six others."""


def add_norm(
    branch_TD: Tensor | None, residual_TD: Tensor, weight_D: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """As :func:`ldarnet.ops.norm.add_norm`."""
    sum_TD = residual_TD if branch_TD is None else residual_TD + branch_TD
    return (F.rms_norm(sum_TD, weight_D.shape, eps=EPSILON) * weight_D).to(dtype), sum_TD


def gated_norm(y_TKE: Tensor, z_TE: Tensor, weight_KE: Tensor) -> Tensor:
    """As :func:`ldarnet.ops.gated_norm.gated_norm`."""
    gated = at_least_fp32(y_TKE) * F.silu(at_least_fp32(z_TE))[:, None]
    return (F.rms_norm(gated, gated.shape[-1:], eps=EPSILON) * weight_KE).mean(1).to(y_TKE.dtype)


def swiglu(x_TF: Tensor) -> Tensor:
    """As :func:`ldarnet.ops.swiglu.swiglu`."""
    y, gate = at_least_fp32(x_TF).chunk(2, dim=-1)
    return (F.silu(gate) * y).to(x_TF.dtype)


FORMULAS = {"add_norm": add_norm, "gated_norm": gated_norm, "swiglu": swiglu}


@dataclass
class Form:
    """A form of the model and what was seen of it.

    Attributes:
        model: the model.
        seconds: of each timed step.
        first: seconds of the first step, with compilation.
        graphs: compiled after the first step, and after all batches.
        loss: largest error of the loss, relative to the plain form.
        gradient: largest error of the whole gradient, relative to its norm.
    """

    model: LDARNetForMaskedLM
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    graphs: tuple[int, int] = (0, 0)
    loss: float = 0.0
    gradient: float = 0.0


def build(preset: str, device: torch.device) -> dict[str, Form]:
    """The forms of a model, with the same weights; the plain one computes with what is chosen for this device."""
    plain = choose_backends(device.type, torch.float32)
    operations, layers = dict(plain), dict(plain)
    for operation, backend in plain.items():
        if operation in FORMULAS:
            register(operation, "compiled")(torch.compile(FORMULAS[operation], dynamic=True))
            register(operation, "formula")(FORMULAS[operation])
            operations[operation], layers[operation] = "compiled", "formula"
        else:
            function = resolve(operation, device.type, torch.float32, backend).function
            register(operation, "apart")(torch.compiler.disable(function))
            layers[operation] = "apart"
    forms = {}
    for name, demands in zip(FORMS, (plain, operations, layers), strict=True):
        torch.manual_seed(0)
        model = LDARNetForMaskedLM(LDARNetConfig.preset(preset, ops=demands))
        torch.nn.Module.to(model, device)
        forms[name] = Form(model)
    for module in forms["layers"].model.modules():
        if isinstance(module, Layer):
            module.compile(dynamic=True)
    return forms


def step(form: Form, ids: Tensor) -> tuple[Tensor, float]:
    """Forward and backward pass; the loss, and the seconds it took."""
    form.model.zero_grad()
    begin = time.perf_counter()
    loss = form.model(ids, labels=ids).loss
    loss.backward()
    loss = loss.detach().cpu()
    if ids.is_cuda:
        torch.cuda.synchronize()
    return loss, time.perf_counter() - begin


def gradient(form: Form) -> Tensor:
    """The whole gradient."""
    return torch.cat([parameter.grad.flatten() for parameter in form.model.parameters() if parameter.grad is not None])


def try_batches(forms: dict[str, Form], length: int, device: torch.device) -> None:
    """Step through batches of many sizes, and compare and count."""
    for number, (windows, share) in enumerate(BATCHES):
        ids = torch.randint(0, 4, (windows, int(length * share)), device=device)
        wanted, _ = step(forms["plain"], ids)
        exact = gradient(forms["plain"])
        for form in (forms["operations"], forms["layers"]):
            before = counters["stats"]["unique_graphs"]
            loss, seconds = step(form, ids)
            form.loss = max(form.loss, ((loss - wanted).abs() / wanted).item())
            form.gradient = max(form.gradient, ((gradient(form) - exact).norm() / exact.norm()).item())
            compiled = counters["stats"]["unique_graphs"] - before
            form.graphs = (compiled, 0) if number == 0 else (form.graphs[0], form.graphs[1] + compiled)
            form.first = form.first or seconds


def measure(preset: str, length: int, rounds: int, device: torch.device) -> list[list[object]]:
    """Rows of the table: one for each form, timed in turns."""
    torch.compiler.reset()
    inductor.force_disable_caches = True  # of earlier processes: the first step must compile
    forms = build(preset, device)
    try_batches(forms, length, device)
    ids = torch.randint(0, 4, (BATCHES[0][0], length), device=device)
    for turn in range(rounds):
        for name in FORMS[:: 1 if turn % 2 else -1]:
            forms[name].seconds.append(step(forms[name], ids)[1])
    plain = forms["plain"].seconds
    return [
        [
            f"{preset}, {name}",
            f"{ids.numel() / statistics.median(form.seconds):,.0f}",
            f"{ids.numel() / min(form.seconds):,.0f}",
            statistics.median(a / b for a, b in zip(plain, form.seconds, strict=True)),
            f"{form.first:.1f}" if form.first else "-",
            *(form.graphs if form.first else ("-", "-")),
            f"{form.loss:.1e}",
            f"{form.gradient:.1e}",
        ]
        for name, form in forms.items()
    ]


def main(arguments: list[str]) -> None:
    """Measure the presets and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", help="presets of the model")
    parser.add_argument("--length", type=int, default=1024, help="bases of the longest window")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of every form")
    parser.add_argument("--name", default="torch-compile", help="of the results file")
    parser.add_argument("--note", default="", help="words at the head of the file")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for preset in options.presets for row in measure(preset, options.length, options.rounds, device)]
    header = [
        "form",
        "bases/s, median",
        "best",
        "speed over plain",
        "first step, s",
        "graphs, first batch",
        "graphs, six more",
        "error of loss",
        "error of gradient",
    ]
    sizes = ", ".join(f"{windows} x {int(options.length * share)}" for windows, share in BATCHES)
    text = f"""# torch.compile

{options.note}

{provenance(shlex.join(["python", "-m", "benchmarks.torch_compile", *arguments]))}
- Configuration: presets as they are, fp32, {torch.get_num_threads()} thread(s), random bases, fresh weights, seed 0
- Batches: {sizes} bases; the first is timed, {options.rounds} steps of each form in turns
- Speed over plain: the median over the turns

{METHOD}

{table(header, rows)}
"""
    print(write_result(options.name, text))
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
