"""From points in the embedding space to tokens: the nearest among those that a model finds likely.

Legend: B texts, T positions, D channels, A allowed tokens, k likely ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Likely = Callable[[Tensor], Tensor]
"""Places [B, t] of the tokens so far (t may be 0) -> places [B, k] that may come next."""


@torch.no_grad()
def project(points_BTD: Tensor, table_AD: Tensor, likely: Likely | None) -> Tensor:
    """[B, T] places in the table: left to right, each the nearest (Euclidean) to its point among the likely ones.

    GRADMM (arXiv 2502.17607): the projection onto the embeddings of a readable sequence. Positions beyond the end of a
    shorter text are projected too; they are cut by the caller.

    Args:
        points_BTD: the points.
        table_AD: embeddings of the allowed tokens.
        likely: which may come next; None: all.

    >>> project(torch.tensor([[[0.9], [2.2]]]), torch.tensor([[0.0], [1.0], [2.0]]), None).tolist()
    [[1, 2]]
    """
    chosen_BT = torch.empty(points_BTD.shape[0], 0, dtype=torch.int64, device=points_BTD.device)
    for position in range(points_BTD.shape[1]):
        points_BD = points_BTD[:, position]
        if likely is None:
            next_B = torch.cdist(points_BD, table_AD).argmin(-1)
        else:
            places_Bk = likely(chosen_BT)
            distance_Bk = (table_AD[places_Bk] - points_BD[:, None]).norm(dim=-1)
            next_B = places_Bk.gather(1, distance_Bk.argmin(-1, keepdim=True))[:, 0]
        chosen_BT = torch.cat([chosen_BT, next_B[:, None]], dim=1)
    return chosen_BT
