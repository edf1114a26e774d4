"""Inner products of per-sample gradients of a linear layer, by two schedules in tiles.

Legend: I, J samples of a tile; S, T positions; D input width, O output width; A activations, B backprops.

    gradient of sample r:  G_r = sum_t B_rt A_rt^T                    [O, D]
    ghost:   <G_r, G_s> = sum_tu <A_rt, A_su> <B_rt, B_su>            2 S T (D + O) flops per pair
    formed:  G_r and G_s themselves, a slice of O at a time           2 T D O flops per sample, 2 D O per pair
"""

from __future__ import annotations

from torch import Tensor

from ..head import compute_dtype

TILE_NUMBERS = 2**20
"""Numbers in the largest temporary of the ghost schedule, 4 MiB in fp32; the formed one takes four times as many."""

GHOST_EXTRA = 12.0
FORMED_EXTRA = 80.0
"""Flops' worth of one number of a ghost tile, and of a formed gradient (small products, written and read back)."""


def ghost_cost(samples_a: int, samples_b: int, s: int, t: int, d: int, o: int) -> float:
    """In flops."""
    return float(samples_a) * samples_b * s * t * (2 * (d + o) + GHOST_EXTRA)


def formed_cost(samples_a: int, samples_b: int, s: int, t: int, d: int, o: int) -> float:
    """In flops."""
    forming = float(samples_a) * (2 * s + FORMED_EXTRA) + float(samples_b) * (2 * t + FORMED_EXTRA)
    return d * o * (forming + 2.0 * samples_a * samples_b)


def schedule(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor) -> str:
    """The cheaper one, "ghost" or "formed"."""
    sizes = (acts_a.shape[0], acts_b.shape[0], acts_a.shape[1], acts_b.shape[1], acts_a.shape[2], grads_a.shape[2])
    return "ghost" if ghost_cost(*sizes) <= formed_cost(*sizes) else "formed"


def _same(x: Tensor, y: Tensor) -> bool:
    return x.data_ptr() == y.data_ptr() and x.shape == y.shape and x.stride() == y.stride() and x.dtype == y.dtype


def ghost(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor) -> Tensor:
    """[Ba, Bb]; one tile of pairs at a time, and of positions where those of one pair are more than a tile."""
    dtype = compute_dtype(acts_a, grads_a, acts_b, grads_b)
    (samples_a, s, _), (samples_b, t, _) = acts_a.shape, acts_b.shape
    out = acts_a.new_zeros(samples_a, samples_b, dtype=dtype)
    pairs = max(1, TILE_NUMBERS // max(1, s * t))
    side_b = max(1, min(samples_b, int(pairs**0.5)))
    side_a = max(1, pairs // side_b)
    positions = max(1, min(s, TILE_NUMBERS // max(1, t)))
    for i in range(0, samples_a, side_a):
        for start in range(0, s, positions):
            a_ISD, b_ISO = (x[i : i + side_a, start : start + positions].to(dtype) for x in (acts_a, grads_a))
            for j in range(0, samples_b, side_b):
                a_JTD, b_JTO = (x[j : j + side_b].to(dtype) for x in (acts_b, grads_b))
                products = a_ISD.flatten(0, 1) @ a_JTD.flatten(0, 1).T
                products *= b_ISO.flatten(0, 1) @ b_JTO.flatten(0, 1).T
                (rows, step), columns = a_ISD.shape[:2], a_JTD.shape[0]
                by_position = products.view(rows, step, columns * t).sum(1)
                out[i : i + side_a, j : j + side_b] += by_position.view(rows, columns, t).sum(2)
    return out


def formed(acts_a: Tensor, grads_a: Tensor, acts_b: Tensor, grads_b: Tensor) -> Tensor:
    """[Ba, Bb]; a slice of the output width of all gradients at a time."""
    dtype = compute_dtype(acts_a, grads_a, acts_b, grads_b)
    d, o = acts_a.shape[2], grads_a.shape[2]
    once = _same(acts_a, acts_b) and _same(grads_a, grads_b)
    samples = acts_a.shape[0] + (0 if once else acts_b.shape[0])
    step = max(1, 4 * TILE_NUMBERS // max(1, samples * d))
    out = acts_a.new_zeros(acts_a.shape[0], acts_b.shape[0], dtype=dtype)
    wide_a = acts_a.to(dtype)
    wide_b = wide_a if once else acts_b.to(dtype)
    for start in range(0, o, step):
        rows = slice(start, start + step)
        slice_a = (grads_a[:, :, rows].to(dtype).mT @ wide_a).flatten(1)
        slice_b = slice_a if once else (grads_b[:, :, rows].to(dtype).mT @ wide_b).flatten(1)
        out.addmm_(slice_a, slice_b.T)
    return out
