"""Top-k with a defined order, and the logsumexp of the rest.

Legend: C rows of a chunk, L valid vocabulary entries, K entries kept, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def take_topk_(z_CL: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the k largest entries, largest first, equal ones by lowest id; leaves -inf in their place.

    `torch.topk` leaves open which of equal entries it picks, so rows whose k-th value also occurs among the rest are
    picked again.
    """
    value_CK, id_CK = z_CL.topk(k, dim=1)
    z_CL.scatter_(1, id_CK, -math.inf)
    if k == 0 or z_CL.shape[0] == 0:
        return id_CK, value_CK
    rest_C = z_CL.amax(1)
    tied_C = (rest_C == value_CK[:, -1]) | rest_C.isnan()
    if bool(tied_C.any()):
        z_RL = z_CL[tied_C].scatter_(1, id_CK[tied_C], value_CK[tied_C])
        id_CK[tied_C] = _lowest_ids(z_RL, value_CK[tied_C, -1:], k)
        value_CK[tied_C] = z_RL.gather(1, id_CK[tied_C])
        z_CL[tied_C] = z_RL.scatter_(1, id_CK[tied_C], -math.inf)
    id_CK, order_CK = id_CK.sort(dim=1)
    value_CK, order_CK = value_CK.gather(1, order_CK).sort(dim=1, descending=True, stable=True)
    return id_CK.gather(1, order_CK), value_CK


def _lowest_ids(z_RL: Tensor, last_R1: Tensor, k: int) -> Tensor:
    """Ids of all entries above `last` and of the first entries equal to it, k in all, increasing; NaN is above all."""
    nan_RL, nan_R1 = z_RL.isnan(), last_R1.isnan()
    chosen_RL, equal_RL = (z_RL > last_R1) | (nan_RL & ~nan_R1), (z_RL == last_R1) | (nan_RL & nan_R1)
    room_R1 = k - chosen_RL.sum(1, keepdim=True)
    chosen_RL |= equal_RL & (equal_RL.cumsum(1, dtype=torch.int32) <= room_R1)
    return chosen_RL.nonzero()[:, 1].view(-1, k)


def topk_and_tail(z_CL: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, raw logits, and per temperature the logsumexp of the rest. Overwrites the top entries of `z_CL`."""
    id_CK, value_CK = take_topk_(z_CL, k)
    tails = [torch.logsumexp(z_CL / t, dim=1) for t in temperatures]
    return id_CK, value_CK, torch.stack(tails, dim=1)
