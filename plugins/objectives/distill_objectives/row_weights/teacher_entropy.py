"""``teacher-entropy``: rows count by how sure the teacher is."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.types import RowInfo, RowTarget, TeacherSignals, TokenBatch
from distill_objectives.row_weights.falling import falling
from distill_objectives.row_weights.options import TeacherEntropyOptions


class TeacherEntropy:
    """Weight ``exp(-beta H)``, H the teacher's entropy in nat: 1 / perplexity^beta; or one minus that.

    H is the entropy of the full distribution where it is stored (sampled captures), else that on the support and the
    tail, which is at most the full one. Temperature 1 where the target holds it, else its first. Weighting by the
    teacher's entropy is Kwon, Na, Lee & Kim's idea (ICASSP 2020, between teachers); the form is ours. Not normalised:
    weights of a batch do not depend on its neighbours, so batch 8 x 1 equals 1 x 8; raise the objective's ``weight``.

    Args:
        options: ``beta``, ``prefer``.

    >>> target = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.zeros(1, 1), torch.zeros(1, 1))
    >>> TeacherEntropy(TeacherEntropyOptions()).weights(None, TeacherSignals(target=target), None)
    tensor([0.5000])
    """

    def __init__(self, options: TeacherEntropyOptions) -> None:
        self.options = options

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """As :class:`distill_core.interfaces.RowWeight`."""
        if signals.target is None:
            raise SignalError("row weights teacher-entropy need the teacher's targets, but none came: train.teacher")
        return falling(target_entropy(signals.target), self.options)


def target_entropy(target: RowTarget) -> Tensor:
    """[N] entropy in nat: the stored exact one, else that on the support and the tail.

    Raises:
        SignalError: a sample without the entropy beside it.
    """
    if target.entropy_N is not None and (target.kind == "sampled" or target.temperatures[0] == 1.0):
        return target.entropy_N
    if target.kind == "sampled":
        raise SignalError("this sample was stored without the teacher's entropy: capture it again, or use method: topk")
    temperature = 1.0 if 1.0 in target.temperatures else target.temperatures[0]
    logp_NK1 = target.log_probs(temperature)
    return -torch.where(torch.isneginf(logp_NK1), 0.0, logp_NK1.exp() * logp_NK1).sum(dim=1)
