# mypy: ignore-errors
"""Triton kernels on rows of logits that exist: statistics, and their gradient in place. One program per row.

Legend: V vocabulary, K support, T temperatures; blocks are powers of two.

A row starts anywhere (odd V), so it is walked on a grid of ALIGNED elements: a masked first block, full blocks with
vector loads and no mask, a masked last block. Support columns are set to -inf before they could enter a sum; nothing
is ever subtracted. Everything is fp32, whatever the logits are.
"""

import triton
import triton.language as tl

NONE: tl.constexpr = tl.constexpr(2**31 - 1)
"""Sorts behind every id: the padding of sorted supports."""


@triton.jit
def grid_of_row(row, stride, ALIGNED: tl.constexpr):
    """Offset of the grid point at or before the start of a row, and the distance between them."""
    start = row * stride
    lead = start % ALIGNED
    return tl.multiple_of(start - lead, ALIGNED), lead.to(tl.int32)


@triton.jit
def _finite(m):
    """-inf, the maximum of nothing, replaced by 0: differences to it stay defined."""
    return tl.where(m == -float("inf"), 0.0, m)


@triton.jit
def _absorb(
    x, cols, upto, ids, cursor, following, m, s, u, total, top, top_id, inv_t_ptr, V, K,
    T: tl.constexpr, BLOCK_T: tl.constexpr, MEAN: tl.constexpr, ENTROPY: tl.constexpr, TOP1: tl.constexpr,
):  # fmt: skip
    """One block enters the running statistics; `following` is the next id of the sorted support, at `cursor`."""
    if MEAN:
        total += tl.sum(tl.where((cols >= 0) & (cols < V), x, 0.0), axis=0)
    if TOP1:
        high, at = tl.max(x, axis=0, return_indices=True)
        at = tl.min(tl.where(x == high, cols, NONE), axis=0)
        top_id = tl.where(high > top, at, top_id)
        top = tl.maximum(high, top)
    while following < upto:
        x = tl.where(cols == following, -float("inf"), x)
        cursor += 1
        following = tl.load(ids + cursor, mask=cursor < K, other=NONE)
    t = tl.arange(0, BLOCK_T)
    inv_T = tl.load(inv_t_ptr + t, mask=t < T, other=1.0)
    higher = tl.maximum(m, tl.max(x, axis=0))
    shift = _finite(higher)
    drop_T = tl.where(m == -float("inf"), 0.0, (m - shift) * inv_T)
    if ENTROPY:
        u = tl.exp(drop_T) * (u + s * drop_T)
    s = s * tl.exp(drop_T)
    for i in tl.static_range(T):
        y = (x - shift) * tl.load(inv_t_ptr + i)
        e = tl.exp(y)
        s = tl.where(t == i, s + tl.sum(e, axis=0), s)
        if ENTROPY:
            u = tl.where(t == i, u + tl.sum(tl.where(e > 0, e * y, 0.0), axis=0), u)
    return cursor, following, higher, s, u, total, top, top_id


@triton.jit
def _entropy(zs, m, s, u, inv_t_ptr, T: tl.constexpr, BLOCK_T: tl.constexpr):
    """-sum q log q over complement (m, s, u) and support `zs`: log S - U / S about the highest logit."""
    t = tl.arange(0, BLOCK_T)
    inv_T = tl.load(inv_t_ptr + t, mask=t < T, other=1.0)
    shift = _finite(tl.maximum(m, tl.max(zs, axis=0)))
    drop_T = tl.where(m == -float("inf"), 0.0, (m - shift) * inv_T)
    u = tl.exp(drop_T) * (u + s * drop_T)
    s = s * tl.exp(drop_T)
    for i in tl.static_range(T):
        y = (zs - shift) * tl.load(inv_t_ptr + i)
        e = tl.exp(y)
        s = tl.where(t == i, s + tl.sum(e, axis=0), s)
        u = tl.where(t == i, u + tl.sum(tl.where(e > 0, e * y, 0.0), axis=0), u)
    some = tl.where(s == 0, 1.0, s)
    return tl.log(some) - u / some


