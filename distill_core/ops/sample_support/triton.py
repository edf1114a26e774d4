"""`sample_support` by Triton: masses in fixed point, so that no grid, chunk or layout changes which entries are drawn.

Legend: N rows, L valid vocabulary entries, K entries asked for, M largest entries known, B blocks. `row_kernels.py`
holds the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..support_logits.triton import block, readable_rows
from ..topk_logits.triton import topk_into
from ..triton_configs import ALIGNED, Sample, chip_of
from ..triton_probe import device_of
from .row_kernels import block_masses, count_draws, hit_points, plan_threshold


class _Rows(NamedTuple):
    """Logits, their M largest entries, and what all launches over them share."""

    z_NL: Tensor
    top_NM: Tensor
    top_id_NM: Tensor
    certain_N: Tensor
    inv_t: Tensor
    mass_N2B: Tensor
    strange_NB: Tensor
    size: Sample


def _rows(z_NL: Tensor, most: int, temperature: float, certain: int) -> _Rows:
    n, length = z_NL.shape
    size = chip_of(z_NL.device).sample
    blocks = -(-(length + ALIGNED - 1) // size.width)  # a row may start anywhere on its grid
    top_id_NM = z_NL.new_empty(n, most, dtype=torch.int64)
    top_NM, tail_NT = z_NL.new_empty(n, most, dtype=torch.float32), z_NL.new_empty(n, 1, dtype=torch.float32)
    topk_into(z_NL, most, (temperature,), top_id_NM, top_NM, tail_NT)
    return _Rows(
        z_NL,
        top_NM,
        top_id_NM,
        torch.full((n,), certain, dtype=torch.int32, device=z_NL.device),
        torch.tensor([1.0 / temperature], dtype=torch.float64, device=z_NL.device),
        z_NL.new_empty(n, 2, blocks, dtype=torch.int64),
        z_NL.new_empty(n, blocks, dtype=torch.int32),
        size,
    )


def _measure(rows: _Rows, *, strange: bool) -> None:
    """Masses of all blocks, of the line without the `certain` largest entries."""
    (n, length), blocks = rows.z_NL.shape, rows.strange_NB.shape[1]
    per_program = max(1, rows.size.columns // rows.size.width)
    steps = -(-blocks // per_program)
    block_masses[(n * steps,)](
        rows.z_NL,
        rows.top_NM,
        rows.top_id_NM,
        rows.certain_N,
        rows.inv_t,
        rows.mass_N2B,
        rows.strange_NB,
        rows.z_NL.stride(0),
        length,
        rows.top_NM.shape[1],
        blocks,
        steps,
        BLOCKS=per_program,
        WIDTH=rows.size.width,
        ALIGNED=ALIGNED,
        STRANGE=strange,
        num_warps=rows.size.warps,
    )


def _hit(rows: _Rows, seed: int, keys_N: Tensor, hit_NK: Tensor, *, even: bool) -> None:
    """Ids that the points of every row fall on."""
    (n, length), blocks = rows.z_NL.shape, rows.strange_NB.shape[1]
    hit_points[(n,)](
        rows.z_NL,
        rows.top_NM,
        rows.top_id_NM,
        rows.certain_N,
        rows.inv_t,
        torch.tensor([seed], dtype=torch.int64, device=keys_N.device),
        keys_N,
        rows.mass_N2B,
        hit_NK,
        rows.z_NL.stride(0),
        length,
        rows.top_NM.shape[1],
        hit_NK.shape[1],
        blocks,
        blocks.bit_length(),
        EVEN=even,
        POINTS=rows.size.points,
        WIDTH=rows.size.width,
        BLOCK_B=rows.size.blocks,
        ALIGNED=ALIGNED,
        num_warps=rows.size.warps,
    )


def sample_into(
    z_NL: Tensor,
    k: int,
    method: str,
    temperature: float,
    seed: int,
    keys_N: Tensor,
    ids_NK: Tensor,
    weights_NK: Tensor,
) -> None:
    """Fills contiguous int64 ids and fp32 weights that hold -1 and 0; k and L at least 1, k at most `MAX_K`."""
    z_NL, keys_N = readable_rows(z_NL), keys_N.long().contiguous()
    n, length = z_NL.shape
    if n == 0:
        return
    with device_of(z_NL):
        if method == "threshold":
            _threshold(_rows(z_NL, min(k, length), temperature, min(k, length)), seed, keys_N, ids_NK, weights_NK)
        else:
            _multinomial(_rows(z_NL, 1, temperature, 0), seed, keys_N, ids_NK, weights_NK)


def _threshold(rows: _Rows, seed: int, keys_N: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> None:
    most, blocks = rows.top_NM.shape[1], rows.strange_NB.shape[1]
    _measure(rows, strange=True)
    plan_threshold[(ids_NK.shape[0],)](
        rows.top_NM,
        rows.top_id_NM,
        rows.mass_N2B,
        rows.strange_NB,
        rows.inv_t,
        rows.certain_N,
        ids_NK,
        weights_NK,
        most,
        ids_NK.shape[1],
        blocks,
        BLOCK_K=block(most),
        BLOCK_B=rows.size.blocks,
        num_warps=rows.size.warps,
    )
    _measure(rows, strange=False)
    _hit(rows, seed, keys_N, ids_NK, even=True)


def _multinomial(rows: _Rows, seed: int, keys_N: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> None:
    _measure(rows, strange=True)
    hit_NK = torch.empty_like(ids_NK)
    _hit(rows, seed, keys_N, hit_NK, even=False)
    count_draws[(ids_NK.shape[0],)](
        hit_NK,
        rows.strange_NB,
        ids_NK,
        weights_NK,
        ids_NK.shape[1],
        rows.strange_NB.shape[1],
        BLOCK_K=max(2, block(ids_NK.shape[1])),  # tl.sort sorts no single lane
        BLOCK_B=rows.size.blocks,
        num_warps=rows.size.warps,
    )
