"""Support statistics in plain, twice differentiable torch: the definition that every kernel is measured against.

Legend: N rows, V vocabulary, K support, T temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Statistics(NamedTuple):
    """What one pass over the logits yields; empty tensors stand for what was not asked for."""

    support_NK: Tensor
    tail_NT: Tensor
    label_N: Tensor
    mean_N: Tensor
    entropy_NT: Tensor
    top1_N: Tensor


def _finite_top(x_NJ: Tensor) -> Tensor:
    """Row maximum without gradient, 0 where a row is all -inf."""
    top_N1 = x_NJ.detach().amax(-1, keepdim=True)
    return torch.where(torch.isneginf(top_N1), torch.zeros_like(top_N1), top_N1)


def logsumexp_rows(x_NJ: Tensor) -> Tensor:
    """logsumexp over the last dimension; a row of -inf (or of no entry) gives -inf and the gradient 0, never NaN."""
    if x_NJ.shape[-1] == 0:
        return x_NJ.sum(-1) - math.inf
    top_N1 = _finite_top(x_NJ)
    sum_N = (x_NJ - top_N1).exp().sum(-1)
    empty_N = sum_N == 0
    value_N = torch.where(empty_N, torch.ones_like(sum_N), sum_N).log() + top_N1.squeeze(-1)
    return value_N.masked_fill(empty_N, -math.inf)


def log_softmax_rows(x_NJ: Tensor) -> Tensor:
    """log-softmax over the last dimension; a row of -inf stays -inf with the gradient 0, never NaN."""
    if x_NJ.shape[-1] == 0:
        return x_NJ
    # Shifted first: at logits of 1e4 the spacing of fp32 numbers is 1e-3.
    x_NJ = x_NJ - _finite_top(x_NJ)
    total_N1 = logsumexp_rows(x_NJ)[..., None]
    return x_NJ - total_N1.masked_fill(torch.isneginf(total_N1), 0.0)


def on_support(ids_NK: Tensor, vocabulary: int) -> Tensor:
    """[N, V] boolean membership; column V takes the writes of padding and is dropped."""
    mask_NV1 = torch.zeros(ids_NK.shape[0], vocabulary + 1, dtype=torch.bool, device=ids_NK.device)
    mask_NV1.scatter_(1, torch.where(ids_NK < 0, vocabulary, ids_NK).long(), True)
    return mask_NV1[:, :vocabulary]


def cap(pre_NV: Tensor, softcap: float | None, logit_scale: float) -> Tensor:
    """z = softcap * tanh(scale * pre / softcap)."""
    return pre_NV * logit_scale if softcap is None else softcap * torch.tanh(pre_NV * (logit_scale / softcap))


def entropy_rows(scaled_NV: Tensor) -> Tensor:
    """-sum q log q in nat, with 0 log 0 = 0."""
    logq_NV = log_softmax_rows(scaled_NV)
    return -(logq_NV.exp() * logq_NV.masked_fill(torch.isneginf(logq_NV), 0.0)).sum(-1)


def support_statistics(
    z_NV: Tensor, ids_NK: Tensor, labels_N: Tensor | None, temperatures: Sequence[float], extras: Sequence[str]
) -> Statistics:
    """All statistics of logits `z_NV`, straight from their definitions."""
    rest_NV = z_NV.masked_fill(on_support(ids_NK, z_NV.shape[1]), -math.inf)
    nothing = z_NV.new_empty(0)
    label_N = nothing
    if labels_N is not None:
        label_N = z_NV.gather(1, labels_N.long().clamp_min(0)[:, None]).squeeze(1).masked_fill(labels_N < 0, 0.0)
    return Statistics(
        z_NV.gather(1, ids_NK.long().clamp_min(0)).masked_fill(ids_NK < 0, -math.inf),
        torch.stack([logsumexp_rows(rest_NV / t) for t in temperatures], dim=1),
        label_N,
        z_NV.mean(1) if "mean" in extras else nothing,
        torch.stack([entropy_rows(z_NV / t) for t in temperatures], dim=1) if "entropy" in extras else nothing,
        z_NV.argmax(1) if "top1" in extras else nothing.long(),
    )
