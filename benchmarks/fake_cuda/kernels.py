"""Run the code that launches GPU kernels, but count each launch instead of executing it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _foreach_utils

from benchmarks.fake_cuda.recorder import Recorder, place
from benchmarks.fake_cuda.trace import SCAN, STAND_IN
from ldarnet.ops import Packing, backends_of, input_dtype, operations, resolve
from ldarnet.ops.external import mamba_ssm
from ldarnet.ops.kernels.ssd import BLOCKS, SAVES_STATES
from ldarnet.ops.registry import REFERENCE, register

GPU, CAPABILITY, MULTIPROCESSORS = "NVIDIA H200", (9, 0), 132
PARTS = {"ssd": SCAN, "add_norm": "add and norm", "gated_norm": "gated norm", "swiglu": "SwiGLU"}
"""Operation -> part of the step, if the names differ."""
SCAN_TILE = 32
"""Rows of the tiles in which kernels skip the upper triangle of a block."""
STAND_IN_LAUNCHES = 5, 14
"""Launches of mamba-ssm's scan, forward and backward."""


def use_gpu_kernels(recorder: Recorder, overrides: dict[str, str]) -> tuple[dict[str, str], str]:
    """Make LDARNet use the backends that `auto` prefers on a GPU, except for `overrides`, and record their launches.

    Returns:
        The values of `Trace.kernels` and `Trace.scan`.

    Raises:
        UserError: an override is not a backend that supports a GPU.
    """
    pretend_gpu(recorder)
    count_triton_launches(recorder)
    stand_in = False
    backend = backends_of("ssd")["mamba-ssm"]
    if backend.unsupported_reason("cuda", torch.bfloat16):
        stand_in = True
        register("ssd", "mamba-ssm", devices=backend.devices, dtypes=backend.dtypes)(backend.function)
        setattr(mamba_ssm, "mamba_scan", lambda: stand_in_scan)  # noqa: B010 (pyrefly)
        _StandInScan.recorder = recorder
    chosen = {}
    for operation in operations():
        dtype = input_dtype(operation, torch.bfloat16)
        known = backends_of(operation)
        supported = [name for name, backend in known.items() if not backend.unsupported_reason("cuda", dtype)]
        chosen[operation] = resolve(operation, "cuda", dtype, overrides.get(operation, supported[-1])).name
    count_scan_flops(recorder, chosen["ssd"])
    resolve.cache_clear()
    return chosen, STAND_IN if stand_in and chosen["ssd"] == "mamba-ssm" else chosen["ssd"]


