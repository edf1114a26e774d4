"""``minimum-ce``: the teacher that predicts the text best is the one to learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional

from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import MinimumCEOptions
from distill_teachers.aggregators.weighing import label_log_probs, mean_per_sequence, weighed


class MinimumCE:
    """FuseLLM's fusion (Wan et al. 2024, arXiv 2401.10491): MinCE takes, for every text, the distributions
    of the model with the lowest cross-entropy with the labels; AvgCE is their average weighted by it.

    ``min``: all weight on ``argmin_m CE_m``, the first of equal ones. ``average``: ``w_m ~ exp(-beta CE_m)``; the paper
    does not spell its weights out. CE_m is the mean over a sequence (or a row's own) of -log p_m(label) in nat.

    Args:
        options: ``fusion``, ``per``, ``beta``.

    >>> MinimumCE(MinimumCEOptions()).options.fusion
    'min'
    """

    def __init__(self, options: MinimumCEOptions) -> None:
        self.options = options

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        # an impossible label (-inf) must not make the mean NaN, and stays the worst there is
        loss_MN = -label_log_probs(targets, batch).double().clamp_min(-1e30)
        if self.options.per == "sequence":
            loss_MN = mean_per_sequence(loss_MN, batch)
        if self.options.fusion == "average":
            return weighed(targets, (-self.options.beta * loss_MN).softmax(dim=0).T, temperature)
        best_N = loss_MN.argmin(dim=0)
        return weighed(targets, functional.one_hot(best_N, len(targets)).to(torch.float64), temperature)
