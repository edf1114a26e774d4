# mypy: ignore-errors
"""Triton kernels of the top-k of rows: exact, ties by lowest id, one read of the logits and a little more.

Legend: N rows, V vocabulary, K entries kept, T temperatures, B blocks of WIDTH columns.

1. `block_maxima`: every block's maximum and its sums of exp((z - maximum) / t).
2. `select_topk`: the blocks ordered by (maximum, lowest block first); the top k entries ordered by (value, lowest id
   first) lie in the first k blocks, for every block before has an entry that comes before any entry of a later block.
   These are read again, sorted, and the tail is summed over the other blocks' sums and the entries left over. Nothing
   is subtracted, and no loop depends on the data: ascending, constant and tied rows cost the same.

Value and id are sorted as one 64-bit number.
"""

import triton
import triton.language as tl

from ..support_logits.row_kernels import grid_of_row

NEVER: tl.constexpr = tl.constexpr(-(2**63))
"""Sorts after every key."""


@triton.jit
def key_of(x, ids):
    """int64 that grows with the value and, among equal values, falls with the id; NaN above all."""
    x = tl.where(x == 0, 0.0, x)
    bits = tl.where(x != x, 0x7FC00000, x.to(tl.int32, bitcast=True))
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.to(tl.int64) << 32) | (ids ^ 0x7FFFFFFF).to(tl.int64)


@triton.jit
def id_of(key):
    return (key & 0x7FFFFFFF).to(tl.int32) ^ 0x7FFFFFFF


@triton.jit
def value_of(key):
    ordered = (key >> 32).to(tl.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def finite_or_0(x):
    """What exponents are taken relative to: inf - inf would be NaN where +inf is right."""
    return tl.where(tl.abs(x) == float("inf"), 0.0, x)


@triton.jit
def block_maxima(
    z_ptr, inv_t_ptr, top_ptr, sum_ptr, stride_z, V, B, STEPS,
    T: tl.constexpr, BLOCKS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of one row: `top` [N, B] raw, `sum` [N, T, B]."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // STEPS
    step = (pid % STEPS).to(tl.int32)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row = z_ptr + origin
    first = step * (BLOCKS * WIDTH)
    lane = first + tl.arange(0, BLOCKS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    end = lead + V
    if (first >= lead) & (first + BLOCKS * WIDTH <= end):
        x = tl.load(z_row + lane).to(tl.float32)
    else:
        x = tl.load(z_row + lane, mask=(lane >= lead) & (lane < end), other=-float("inf")).to(tl.float32)
    top = tl.max(x, axis=1)
    shift = finite_or_0(top)
    block = step * BLOCKS + tl.arange(0, BLOCKS)
    for i in tl.static_range(T):
        s = tl.sum(tl.exp((x - shift[:, None]) * tl.load(inv_t_ptr + i)), axis=1)
        tl.store(sum_ptr + (row * T + i) * B + block, s, mask=block < B)
        top = tl.where(s != s, s, top)  # a block with NaN is read again, as one that holds the largest entry
    tl.store(top_ptr + row * B + block, top, mask=block < B)


@triton.jit
def select_topk(
    z_ptr, inv_t_ptr, top_ptr, sum_ptr, ids_ptr, values_ptr, tail_ptr, stride_z, V, B, K,
    T: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Ids, values and tails of one row from its blocks."""
    row = tl.program_id(0).to(tl.int64)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    block = tl.arange(0, BLOCK_B)
    top = tl.load(top_ptr + row * B + block, mask=block < B, other=-float("inf"))
    key_B = tl.where(block < B, key_of(top, block), NEVER)
    chosen = tl.topk(key_B, BLOCK_K)
    last = tl.min(chosen, axis=0)
    kept = (block < B) & (key_B < last)

    lane = id_of(chosen)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    inside = (chosen != NEVER)[:, None] & (lane >= lead) & (lane < lead + V)
    x = tl.load(z_ptr + origin + lane, mask=inside, other=-float("inf")).to(tl.float32)
    key = tl.where(inside, key_of(x, lane - lead), NEVER)
    found = tl.topk(tl.reshape(key, [BLOCK_K * WIDTH]), BLOCK_K)
    k = tl.arange(0, BLOCK_K)
    tl.store(ids_ptr + row * K + k, id_of(found).to(tl.int64), mask=k < K)
    tl.store(values_ptr + row * K + k, value_of(found), mask=k < K)

    least = tl.min(tl.where(k < K, found, 0x7FFFFFFFFFFFFFFF), axis=0)
    x = tl.where(inside & (key < least), x, -float("inf"))
    top = tl.where(kept, top, -float("inf"))
    m = tl.maximum(tl.max(tl.max(x, axis=1), axis=0), tl.max(top, axis=0))
    shift = finite_or_0(m)
    for i in tl.static_range(T):
        inv_t = tl.load(inv_t_ptr + i)
        part = tl.load(sum_ptr + (row * T + i) * B + block, mask=kept, other=0.0)
        s = tl.sum(part * tl.exp((top - shift) * inv_t), axis=0)
        s += tl.sum(tl.sum(tl.exp((x - shift) * inv_t), axis=1), axis=0)
        tail = tl.where(s == 0, -float("inf"), tl.log(tl.where(s == 0, 1.0, s)) + shift * inv_t)
        tl.store(tail_ptr + row * T + i, tail)
