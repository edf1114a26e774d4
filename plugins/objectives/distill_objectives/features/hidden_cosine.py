"""Hidden states of the student in the direction of the teacher's.

Legend: N compared positions, D teacher width.
"""

from __future__ import annotations

from torch import Tensor, nn

from distill_core.types import TokenBatch
from distill_objectives.features.layers import HiddenObjective
from distill_objectives.features.positions import Positions


class HiddenCosine(HiddenObjective):
    """``1 - cos(W h_student, h_teacher)`` per position (the cosine loss of DistilBERT, arXiv 1910.01108, section 3).

    Indifferent to the length of either side. W is learned where widths differ (DistilBERT keeps the width) and not
    exported.

    Args:
        options: ``layers`` (default: the final hidden states, as there), ``projection``, ``positions``.

    Raises:
        SignalError: the teacher gives no hidden states, widths differ with ``projection: none``, a layer is missing.

    >>> from distill_objectives.features.options import HiddenCosineOptions
    >>> HiddenCosine(HiddenCosineOptions()).options.layers
    'last'
    """

    name = "hidden-cosine"
    projects = True

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        distance_N = 1 - nn.functional.cosine_similarity(student_NS, teacher_ND, dim=-1)
        return (distance_N * at.weights_N).sum()
