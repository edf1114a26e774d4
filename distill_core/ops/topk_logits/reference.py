"""Top-k with a defined order, and the logsumexp of the rest.

Legend: C rows of a chunk, L valid vocabulary entries, K entries kept, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def ordered_topk(z_CL: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Ids and values of the k largest entries, largest first, equal ones by lowest id (torch.topk leaves that open)."""
    value_CK, id_CK = z_CL.topk(k, dim=1)
    if k == 0 or z_CL.shape[0] == 0:
        return id_CK, value_CK
    last_C1 = value_CK[:, -1:]
    # Rows where the k-th value also occurs outside the k entries that torch picked.
    tied_C = (z_CL == last_C1).sum(1) > (value_CK == last_C1).sum(1)
    if bool(tied_C.any()):
        z_RL, last_R1 = z_CL[tied_C], last_C1[tied_C]
        above_RL, equal_RL = z_RL > last_R1, z_RL == last_R1
        room_R1 = k - above_RL.sum(1, keepdim=True)
        chosen_RL = above_RL | (equal_RL & (equal_RL.cumsum(1) <= room_R1))
        id_CK[tied_C] = chosen_RL.nonzero()[:, 1].view(-1, k)
    id_CK = id_CK.sort(dim=1).values
    value_CK, order_CK = z_CL.gather(1, id_CK).sort(dim=1, descending=True, stable=True)
    return id_CK.gather(1, order_CK), value_CK


def topk_and_tail(z_CL: Tensor, k: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, raw logits, and per temperature the logsumexp of the rest. Overwrites the top entries of `z_CL`."""
    id_CK, value_CK = ordered_topk(z_CL, k)
    z_CL.scatter_(1, id_CK, -math.inf)
    tails = [torch.logsumexp(z_CL / t, dim=1) for t in temperatures]
    return id_CK, value_CK, torch.stack(tails, dim=1)
