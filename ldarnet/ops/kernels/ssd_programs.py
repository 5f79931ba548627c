# ruff: noqa: ANN001, ANN201, ANN202 (Triton supports no annotations but tl.constexpr)
"""Triton kernels of :mod:`ldarnet.ops.kernels.ssd`; shapes and formulas as there.

Within a tile, steps are numbered in the order in which the direction visits them. Steps after the end of a sequence
have dt = 0, and all their inputs are zero.

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
def _decays(dt_ptr, a_ptr, first, row, real, head, H: tl.constexpr):
    """Step sizes, cumulative sums of the log decays, and the total log decay."""
    dt = tl.load(dt_ptr + (first * (2 * H) + head) + row * (2 * H), mask=real, other=0.0)
    log_decay = dt * tl.load(a_ptr + head)
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
def states(
    x_ptr,
    dt_ptr,
    a_ptr,
    b_ptr,
    starts_ptr,
    states_ptr,
    REVERSE: tl.constexpr,
    CHUNK: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_STRIDE_K: tl.constexpr,
    B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr,
    BLOCK: tl.constexpr,
    N_TILE: tl.constexpr,
    P_TILE: tl.constexpr,
    DOT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Pass P_TILE columns of the state of one head through a sequence; store the state that enters each chunk.

    If REVERSE, x_ptr holds the gradient of y, and b_ptr holds c. The program then visits the tiles in the opposite
    order and stores the gradient of the state that leaves each chunk.
    """
    PARTS: tl.constexpr = (P + P_TILE - 1) // P_TILE
    program = tl.program_id(0)
    p = program % PARTS * P_TILE + tl.arange(0, P_TILE)
    n = tl.arange(0, N_TILE)
    h = program // PARTS % H
    k = program // (PARTS * H) % 2
    s = program // (PARTS * H * 2)
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    blocks = tl.cdiv(stop - start, BLOCK)
    first_chunk = start // CHUNK + s
    x_ptr += k * X_STRIDE_K + h * P
    b_ptr += k * B_STRIDE_K
    inside = (n < N)[:, None] & (p < P)
    state = tl.zeros((N_TILE, P_TILE), DTYPE)
    for i in range(blocks):
        block = blocks - 1 - i if REVERSE else i
        if block % (CHUNK // BLOCK) == 0:
            chunk = first_chunk + block // (CHUNK // BLOCK)
            target = ((chunk * 2 + k) * H + h) * (N * P)
            tl.store(states_ptr + target + (n[:, None] * P + p), state, mask=inside)
        first, row, real = _rows(start, stop, k, block * BLOCK, BLOCK)
        dt, reach, total = _decays(dt_ptr, a_ptr, first, row, real, k * H + h, H)
        weight = tl.exp(reach) if REVERSE else dt * tl.exp(total - reach)
        x = _tile(x_ptr + first * X_STRIDE, row, real, X_STRIDE, p, P).to(DTYPE) * weight[:, None]
        b = _tile(b_ptr + first * B_STRIDE, row, real, B_STRIDE, n, N)
        state = _dot(tl.trans(b), x, DOT, state * tl.exp(total))


@triton.jit
def outputs(
    x_ptr,
    dt_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    starts_ptr,
    sequence_ptr,
    entering_ptr,
    y_ptr,
    CHUNK: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_STRIDE_K: tl.constexpr,
    B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr,
    C_STRIDE: tl.constexpr,
    C_STRIDE_K: tl.constexpr,
    BLOCK: tl.constexpr,
    N_TILE: tl.constexpr,
    P_TILE: tl.constexpr,
    DOT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Compute the outputs of one chunk of one head, tile by tile, for P_TILE columns."""
    PARTS: tl.constexpr = (P + P_TILE - 1) // P_TILE
    program = tl.program_id(0)
    p = program % PARTS * P_TILE + tl.arange(0, P_TILE)
    h = program // PARTS % H
    k = program // (PARTS * H) % 2
    chunk = (program // (PARTS * 2 * H)).to(tl.int64)
    s = tl.load(sequence_ptr + chunk)
    if s < 0:
        return
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    begin = (chunk - start // CHUNK - s) * CHUNK
    n = tl.arange(0, N_TILE)
    x_ptr += k * X_STRIDE_K + h * P
    y_ptr += (k * H + h) * P
    skip = tl.load(d_ptr + k * H + h)
    entering_ptr += ((chunk * 2 + k) * H + h) * (N * P)
    state = _tile(entering_ptr, n, n < N, P, p, P).to(DTYPE)
    for first_step in tl.range(begin, tl.minimum(begin + CHUNK, stop - start), BLOCK, disable_licm=True):
        first, row, real = _rows(start, stop, k, first_step, BLOCK)
        dt, reach, total = _decays(dt_ptr, a_ptr, first, row, real, k * H + h, H)
        x = _tile(x_ptr + first * X_STRIDE, row, real, X_STRIDE, p, P)
        b = _tile(b_ptr + (first * B_STRIDE + k * B_STRIDE_K), row, real, B_STRIDE, n, N)
        c = _tile(c_ptr + (first * C_STRIDE + k * C_STRIDE_K), row, real, C_STRIDE, n, N)
        mixed = _dot(c, tl.trans(b), DOT) * _within(reach, BLOCK) * dt[None, :]
        y = _dot(mixed, x, DOT, _dot(c, state, DOT) * tl.exp(reach)[:, None]) + skip * x.to(DTYPE)
        tl.store(y_ptr + first * (2 * H * P) + (row[:, None] * (2 * H * P) + p), y, mask=real[:, None] & (p < P))
        if CHUNK > BLOCK:
            scaled = x.to(DTYPE) * (dt * tl.exp(total - reach))[:, None]
            state = _dot(tl.trans(b), scaled, DOT, state * tl.exp(total))


@triton.jit(do_not_specialize=["T", "chunks"])
def projection_gradients(
    x_ptr,
    dt_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    starts_ptr,
    sequence_ptr,
    entering_ptr,
    d_leaving_ptr,
    dy_ptr,
    d_projections_ptr,
    d_enter_ptr,
    d_through_ptr,
    T,
    chunks,
    HEADS: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_STRIDE_K: tl.constexpr,
    B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr,
    C_STRIDE: tl.constexpr,
    C_STRIDE_K: tl.constexpr,
    BLOCK: tl.constexpr,
    N_TILE: tl.constexpr,
    P_TILE: tl.constexpr,
    DOT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Compute N_TILE columns of the gradients of b and c of one tile, summed over a group of heads in a fixed order.

    Also compute, for each head, what these columns contribute to two other gradients. d_enter is the gradient of the
    log decay from the entering state to each step. d_through is the gradient of the log decay from the entering state
    to the leaving state.

    One loop for all three sums would need more registers; the second loop loads x and dy again.
    """
    GROUPS: tl.constexpr = (H + HEADS - 1) // HEADS
    PARTS: tl.constexpr = (N + N_TILE - 1) // N_TILE
    program = tl.program_id(0)
    part = program % PARTS
    group = program // PARTS % GROUPS
    k = program // (PARTS * GROUPS) % 2
    chunk = (program // (PARTS * GROUPS * 2)).to(tl.int64)
    s = tl.load(sequence_ptr + chunk)
    if s < 0:
        return
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    n, p = part * N_TILE + tl.arange(0, N_TILE), tl.arange(0, P_TILE)
    first, row, real = _rows(start, stop, k, (chunk - start // BLOCK - s) * BLOCK, BLOCK)
    d_enter_ptr += part * T.to(tl.int64) * (2 * H)
    d_through_ptr += part * chunks.to(tl.int64) * (2 * H)
    b_ptr += k * B_STRIDE_K
    c_ptr += k * C_STRIDE_K
    heads_after = tl.minimum((group + 1) * HEADS, H)
    d_scores = tl.zeros((BLOCK, BLOCK), DTYPE)
    for h in tl.range(group * HEADS, heads_after, disable_licm=True):
        dt, reach, _ = _decays(dt_ptr, a_ptr, first, row, real, k * H + h, H)
        x = _tile(x_ptr + (first * X_STRIDE + k * X_STRIDE_K + h * P), row, real, X_STRIDE, p, P)
        dy = _tile(dy_ptr + ((first * 2 + k) * H + h) * P, row, real, 2 * H * P, p, P)
        d_scores += _dot(dy, tl.trans(x), DOT) * _within(reach, BLOCK) * dt[None, :]
    db = _dot(tl.trans(d_scores), _tile(c_ptr + first * C_STRIDE, row, real, C_STRIDE, n, N), DOT)
    dc = _dot(d_scores, _tile(b_ptr + first * B_STRIDE, row, real, B_STRIDE, n, N), DOT)
    for h in tl.range(group * HEADS, heads_after, disable_licm=True):
        dt, reach, total = _decays(dt_ptr, a_ptr, first, row, real, k * H + h, H)
        dy = _tile(dy_ptr + ((first * 2 + k) * H + h) * P, row, real, 2 * H * P, p, P)
        chunk_head = (chunk * 2 + k) * H + h
        state = _tile(entering_ptr + chunk_head * (N * P), n, n < N, P, p, P)
        dc_state = _dot(dy, tl.trans(state), DOT) * tl.exp(reach)[:, None]
        dc += dc_state
        d_enter = tl.sum(dc_state * _tile(c_ptr + first * C_STRIDE, row, real, C_STRIDE, n, N).to(DTYPE), axis=1)
        tl.store(d_enter_ptr + ((first * 2 + k) * H + h) + row * (2 * H), d_enter, mask=real)
        d_state = _tile(d_leaving_ptr + chunk_head * (N * P), n, n < N, P, p, P)
        x = _tile(x_ptr + (first * X_STRIDE + k * X_STRIDE_K + h * P), row, real, X_STRIDE, p, P)
        db += _dot(x, tl.trans(d_state), DOT) * (dt * tl.exp(total - reach))[:, None]
        d_through = tl.sum(tl.sum(state.to(DTYPE) * d_state.to(DTYPE), axis=1), axis=0)
        tl.store(d_through_ptr + chunk_head, d_through * tl.exp(total))
    d_projections_ptr += ((group * T.to(tl.int64) + first) * 2 + k) * N
    target = row[:, None] * (2 * N) + n
    inside = real[:, None] & (n < N)
    tl.store(d_projections_ptr + target, db, mask=inside)
    tl.store(d_projections_ptr + GROUPS * T.to(tl.int64) * (2 * N) + target, dc, mask=inside)


@triton.jit(do_not_specialize=["T", "chunks"])
def input_gradients(
    x_ptr,
    dt_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    starts_ptr,
    sequence_ptr,
    d_leaving_ptr,
    d_enter_ptr,
    d_through_ptr,
    dy_ptr,
    dx_ptr,
    d_dt_ptr,
    d_weights_ptr,
    T,
    chunks,
    PARTS: tl.constexpr,
    H: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    X_STRIDE: tl.constexpr,
    X_STRIDE_K: tl.constexpr,
    B_STRIDE: tl.constexpr,
    B_STRIDE_K: tl.constexpr,
    C_STRIDE: tl.constexpr,
    C_STRIDE_K: tl.constexpr,
    BLOCK: tl.constexpr,
    N_TILE: tl.constexpr,
    P_TILE: tl.constexpr,
    DOT: tl.constexpr,
    DTYPE: tl.constexpr,
):
    """Compute the gradients of x and dt of one tile of one head, and the tile's contributions to those of a and d.

    d_enter and d_through are results of :func:`projection_gradients`. Each consists of PARTS contributions, which are
    summed here.
    """
    h = tl.program_id(0) % H
    k = tl.program_id(0) // H % 2
    chunk = (tl.program_id(0) // (2 * H)).to(tl.int64)
    s = tl.load(sequence_ptr + chunk)
    if s < 0:
        return
    start = tl.load(starts_ptr + s)
    stop = tl.load(starts_ptr + s + 1)
    step, p = tl.arange(0, BLOCK), tl.arange(0, P_TILE)
    first, row, real = _rows(start, stop, k, (chunk - start // BLOCK - s) * BLOCK, BLOCK)
    dt, reach, total = _decays(dt_ptr, a_ptr, first, row, real, k * H + h, H)
    chunk_head = (chunk * 2 + k) * H + h
    b_ptr += first * B_STRIDE + k * B_STRIDE_K
    c_ptr += first * C_STRIDE + k * C_STRIDE_K
    d_leaving_ptr += chunk_head * (N * P)
    mixed = tl.zeros((BLOCK, BLOCK), DTYPE)
    d_scaled = tl.zeros((BLOCK, P_TILE), DTYPE)
    for first_column in tl.range(0, N, N_TILE, disable_licm=True):
        n = first_column + tl.arange(0, N_TILE)
        b = _tile(b_ptr, row, real, B_STRIDE, n, N)
        d_scaled = _dot(b, _tile(d_leaving_ptr, n, n < N, P, p, P), DOT, d_scaled)
        mixed = _dot(_tile(c_ptr, row, real, C_STRIDE, n, N), tl.trans(b), DOT, mixed)
    mixed *= _within(reach, BLOCK)
    d_scaled *= tl.exp(total - reach)[:, None]
    x = _tile(x_ptr + (first * X_STRIDE + k * X_STRIDE_K + h * P), row, real, X_STRIDE, p, P)
    dy = _tile(dy_ptr + ((first * 2 + k) * H + h) * P, row, real, 2 * H * P, p, P)
    d_leave = tl.sum(d_scaled * x.to(DTYPE), axis=1)
    d_scaled = _dot(tl.trans(mixed), dy, DOT, d_scaled)
    dx = d_scaled * dt[:, None] + tl.load(d_ptr + k * H + h) * dy.to(DTYPE)
    dx_ptr += ((first * 2 + k) * H + h) * P
    tl.store(dx_ptr + (row[:, None] * (2 * H * P) + p), dx, mask=real[:, None] & (p < P))

    d_log = mixed * _dot(dy, tl.trans(x), DOT)
    d_dt = tl.sum(d_log, axis=0) + d_leave
    d_leave *= dt
    # The terms of t = s cancel.
    d_log = tl.where(step[:, None] > step[None, :], d_log * dt[None, :], 0.0)
    d_reach = tl.sum(d_log, axis=1) - tl.sum(d_log, axis=0)
    d_log_decay = tl.cumsum(d_leave, axis=0) - d_leave
    scalar = (first * 2 + k) * H + h
    for part in tl.static_range(PARTS):
        d_enter = d_enter_ptr + (part * T.to(tl.int64) * (2 * H) + scalar) + row * (2 * H)
        d_reach += tl.load(d_enter, mask=real, other=0.0)
        d_log_decay += tl.load(d_through_ptr + part * chunks.to(tl.int64) * (2 * H) + chunk_head)
    d_log_decay += tl.cumsum(d_reach, axis=0, reverse=True)
    tl.store(d_dt_ptr + scalar + row * (2 * H), d_dt + d_log_decay * tl.load(a_ptr + k * H + h), mask=real)
    tl.store(d_weights_ptr + chunk_head, tl.sum(d_log_decay * dt, axis=0))
    d_skip = tl.sum(tl.sum(dy.to(DTYPE) * x.to(DTYPE), axis=1), axis=0)
    tl.store(d_weights_ptr + chunks.to(tl.int64) * (2 * H) + chunk_head, d_skip)
