"""``ensemble-variance``: rows count by how far several teachers agree."""

from __future__ import annotations

from torch import Tensor

from distill_core.errors import SignalError
from distill_core.types import RowInfo, TeacherSignals, TokenBatch
from distill_objectives.row_weights.falling import falling
from distill_objectives.row_weights.options import EnsembleVarianceOptions


class EnsembleVariance:
    """Weight ``exp(-beta u)``, or one minus that, of the disagreement u of several teachers.

    u is ``ensemble_variance``, the sum over outcomes of the variance of the teachers' probabilities (between 0 and 1),
    or ``mutual_information``, in nat: what the teachers doubt together but none alone (Malinin, Mlodozeniec & Gales,
    arXiv 1905.00076, call it knowledge uncertainty). Both come from an aggregator or from the ``ensemble`` teacher. The
    exponential form is ours.

    Args:
        options: ``signal``, ``beta``, ``prefer``.

    >>> import torch
    >>> signals = TeacherSignals(extra={"ensemble_variance": torch.tensor([0.0, 0.5])})
    >>> EnsembleVariance(EnsembleVarianceOptions(beta=10)).weights(None, signals, None)
    tensor([1.0000, 0.0067])
    """

    def __init__(self, options: EnsembleVarianceOptions) -> None:
        self.options = options

    def weights(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Tensor:
        """As :class:`distill_core.interfaces.RowWeight`."""
        value_N = signals.extra.get(self.options.signal)
        if value_N is None:
            raise SignalError(
                f"row weights ensemble-variance need {self.options.signal}, which one teacher alone does not give: mix "
                "several with train.aggregate, or use the teacher `ensemble`"
            )
        weights_N: Tensor = falling(value_N, self.options)
        return weights_N
