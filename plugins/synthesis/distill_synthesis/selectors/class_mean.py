"""The ``class-mean`` selector: what lies nearest to the mean of its class."""

from __future__ import annotations

import numpy as np

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import ClassMeanOptions
from distill_synthesis.selectors.per_class import Doubles, choose
from distill_synthesis.selectors.strata import Indices


class ClassMean:
    """Nearest to the mean first, within each class in turn, or to one mean of all without labels.

    Euclidean, over mean hidden states of the initial student.
    """

    def __init__(self, options: ClassMeanOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        features = np.asarray(context.features.hidden(context.pool), dtype=np.float64)
        order, scores = choose(context, features, nearest_first, per_class=self.options.per_class)
        return Ranking(order, scores, "distance to the mean" + (" of its class" if self.options.per_class else ""))


def nearest_first(features_nD: Doubles, count: int) -> tuple[Indices, Doubles]:
    """The ``count`` nearest to the mean, nearest first, and the distance of each of the n; ties go to the first."""
    distances: Doubles = np.linalg.norm(features_nD - features_nD.mean(axis=0), axis=1)
    return np.argsort(distances, kind="stable")[:count], distances
