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
    logw_MN = checked_weights(weights_NM, logp_MNK1).log().T
    mixed_NK1 = torch.logsumexp(logp_MNK1 + logw_MN[:, :, None], dim=0)
    return _as_target(targets, mixed_NK1, temperature)


def geometric_mixture(
    targets: Mapping[str, RowTarget], weights_NM: Tensor, temperature: float = 1.0
) -> tuple[RowTarget, Tensor]:
    """The distribution ``prod_m p_m^w_m / Z`` on the common support and the tail, and log Z [N], at most 0.

    An outcome that one teacher of positive weight holds impossible is impossible. log Z is 0 where all teachers agree
    and falls with their disagreement. The tail is one outcome: its geometric mean is not that of the tokens in it.

    Args:
        targets, weights_NM, temperature: as in :func:`mixture`.

    Raises:
        ValueError: as :func:`mixture`; teachers that share no possible outcome.

    >>> one = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.8]]).log(), torch.tensor([[0.2]]).log())
    >>> target, log_mass_N = geometric_mixture({"a": one, "b": one}, torch.tensor([0.5, 0.5]))
    >>> target.log_probs().exp(), log_mass_N.exp()
    (tensor([[0.8000, 0.2000]]), tensor([1.]))
    """
    logp_MNK1 = member_log_probs(targets, temperature)
    weights_MN1 = checked_weights(weights_NM, logp_MNK1).T[:, :, None]
    # 0 log 0 = 0: a teacher of no weight has no say
    mean_NK1 = torch.where(weights_MN1 > 0, weights_MN1 * logp_MNK1, 0.0).sum(dim=0)
    log_mass_N = mean_NK1.logsumexp(dim=1)
    if bool(torch.isneginf(log_mass_N).any()):
        raise ValueError(
            f"the teachers {', '.join(targets)} share no possible outcome in {int(torch.isneginf(log_mass_N).sum())} "
            "rows, so their geometric mean is 0: mix them arithmetically"
        )
    return _as_target(targets, mean_NK1 - log_mass_N[:, None], temperature), log_mass_N


def disagreement(targets: Mapping[str, RowTarget], weights_NM: Tensor, temperature: float = 1.0) -> dict[str, Tensor]:
    """How far the teachers of a mixture are from each other, on the common support and the tail; [N] each.

    With the mixture ``p = sum_m w_m p_m`` and entropies H in nat::

        expected_entropy    sum_m w_m H(p_m)             what every teacher doubts (data uncertainty)
        mutual_information  H(p) - sum_m w_m H(p_m)      what they doubt together (knowledge uncertainty), >= 0
        ensemble_variance   sum_c sum_m w_m (p_mc - p_c)^2

    The decomposition is that of Malinin, Mlodozeniec & Gales (arXiv 1905.00076). Merging tokens into a tail
    never raises the first two.

    Args:
        targets, weights_NM, temperature: as in :func:`mixture`.

    >>> one = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.8]]).log(), torch.tensor([[0.2]]).log())
    >>> two = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.4]]).log(), torch.tensor([[0.6]]).log())
    >>> round(disagreement({"a": one, "b": two}, torch.ones(2))["ensemble_variance"].item(), 4)
    0.08
    """
    logp_MNK1 = member_log_probs(targets, temperature)
    weights_MN = checked_weights(weights_NM, logp_MNK1).T
    p_MNK1 = logp_MNK1.exp()
    mean_NK1 = (weights_MN[:, :, None] * p_MNK1).sum(dim=0)
    expected_N = (weights_MN * entropy(logp_MNK1)).sum(dim=0)
    variance_N = (weights_MN * (p_MNK1 - mean_NK1).square().sum(dim=2)).sum(dim=0)
    shared_N = (entropy(mean_NK1.log()) - expected_N).clamp_min(0)  # rounding alone makes it negative
    return {"ensemble_variance": variance_N, "mutual_information": shared_N, "expected_entropy": expected_N}


def entropy(logp_XC: Tensor) -> Tensor:
    """[X] entropy in nat over the last dimension, 0 log 0 = 0."""
    return -torch.where(torch.isneginf(logp_XC), 0.0, logp_XC.exp() * logp_XC).sum(dim=-1)


def checked_weights(weights_NM: Tensor, logp_MNK1: Tensor) -> Tensor:
    """[N, M] weights that sum to 1 in every row, from [N, M] or [M].

    Raises:
        ValueError: another shape, negative, not finite, or all 0 in a row.
    """
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
    return weights_NM / total_N1


def _as_target(targets: Mapping[str, RowTarget], logp_NK1: Tensor, temperature: float) -> RowTarget:
    return RowTarget(
        kind="exact",
        ids_NK=next(iter(targets.values())).ids_NK,
        temperatures=(temperature,),
        logits_NK=temperature * logp_NK1[:, :-1],
        tail_NM=logp_NK1[:, -1:],
    )
