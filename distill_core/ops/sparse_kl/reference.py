"""KL divergences between a sparse teacher and a student's support logits, by name.

Legend: N rows, V vocabulary, K support; K1 means K + 1 (column K is the tail).

With teacher p on the support, `P = sum p`, tail `t`; student q, tail `qbar`:

    tail                sum p (log p - log q) + t (log t - log qbar)
    truncated           sum p (log p - log q)
    renormalized        the same with p / P
    renormalized-both   the same with p / P and q / sum_S q
    weights             sum w (log w - log q), w unbiased estimates of p
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..support_logits import SupportLogits
from ..support_logits.reference import log_softmax_rows

MODES = ("tail", "truncated", "renormalized", "renormalized-both", "weights")
REVERSIBLE = ("tail", "renormalized-both")


def row_divergence(
    support: SupportLogits,
    logp_NK: Tensor,
    tail_logp_N: Tensor | None,
    mode: str,
    direction: str,
    temperature: float,
    vocabulary: int,
) -> Tensor:
    """[N] divergences in nat."""
    dtype = support.support_NK.dtype
    padding_NK = support.padding_NK
    logp = logp_NK.masked_fill(padding_NK, -math.inf)
    if mode == "tail":
        full_N = padding_NK.shape[1] - padding_NK.sum(1) == vocabulary
        tail_N = _teacher_tail(logp) if tail_logp_N is None else tail_logp_N
        logp = torch.cat([logp.to(dtype), tail_N.to(dtype).masked_fill(full_N, -math.inf)[:, None]], dim=1)
    else:
        logp = logp.to(dtype)
    if mode.startswith("renormalized"):
        logp = _normalized(logp)
    if mode == "renormalized-both":
        logq = _normalized(support.support_NK / temperature)
    else:
        logq = support.log_probs(temperature)
        logq = logq if mode == "tail" else logq[:, :-1]
    return (expected_ratio(logp, logq) if direction == "forward" else expected_ratio(logq, logp)).sum(1)


def expected_ratio(loga: Tensor, logb: Tensor) -> Tensor:
    """`a (log a - log b)` entry by entry: 0 where a = 0, +inf where a > 0 and b = 0.

    NaN, in the gradient too, where an input is NaN, and nowhere else: a broken row must show. A constant
    `log b = -inf` (reverse KL where the teacher has no mass) gives +inf with no gradient through that entry.
    """
    a = loga.exp()
    possible = a != 0  # NaN is possible
    infinite = possible & torch.isneginf(logb)
    hopeless = infinite if not logb.requires_grad else torch.zeros_like(infinite)
    usable = possible & ~hopeless
    loga = torch.where(usable, loga, 0.0)
    logb = torch.where(usable, logb, 0.0)
    return torch.where(hopeless, math.inf, torch.where(usable, a, 0.0) * (loga - logb))


def _teacher_tail(logp_NK: Tensor) -> Tensor:
    """log(1 - sum p), the sum in fp64, clamped at 0."""
    return (1.0 - logp_NK.double().exp().sum(1)).clamp_min(0.0).log()


def _normalized(x_NK: Tensor) -> Tensor:
    """log-softmax over the support alone; a row of -inf stays -inf."""
    gone = torch.isneginf(x_NK)
    return log_softmax_rows(x_NK).masked_fill(gone, -math.inf)
