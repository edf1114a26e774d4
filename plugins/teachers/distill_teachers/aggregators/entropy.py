"""``entropy``: in every row, teachers that are surer count more."""

from __future__ import annotations

from collections.abc import Mapping

from distill_core.mixture import entropy, member_log_probs
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import EntropyOptions
from distill_teachers.aggregators.weighing import weighed


class Entropy:
    """Weights ``w_m ~ exp(-beta H(p_m))`` per row, H in nat on the common support and the tail.

    The idea is that of Kwon, Na, Lee & Kim, "Adaptive knowledge distillation based on entropy" (ICASSP 2020); the
    exponential form is ours: 1 / perplexity at ``beta`` = 1. A sure teacher is not always right: look at its
    calibration first.

    Args:
        options: ``beta``.

    >>> import torch
    >>> sure = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.zeros(1, 1), torch.full((1, 1), -torch.inf))
    >>> even = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.zeros(1, 1), torch.zeros(1, 1))
    >>> mixed = Entropy(EntropyOptions()).combine({"a": sure, "b": even}, None, 1.0).target  # weights 2/3 and 1/3
    >>> mixed.log_probs().exp()
    tensor([[0.8333, 0.1667]])
    """

    def __init__(self, options: EntropyOptions) -> None:
        self.options = options

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        entropy_MN = entropy(member_log_probs(targets, temperature).double())
        return weighed(targets, (-self.options.beta * entropy_MN).softmax(dim=0).T, temperature)