@triton.jit
def rows_forward(
    z_ptr, ids_ptr, sorted_ptr, labels_ptr, inv_t_ptr,
    support_ptr, tail_ptr, label_ptr, mean_ptr, entropy_ptr, top1_ptr, stride_z, V, K,
    T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_T: tl.constexpr, ALIGNED: tl.constexpr,
    LABELS: tl.constexpr, MEAN: tl.constexpr, ENTROPY: tl.constexpr, TOP1: tl.constexpr,
):  # fmt: skip
    """Statistics of one row. `ids` [N, K] as given, `sorted` [N, K] int32 increasing with padding NONE."""
    row = tl.program_id(0).to(tl.int64)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row = z_ptr + origin
    sorted_row = sorted_ptr + row * K
    t = tl.arange(0, BLOCK_T)
    lane = tl.arange(0, BLOCK_V)
    cursor = 0
    following = tl.load(sorted_row, mask=K > 0, other=NONE)
    m, s, u = -float("inf"), tl.zeros([BLOCK_T], tl.float32), tl.zeros([BLOCK_T], tl.float32)
    total, top, top_id = 0.0, -float("inf"), 0
    end = lead + V
    whole = tl.maximum(end // BLOCK_V * BLOCK_V, BLOCK_V)

    x = tl.load(z_row + lane, mask=(lane >= lead) & (lane < end), other=-float("inf")).to(tl.float32)
    cursor, following, m, s, u, total, top, top_id = _absorb(
        x, lane - lead, BLOCK_V - lead, sorted_row, cursor, following, m, s, u, total, top, top_id,
        inv_t_ptr, V, K, T, BLOCK_T, MEAN, ENTROPY, TOP1)  # fmt: skip
    for b in range(BLOCK_V, whole, BLOCK_V):
        x = tl.load(z_row + b + lane).to(tl.float32)
        cursor, following, m, s, u, total, top, top_id = _absorb(
            x, b + lane - lead, b + BLOCK_V - lead, sorted_row, cursor, following, m, s, u, total, top, top_id,
            inv_t_ptr, V, K, T, BLOCK_T, MEAN, ENTROPY, TOP1)  # fmt: skip
    for b in range(whole, end, BLOCK_V):  # at most once
        x = tl.load(z_row + b + lane, mask=b + lane < end, other=-float("inf")).to(tl.float32)
        cursor, following, m, s, u, total, top, top_id = _absorb(
            x, b + lane - lead, V, sorted_row, cursor, following, m, s, u, total, top, top_id,
            inv_t_ptr, V, K, T, BLOCK_T, MEAN, ENTROPY, TOP1)  # fmt: skip

    some = tl.where(s == 0, 1.0, s)
    inv_T = tl.load(inv_t_ptr + t, mask=t < T, other=1.0)
    tail = tl.where(s == 0, -float("inf"), tl.log(some) + _finite(m) * inv_T)
    tl.store(tail_ptr + row * T + t, tail, mask=t < T)
    k = tl.arange(0, BLOCK_K)
    id_K = tl.load(ids_ptr + row * K + k, mask=k < K, other=-1)
    zs = tl.load(z_row + lead + id_K, mask=id_K >= 0, other=-float("inf")).to(tl.float32)
    tl.store(support_ptr + row * K + k, zs, mask=k < K)
    if LABELS:
        label = tl.load(labels_ptr + row)
        tl.store(label_ptr + row, tl.load(z_row + lead + label, mask=label >= 0, other=0.0).to(tl.float32))
    if MEAN:
        tl.store(mean_ptr + row, total / V)
    if TOP1:
        tl.store(top1_ptr + row, top_id.to(tl.int64))
    if ENTROPY:
        tl.store(entropy_ptr + row * T + t, _entropy(zs, m, s, u, inv_t_ptr, T, BLOCK_T), mask=t < T)


@triton.jit
def _entropy_slope(x, spread_ptr, lse_ptr, entropy_ptr, inv_t_ptr, T: tl.constexpr):
    """-sum_t g_H / t * q (log q + H), g_H / t in `spread`."""
    d = tl.zeros_like(x)
    for i in tl.static_range(T):
        logq = x * tl.load(inv_t_ptr + i) - tl.load(lse_ptr + i)
        q = tl.exp(logq)
        d -= tl.load(spread_ptr + i) * tl.where(q == 0, 0.0, q * (logq + tl.load(entropy_ptr + i)))
    return d


@triton.jit
def _slope(x, inv_cap, scale, CAP: tl.constexpr):
    """dz / d(h W^T + b), from z itself."""
    if CAP:
        y = x * inv_cap
        return (1.0 - y * y) * scale
    else:
        return scale


@triton.jit
def _gradient(
    x, cols, label, dlabel, dmean, share_ptr, tail_ptr, spread_ptr, lse_ptr, entropy_ptr, inv_t_ptr, inv_cap, scale,
    T: tl.constexpr, LABELS: tl.constexpr, MEAN: tl.constexpr, ENTROPY: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """Gradient of a block as if no column were on the support."""
    d = tl.load(share_ptr) * tl.exp(x * tl.load(inv_t_ptr) - tl.load(tail_ptr))
    for i in tl.static_range(1, T):
        d += tl.load(share_ptr + i) * tl.exp(x * tl.load(inv_t_ptr + i) - tl.load(tail_ptr + i))
    if ENTROPY:
        d += _entropy_slope(x, spread_ptr, lse_ptr, entropy_ptr, inv_t_ptr, T)
    if MEAN:
        d += dmean
    if LABELS:
        d += tl.where(cols == label, dlabel, 0.0)
    return d * _slope(x, inv_cap, scale, CAP)


@triton.jit
def rows_backward(
    z_ptr, dz_ptr, ids_ptr, labels_ptr, dsupport_ptr, share_ptr, tail_ptr, dlabel_ptr, dmean_ptr,
    spread_ptr, lse_ptr, entropy_ptr, inv_t_ptr, stride_z, stride_dz, V, K, inv_cap, scale,
    T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, ALIGNED: tl.constexpr, ALIKE: tl.constexpr,
    LABELS: tl.constexpr, MEAN: tl.constexpr, ENTROPY: tl.constexpr, CAP: tl.constexpr,
):  # fmt: skip
    """dz of one row, in one pass; `dz` may be `z`. `share` [N, T] is g_tail / t, `tail` finite where share is not 0.

    ALIKE: z and dz have one row stride, so stores are aligned as loads are.
    """
    row = tl.program_id(0).to(tl.int64)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row = z_ptr + origin
    dz_row = dz_ptr + origin if ALIKE else dz_ptr + (row * stride_dz - lead)
    dtype: tl.constexpr = dz_ptr.dtype.element_ty
    share_ptr, tail_ptr = share_ptr + row * T, tail_ptr + row * T
    spread_ptr, lse_ptr, entropy_ptr = spread_ptr + row * T, lse_ptr + row * T, entropy_ptr + row * T
    label, dlabel, dmean = -1, 0.0, 0.0
    if LABELS:
        label = tl.load(labels_ptr + row).to(tl.int32)
        dlabel = tl.load(dlabel_ptr + row)
    if MEAN:
        dmean = tl.load(dmean_ptr + row) / V
    k = tl.arange(0, BLOCK_K)
    id_K = tl.load(ids_ptr + row * K + k, mask=k < K, other=-1)
    zs = tl.load(z_row + lead + id_K, mask=id_K >= 0, other=0.0).to(tl.float32)
    tl.debug_barrier()  # the support is read before anyone writes over it

    lane = tl.arange(0, BLOCK_V)
    end = lead + V
    whole = tl.maximum(end // BLOCK_V * BLOCK_V, BLOCK_V)
    inside = (lane >= lead) & (lane < end)
    x = tl.load(z_row + lane, mask=inside, other=0.0).to(tl.float32)
    d = _gradient(x, lane - lead, label, dlabel, dmean, share_ptr, tail_ptr, spread_ptr, lse_ptr, entropy_ptr,
                  inv_t_ptr, inv_cap, scale, T, LABELS, MEAN, ENTROPY, CAP)  # fmt: skip
    tl.store(dz_row + lane, d.to(dtype), mask=inside)
    for b in range(BLOCK_V, whole, BLOCK_V):
        x = tl.load(z_row + b + lane).to(tl.float32)
        d = _gradient(x, b + lane - lead, label, dlabel, dmean, share_ptr, tail_ptr, spread_ptr, lse_ptr, entropy_ptr,
                      inv_t_ptr, inv_cap, scale, T, LABELS, MEAN, ENTROPY, CAP)  # fmt: skip
        tl.store(dz_row + b + lane, d.to(dtype))
    for b in range(whole, end, BLOCK_V):  # at most once
        x = tl.load(z_row + b + lane, mask=b + lane < end, other=0.0).to(tl.float32)
        d = _gradient(x, b + lane - lead, label, dlabel, dmean, share_ptr, tail_ptr, spread_ptr, lse_ptr, entropy_ptr,
                      inv_t_ptr, inv_cap, scale, T, LABELS, MEAN, ENTROPY, CAP)  # fmt: skip
        tl.store(dz_row + b + lane, d.to(dtype), mask=b + lane < end)

    tl.debug_barrier()  # the dense stores of the whole program land before the support is written
    d = tl.load(dsupport_ptr + row * K + k, mask=id_K >= 0, other=0.0)
    if ENTROPY:
        d += _entropy_slope(zs, spread_ptr, lse_ptr, entropy_ptr, inv_t_ptr, T)
    if MEAN:
        d += dmean
    if LABELS:
        d += tl.where(id_K == label, dlabel, 0.0)
    d *= _slope(zs, inv_cap, scale, CAP)
    tl.store(dz_row + lead + id_K, d.to(dtype), mask=id_K >= 0)
