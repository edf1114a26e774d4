"""Threshold and multinomial sampling of a support, row by row, in fp64.

Legend: C rows of a chunk, L valid vocabulary entries, K entries asked for, h entries kept for certain.

Threshold sampling chooses c with `sum_i min(1, p_i / c) = K`. Entries with `p_i >= c` are kept with weight p_i; K - h
of the others are drawn by systematic sampling with probability `p_i / c` and get the weight c. Everything is relative
to the mass that is left, in log space, so a row whose leading entry holds all but 1e-300 still yields K entries. Sums
over the vocabulary are running sums: their order does not depend on how many rows are handled together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..topk_logits.reference import take_topk_
from .counter_random import uniform

# An entry within this relative distance of c is kept for certain (unbiased all the same): no entry can be hit twice.
CERTAIN = 1e-9


def threshold(z_CL: Tensor, k: int, temperature: float, seed: int, keys_C: Tensor) -> tuple[Tensor, Tensor]:
    """Ids [C, min(k, L)] and fp64 weights: certain ones by decreasing weight, then drawn ones by id, then padding."""
    k = min(k, z_CL.shape[1])
    rest_CL = z_CL.double() / temperature
    top_id_CK, top_CK = take_topk_(rest_CL, k)
    shift_C1 = rest_CL.amax(1, keepdim=True)
    shift_C1 = shift_C1.masked_fill(torch.isneginf(shift_C1), 0.0)
    mass_CL = rest_CL.sub_(shift_C1).exp_()
    rest_C1 = mass_CL.cumsum(1)[:, -1:].log() + shift_C1
    # left[:, j] = log of the mass outside the j largest entries, j = 0 .. k
    left_CK1 = torch.cat([rest_C1, top_CK.flip(1)], dim=1).logcumsumexp(1).flip(1)
    log_room_K = torch.arange(k, 0, -1, device=z_CL.device, dtype=torch.float64).log()
    certain_CK = (top_CK >= left_CK1[:, :k] - log_room_K - CERTAIN) & ~torch.isneginf(top_CK)
    certain_CK = certain_CK.int().cumprod(1).bool()
    h_C1 = certain_CK.sum(1, keepdim=True)
    left_C1 = left_CK1.gather(1, h_C1)
    drawn_C1 = torch.where(torch.isneginf(left_C1), 0, k - h_C1)
    drawn_id_CK = _systematic(
        mass_CL, shift_C1, top_id_CK, top_CK.masked_fill(certain_CK, -math.inf), drawn_C1, uniform(seed, keys_C, 1)
    )
    total_C1 = left_CK1[:, :1]
    log_c_C1 = left_C1 - total_C1 - drawn_C1.clamp_min(1).double().log()
    weight_CK = torch.where(certain_CK, top_CK - total_C1, log_c_C1).exp()
    # Column j of the result is certain entry j, or drawn entry j - h.
    column_K = torch.arange(k, device=z_CL.device)
    id_CK = torch.where(certain_CK, top_id_CK, drawn_id_CK.gather(1, (column_K - h_C1).clamp_min(0)))
    absent_CK = column_K >= h_C1 + drawn_C1
    return id_CK.masked_fill(absent_CK, -1), weight_CK.masked_fill(absent_CK, 0.0)


def _systematic(
    mass_CL: Tensor, shift_C1: Tensor, top_id_CK: Tensor, light_CK: Tensor, drawn_C1: Tensor, u_C1: Tensor
) -> Tensor:
    """Ids hit by the points u, u + 1, ... on the line of masses scaled to the total `drawn`; columns beyond are noise.

    `mass_CL` holds `exp(a - shift)` outside the top entries and is consumed; `light_CK` holds the log-masses of the top
    entries that are drawn, -inf for the certain ones.
    """
    k = top_id_CK.shape[1]
    base_C1 = torch.maximum(shift_C1, light_CK.amax(1, keepdim=True))
    mass_CL.mul_((shift_C1 - base_C1).exp()).scatter_(1, top_id_CK, (light_CK - base_C1).exp())
    line_CL = mass_CL.cumsum(1)
    end_C1 = line_CL[:, -1:]
    line_CL = line_CL * (drawn_C1 / torch.where(end_C1 > 0, end_C1, 1.0))
    point_CK = u_C1 + torch.arange(k, device=mass_CL.device)
    hit_CK = torch.searchsorted(line_CL, point_CK, right=True)
    # Rounding may leave the end of the line a hair below `drawn`; the last entry with mass takes that point.
    last_C1 = torch.searchsorted(line_CL, line_CL[:, -1:].contiguous())
    return torch.minimum(hit_CK, last_C1)


def multinomial(z_CL: Tensor, k: int, temperature: float, seed: int, keys_C: Tensor) -> tuple[Tensor, Tensor]:
    """k draws with replacement: unique ids in increasing order, weights count / k, then padding."""
    a_CL = z_CL.double() / temperature
    top_C1 = a_CL.amax(1, keepdim=True)
    line_CL = (a_CL - top_C1.masked_fill(torch.isneginf(top_C1), 0.0)).exp_().cumsum(1)
    end_C1 = line_CL[:, -1:].contiguous()
    hit_CK = torch.searchsorted(line_CL, uniform(seed, keys_C, k) * end_C1, right=True)
    hit_CK = torch.minimum(hit_CK, torch.searchsorted(line_CL, end_C1)).sort(dim=1).values
    first_CK = torch.ones_like(hit_CK, dtype=torch.bool)
    first_CK[:, 1:] = hit_CK[:, 1:] != hit_CK[:, :-1]
    slot_CK = first_CK.cumsum(1) - 1
    id_CK = torch.full_like(hit_CK, -1).scatter_(1, slot_CK, hit_CK)
    count_CK = torch.zeros_like(hit_CK).scatter_add_(1, slot_CK, torch.ones_like(hit_CK))
    impossible_C1 = end_C1 <= 0
    return id_CK.masked_fill(impossible_C1, -1), (count_CK / max(1, k)).double().masked_fill(impossible_C1, 0.0)


def mark_strange_(z_CL: Tensor, id_CK: Tensor, weight_CK: Tensor) -> None:
    """Rows that hold NaN or +inf have no distribution: one entry, the first such id, with the weight NaN."""
    strange_CL = ~(z_CL < math.inf)
    strange_C = strange_CL.any(1)
    if bool(strange_C.any()):
        id_CK[strange_C], weight_CK[strange_C] = -1, 0.0
        id_CK[strange_C, 0] = strange_CL[strange_C].int().argmax(1)
        weight_CK[strange_C, 0] = math.nan