def pretend_gpu(recorder: Recorder) -> None:
    """Replace the functions of torch that query the GPU."""
    replaced: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda *_, **__: True,
        "device_of": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "get_device_name": lambda *_: GPU,
        "get_device_capability": lambda *_: CAPABILITY,
        "get_device_properties": lambda *_: SimpleNamespace(
            name=GPU, multi_processor_count=MULTIPROCESSORS, major=CAPABILITY[0], minor=CAPABILITY[1]
        ),
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
        "synchronize": lambda *_: recorder.wait(place()),
    }
    for name, value in replaced.items():
        setattr(torch.cuda, name, value)
    amp: ModuleType = torch.cuda.amp.common
    amp.amp_definitely_not_available = lambda: False  # pyrefly: ignore[missing-attribute]
    _foreach_utils._foreach_supported_types.append(torch._subclasses.FakeTensor)

    def host_lengths(packing: Packing) -> list[int]:
        if packing.known_lengths is not None:
            return [*packing.known_lengths]
        recorder.wait("ldarnet/ops/packing.py host_lengths")
        sequences = len(packing.starts) - 1
        return [packing.total * (n + 1) // sequences - packing.total * n // sequences for n in range(sequences)]

    lengths: Any = cached_property(host_lengths)
    lengths.__set_name__(Packing, "host_lengths")
    Packing.host_lengths = lengths


def count_triton_launches(recorder: Recorder) -> None:
    """Replace Triton's launcher; autotuned kernels use their first configuration."""
    from triton.runtime.autotuner import Autotuner, Heuristics
    from triton.runtime.jit import JITFunction

    def run(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any) -> None:
        kernel = self
        while not isinstance(kernel, JITFunction):
            if isinstance(kernel, Autotuner):
                kernel.best_config = kernel.configs[0]
            kernel = kernel.fn
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        name = kernel.fn.__name__
        recorder.step.mixed_devices += [f"{name} {place()}" for tensor in tensors if tensor.device.type != "cuda"]
        recorder.count(part_of_module(kernel.fn.__module__), name, tensors)

    for kind in (JITFunction, Autotuner, Heuristics):
        kind.run = run


def part_of_module(module: str) -> str:
    """Part of the step to which the kernels of a module belong."""
    package, _, name = module.rpartition(".")
    if package.startswith("mamba_ssm") or name.startswith("ssd"):
        return SCAN
    return PARTS.get(name, name.replace("_", " "))


def count_scan_flops(recorder: Recorder, backend: str) -> None:
    """Make every call of the scan add its FLOPs to the current step.

    Do nothing for the reference backend, because its matrix products are recorded as PyTorch operations.
    """
    if backend == REFERENCE:
        return
    entry = backends_of("ssd")[backend]

    def counted(x_TKHP: Tensor, dt: Tensor, dt_bias: Tensor, a_log: Tensor, b_TKN: Tensor, *others: Any) -> Tensor:
        count = triton_scan_flops if backend == "triton" else scan_flops
        flops = count(x_TKHP, b_TKN, others[3], torch.is_grad_enabled())
        recorder.step.part_flops[SCAN] = recorder.step.part_flops.get(SCAN, 0.0) + flops
        return entry.function(x_TKHP, dt, dt_bias, a_log, b_TKN, *others)

    register("ssd", backend, devices=entry.devices, dtypes=entry.dtypes)(counted)


def scan_flops(x_TKHP: Tensor, b_TKN: Tensor, block: int, backward: bool) -> float:
    """FLOPs of the matrix products in mamba-ssm's scan (arXiv 2405.21060, section 6).

    The backward pass computes scores and states again, and the product of x and the gradient of y twice.

    Args:
        x_TKHP: inputs.
        b_TKN: input projections.
        block: positions per block.
        backward: whether to include the backward pass.
    """
    E, N = x_TKHP.shape[2] * x_TKHP.shape[3], b_TKN.shape[2]
    causal = (1 + min(SCAN_TILE / block, 1)) / 2
    scores, inputs, states = (4, 4, 7) if backward else (1, 1, 2)
    return _visits(x_TKHP) * 2 * (scores * block * N + inputs * causal * block * E + states * N * E)


def triton_scan_flops(x_TKHP: Tensor, b_TKN: Tensor, chunk_size: int, backward: bool) -> float:
    """FLOPs of the matrix products in :mod:`ldarnet.ops.kernels.ssd_programs`; arguments as in `scan_flops`."""
    del chunk_size  # the kernels set their own block size
    E, N = x_TKHP.shape[2] * x_TKHP.shape[3], b_TKN.shape[2]
    block, scores, states = BLOCKS[x_TKHP.element_size()], 1, 2
    if backward:
        again = x_TKHP.dtype not in SAVES_STATES
        scores, states = scores + 2 + again, states + 4 + again
    products = scores * block * N + states * N * E + (3 if backward else 1) * block * E
    return _visits(x_TKHP) * 2 * products


def _visits(x_TKHP: Tensor) -> int:
    """Number of positions, summed over both directions."""
    return x_TKHP.shape[0] * x_TKHP.shape[1]


def stand_in_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk_size: int,
    *,
    D: Tensor,
    seq_idx: Tensor,
    dt_bias: Tensor,
    dt_softplus: bool,
) -> Tensor:
    """Stand-in for mamba-ssm's scan: records its launches, and returns a tensor of the right shape."""
    states = x.new_empty(-(-x.shape[1] // chunk_size), *x.shape[2:], b.shape[-1], dtype=torch.float32)
    assert dt_softplus
    return _StandInScan.apply(x, dt, a, b, c, D, dt_bias, seq_idx, states)


class _StandInScan(torch.autograd.Function):
    """Counts one access to each input, output and state per pass; the kernels of mamba-ssm have more memory traffic."""

    recorder: Recorder

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        out = torch.empty_like(tensors[0])
        ctx.save_for_backward(*tensors)
        _StandInScan.recorder.count(SCAN, STAND_IN, [*tensors, out], launches=STAND_IN_LAUNCHES[0])
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        tensors = ctx.saved_tensors
        gradients = [torch.empty_like(tensor) for tensor in tensors[:7]]
        _StandInScan.recorder.count(SCAN, STAND_IN, [*tensors, dout, *gradients], launches=STAND_IN_LAUNCHES[1])
        return *gradients, None, None
