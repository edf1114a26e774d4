"""The ``random`` selector: the baseline that every other one has to beat."""

from __future__ import annotations

import numpy as np

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import RandomOptions
from distill_synthesis.selectors.strata import generator


class RandomChoice:
    """Every sequence is as likely as any other, without replacement.

    The order is a permutation, so a smaller budget keeps a part of what a greater one keeps.
    """

    def __init__(self, options: RandomOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        numbers = generator("random", context.seed, self.options.draw).random(len(context.pool))
        return Ranking(np.argsort(-numbers, kind="stable"), numbers, "random number from 0 to 1, greatest first")
