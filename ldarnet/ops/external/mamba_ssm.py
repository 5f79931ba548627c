"""SSD scan from mamba-ssm (Triton). Shapes as in :mod:`ldarnet.ops.ssd`."""

import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec, module_from_spec

import torch
from torch import Tensor

from ldarnet.errors import UserError
from ldarnet.ops.external._requirements import HALF, INSTALL_KERNELS
from ldarnet.ops.external._reversal import permute_rows, reversal_index
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.registry import register
from ldarnet.ops.ssd import ALLOCATED, ScanGradients

MIN_CHUNK_SIZE = 16


@cache
def mamba_scan() -> Callable[..., Tensor]:
    """Import mamba-ssm's scan without its compiled extensions.

    ``mamba_ssm/__init__`` imports every model of the package and, with them, the compiled extensions. During the
    import, an empty module takes the place of ``mamba_ssm``. This makes the import ten times faster, and lets builds
    without CUDA extensions work.

    Triton stores the results of tuning on disk if ``TRITON_CACHE_AUTOTUNING`` is set when the kernels are defined.
    """
    os.environ.setdefault("TRITON_CACHE_AUTOTUNING", "1")
    loaded, spec = sys.modules.get("mamba_ssm"), find_spec("mamba_ssm")
    assert spec is not None
    sys.modules["mamba_ssm"] = module_from_spec(spec)
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
    finally:
        del sys.modules["mamba_ssm"]
        if loaded:
            sys.modules["mamba_ssm"] = loaded
    return mamba_chunk_scan_combined


@register(
    "ssd",
    "mamba-ssm",
    devices=("cuda",),
    dtypes=(*HALF, torch.float32),
    package="mamba_ssm",
    install=INSTALL_KERNELS,
)
def ssd(
    x_TKHP: Tensor,
    dt_TH: Tensor,
    dt_bias_KH: Tensor,
    a_log_KH: Tensor,
    b_TKN: Tensor,
    c_TKN: Tensor,
    d_KH: Tensor,
    packing: Packing,
    chunk_size: int,
    gradients: ScanGradients = ALLOCATED,
) -> Tensor:
    """Compute all directions in one call, as separate heads; each direction has its own group of B and C.

    The inputs of direction 1 are reversed within each sequence and its output is reversed back. Products of
    float32 inputs use TF32. ``chunk_size`` is raised to at least 16. The package allocates its gradients;
    ``gradients`` is unused.

    Raises:
        UserError: the row is too long for the kernel's 32-bit offsets.
    """
    del gradients
    T, K, H, P = x_TKHP.shape
    chunk_size = max(chunk_size, MIN_CHUNK_SIZE)
    states = x_TKHP.numel() / chunk_size * b_TKN.shape[2]  # one (P, N) state per chunk and head
    if max(x_TKHP.numel(), states) >= 2**31:
        raise UserError(
            f"ops.ssd=mamba-ssm: {T:,} positions of width {H * P} exceed the kernel's 32-bit offsets; reduce the "
            "micro-batch, for example by doubling training.accumulation"
        )
    index = _reversal_of_direction_1(packing) if K == 2 else None

    def reverse(value: Tensor) -> Tensor:
        if index is None:
            return value.contiguous()
        return permute_rows(value.flatten(0, 1), index).unflatten(0, (T, K))

    y = mamba_scan()(
        reverse(x_TKHP).view(1, T, K * H, P),
        reverse(dt_TH[:, None].expand(T, K, H)).view(1, T, K * H),
        -at_least_fp32(a_log_KH).exp().flatten(),
        reverse(b_TKN)[None],
        reverse(c_TKN)[None],
        chunk_size,
        D=at_least_fp32(d_KH).flatten(),
        dt_bias=at_least_fp32(dt_bias_KH).flatten(),
        dt_softplus=True,
        seq_idx=packing.sequence.int()[None],
    )
    return reverse(y.view(T, K, H, P))


def _reversal_of_direction_1(packing: Packing) -> Tensor:
    """Index of shape (2T,) that reverses direction 1 of a (T, 2, ...) tensor whose first dimensions are flattened."""
    forward = torch.arange(packing.total, device=packing.starts.device)
    index_TK = torch.stack([forward, reversal_index(packing)], 1) * 2
    return (index_TK + torch.arange(2, device=forward.device)).flatten()
