"""The ``coverage-centric`` selector: every level of difficulty is covered, the hardest ones perhaps not."""

from __future__ import annotations

import numpy as np

from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.el2n import NOTHING, predicts
from distill_synthesis.selectors.options import CoverageOptions
from distill_synthesis.selectors.strata import generator, in_turn

TOO_HARD = "among the hardest, which are dropped first"


class CoverageCentric:
    """Coverage-centric selection (2210.15809): drop the hardest, cut the range of scores into strata, draw from each.

    The budget is spread over the strata equally, and what a small stratum leaves over goes to the others (the paper's
    algorithm 1); random within a stratum. The score is the initial student's error or loss (the paper: AUM).
    """

    def __init__(self, options: CoverageOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        score = context.features.error_norms if self.options.score == "el2n" else context.features.losses
        scores = np.array(score(context.pool), dtype=np.float64)
        refused = {i: NOTHING for i, sequence in enumerate(context.pool) if not predicts(sequence)}
        scores[list(refused)] = np.nan
        able = np.array([i for i in range(len(scores)) if i not in refused], dtype=np.int64)
        hardest = able[np.argsort(-scores[able], kind="stable")][: int(self.options.prune_hardest * len(able))]
        refused.update(dict.fromkeys(hardest.tolist(), TOO_HARD))
        left = able[~np.isin(able, hardest)]
        if not len(left):
            return Ranking(left, scores, self._meaning(), refused)
        numbers = generator("coverage-centric", context.seed, self.options.draw).random(len(scores))
        edges = np.linspace(scores[left].min(), scores[left].max(), self.options.strata + 1)[1:-1]
        stratum = np.searchsorted(edges, scores[left], side="right")
        members = [left[stratum == one] for one in np.unique(stratum)]
        order = in_turn([m[np.argsort(-numbers[m], kind="stable")] for m in members], proportional=False)
        return Ranking(order, scores, self._meaning(), refused, {"strata filled": len(members)})

    def _meaning(self) -> str:
        what = "mean distance of probabilities to the one-hot label" if self.options.score == "el2n" else "mean loss"
        return f"difficulty: {what}"
