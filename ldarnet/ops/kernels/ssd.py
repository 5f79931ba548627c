"""Mamba-2's scan (SSD) in both directions, without reversing its inputs.

A program computes one direction; direction 1 visits the positions of each sequence from last to first. In this module,
a chunk consists of consecutive steps of one sequence, so results do not depend on how sequences are packed. With
L_t = sum_{r <= t} dt_r a over the steps r of a chunk, and the states S_in and S_out that enter and leave the chunk (Dao
and Gu 2024, arXiv 2405.21060, section 6):

    y_t   = sum_{s <= t} (c_t . b_s) exp(L_t - L_s) dt_s x_s + exp(L_t) c_t . S_in + d x_t
    S_out = exp(L_last) S_in + sum_s exp(L_last - L_s) dt_s b_s x_s^T

The forward pass computes the state that enters each chunk (:func:`states`), then all outputs (:func:`outputs`). The
backward pass recomputes the states, computes their gradients with the same kernel in reverse order, and then computes
the gradients of b and c (:func:`projection_gradients`) and of the other arguments (:func:`input_gradients`). It needs
no atomic operations, so gradients are deterministic. Only the arguments are saved for the backward pass.

``auto`` prefers these kernels to mamba-ssm because they move fewer bytes by design. On paper
(`benchmarks.gpu_account`), a training step of ldarnet-110m with 8 windows of 4,096 bases moves 3.18 MB per base in
1,345 launches. With mamba-ssm, it moves 4.01 MB in 2,113 launches, including the gathers that reverse direction 1.

Shapes: T packed positions, K = 2 directions, H heads, P head dimension, N state width, S sequences, C chunks, G groups
of heads.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.errors import UserError
from ldarnet.ops.kernels.ssd_programs import assign_chunks, input_gradients, outputs, projection_gradients, states
from ldarnet.ops.kernels.tiles import accumulator
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32

MAX_WIDTH = 256
"""Maximum head dimension and state width: larger tiles exceed the shared memory."""

MIN_TILE = 16
"""Smallest dimension of a matrix product."""

COLUMNS = {"P": 32, "N": 64}
"""Maximum columns of a state tile in kernels that split the head dimension or the state width."""

HEADS = 8
"""Heads per program that sums the gradients of b and c over heads."""


def ssd(
    x_TKHP: Tensor,
    dt_TKH: Tensor,
    a_KH: Tensor,
    b_TKN: Tensor,
    c_TKN: Tensor,
    d_KH: Tensor,
    packing: Packing,
    chunk_size: int,
) -> Tensor:
    """Triton backend of :func:`ldarnet.ops.ssd.ssd`; saves only its arguments for backward.

    Matrix products run in the dtype of x; for float32, they use TF32. Sums, decays and states are in at least float32.
    The forward pass stores one state per chunk. The chunk length is ``chunk_size``, rounded up to a power of two and to
    at least the tile height.

    Raises:
        UserError: the head dimension or state width is too large.
    """
    P, N = x_TKHP.shape[3], b_TKN.shape[2]
    if max(P, N) > MAX_WIDTH:
        raise UserError(f"ops.ssd=triton: headdim {P} or d_state {N} is larger than {MAX_WIDTH}; set ops.ssd=torch")
    dt_TKH, a_KH, d_KH = (at_least_fp32(value).contiguous() for value in (dt_TKH, a_KH, d_KH))
    b_TKN, c_TKN = b_TKN.to(x_TKHP.dtype), c_TKN.to(x_TKHP.dtype)
    return _TritonSSD.apply(x_TKHP, dt_TKH, a_KH, b_TKN, c_TKN, d_KH, packing.starts, chunk_size)


class _TritonSSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *tensors, starts, chunk_size = arguments
        scan = _ScanArguments(*(_rows(tensor) for tensor in tensors), starts=starts)
        ctx.save_for_backward(*scan)
        _, K, H, _ = scan.x.shape
        chunk = max(triton.next_power_of_2(chunk_size), scan.block)
        sequence_C = scan.chunks(chunk)
        entering_CKHNP = scan.states(chunk, len(sequence_C))
        y_TKHP = torch.empty_like(scan.x, memory_format=torch.contiguous_format)
        parts, constants = scan.split("P")
        outputs[(len(sequence_C) * K * H * parts,)](
            *scan[:6],
            starts,
            sequence_C,
            entering_CKHNP,
            y_TKHP,
            CHUNK=chunk,
            num_warps=8,
            num_stages=1,
            **constants,
        )
        return y_TKHP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TKHP: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        scan = _ScanArguments(*ctx.saved_tensors)
        T, K, H, _ = scan.x.shape
        N, dy_TKHP = scan.b.shape[2], dy_TKHP.contiguous()
        sequence_C = scan.chunks(scan.block)
        entering_CKHNP = scan.states(scan.block, len(sequence_C))
        d_leaving_CKHNP = scan.states(scan.block, len(sequence_C), dy_TKHP)
        C, groups = len(sequence_C), triton.cdiv(H, HEADS)
        parts, constants = scan.split("N")
        d_projections_2GTKN = scan.dt.new_empty(2, groups, T, K, N)
        d_enter, d_through = scan.dt.new_empty(parts, T, K, H), scan.dt.new_empty(parts, C, K, H)
        projection_gradients[(C * K * groups * parts,)](
            *scan[:5],
            scan.starts,
            sequence_C,
            entering_CKHNP,
            d_leaving_CKHNP,
            dy_TKHP,
            d_projections_2GTKN,
            d_enter,
            d_through,
            T,
            C,
            HEADS=HEADS,
            num_warps=8,
            num_stages=1,
            **constants,
        )
        dx_TKHP, d_dt_TKH = torch.empty_like(dy_TKHP), torch.empty_like(scan.dt)
        d_weights_2CKH = scan.dt.new_zeros(2, C, K, H)
        input_gradients[(C * K * H,)](
            *scan[:6],
            scan.starts,
            sequence_C,
            d_leaving_CKHNP,
            d_enter,
            d_through,
            dy_TKHP,
            dx_TKHP,
            d_dt_TKH,
            d_weights_2CKH,
            T,
            C,
            PARTS=parts,
            num_warps=8,
            num_stages=1,
            **constants,
        )
        db_TKN, dc_TKN = d_projections_2GTKN.sum(1).to(scan.b.dtype)
        da_KH, dd_KH = d_weights_2CKH.sum(1)
        return dx_TKHP, d_dt_TKH, da_KH, db_TKN, dc_TKN, dd_KH, None, None


class _ScanArguments(NamedTuple):
    """Arguments of a scan; rows of x, b and c may be strided."""

    x: Tensor
    dt: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    starts: Tensor

    @property
    def block(self) -> int:
        """Steps per tile; fewer for wider dtypes, so that all tiles have similar sizes in bytes."""
        return {2: 64, 4: 32}.get(self.x.element_size(), MIN_TILE)

    def constants(self) -> dict[str, Any]:
        """Compile-time constants of all kernels."""
        _, _, H, P = self.x.shape
        N, dtype = self.b.shape[2], self.x.dtype
        # Triton's interpreter would multiply the bit patterns of bfloat16 numbers.
        compiled = isinstance(states, triton.JITFunction)
        return {
            "H": H,
            "P": P,
            "N": N,
            "X_STRIDE": self.x.stride(0),
            "X_STRIDE_K": self.x.stride(1),
            "B_STRIDE": self.b.stride(0),
            "B_STRIDE_K": self.b.stride(1),
            "C_STRIDE": self.c.stride(0),
            "C_STRIDE_K": self.c.stride(1),
            "BLOCK": self.block,
            "N_TILE": _tile(N),
            "P_TILE": _tile(P),
            "DOT": tl.float32 if dtype == torch.bfloat16 and not compiled else _TRITON_DTYPES[dtype],
            "DTYPE": accumulator(dtype),
        }

    def split(self, dimension: str) -> tuple[int, dict[str, Any]]:
        """Split P or N among programs; return the number of programs and the constants of their kernel."""
        constants = self.constants()
        tile = constants[f"{dimension}_TILE"] = min(constants[f"{dimension}_TILE"], COLUMNS[dimension])
        return triton.cdiv(constants[dimension], tile), constants

    def chunks(self, chunk: int) -> Tensor:
        """Index of the sequence of each chunk, (C,) int32; -1 for unused chunks.

        The chunks of sequence s start at index starts[s] // chunk + s. The number of chunks depends only on T and S.
        """
        S = len(self.starts) - 1
        sequence_C = self.starts.new_empty(len(self.x) // chunk + S, dtype=torch.int32)
        assign_chunks[(S,)](self.starts, sequence_C, chunk, num_warps=1)
        return sequence_C

    def states(self, chunk: int, chunks: int, dy_TKHP: Tensor | None = None) -> Tensor:
        """Compute the state that enters each chunk, (C, K, H, N, P).

        If ``dy_TKHP`` is given, compute the gradient of the state that leaves each chunk instead.
        """
        _, K, H, P = self.x.shape
        S, N = len(self.starts) - 1, self.b.shape[2]
        states_CKHNP = self.x.new_empty(chunks, K, H, N, P)
        parts, constants = self.split("P")
        if dy_TKHP is not None:
            constants |= {"X_STRIDE": dy_TKHP.stride(0), "X_STRIDE_K": dy_TKHP.stride(1)}
            constants |= {"B_STRIDE": self.c.stride(0), "B_STRIDE_K": self.c.stride(1)}
        constants = {name: value for name, value in constants.items() if not name.startswith("C_")}
        states[(S * K * H * parts,)](
            self.x if dy_TKHP is None else dy_TKHP,
            self.dt,
            self.a,
            self.b if dy_TKHP is None else self.c,
            self.starts,
            states_CKHNP,
            REVERSE=dy_TKHP is not None,
            CHUNK=chunk,
            num_warps=4,
            **constants,
        )
        return states_CKHNP


_TRITON_DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def _tile(width: int) -> int:
    return max(triton.next_power_of_2(width), MIN_TILE)


def _rows(tensor: Tensor) -> Tensor:
    """Return the tensor, or a contiguous copy if the dimensions after the first two are not contiguous."""
    inner = torch.empty(tensor.shape[2:], device="meta").stride()
    return tensor if tensor.stride()[2:] == inner else tensor.contiguous()
