"""The ``uncertainty`` selector: where a student is unsure, or wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.el2n import NOTHING, predicts, ranked
from distill_synthesis.selectors.options import UncertaintyOptions

MEASURES: dict[str, tuple[str, Callable[[Any, Any], npt.NDArray[np.float32]]]] = {
    "entropy": ("mean entropy of the student, nat", lambda features, pool: features.entropies(pool)),
    "lead": ("mean of 1 - (p of the first - p of the second)", lambda features, pool: 1 - features.leads(pool)),
    "loss": ("mean loss of the student, nat", lambda features, pool: features.losses(pool)),
    "doubt": ("mean of 1 - p of the label", lambda features, pool: features.doubts(pool)),
}


class Uncertainty:
    """Uncertainty sampling (Lewis & Gale 1994, cmp-lg/9407020): the least sure sequences first.

    ``entropy`` and ``lead`` ask the student alone, so no answer has to be known; ``loss`` and ``doubt`` compare it with
    the record's own tokens or class, which are the teacher's answers where a synthesizer wrote them. Of a language
    model, each is the mean over the predicted tokens.
    """

    def __init__(self, options: UncertaintyOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        refused = {i: NOTHING for i, sequence in enumerate(context.pool) if not predicts(sequence)}
        if len(refused) == len(context.pool):
            raise DataError("uncertainty: no sequence of the pool has anything to predict, so a student is sure of all")
        meaning, measure = MEASURES[self.options.measure]
        scores = np.asarray(measure(context.features, context.pool), dtype=np.float64)
        scores[list(refused)] = np.nan
        return ranked(scores, refused, "hardest", meaning)
