# mypy: ignore-errors
"""Triton kernel of `sparse_kl` on logits: value and gradient of a row by one program, which may write over the logits.

Legend: V vocabulary, K support.

The first read of a row gives the maximum and the sum of exponentials over the complement (support columns are set to
-inf before they could enter it), the second the gradient. Between them stands the divergence on k + 1 numbers in fp64:
the formulas and conventions of csrc/cpu/divergence.h. A row is walked on a grid of ALIGNED elements, as in
`support_logits/row_kernels.py`: full blocks have vector loads and no mask at any V.
"""

import triton
import triton.language as tl

from ..support_logits.row_kernels import NONE, grid_of_row

TAIL: tl.constexpr = tl.constexpr(0)
TRUNCATED: tl.constexpr = tl.constexpr(1)
RENORMALIZED: tl.constexpr = tl.constexpr(2)
BOTH: tl.constexpr = tl.constexpr(3)
"""Places in reference.MODES; weights (4) has the formula of truncated."""


@triton.jit
def _absorb(x, first, upto, ids, cursor, following, m, s, inv_t, K, BLOCK_V: tl.constexpr):
    """A block of columns `first ...` enters maximum and sum without its support columns."""
    cols = first + tl.arange(0, BLOCK_V)
    while following < upto:
        x = tl.where(cols == following, -float("inf"), x)
        cursor += 1
        following = tl.load(ids + cursor, mask=cursor < K, other=NONE)
    higher = tl.maximum(m, tl.max(x, axis=0))
    shift = tl.where(higher == -float("inf"), 0.0, higher)
    drop = tl.where(m == -float("inf"), 0.0, (m - shift) * inv_t)
    s = s * tl.exp(drop) + tl.sum(tl.exp((x - shift) * inv_t), axis=0)
    return cursor, following, higher, s


