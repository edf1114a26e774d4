# mypy: ignore-errors
"""Triton kernels of the top-k of a head's logits: a tile of logits lives in registers, and never in memory.

Legend: N rows, V vocabulary, D hidden, K entries kept, T temperatures, S tiles.

1. `head_topk`: a tile's K largest entries per row, taken out one after the other (maximum, lowest id first), then the
   maximum and the sums of exponentials of what is left of it.
2. `merge_topk`: a row's K largest among the tiles' largest; everything else, rests of tiles and entries that lost, adds
   up to the tail. Nothing is subtracted.
"""

import triton
import triton.language as tl

from ..support_logits.head_kernels import logits_tile, tile_position
from .row_kernels import NEVER, finite_or_0, id_of, value_of

OUT: tl.constexpr = tl.constexpr(-(2**31))
"""The order of an entry that is out of the game: below that of every logit, -inf too."""


@triton.jit
def _order_of(z):
    """int32 that grows with z; NaN comes first, the zeros are one (the upper half of `key_of`)."""
    bits = tl.where(z != z, 0x7FC00000, tl.where(z == 0, 0.0, z).to(tl.int32, bitcast=True))
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _logit_of(order):
    """The logit again; -inf for what is out."""
    bits = order ^ ((order >> 31) & 0x7FFFFFFF)
    return tl.where(order == OUT, -float("inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
def head_topk(
    h_ptr, w_ptr, bias_ptr, inv_t_ptr, key_ptr, top_ptr, sum_ptr, N, V, D, K, stride_h, stride_w, cap, scale,
    T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP_M: tl.constexpr,
    EVEN_D: tl.constexpr, BIAS: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile: `key` [N, S, K] value and id as one number, `top` [N, S] and `sum` [N, T, S] of the rest."""
    block_m, tile = tile_position(tl.program_id(0), N, V, BLOCK_M, BLOCK_V, GROUP_M)
    rows = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    here = rows < N
    wide = rows.to(tl.int64)
    tiles = tl.cdiv(V, BLOCK_V)
    z = logits_tile(h_ptr, w_ptr, bias_ptr, rows, cols, N, V, D, stride_h, stride_w, cap, scale,
                    BLOCK_M, BLOCK_V, BLOCK_D, EVEN_D, BIAS, CAP, PRECISION, UPCAST)  # fmt: skip
    order = tl.where(cols[None, :] < V, _order_of(z), OUT)
    for j in range(0, K):
        best = tl.max(order, axis=1)
        at = tl.min(tl.where(order == best[:, None], cols[None, :], 0x7FFFFFFF), axis=1)
        key = (best.to(tl.int64) << 32) | (at ^ 0x7FFFFFFF).to(tl.int64)
        tl.store(key_ptr + (wide * tiles + tile) * K + j, tl.where(best == OUT, NEVER, key), mask=here)
        order = tl.where(cols[None, :] == at[:, None], OUT, order)
    z = _logit_of(order)
    top = tl.max(z, axis=1)
    shift = finite_or_0(top)
    tl.store(top_ptr + wide * tiles + tile, top, mask=here)
    for i in tl.static_range(T):
        s = tl.sum(tl.exp((z - shift[:, None]) * tl.load(inv_t_ptr + i)), axis=1)
        tl.store(sum_ptr + (wide * T + i) * tiles + tile, s, mask=here)


@triton.jit
def _lost(key_row, first, count, least, BLOCK_C: tl.constexpr):
    """Logits of the candidates that did not get into the top k, -inf in the other lanes."""
    c = first + tl.arange(0, BLOCK_C)
    key = tl.load(key_row + c, mask=c < count, other=NEVER)
    return tl.where((key < least) & (key != NEVER), value_of(key), -float("inf"))


@triton.jit
def merge_topk(
    key_ptr, top_ptr, sum_ptr, inv_t_ptr, ids_ptr, values_ptr, tail_ptr, S, K,
    T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Ids, values and tails of one row from its S tiles: S K candidates, BLOCK_C at a time."""
    row = tl.program_id(0).to(tl.int64)
    key_row, count = key_ptr + row * S * K, S * K
    found = tl.full([BLOCK_K], NEVER, tl.int64)
    for first in range(0, count, BLOCK_C):
        c = first + tl.arange(0, BLOCK_C)
        best = tl.topk(tl.load(key_row + c, mask=c < count, other=NEVER), BLOCK_K)
        found = tl.topk(tl.reshape(tl.join(found, best), [2 * BLOCK_K]), BLOCK_K)
    k = tl.arange(0, BLOCK_K)
    tl.store(ids_ptr + row * K + k, id_of(found).to(tl.int64), mask=k < K)
    tl.store(values_ptr + row * K + k, value_of(found), mask=k < K)

    least = tl.min(tl.where(k < K, found, 0x7FFFFFFFFFFFFFFF), axis=0)
    tile = tl.arange(0, BLOCK_S)
    top = tl.load(top_ptr + row * S + tile, mask=tile < S, other=-float("inf"))
    m = tl.max(top, axis=0)
    for first in range(0, count, BLOCK_C):
        m = tl.maximum(m, tl.max(_lost(key_row, first, count, least, BLOCK_C), axis=0))
    shift = finite_or_0(m)
    rest = tl.where(top == -float("inf"), 0.0, top - shift)
    for i in tl.static_range(T):
        inv_t = tl.load(inv_t_ptr + i)
        part = tl.load(sum_ptr + (row * T + i) * S + tile, mask=tile < S, other=0.0)
        s = tl.sum(part * tl.exp(rest * inv_t), axis=0)
        for first in range(0, count, BLOCK_C):
            s += tl.sum(tl.exp((_lost(key_row, first, count, least, BLOCK_C) - shift) * inv_t), axis=0)
        tail = tl.where(s == 0, -float("inf"), tl.log(tl.where(s == 0, 1.0, s)) + shift * inv_t)
        tl.store(tail_ptr + row * T + i, tail)
