"""Mixtures of teachers on one support: what aggregators are made of.

Legend: N rows, K support size, M teachers.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from distill_core.types import RowTarget


def member_log_probs(targets: Mapping[str, RowTarget], temperature: float = 1.0) -> Tensor:
    """[M, N, K+1] log-probabilities of every teacher on the common support and the tail, in the mapping's order.

    Raises:
        ValueError: no targets, targets on different supports, or one that is sampled.
    """
    if not targets:
        raise ValueError("targets is empty: a mixture needs at least one teacher")
    first, *others = targets.values()
    for name, target in targets.items():
        if target.ids_NK.shape != first.ids_NK.shape or (target is not first and not target.ids_NK.equal(first.ids_NK)):
            raise ValueError(
                f"the target of {name} is on other ids than that of {next(iter(targets))}: a mixture needs all "
                "teachers on one support (capture.joint, or live teachers)"
            )
    return torch.stack([target.log_probs(temperature) for target in (first, *others)])


def mixture(targets: Mapping[str, RowTarget], weights_NM: Tensor, temperature: float = 1.0) -> RowTarget:
    """The distribution ``sum_m w_m p_m`` on the common support and the tail.

    Args:
        targets: exact targets of M teachers on the same ``ids_NK``.
        weights_NM: float [N, M] or [M], at least 0, not all 0 in a row; normalised here.
        temperature: softmax temperature of every teacher, and of the result.

    Raises:
        ValueError: as :func:`member_log_probs`; weights of another shape, negative, or summing to 0.

    >>> one = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.8]]).log(), torch.tensor([[0.2]]).log())
    >>> two = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.4]]).log(), torch.tensor([[0.6]]).log())
    >>> mixture({"a": one, "b": two}, torch.tensor([0.5, 0.5])).log_probs().exp()
    tensor([[0.6000, 0.4000]])
    """
    logp_MNK1 = member_log_probs(targets, temperature)
    members, rows = logp_MNK1.shape[:2]
    if tuple(weights_NM.shape) not in ((members,), (rows, members)):
        raise ValueError(
            f"weights_NM has shape {tuple(weights_NM.shape)}; expected one weight per teacher, ({members},), or per "
            f"row and teacher, ({rows}, {members})"
        )
    weights_NM = weights_NM.to(logp_MNK1).expand(rows, members)
    total_N1 = weights_NM.sum(dim=1, keepdim=True)
    if not bool((weights_NM >= 0).all() and (total_N1 > 0).all() and torch.isfinite(total_N1).all()):
        raise ValueError("weights_NM must be finite, at least 0 and not all 0 in a row")
    logw_MN1 = (weights_NM / total_N1).log().T[:, :, None]
    mixed_NK1 = torch.logsumexp(logp_MNK1 + logw_MN1, dim=0)
    ids_NK = next(iter(targets.values())).ids_NK
    return RowTarget(
        kind="exact",
        ids_NK=ids_NK,
        temperatures=(temperature,),
        logits_NK=temperature * mixed_NK1[:, :-1],
        tail_NM=mixed_NK1[:, -1:],
    )