@triton.jit
def _complement(z_row, sorted_row, lead, V, K, inv_t, BLOCK_V: tl.constexpr):
    """Maximum (0 if there is nothing) and sum of exp((z - maximum) / t) over a row's complement."""
    lane = tl.arange(0, BLOCK_V)
    cursor = 0
    following = tl.load(sorted_row, mask=K > 0, other=NONE)
    end = lead + V
    whole = tl.maximum(end // BLOCK_V * BLOCK_V, BLOCK_V)
    x = tl.load(z_row + lane, mask=(lane >= lead) & (lane < end), other=-float("inf")).to(tl.float32)
    cursor, following, m, s = _absorb(
        x, -lead, tl.minimum(BLOCK_V - lead, V), sorted_row, cursor, following, -float("inf"), 0.0, inv_t, K,
        BLOCK_V)  # fmt: skip
    for b in range(BLOCK_V, whole, BLOCK_V):
        x = tl.load(z_row + b + lane).to(tl.float32)
        cursor, following, m, s = _absorb(
            x, b - lead, b - lead + BLOCK_V, sorted_row, cursor, following, m, s, inv_t, K, BLOCK_V)  # fmt: skip
    for b in range(whole, end, BLOCK_V):  # at most once
        x = tl.load(z_row + b + lane, mask=b + lane < end, other=-float("inf")).to(tl.float32)
        cursor, following, m, s = _absorb(
            x, b - lead, V, sorted_row, cursor, following, m, s, inv_t, K, BLOCK_V)  # fmt: skip
    return tl.where(m == -float("inf"), 0.0, m), s


@triton.jit
def _shares(x, last):
    """e^(x - lse) of K numbers and of one more, and the lse; all 0 where every number is -inf."""
    top = tl.maximum(tl.max(x, axis=0), last)
    top = tl.where(top == -float("inf"), 0.0, top)
    e, e_last = tl.exp(x - top), tl.exp(last - top)
    s = tl.sum(e, axis=0) + e_last
    some = tl.where(s == 0, 1.0, s)
    return e / some, e_last / some, tl.where(s == 0, 0.0, top + tl.log(some))


@triton.jit
def _forward_term(logp, student, lse, nothing, STUCK: tl.constexpr):
    """p (log p - log q) and its derivative by log q. STUCK: where q = 0, nothing draws towards the teacher."""
    p = tl.exp(logp)
    logq = student - lse
    lost = logq == -float("inf")
    value = tl.where(p == 0, 0.0, tl.where(lost, float("inf"), p * (logp - tl.where(lost, 0.0, logq))))
    if STUCK:
        return value, tl.where(lost, 0.0, -p)
    else:
        return value, tl.where(lost, tl.where(nothing, 0.0, -p), -p)


@triton.jit
def _reverse_term(logp, student, lse, q):
    """q (log q - log p) and its derivative by log q; +inf with none where the teacher has no mass."""
    hopeless = logp == -float("inf")
    ratio = student - lse - tl.where(hopeless, 0.0, logp)
    value = tl.where(q == 0, 0.0, tl.where(hopeless, float("inf"), q * ratio))
    return value, tl.where((q == 0) | hopeless, 0.0, q * (ratio + 1.0))


@triton.jit
def divergence(logp, logt, student, tail, MODE: tl.constexpr, REVERSE: tl.constexpr):
    """Value, and its derivatives by `student` [K] and `tail`, in fp64; -inf pads."""
    if (MODE == RENORMALIZED) or (MODE == BOTH):  # noqa: SIM109 - Triton knows no `in`
        _, _, own = _shares(logp, -float("inf"))
        logp = logp - own
    q, q_tail, lse = _shares(student, -float("inf") if MODE == BOTH else tail)
    nothing = (tl.sum(q, axis=0) + q_tail) == 0
    if REVERSE:
        value, g = _reverse_term(logp, student, lse, q)
    else:
        value, g = _forward_term(logp, student, lse, nothing, MODE == BOTH)
    total = tl.sum(value, axis=0)
    g_tail = tl.zeros_like(tail)
    if MODE == TAIL:
        if REVERSE:
            value_tail, g_tail = _reverse_term(logt, tail, lse, q_tail)
        else:
            value_tail, g_tail = _forward_term(logt, tail, lse, nothing, True)
        total += value_tail
    slope = tl.sum(g, axis=0) + g_tail
    return total, g - q * slope, g_tail - q_tail * slope


@triton.jit
def _teacher_tail(logp, logt_ptr, row, real, V, GIVEN: tl.constexpr):
    """log t: as given, or log(1 - sum p) clamped at probability 0; -inf where the support is everything."""
    if GIVEN:
        logt = tl.load(logt_ptr + row)
    else:
        rest = 1.0 - tl.sum(tl.exp(logp), axis=0)
        logt = tl.where(rest <= 0, -float("inf"), tl.log(tl.where(rest <= 0, 1.0, rest)))
    return tl.where(real == V, -float("inf"), logt)


@triton.jit
def kl_rows(
    z_ptr, dz_ptr, ids_ptr, sorted_ptr, logp_ptr, logt_ptr, scale_ptr, upstream_ptr, loss_ptr,
    stride_z, stride_dz, V, K,
    MODE: tl.constexpr, REVERSE: tl.constexpr, GIVEN: tl.constexpr, GRADIENT: tl.constexpr, UPSTREAM: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_K: tl.constexpr, ALIGNED: tl.constexpr, ALIKE: tl.constexpr,
):  # fmt: skip
    """Loss of one row (fp64), and with GRADIENT its gradient times share and upstream; `dz` may be `z`.

    `scale` [2] fp64: 1 / temperature and share. `sorted` [N, K] int32 increasing, padding NONE. ALIKE: z and dz have
    one row stride, so stores are aligned as loads are.
    """
    row = tl.program_id(0).to(tl.int64)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row = z_ptr + origin
    inv_t = tl.load(scale_ptr)
    narrow_inv_t = inv_t.to(tl.float32)
    m, s = _complement(z_row, sorted_ptr + row * K, lead, V, K, narrow_inv_t, BLOCK_V)
    k = tl.arange(0, BLOCK_K)
    id_K = tl.load(ids_ptr + row * K + k, mask=k < K, other=-1)
    student = tl.load(z_row + lead + id_K, mask=id_K >= 0, other=-float("inf")).to(tl.float64) * inv_t
    logp = tl.load(logp_ptr + row * K + k, mask=id_K >= 0, other=-float("inf"))
    some = tl.where(s == 0, 1.0, s).to(tl.float64)
    tail = tl.where(s == 0, -float("inf"), tl.log(some) + m.to(tl.float64) * inv_t)
    logt = tl.full([], -float("inf"), tl.float64)
    if MODE == TAIL:
        logt = _teacher_tail(logp, logt_ptr, row, tl.sum((id_K >= 0).to(tl.int32), axis=0), V, GIVEN)
    loss, g, g_tail = divergence(logp, logt, student, tail, MODE, REVERSE)
    tl.store(loss_ptr + row, loss)
    if GRADIENT:
        factor = tl.load(scale_ptr + 1) * inv_t
        if UPSTREAM:
            factor *= tl.load(upstream_ptr + row)
        dz_row = dz_ptr + origin if ALIKE else dz_ptr + (row * stride_dz - lead)
        tl.debug_barrier()  # the support is read before anyone writes over it
        _write(z_row, dz_row, lead, V, m, (g_tail * factor / some).to(tl.float32), narrow_inv_t, BLOCK_V)
        tl.debug_barrier()  # the dense stores of the whole program land before the support is written
        tl.store(dz_row + lead + id_K, (g * factor).to(tl.float32).to(dz_ptr.dtype.element_ty), mask=id_K >= 0)


@triton.jit
def _write(z_row, dz_row, lead, V, m, factor, inv_t, BLOCK_V: tl.constexpr):
    """factor * exp((z - m) / t) on every column, 0 where nothing is to be spread."""
    dtype: tl.constexpr = dz_row.dtype.element_ty
    lane = tl.arange(0, BLOCK_V)
    end = lead + V
    whole = tl.maximum(end // BLOCK_V * BLOCK_V, BLOCK_V)
    inside = (lane >= lead) & (lane < end)
    x = tl.load(z_row + lane, mask=inside, other=0.0).to(tl.float32)
    tl.store(dz_row + lane, _spread(x, m, factor, inv_t).to(dtype), mask=inside)
    for b in range(BLOCK_V, whole, BLOCK_V):
        x = tl.load(z_row + b + lane).to(tl.float32)
        tl.store(dz_row + b + lane, _spread(x, m, factor, inv_t).to(dtype))
    for b in range(whole, end, BLOCK_V):  # at most once
        x = tl.load(z_row + b + lane, mask=b + lane < end, other=0.0).to(tl.float32)
        tl.store(dz_row + b + lane, _spread(x, m, factor, inv_t).to(dtype), mask=b + lane < end)


@triton.jit
def _spread(x, m, factor, inv_t):
    """Columns above m are on the support, and are written later: no infinity is made of them."""
    return factor * tl.exp(tl.minimum((x - m) * inv_t, 0.0))
