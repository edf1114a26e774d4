"""The ``k-center`` selector: no sequence of the pool is far from one that is kept."""

from __future__ import annotations

from functools import partial

import numpy as np

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import KCenterOptions
from distill_synthesis.selectors.per_class import Doubles, choose
from distill_synthesis.selectors.strata import Indices, generator


class KCenter:
    """Greedy k-center (1708.00489, algorithm 1): the next one is the farthest from its nearest kept neighbour.

    The greatest such distance is at most twice the best possible one. Euclidean, over mean hidden states of the initial
    student.
    """

    def __init__(self, options: KCenterOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        features = np.asarray(context.features.hidden(context.pool), dtype=np.float64)
        rng = generator("k-center", context.seed) if self.options.start == "random" else None
        order, scores = choose(context, features, partial(farthest_first, rng=rng), per_class=self.options.per_class)
        return Ranking(order, scores, "distance to the nearest that was kept before it")


def farthest_first(features_nD: Doubles, count: int, rng: np.random.Generator | None = None) -> tuple[Indices, Doubles]:
    """The first ``count`` of the order, and the distance at which each was taken; ties go to the first.

    The start (the one nearest to the mean, or a random one) has no score.
    """
    order, scores = np.empty(count, dtype=np.int64), np.full(len(features_nD), np.nan)
    if rng is None:
        best = int(np.argmin(_distances(features_nD, features_nD.mean(axis=0))))
    else:
        best = int(rng.integers(len(features_nD)))
    nearest = np.full(len(features_nD), np.inf)
    for step in range(count):
        if step:
            best = int(np.argmax(nearest))
            scores[best] = nearest[best]
        order[step] = best
        nearest = np.minimum(nearest, _distances(features_nD, features_nD[best]))
        nearest[best] = -np.inf
    return order, scores


def _distances(features_nD: Doubles, point_D: Doubles) -> Doubles:
    distances: Doubles = np.linalg.norm(features_nD - point_D, axis=1)
    return distances
