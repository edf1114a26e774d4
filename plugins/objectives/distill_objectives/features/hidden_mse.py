"""Hidden states of the student close to the teacher's, through learned projections where widths differ.

Legend: N compared positions, D teacher width.
"""

from __future__ import annotations

from torch import Tensor, nn

from distill_core.types import TokenBatch
from distill_objectives.features.layers import HiddenObjective
from distill_objectives.features.positions import Positions


class HiddenMSE(HiddenObjective):
    """Mean squared difference of hidden states (TinyBERT, arXiv 1909.10351, equation 8; normalised as in patient
    distillation, arXiv 1908.09355, equation 7, with ``normalize``).

    Per position, the mean over the layer pairs and the teacher's D dimensions of ``(h_student W - h_teacher)^2``; the
    sum over positions, each with its weight, is divided by their number, as for row objectives. W is learned and not
    exported. The last hidden state of a Transformers model is the one after the final norm.

    Args:
        options: ``layers``, ``projection``, ``normalize``, ``positions``.

    Raises:
        SignalError: the teacher gives no hidden states, widths differ with ``projection: none``, a layer is missing.

    >>> from distill_objectives.features.options import HiddenMSEOptions
    >>> objective = HiddenMSE(HiddenMSEOptions(layers="last"))
    >>> objective.options.projection
    'auto'
    """

    name = "hidden-mse"
    projects = True

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        if self.options.normalize:
            student_NS = nn.functional.normalize(student_NS, dim=-1)
            teacher_ND = nn.functional.normalize(teacher_ND, dim=-1)
        error_N = (student_NS - teacher_ND).square().mean(dim=-1)
        return (error_N * at.weights_N).sum()
