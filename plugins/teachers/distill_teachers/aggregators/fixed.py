"""``fixed``: the same weights everywhere, arithmetic or geometric mean."""

from __future__ import annotations

from collections.abc import Mapping

from distill_core.mixture import disagreement, geometric_mixture
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from distill_teachers.aggregators.options import FixedOptions
from distill_teachers.aggregators.weighing import weighed, weights_by_name


class Fixed:
    """``sum_m w_m p_m``, or ``prod_m p_m^w_m`` normalised (Hinton, Vinyals & Dean 2015, arXiv 1503.02531, section 1:
    "arithmetic or geometric mean of their individual predictive distributions").

    The geometric mean also gives ``log_normalizer`` [N], the log of its mass before it was normalised.

    Args:
        options: ``weights`` by teacher, ``mean``.

    >>> import torch
    >>> one = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.8]]).log(), torch.tensor([[0.2]]).log())
    >>> two = RowTarget("exact", torch.tensor([[3]]), (1.0,), torch.tensor([[0.4]]).log(), torch.tensor([[0.6]]).log())
    >>> Fixed(FixedOptions(weights={"a": 3, "b": 1})).combine({"a": one, "b": two}, None, 1.0).target.log_probs().exp()
    tensor([[0.7000, 0.3000]])
    """

    def __init__(self, options: FixedOptions) -> None:
        self.options = options

    def combine(self, targets: Mapping[str, RowTarget], batch: TokenBatch, temperature: float) -> TeacherSignals:
        """As :class:`distill_core.interfaces.Aggregator`."""
        given = self.options.weights or {name: 1.0 for name in targets}
        weights_M = weights_by_name(given, targets, owner="aggregator fixed", option="weights")
        if self.options.mean == "arithmetic":
            return weighed(targets, weights_M, temperature)
        target, log_mass_N = geometric_mixture(targets, weights_M, temperature)
        return TeacherSignals(
            target=target, extra={"log_normalizer": log_mass_N, **disagreement(targets, weights_M, temperature)}
        )
