"""The ``grand`` selector: how much a sequence would move a model early in training."""

from __future__ import annotations

from functools import partial

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.el2n import over_networks, ranked
from distill_synthesis.selectors.options import GrandOptions


class Grand:
    """GraNd (2107.07075): ``E |grad loss|_2``, over networks; the hardest (or easiest) first.

    The gradient of each sequence's mean loss with respect to the weights and biases of linear layers, the head included
    (the paper: all parameters), by inner products that form no gradient.
    """

    def __init__(self, options: GrandOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        score = partial(context.features.gradient_norms, layers=self.options.layers)
        scores, refused = over_networks(context, self.options, score)
        return ranked(scores, refused, self.options.keep, "norm of the gradient over linear layers")
