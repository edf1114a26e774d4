"""Each row of the student finds its own row of the teacher among all others.

Legend: N compared positions, n rows of a group, S student width, D teacher width, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill_core.types import TokenBatch
from distill_objectives.features.grouped import GroupedObjective
from distill_objectives.features.layers import Projection
from distill_objectives.features.options import HiddenContrastiveOptions
from distill_objectives.features.positions import Positions


class HiddenContrastive(GroupedObjective):
    """Contrastive representation distillation (arXiv 1910.10699) in its InfoNCE form, with in-batch negatives.

    Both sides go through a learned linear map into E dimensions and to unit length; the value of a row i is
    ``-log(exp(s_i t_i / tau) / sum_j exp(s_i t_j / tau))`` over the rows j of its group, by default the mean of that
    and of the other direction (t_i among all s_j). The paper's own objective is a noise-contrastive estimate with a
    memory of thousands of negatives drawn from the whole data set; InfoNCE with the rows of the micro-batch is the
    usual form without one. Neighbours in a text are negatives too, hard ones. Not 0 at equality.

    It compares rows with each other: with ``within: batch`` the negatives are those of the micro-batch, and gradient
    accumulation averages micro-batches (each counting as its rows); ``within: sequence`` is a sum over sequences.

    Args:
        options: ``layers``, ``dimensions``, ``temperature``, ``symmetric``, ``within``, ``max_rows``, ``positions``.

    Raises:
        SignalError: the teacher gives no hidden states, a layer is missing.

    >>> same = torch.eye(3)
    >>> round(info_nce(same, same, temperature=1.0, symmetric=True)[0].item(), 4)  # log(1 + 2 / e)
    0.5514
    """

    name = "hidden-contrastive"
    least_rows = 2

    def __init__(self, options: HiddenContrastiveOptions) -> None:
        super().__init__(options)
        del self.properties["zero_at_equality"]
        self.teacher_projections = nn.ModuleList()

    def make_projections(
        self, student_width: int, teacher_width: int, generator: torch.Generator, device: torch.device
    ) -> None:
        """A map of each side into the embedding, per pair of layers."""
        self.teacher_projections = nn.ModuleList()
        for _ in self.pairs:
            for maps, width in ((self.projections, student_width), (self.teacher_projections, teacher_width)):
                maps.append(Projection(width, self.options.dimensions, generator=generator, device=device))

    def compare(self, student_NS: Tensor, teacher_ND: Tensor, at: Positions, batch: TokenBatch, pair: int) -> Tensor:
        student_NE = nn.functional.normalize(self.projections[pair](student_NS), dim=-1)
        teacher_NE = nn.functional.normalize(self.teacher_projections[pair](teacher_ND), dim=-1)
        total = student_NE.sum() * 0
        limit = self.options.max_rows
        for group in self.groups(at, batch, max_rows=limit):
            value_n = info_nce(
                student_NE[group.index_n],
                teacher_NE[group.index_n],
                temperature=self.options.temperature,
                symmetric=self.options.symmetric,
            )
            share = group.total / group.weights_n.sum(dtype=torch.float64).clamp_min(torch.finfo(torch.float32).tiny)
            total = total + share * (group.weights_n * value_n).sum()
        return total.to(student_NS.dtype)


def info_nce(student_nE: Tensor, teacher_nE: Tensor, *, temperature: float, symmetric: bool) -> Tensor:
    """[n] values in nat of unit vectors that are paired in order."""
    logits_nn = student_nE @ teacher_nE.T / temperature
    found_n = -logits_nn.log_softmax(dim=1).diagonal()
    if not symmetric:
        return found_n
    return (found_n - logits_nn.log_softmax(dim=0).diagonal()) / 2
