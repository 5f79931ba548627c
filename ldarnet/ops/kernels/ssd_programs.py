# ruff: noqa: ANN001, ANN201, ANN202 (Triton supports no annotations but tl.constexpr)
"""Triton kernels of :mod:`ldarnet.ops.kernels.ssd`; shapes and formulas as there.

Within a block, steps are numbered in the order in which the direction visits them. Steps after the end of a sequence
have a step size of 0, and all their inputs are zero.

Registers are the scarce resource: on compute capability 8, operands of matrix products fill all 255. Loops therefore
hoist nothing (disable_licm), and the order of loads and products avoids spills; tests/gpu/test_compile.py checks it.
"""

import triton
import triton.language as tl


@triton.jit
def assign_chunks(starts_ptr, sequence_ptr, CHUNK: tl.constexpr):
    """Write the index of a sequence to all of its chunks, and -1 to the chunk after them if it is unused."""
    s = tl.program_id(0)
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    used = start // CHUNK + s + tl.cdiv(stop - start, CHUNK)
    after = stop // CHUNK + s + 1
    for first in range(start // CHUNK + s, after, 128):
        chunk = first + tl.arange(0, 128)
        tl.store(sequence_ptr + chunk, tl.where(chunk < used, s, -1), mask=chunk < after)


@triton.jit
def _find(starts_ptr, sequence_ptr, INNER: tl.constexpr, K: tl.constexpr, HEADS: tl.constexpr, CHUNK: tl.constexpr):
    """Find what this program computes; programs are numbered in the order (chunk, direction, head, inner).

    Returns:
        Inner number, head, direction, chunk, sequence, start and end of the sequence, and the first step of the chunk.
        In an unused chunk, the sequence has no steps.
    """
    program = tl.program_id(0)
    chunk = (program // (INNER * HEADS * K)).to(tl.int64)
    assigned = tl.load(sequence_ptr + chunk)
    s = tl.maximum(assigned, 0)
    start = tl.load(starts_ptr + s)
    stop = tl.where(assigned < 0, start, tl.load(starts_ptr + s + 1))
    first_step = (chunk - start // CHUNK - s) * CHUNK
    return program % INNER, program // INNER % HEADS, program // (INNER * HEADS) % K, chunk, s, start, stop, first_step


@triton.jit
def _rows(start, stop, k, first_step, BLOCK: tl.constexpr):
    """Find the BLOCK positions that direction k visits from step ``first_step`` of a sequence on.

    Returns:
        The first position, the offset of each position from the first, and whether each position is in the sequence.
        The offsets are 32-bit to save registers.
    """
    step = tl.arange(0, BLOCK)
    left = tl.minimum(stop - start - first_step, BLOCK).to(tl.int32)
    first = tl.where(k == 0, start + first_step, stop - 1 - first_step)
    return first, tl.where(k == 0, step, -step), step < left


@triton.jit
def _tile(ptr, row, real, stride, column, WIDTH: tl.constexpr):
    """Load rows of a matrix; missing rows and columns are zero."""
    return tl.load(ptr + (row[:, None] * stride + column), mask=real[:, None] & (column < WIDTH), other=0.0)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)), accurate also where it is small."""
    e = tl.exp(-tl.abs(x))
    rounded = 1 + e  # its rounding error cancels in the quotient
    small = rounded == 1
    return tl.maximum(x, 0.0) + tl.where(small, e, tl.log(rounded) * (e / tl.where(small, 1, rounded - 1)))


@triton.jit
def _decays(
    dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H: tl.constexpr, STRIDE: tl.constexpr, DTYPE: tl.constexpr
):
    """Step sizes, cumulative sums of the log decays, and the total log decay."""
    dt = tl.load(dt_ptr + (first * STRIDE + h) + row * STRIDE, mask=real, other=0.0).to(DTYPE)
    dt = tl.where(real, _softplus(dt + tl.load(dt_bias_ptr + k * H + h).to(DTYPE)), 0.0)
    log_decay = dt * -tl.exp(tl.load(a_log_ptr + k * H + h).to(DTYPE))
    return dt, tl.cumsum(log_decay, axis=0), tl.sum(log_decay, axis=0)


@triton.jit
def _within(reach, BLOCK: tl.constexpr):
    """Decay from step s to step t, at [t, s]; zero where s is after t."""
    step = tl.arange(0, BLOCK)
    causal = step[:, None] >= step[None, :]
    return tl.exp(tl.where(causal, reach[:, None] - reach[None, :], float("-inf")))


@triton.jit
def _dot(left, right, DOT: tl.constexpr, add=None):
    return tl.dot(left.to(DOT), right.to(DOT), add, input_precision="tf32")


@triton.jit
def _square(ptr, BLOCK: tl.constexpr):
    """Pointers to a (BLOCK, BLOCK) matrix."""
    step = tl.arange(0, BLOCK)
    return ptr + (step[:, None] * BLOCK + step)


@triton.jit
def scores(
    b_ptr, c_ptr, starts_ptr, sequence_ptr, scores_ptr, K: tl.constexpr, N: tl.constexpr, B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr, C_STRIDE: tl.constexpr, C_STRIDE_K: tl.constexpr, BLOCK: tl.constexpr,
    N_TILE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Compute c_t . b_s for all steps t and s of a block, at [t, s]. All heads use these products."""
    _, _, k, block, _, start, stop, first_step = _find(starts_ptr, sequence_ptr, 1, K, 1, BLOCK)
    if first_step >= stop - start:
        return
    n = tl.arange(0, N_TILE)
    first, row, real = _rows(start, stop, k, first_step, BLOCK)
    b = _tile(b_ptr + (first * B_STRIDE + k * B_STRIDE_K), row, real, B_STRIDE, n, N)
    c = _tile(c_ptr + (first * C_STRIDE + k * C_STRIDE_K), row, real, C_STRIDE, n, N)
    tl.store(_square(scores_ptr + (block * K + k) * (BLOCK * BLOCK), BLOCK), _dot(c, tl.trans(b), DOT))


@triton.jit
def states(
    x_ptr, dt_ptr, dt_bias_ptr, a_log_ptr, b_ptr, starts_ptr, states_ptr, REVERSE: tl.constexpr, CHUNK: tl.constexpr,
    K: tl.constexpr, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr, X_STRIDE: tl.constexpr,
    X_STRIDE_K: tl.constexpr, DT_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr, B_STRIDE_K: tl.constexpr,
    BLOCK: tl.constexpr, N_TILE: tl.constexpr, P_TILE: tl.constexpr, DOT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Pass P_TILE columns of the state of one head through a sequence; store the state that enters each chunk.

    If REVERSE, x_ptr holds the gradient of y, and b_ptr holds c. The program then visits the blocks in the opposite
    order and stores the gradient of the state that leaves each chunk.
    """
    PARTS: tl.constexpr = (P + P_TILE - 1) // P_TILE
    program = tl.program_id(0)
    p = program % PARTS * P_TILE + tl.arange(0, P_TILE)
    n = tl.arange(0, N_TILE)
    h = program // PARTS % H
    k = program // (PARTS * H) % K
    s = program // (PARTS * H * K)
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    blocks = tl.cdiv(stop - start, BLOCK)
    x_ptr += k * X_STRIDE_K + h * P
    b_ptr += k * B_STRIDE_K
    inside = (n < N)[:, None] & (p < P)
    state = tl.zeros((N_TILE, P_TILE), DTYPE)
    for i in range(blocks):
        block = blocks - 1 - i if REVERSE else i
        if ((block + 1) % (CHUNK // BLOCK) == 0) | (i == 0) if REVERSE else block % (CHUNK // BLOCK) == 0:
            chunk = start // CHUNK + s + block // (CHUNK // BLOCK)
            target = ((chunk * K + k) * H + h) * (N * P)
            tl.store(states_ptr + target + (n[:, None] * P + p), state, mask=inside)
        first, row, real = _rows(start, stop, k, block * BLOCK, BLOCK)
        dt, reach, total = _decays(dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H, DT_STRIDE, DTYPE)
        weight = tl.exp(reach) if REVERSE else dt * tl.exp(total - reach)
        x = _tile(x_ptr + first * X_STRIDE, row, real, X_STRIDE, p, P).to(DTYPE) * weight[:, None]
        b = _tile(b_ptr + first * B_STRIDE, row, real, B_STRIDE, n, N)
        state = _dot(tl.trans(b), x, DOT, state * tl.exp(total))


@triton.jit
def outputs(
    x_ptr, dt_ptr, dt_bias_ptr, a_log_ptr, b_ptr, c_ptr, d_ptr, scores_ptr, starts_ptr, sequence_ptr, entering_ptr,
    y_ptr, states_ptr, SEGMENT: tl.constexpr, K: tl.constexpr, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    X_STRIDE: tl.constexpr, X_STRIDE_K: tl.constexpr, DT_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr, C_STRIDE: tl.constexpr, C_STRIDE_K: tl.constexpr, BLOCK: tl.constexpr,
    N_TILE: tl.constexpr, P_TILE: tl.constexpr, DOT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Compute the outputs of one segment of one head, block by block, for P_TILE columns.

    Also store the state that enters each block, if there is memory for it.
    """
    PARTS: tl.constexpr = (P + P_TILE - 1) // P_TILE
    part, h, k, segment, s, start, stop, begin = _find(starts_ptr, sequence_ptr, PARTS, K, H, SEGMENT)
    if begin >= stop - start:
        return
    n, p = tl.arange(0, N_TILE), part * P_TILE + tl.arange(0, P_TILE)
    inside = (n < N)[:, None] & (p < P)
    x_ptr += k * X_STRIDE_K + h * P
    y_ptr += (k * H + h) * P
    skip = tl.load(d_ptr + k * H + h).to(DTYPE)
    entering_ptr += ((segment * K + k) * H + h) * (N * P)
    state = _tile(entering_ptr, n, n < tl.where(begin > 0, N, 0), P, p, P).to(DTYPE)
    for first_step in tl.range(begin, tl.minimum(begin + SEGMENT, stop - start), BLOCK, disable_licm=True):
        first, row, real = _rows(start, stop, k, first_step, BLOCK)
        dt, reach, total = _decays(dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H, DT_STRIDE, DTYPE)
        block = (start // BLOCK + s + first_step // BLOCK) * K + k
        mixed = tl.load(_square(scores_ptr + block * (BLOCK * BLOCK), BLOCK))
        mixed *= _within(reach, BLOCK) * dt[None, :]
        x = _tile(x_ptr + first * X_STRIDE, row, real, X_STRIDE, p, P)
        c = _tile(c_ptr + (first * C_STRIDE + k * C_STRIDE_K), row, real, C_STRIDE, n, N)
        y = _dot(mixed, x, DOT, _dot(c, state, DOT) * tl.exp(reach)[:, None]) + skip * x.to(DTYPE)
        tl.store(y_ptr + first * (K * H * P) + (row[:, None] * (K * H * P) + p), y, mask=real[:, None] & (p < P))
        if states_ptr is not None:
            tl.store(states_ptr + (block * H + h) * (N * P) + (n[:, None] * P + p), state, mask=inside)
        b = _tile(b_ptr + (first * B_STRIDE + k * B_STRIDE_K), row, real, B_STRIDE, n, N)
        scaled = x.to(DTYPE) * (dt * tl.exp(total - reach))[:, None]
        state = _dot(tl.trans(b), scaled, DOT, state * tl.exp(total))


@triton.jit
def input_gradients(
    dt_ptr, dt_bias_ptr, a_log_ptr, b_ptr, c_ptr, d_ptr, scores_ptr, starts_ptr, sequence_ptr, d_end_ptr, dy_ptr,
    dx_ptr, d_leaving_ptr, SEGMENT: tl.constexpr, K: tl.constexpr, H: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
    X_STRIDE: tl.constexpr, X_STRIDE_K: tl.constexpr, DT_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr, C_STRIDE: tl.constexpr, C_STRIDE_K: tl.constexpr, BLOCK: tl.constexpr,
    N_TILE: tl.constexpr, P_TILE: tl.constexpr, DOT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Compute P_TILE columns of the gradient of x of one segment of one head, from the last block to the first.

    Also store the gradient of the state that leaves each block.
    """
    PARTS: tl.constexpr = (P + P_TILE - 1) // P_TILE
    part, h, k, segment, s, start, stop, begin = _find(starts_ptr, sequence_ptr, PARTS, K, H, SEGMENT)
    if begin >= stop - start:
        return
    n, p = tl.arange(0, N_TILE), part * P_TILE + tl.arange(0, P_TILE)
    inside = (n < N)[:, None] & (p < P)
    dx_ptr += k * X_STRIDE_K + h * P
    skip = tl.load(d_ptr + k * H + h).to(DTYPE)
    d_end_ptr += ((segment * K + k) * H + h) * (N * P)
    has_next = begin + SEGMENT < stop - start
    d_state = _tile(d_end_ptr, n, n < tl.where(has_next, N, 0), P, p, P).to(DTYPE)
    blocks = tl.cdiv(tl.minimum(SEGMENT, stop - start - begin), BLOCK)
    for i in tl.range(blocks, disable_licm=True):
        first_step = begin + (blocks - 1 - i) * BLOCK
        first, row, real = _rows(start, stop, k, first_step, BLOCK)
        dt, reach, total = _decays(dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H, DT_STRIDE, DTYPE)
        block = (start // BLOCK + s + first_step // BLOCK) * K + k
        tl.store(d_leaving_ptr + (block * H + h) * (N * P) + (n[:, None] * P + p), d_state, mask=inside)
        b = _tile(b_ptr + (first * B_STRIDE + k * B_STRIDE_K), row, real, B_STRIDE, n, N)
        d_scaled = _dot(b, d_state, DOT) * tl.exp(total - reach)[:, None]
        dy = _tile(dy_ptr + ((first * K + k) * H + h) * P, row, real, K * H * P, p, P)
        mixed = tl.load(_square(scores_ptr + block * (BLOCK * BLOCK), BLOCK)) * _within(reach, BLOCK)
        dx = _dot(tl.trans(mixed), dy, DOT, d_scaled) * dt[:, None] + skip * dy.to(DTYPE)
        tl.store(dx_ptr + first * X_STRIDE + (row[:, None] * X_STRIDE + p), dx, mask=real[:, None] & (p < P))
        c = _tile(c_ptr + (first * C_STRIDE + k * C_STRIDE_K), row, real, C_STRIDE, n, N)
        entered = dy.to(DTYPE) * tl.exp(reach)[:, None]
        d_state = _dot(tl.trans(c), entered, DOT, d_state * tl.exp(total))


@triton.jit(do_not_specialize=["T"])
def score_gradients(
    x_ptr, dt_ptr, dt_bias_ptr, a_log_ptr, scores_ptr, starts_ptr, sequence_ptr, dy_ptr, d_scores_ptr, partial_ptr, T,
    K: tl.constexpr, H: tl.constexpr, P: tl.constexpr, X_STRIDE: tl.constexpr, X_STRIDE_K: tl.constexpr,
    DT_STRIDE: tl.constexpr, BLOCK: tl.constexpr, P_TILE: tl.constexpr, DOT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of the scores of one block, summed over the heads in a fixed order.

    Also store, for each step and head, the contribution of the block's own inputs to three other gradients: of dt at
    fixed log decays, of the log decay, and of d.
    """
    _, _, k, block, _, start, stop, first_step = _find(starts_ptr, sequence_ptr, 1, K, 1, BLOCK)
    if first_step >= stop - start:
        return
    p = tl.arange(0, P_TILE)
    first, row, real = _rows(start, stop, k, first_step, BLOCK)
    slot = T.to(tl.int64) * (K * H)
    partial_ptr += (first * K + k) * H
    x_ptr += first * X_STRIDE + k * X_STRIDE_K
    dy_ptr += (first * K + k) * (H * P)
    square = (block * K + k) * (BLOCK * BLOCK)
    step = tl.arange(0, BLOCK)
    earlier = step[:, None] > step[None, :]
    d_scores = tl.zeros((BLOCK, BLOCK), DTYPE)
    for h in tl.range(H, disable_licm=True):
        dt, reach, _total = _decays(dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H, DT_STRIDE, DTYPE)
        x = _tile(x_ptr + h * P, row, real, X_STRIDE, p, P)
        dy = _tile(dy_ptr + h * P, row, real, K * H * P, p, P)
        scores = tl.load(_square(scores_ptr + square, BLOCK))
        d_mixed = _dot(dy, tl.trans(x), DOT) * _within(reach, BLOCK)
        direct = tl.sum(d_mixed * scores, axis=0)
        d_mixed *= dt[None, :]
        d_scores += d_mixed
        d_log = tl.where(earlier, d_mixed * scores, 0.0)  # the terms of t = s cancel
        d_log_decay = tl.cumsum(tl.sum(d_log, axis=1) - tl.sum(d_log, axis=0), axis=0, reverse=True)
        partial = partial_ptr + h + row * (K * H)
        tl.store(partial, direct, mask=real)
        tl.store(partial + slot, d_log_decay, mask=real)
        tl.store(partial + 2 * slot, tl.sum(dy.to(DTYPE) * x.to(DTYPE), axis=1), mask=real)
    tl.store(_square(d_scores_ptr + square, BLOCK), d_scores)


@triton.jit(do_not_specialize=["T"])
def projection_gradients(
    x_ptr, dt_ptr, dt_bias_ptr, a_log_ptr, b_ptr, c_ptr, d_scores_ptr, starts_ptr, sequence_ptr, entering_ptr,
    d_leaving_ptr, dy_ptr, db_ptr, dc_ptr, partial_ptr, T, K: tl.constexpr, H: tl.constexpr, P: tl.constexpr,
    N: tl.constexpr, X_STRIDE: tl.constexpr, X_STRIDE_K: tl.constexpr, DT_STRIDE: tl.constexpr, B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr, C_STRIDE: tl.constexpr, C_STRIDE_K: tl.constexpr, BLOCK: tl.constexpr,
    N_TILE: tl.constexpr, P_TILE: tl.constexpr, DOT: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Compute N_TILE columns of the gradients of b and c of one block, summed over the heads in a fixed order.

    Also store, for each step and head, the contribution of these columns of the states to the gradients of dt at fixed
    log decays, and of the log decay.
    """
    PARTS: tl.constexpr = (N + N_TILE - 1) // N_TILE
    part, _, k, block, _, start, stop, first_step = _find(starts_ptr, sequence_ptr, PARTS, K, 1, BLOCK)
    if first_step >= stop - start:
        return
    n, p = part * N_TILE + tl.arange(0, N_TILE), tl.arange(0, P_TILE)
    first, row, real = _rows(start, stop, k, first_step, BLOCK)
    slot = T.to(tl.int64) * (K * H)
    partial_ptr += (3 + 2 * part) * slot + (first * K + k) * H
    x_ptr += first * X_STRIDE + k * X_STRIDE_K
    dy_ptr += (first * K + k) * (H * P)
    b_offset, c_offset = first * B_STRIDE + k * B_STRIDE_K, first * C_STRIDE + k * C_STRIDE_K
    db = tl.zeros((BLOCK, N_TILE), DTYPE)
    dc = tl.zeros((BLOCK, N_TILE), DTYPE)
    for h in tl.range(H, disable_licm=True):
        dt, reach, total = _decays(dt_ptr, dt_bias_ptr, a_log_ptr, first, row, real, k, h, H, DT_STRIDE, DTYPE)
        dy = _tile(dy_ptr + h * P, row, real, K * H * P, p, P)
        chunk_head = ((block * K + k) * H + h) * (N * P)
        state = _tile(entering_ptr + chunk_head, n, n < N, P, p, P)
        dc_state = _dot(dy, tl.trans(state), DOT) * tl.exp(reach)[:, None]
        dc += dc_state
        d_enter = tl.sum(dc_state * _tile(c_ptr + c_offset, row, real, C_STRIDE, n, N).to(DTYPE), axis=1)
        d_state = _tile(d_leaving_ptr + chunk_head, n, n < N, P, p, P)
        d_through = tl.sum(tl.sum(state.to(DTYPE) * d_state.to(DTYPE), axis=1), axis=0) * tl.exp(total)
        d_log_decay = tl.cumsum(d_enter, axis=0, reverse=True) + d_through
        x = _tile(x_ptr + h * P, row, real, X_STRIDE, p, P)
        db_state = _dot(x, tl.trans(d_state), DOT) * tl.exp(total - reach)[:, None]
        db += db_state * dt[:, None]
        direct = tl.sum(db_state * _tile(b_ptr + b_offset, row, real, B_STRIDE, n, N).to(DTYPE), axis=1)
        d_leave = direct * dt
        d_log_decay += tl.cumsum(d_leave, axis=0) - d_leave
        partial = partial_ptr + h + row * (K * H)
        tl.store(partial, direct, mask=real)
        tl.store(partial + slot, d_log_decay, mask=real)
    d_scores = tl.load(_square(d_scores_ptr + (block * K + k) * (BLOCK * BLOCK), BLOCK))
    db = _dot(tl.trans(d_scores), _tile(c_ptr + c_offset, row, real, C_STRIDE, n, N), DOT, db)
    dc = _dot(d_scores, _tile(b_ptr + b_offset, row, real, B_STRIDE, n, N), DOT, dc)
    inside = real[:, None] & (n < N)
    tl.store(db_ptr + b_offset + (row[:, None] * B_STRIDE + n), db, mask=inside)
    tl.store(dc_ptr + c_offset + (row[:, None] * C_STRIDE + n), dc, mask=inside)


@triton.jit(do_not_specialize=["T"])
def step_gradients(
    dt_ptr, dt_bias_ptr, a_log_ptr, partial_ptr, d_dt_ptr, d_weights_ptr, T, PARTS: tl.constexpr, K: tl.constexpr,
    H: tl.constexpr, DT_STRIDE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Add up the contributions to the gradient of dt, and those of ROWS positions to the gradients of the weights."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    h = tl.arange(0, COLUMNS)
    inside = (row < T)[:, None] & (h < H)
    slot = T.to(tl.int64) * (K * H)
    d_weights_ptr += tl.program_id(0) * (3 * K * H) + h
    raw = tl.load(dt_ptr + (row[:, None] * DT_STRIDE + h), mask=inside, other=0.0).to(DTYPE)
    d_raw = tl.zeros((ROWS, COLUMNS), DTYPE)
    for k in tl.static_range(K):
        partial = partial_ptr + (row[:, None] * (K * H) + k * H + h)
        direct = tl.load(partial, mask=inside, other=0.0)
        d_log_decay = tl.load(partial + slot, mask=inside, other=0.0)
        d_skip = tl.load(partial + 2 * slot, mask=inside, other=0.0)
        for part in tl.static_range(PARTS):
            direct += tl.load(partial + (3 + 2 * part) * slot, mask=inside, other=0.0)
            d_log_decay += tl.load(partial + (4 + 2 * part) * slot, mask=inside, other=0.0)
        a = -tl.exp(tl.load(a_log_ptr + k * H + h, mask=h < H, other=0.0).to(DTYPE))[None, :]
        biased = raw + tl.load(dt_bias_ptr + k * H + h, mask=h < H, other=0.0).to(DTYPE)[None, :]
        d_biased = (direct + a * d_log_decay) * tl.sigmoid(biased)
        d_raw += d_biased
        d_a_log = a * d_log_decay * _softplus(biased)
        tl.store(d_weights_ptr + k * H, tl.sum(d_biased, axis=0), mask=h < H)
        tl.store(d_weights_ptr + (K + k) * H, tl.sum(d_a_log, axis=0), mask=h < H)
        tl.store(d_weights_ptr + (2 * K + k) * H, tl.sum(d_skip, axis=0), mask=h < H)
    tl.store(d_dt_ptr + (row[:, None] * DT_STRIDE + h), d_raw, mask=inside)
