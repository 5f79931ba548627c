"""Mamba-2's scan (SSD) in one or both directions, without reversing its inputs.

A program computes one direction; direction 1 visits the positions of each sequence from last to first. A block consists
of consecutive steps of one sequence, so results do not depend on how sequences are packed. With the step sizes dt and
decay rates a, L_t = sum_{r <= t} dt_r a over the steps r of a block, and the states S_in and S_out that enter and leave
the block (Dao and Gu 2024, arXiv 2405.21060, section 6):

    y_t   = sum_{s <= t} (c_t . b_s) exp(L_t - L_s) dt_s x_s + exp(L_t) c_t . S_in + d x_t
    S_out = exp(L_last) S_in + sum_s exp(L_last - L_s) dt_s b_s x_s^T

All kernels compute the step sizes from their inputs. The products c_t . b_s are the same for all heads and are computed
once (:func:`scores`). Then :func:`outputs` passes the state of each head through the blocks of a segment. Sequences of
more than one segment need the state that enters each segment first (:func:`states`), so that segments are computed in
parallel.

The backward pass visits the blocks in the opposite order (:func:`input_gradients`): it computes the gradient of x, and
stores the gradient of the state that leaves each block. :func:`score_gradients` computes the gradient of the scores.
From these and the states that enter the blocks, :func:`projection_gradients` computes the gradients of b and c. The
last two also store contributions to the gradient of dt, which :func:`step_gradients` adds up. There are no atomic
operations, so gradients are deterministic. ``auto`` prefers these kernels to mamba-ssm because they move fewer bytes by
design (`benchmarks.gpu_account`).

The arguments are saved for the backward pass and, in 2-byte dtypes, the scores and the states that enter the blocks.
Wider dtypes compute both again, because their states would take as much memory as the rest of the layer.

Shapes: T packed positions, K directions (1 or 2), H heads, P head dimension, N state width, Q steps per block, S
sequences, C chunks (blocks or segments).
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldarnet.errors import UserError
from ldarnet.ops.columns import gradient_memory
from ldarnet.ops.kernels.ssd_programs import (
    assign_chunks,
    input_gradients,
    outputs,
    projection_gradients,
    score_gradients,
    scores,
    states,
    step_gradients,
)
from ldarnet.ops.kernels.tiles import accumulator, separate_rows
from ldarnet.ops.packing import Packing
from ldarnet.ops.precision import at_least_fp32
from ldarnet.ops.ssd import ALLOCATED, ScanGradients

MAX_WIDTH = 256
"""Maximum head dimension and state width: larger tiles exceed the shared memory."""

MIN_TILE = 16
"""Smallest dimension of a matrix product."""

BLOCKS = {2: 64, 4: 32, 8: MIN_TILE}
"""Bytes of an element -> steps per block; fewer for wider dtypes, so that all tiles have similar sizes in bytes."""

COLUMNS = 32
"""Maximum columns of P in kernels that split the head dimension."""

STATE_BYTES = 2**13
"""Maximum bytes of a state tile in the kernel that splits the state width."""

SAVES_STATES = (torch.bfloat16, torch.float16)
"""Dtypes whose scores and states are saved for the backward pass; it computes those of other dtypes again."""

SEGMENT = 4096
"""Maximum steps that one program visits one after another in the kernels that compute outputs or gradients."""

STEP_ELEMENTS = 1024
"""Positions times heads of a program that adds up the gradients of dt."""


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
    """Triton backend of :func:`ldarnet.ops.ssd.ssd`.

    Matrix products run in the dtype of x; for float32, they use TF32. Sums, decays and states are in at least float32.
    The kernels set their own block size; ``chunk_size`` is unused.

    Raises:
        UserError: the head dimension or state width is too large.
    """
    del chunk_size
    P, N = x_TKHP.shape[3], b_TKN.shape[2]
    if max(P, N) > MAX_WIDTH:
        raise UserError(f"ops.ssd=triton: headdim {P} or d_state {N} is larger than {MAX_WIDTH}; set ops.ssd=torch")
    dt_bias_KH, a_log_KH, d_KH = (at_least_fp32(value).contiguous() for value in (dt_bias_KH, a_log_KH, d_KH))
    b_TKN, c_TKN = b_TKN.to(x_TKHP.dtype), c_TKN.to(x_TKHP.dtype)
    saves = x_TKHP.dtype in SAVES_STATES and torch.is_grad_enabled()
    return _TritonSSD.apply(x_TKHP, dt_TH, dt_bias_KH, a_log_KH, b_TKN, c_TKN, d_KH, packing, gradients, saves)


class _TritonSSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x_TKHP, dt_TH, *others, ctx.packing, ctx.gradients, saves = arguments
        b_TKN, c_TKN = (separate_rows(value, 1) for value in others[2:4])
        tensors = separate_rows(x_TKHP, 2), separate_rows(dt_TH, 1), *others[:2], b_TKN, c_TKN, others[4]
        scan = _ScanArguments(*tensors, packing=ctx.packing)
        scores_CKQQ, entering_CKHNP = scan.scores(), scan.empty_states(scan.block) if saves else None
        ctx.save_for_backward(*tensors, *((scores_CKQQ, entering_CKHNP) if saves else (None, None)))
        y_TKHP = torch.empty_like(scan.x, memory_format=torch.contiguous_format)
        segment_C = scan.chunks(SEGMENT)
        parts, constants = scan.split("P")
        outputs[(len(segment_C) * len(scan.d) * scan.x.shape[2] * parts,)](
            *tensors,
            scores_CKQQ,
            ctx.packing.starts,
            segment_C,
            scan.ends_of_segments(),
            y_TKHP,
            entering_CKHNP,
            SEGMENT=SEGMENT,
            num_warps=8,
            num_stages=1,
            **constants,
        )
        return y_TKHP

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TKHP: Tensor) -> tuple[Tensor | None, ...]:  # pyrefly: ignore[bad-override]
        *tensors, scores_CKQQ, entering_CKHNP = ctx.saved_tensors
        scan, memory = _ScanArguments(*tensors, packing=ctx.packing), ctx.gradients
        if entering_CKHNP is None:
            scores_CKQQ, entering_CKHNP = scan.scores(), scan.states(scan.block)
        dy_TKHP = dy_TKHP.contiguous()
        (T, K, H, _), starts = scan.x.shape, ctx.packing.starts
        dx_TKHP, d_dt_TH = gradient_memory(scan.x, memory.x), gradient_memory(scan.dt, memory.dt)
        db_TKN, dc_TKN = gradient_memory(scan.b, memory.b), gradient_memory(scan.c, memory.c)
        block_C, segment_C = scan.chunks(scan.block), scan.chunks(SEGMENT)
        d_leaving_CKHNP = torch.empty_like(entering_CKHNP)
        (p_parts, by_p), (n_parts, by_n) = scan.split("P"), scan.split("N")
        # Contributions to the gradients of dt, log decay and d; from each part of N, to those of dt and log decay.
        partial = scan.dt_bias.new_empty(3 + 2 * n_parts, T, K, H)
        input_gradients[(len(segment_C) * K * H * p_parts,)](
            *scan.tensors[1:],
            scores_CKQQ,
            starts,
            segment_C,
            scan.ends_of_segments(dy_TKHP),
            dy_TKHP,
            dx_TKHP,
            d_leaving_CKHNP,
            SEGMENT=SEGMENT,
            num_warps=8,
            num_stages=1,
            **by_p,
        )
        projection_gradients[(len(block_C) * K * n_parts,)](
            *scan.tensors[:6],
            scan.score_gradients(scores_CKQQ, dy_TKHP, partial),
            starts,
            block_C,
            entering_CKHNP,
            d_leaving_CKHNP,
            dy_TKHP,
            db_TKN,
            dc_TKN,
            partial,
            T,
            num_warps=max(scan.block // 8, 4),  # for float32, ptxas spills registers with 8
            num_stages=1,
            **by_n,
        )
        d_weights = scan.step_gradients(partial, d_dt_TH, n_parts)
        return dx_TKHP, d_dt_TH, d_weights[0], d_weights[1], db_TKN, dc_TKN, d_weights[2], None, None, None


class _ScanArguments(NamedTuple):
    """Arguments of a scan; rows of x, dt, b and c may be strided."""

    x: Tensor
    dt: Tensor
    dt_bias: Tensor
    a_log: Tensor
    b: Tensor
    c: Tensor
    d: Tensor
    packing: Packing

    @property
    def tensors(self) -> tuple[Any, ...]:
        """All tensors, in the order in which kernels take them."""
        return self[:7]

    @property
    def block(self) -> int:
        """Steps per block."""
        return BLOCKS[self.x.element_size()]

    def constants(self) -> dict[str, Any]:
        """Compile-time constants of most kernels. Gradients have the strides of their tensors."""
        _, K, H, P = self.x.shape
        N, dtype = self.b.shape[2], self.x.dtype
        # Triton's interpreter would multiply the bit patterns of bfloat16 numbers.
        compiled = isinstance(states, triton.JITFunction)
        return {
            "K": K,
            "H": H,
            "P": P,
            "N": N,
            "X_STRIDE": self.x.stride(0),
            "X_STRIDE_K": self.x.stride(1),
            "DT_STRIDE": self.dt.stride(0),
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
        limit = COLUMNS if dimension == "P" else STATE_BYTES // (constants["P_TILE"] * self.x.element_size())
        tile = constants[f"{dimension}_TILE"] = min(constants[f"{dimension}_TILE"], max(limit, MIN_TILE))
        return triton.cdiv(constants[dimension], tile), constants

    def chunks(self, size: int) -> Tensor:
        """Index of the sequence of each chunk of ``size`` steps, (C,) int32; -1 for unused chunks.

        The chunks of sequence s start at index starts[s] // size + s. The number of chunks depends only on T and S.
        The result is kept for the other layers.
        """
        kept, key = self.packing.derived, f"chunks of {size}"
        if key not in kept:
            starts = self.packing.starts
            S = len(starts) - 1
            kept[key] = starts.new_empty(len(self.x) // size + S, dtype=torch.int32)
            assign_chunks[(S,)](starts, kept[key], size, num_warps=1)
        return kept[key]

    def scores(self) -> Tensor:
        """Compute the products of c and b within each block, (C, K, Q, Q)."""
        block_C = self.chunks(self.block)
        scores_CKQQ = self.dt_bias.new_empty(len(block_C), len(self.d), self.block, self.block)
        names = "K", "N", "B_STRIDE", "B_STRIDE_K", "C_STRIDE", "C_STRIDE_K", "BLOCK", "N_TILE", "DOT"
        constants = self.constants()
        scores[(len(block_C) * len(self.d),)](
            self.b,
            self.c,
            self.packing.starts,
            block_C,
            scores_CKQQ,
            num_warps=8,  # with 4, ptxas spills a register on compute capability 10 in causal models
            **{name: constants[name] for name in names},
        )
        return scores_CKQQ

    def ends_of_segments(self, dy_TKHP: Tensor | None = None) -> Tensor:
        """Compute the state that enters each segment, or the gradient of the state that leaves it.

        The result is uninitialized where it is known to be zero: if all sequences have only one segment.
        """
        if self.packing.max_length > SEGMENT:
            return self.states(SEGMENT, dy_TKHP)
        return self.empty_states(SEGMENT)

    def empty_states(self, chunk: int) -> Tensor:
        """Allocate a state for each chunk of ``chunk`` steps, (C, K, H, N, P)."""
        _, K, H, P = self.x.shape
        return self.x.new_empty(len(self.chunks(chunk)), K, H, self.b.shape[2], P)

    def states(self, chunk: int, dy_TKHP: Tensor | None = None) -> Tensor:
        """Compute the state that enters each chunk, (C, K, H, N, P).

        If ``dy_TKHP`` is given, compute the gradient of the state that leaves each chunk instead.
        """
        starts, states_CKHNP = self.packing.starts, self.empty_states(chunk)
        parts, constants = self.split("P")
        if dy_TKHP is not None:
            constants |= {"X_STRIDE": dy_TKHP.stride(0), "X_STRIDE_K": dy_TKHP.stride(1)}
            constants |= {"B_STRIDE": self.c.stride(0), "B_STRIDE_K": self.c.stride(1)}
        constants = {name: value for name, value in constants.items() if not name.startswith("C_")}
        states[((len(starts) - 1) * len(self.d) * self.x.shape[2] * parts,)](
            self.x if dy_TKHP is None else dy_TKHP,
            self.dt,
            self.dt_bias,
            self.a_log,
            self.b if dy_TKHP is None else self.c,
            starts,
            states_CKHNP,
            REVERSE=dy_TKHP is not None,
            CHUNK=chunk,
            num_warps=4,
            **constants,
        )
        return states_CKHNP

    def score_gradients(self, scores_CKQQ: Tensor, dy_TKHP: Tensor, partial: Tensor) -> Tensor:
        """Compute the gradient of the scores, and write contributions to other gradients to ``partial``."""
        block_C, d_scores_CKQQ = self.chunks(self.block), torch.empty_like(scores_CKQQ)
        names = "K", "H", "P", "X_STRIDE", "X_STRIDE_K", "DT_STRIDE", "BLOCK", "P_TILE", "DOT", "DTYPE"
        constants = self.constants()
        score_gradients[(len(block_C) * len(self.d),)](
            *self.tensors[:4],
            scores_CKQQ,
            self.packing.starts,
            block_C,
            dy_TKHP,
            d_scores_CKQQ,
            partial,
            len(self.x),
            num_warps=8,
            num_stages=1,
            **{name: constants[name] for name in names},
        )
        return d_scores_CKQQ

    def step_gradients(self, partial: Tensor, d_dt_TH: Tensor, parts: int) -> Tensor:
        """Write the gradient of dt to ``d_dt_TH``; return those of dt_bias, a_log and d, (3, K, H)."""
        (T, H), K = self.dt.shape, len(self.d)
        columns = triton.next_power_of_2(H)
        rows = max(STEP_ELEMENTS // columns, 1)
        programs = triton.cdiv(T, rows)
        d_weights = partial.new_empty(programs, 3, K, H)
        step_gradients[(programs,)](
            self.dt,
            self.dt_bias,
            self.a_log,
            partial,
            d_dt_TH,
            d_weights,
            T,
            PARTS=parts,
            K=K,
            H=H,
            DT_STRIDE=self.dt.stride(0),
            ROWS=rows,
            COLUMNS=columns,
            DTYPE=accumulator(self.x.dtype),
            num_warps=4,
        )
        return d_weights.sum(0)


_TRITON_DTYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def _tile(width: int) -> int:
    return max(triton.next_power_of_2(width), MIN_TILE)
