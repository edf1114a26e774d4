"""The ``herding`` selector: the mean of what is kept stays close to the mean of the pool."""

from __future__ import annotations

import numpy as np

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import HerdingOptions
from distill_synthesis.selectors.per_class import Doubles, choose
from distill_synthesis.selectors.strata import Indices


class Herding:
    """Greedy: the next one is that which brings the mean of the kept closest to the mean of the pool.

    ``argmin_i |mu - (sum of kept + x_i) / (k + 1)|`` (Welling 2009, in the form of iCaRL, 1611.07725), over the
    mean hidden states of the initial student. Equal to ``argmin |x_i|^2 - 2 <x_i, (k + 1) mu - sum of kept>``.
    """

    def __init__(self, options: HerdingOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        features = np.asarray(context.features.hidden(context.pool), dtype=np.float64)
        if self.options.normalize:
            norms = np.linalg.norm(features, axis=1, keepdims=True)
            features = features / np.where(norms > 0, norms, 1.0)
        order, scores = choose(context, features, herd, per_class=self.options.per_class)
        return Ranking(order, scores, "distance of the mean of the kept to the mean of the pool, once this was kept")


def herd(features_nD: Doubles, count: int) -> tuple[Indices, Doubles]:
    """The first ``count`` of the herding order, and the distance reached with each; ties go to the first."""
    mean, norms = features_nD.mean(axis=0), np.square(features_nD).sum(axis=1)
    total, free = np.zeros_like(mean), np.ones(len(features_nD), dtype=bool)
    order, scores = np.empty(count, dtype=np.int64), np.full(len(features_nD), np.nan)
    for step in range(count):
        cost = norms - 2 * features_nD @ ((step + 1) * mean - total)
        best = int(np.argmin(np.where(free, cost, np.inf)))
        free[best] = False
        total += features_nD[best]
        order[step], scores[best] = best, np.linalg.norm(mean - total / (step + 1))
    return order, scores
