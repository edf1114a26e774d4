"""A selection within each class, or one over all: what the selectors on features share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from distill_core.interfaces import SelectionContext
from distill_synthesis.selectors.strata import Indices, classes_of, groups, in_turn

Doubles = npt.NDArray[np.float64]
Choose = Callable[[Doubles, int], tuple[Indices, Doubles]]
"""Given features [n, D] and how many at most: an order of them, and a score for each of the n (NaN: none)."""


def choose(
    context: SelectionContext, features: Doubles, chooser: Choose, *, per_class: bool
) -> tuple[Indices, Doubles]:
    """An order of the pool and scores [N]; per class, the classes take turns."""
    count = context.budget.most(context.lengths)
    members = groups([int(label) for label in classes_of(context.pool)]) if per_class else [np.arange(len(features))]
    scores, orders = np.full(len(features), np.nan), []
    for group in members:
        order, found = chooser(features[group], min(count, len(group)))
        scores[group] = found
        orders.append(group[order])
    return in_turn(orders, proportional=False), scores
