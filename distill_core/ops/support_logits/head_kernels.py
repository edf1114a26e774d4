# mypy: ignore-errors
"""Triton kernels of the fused head: one tile of logits in registers, reduced to a few numbers per row.

Legend: N rows, V vocabulary, D hidden, K support, T temperatures; a tile is BLOCK_M rows x BLOCK_V columns.

A tile writes its maximum and its sums of exponentials over the complement (support columns are set to -inf before);
`reduce_tiles` puts the tiles of a row together in their order. The support's logits are taken from the accumulator of
the tile they lie in: ids are sorted per row, `starts` says where each tile's begin.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Odd: the series near 0, where the exponential form would cancel (relative error below 3e-7 everywhere)."""
    y = x * x
    near = x * (1.0 + y * (-1.0 / 3 + y * (2.0 / 15 + y * (-17.0 / 315 + y * (62.0 / 2835)))))
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    return tl.where(tl.abs(x) < 0.25, near, tl.where(x < 0, -far, far))


@triton.jit
def tile_position(pid, N, V, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, GROUP_M: tl.constexpr):
    """Tiles that run together share rows and columns: GROUP_M row blocks go down a column before the next column."""
    blocks_m, blocks_v = tl.cdiv(N, BLOCK_M), tl.cdiv(V, BLOCK_V)
    group = pid // (GROUP_M * blocks_v)
    first = group * GROUP_M
    height = tl.minimum(blocks_m - first, GROUP_M)
    inside = pid % (GROUP_M * blocks_v)
    return first + inside % height, inside // height


@triton.jit
def logits_tile(
    h_ptr, w_ptr, bias_ptr, rows, cols, N, V, D, stride_h, stride_w, cap, scale,
    BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, EVEN_D: tl.constexpr,
    BIAS: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """fp32 z of a tile. Rows and columns outside repeat the last one: no mask in the loop; the caller drops them."""
    d = tl.arange(0, BLOCK_D)
    h_at = h_ptr + tl.minimum(rows, N - 1).to(tl.int64)[:, None] * stride_h + d[None, :]
    w_at = w_ptr + tl.minimum(cols, V - 1).to(tl.int64)[:, None] * stride_w + d[None, :]
    z = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    for d0 in range(0, D, BLOCK_D):
        if EVEN_D:
            h, w = tl.load(h_at + d0), tl.load(w_at + d0)
        else:
            h = tl.load(h_at + d0, mask=d[None, :] < D - d0, other=0.0)
            w = tl.load(w_at + d0, mask=d[None, :] < D - d0, other=0.0)
        if UPCAST:  # the interpreter multiplies the bits of bf16
            h, w = h.to(tl.float32), w.to(tl.float32)
        z = tl.dot(h, tl.trans(w), z, input_precision=PRECISION)
    if BIAS:
        z += tl.load(bias_ptr + tl.minimum(cols, V - 1)).to(tl.float32)[None, :]
    if CAP:
        return cap * tanh(z * (scale / cap))
    else:
        return z * scale


@triton.jit
def head_forward(
    h_ptr, w_ptr, bias_ptr, sorted_ptr, order_ptr, starts_ptr, labels_ptr, inv_t_ptr,
    top_ptr, sum_ptr, support_ptr, label_ptr, N, V, D, K, stride_h, stride_w, cap, scale,
    T: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_D: tl.constexpr, GROUP_M: tl.constexpr,
    EVEN_D: tl.constexpr, BIAS: tl.constexpr, CAP: tl.constexpr, LABELS: tl.constexpr, PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile: `top` [tiles, N] raw maximum, `sum` [tiles, T, N] of exp((z - top) / t), both over the complement."""
    block_m, tile = tile_position(tl.program_id(0), N, V, BLOCK_M, BLOCK_V, GROUP_M)
    rows = block_m * BLOCK_M + tl.arange(0, BLOCK_M)
    cols = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    here = rows < N
    z = logits_tile(h_ptr, w_ptr, bias_ptr, rows, cols, N, V, D, stride_h, stride_w, cap, scale,
                    BLOCK_M, BLOCK_V, BLOCK_D, EVEN_D, BIAS, CAP, PRECISION, UPCAST)  # fmt: skip
    z = tl.where(cols[None, :] < V, z, -float("inf"))
    if LABELS:
        label = tl.load(labels_ptr + rows, mask=here, other=-1)
        value = tl.sum(tl.where(cols[None, :] == label[:, None], z, 0.0), axis=1)
        tl.store(label_ptr + rows, value, mask=here & (label >= tile * BLOCK_V) & (label < tile * BLOCK_V + BLOCK_V))
    tiles = tl.cdiv(V, BLOCK_V)
    wide = rows.to(tl.int64)
    begin = tl.load(starts_ptr + wide * (tiles + 1) + tile, mask=here, other=0)
    count = tl.load(starts_ptr + wide * (tiles + 1) + tile + 1, mask=here, other=0) - begin
    for j in range(0, tl.max(count, axis=0)):
        has = j < count
        at = wide * K + begin + j
        hit = cols[None, :] == tl.load(sorted_ptr + at, mask=has, other=-1)[:, None]
        value = tl.sum(tl.where(hit, z, 0.0), axis=1)
        tl.store(support_ptr + wide * K + tl.load(order_ptr + at, mask=has, other=0), value, mask=has)
        z = tl.where(hit, -float("inf"), z)
    top = tl.max(z, axis=1)
    tl.store(top_ptr + tile.to(tl.int64) * N + rows, top, mask=here)
    top = tl.where(top == -float("inf"), 0.0, top)
    for i in tl.static_range(T):
        s = tl.sum(tl.exp((z - top[:, None]) * tl.load(inv_t_ptr + i)), axis=1)
        tl.store(sum_ptr + (tile.to(tl.int64) * T + i) * N + rows, s, mask=here)


@triton.jit
def reduce_tiles(
    top_ptr, sum_ptr, inv_t_ptr, tail_ptr, N, TILES,
    T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Tails of BLOCK_R rows at one temperature (program axis 1), BLOCK_S tiles at a time."""
    rows = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    i = tl.program_id(1)
    inv_t = tl.load(inv_t_ptr + i)
    m = tl.full([BLOCK_R], -float("inf"), tl.float32)
    s = tl.zeros([BLOCK_R], tl.float32)
    for first in range(0, TILES, BLOCK_S):
        tile = (first + tl.arange(0, BLOCK_S)).to(tl.int64)
        inside = (tile[:, None] < TILES) & (rows[None, :] < N)
        top = tl.load(top_ptr + tile[:, None] * N + rows[None, :], mask=inside, other=-float("inf"))
        part = tl.load(sum_ptr + (tile[:, None] * T + i) * N + rows[None, :], mask=inside, other=0.0)
        higher = tl.maximum(m, tl.max(top, axis=0))
        shift = tl.where(higher == -float("inf"), 0.0, higher)
        s = s * tl.exp((m - shift) * inv_t) + tl.sum(part * tl.exp((top - shift[None, :]) * inv_t), axis=0)
        m = higher
    shift = tl.where(m == -float("inf"), 0.0, m)
    tail = tl.where(s == 0, -float("inf"), tl.log(tl.where(s == 0, 1.0, s)) + shift * inv_t)
    tl.store(tail_ptr + rows.to(tl.int64) * T + i, tail, mask=rows < N)
