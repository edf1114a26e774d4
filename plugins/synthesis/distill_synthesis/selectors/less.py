"""The ``less`` selector: whose update would lower the loss on the target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import TokenSequence
from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.el2n import NOTHING, predicts, ranked
from distill_synthesis.selectors.options import LessOptions
from distill_synthesis.selectors.strata import Indices, groups

Doubles = npt.NDArray[np.float64]


class Less:
    """LESS (2402.04333): ``max over subtasks of sum over checkpoints of lr * cos(target gradient, Adam's update)``.

    A warm-up leaves a checkpoint per pass. At each, every sequence of the pool is the update that Adam would make of
    its gradient, every subtask of the target its mean gradient; both are projected by random signs. Over linear layers
    without the head (the paper: LoRA adapters), which are also what the warm-up trains.
    """

    def __init__(self, options: LessOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        from distill_synthesis.selectors.warm_up import warm_up

        target = [sequence for sequence in context.target or () if predicts(sequence)]
        if not target:
            raise DataError("less aims at a target, and was given none with anything to predict: set data.target")
        refused = {i: NOTHING for i, sequence in enumerate(context.pool) if not predicts(sequence)}
        subtasks = self._subtasks(target)
        options = self.options
        given = {"dim": options.dim, "seed": options.projection_seed, "layers": options.layers}
        scores = np.zeros((len(context.pool), len(subtasks)))
        checkpoints = warm_up(context, options.warm_up, layers=options.layers)
        for checkpoint in checkpoints:
            aims = context.features.gradients(target, checkpoint.state(context), **given)
            updates = context.features.gradients(context.pool, checkpoint.adam_state(context), **given)
            scores += checkpoint.learning_rate * cosines(updates, [aims[members] for members in subtasks])
        best = scores.max(axis=1)
        best[list(refused)] = np.nan
        found = ranked(best, refused, "hardest", "influence on the target: learning rate times cosine, summed")
        notes = {"checkpoints": len(checkpoints), "subtasks": len(subtasks), "target": len(target)}
        return Ranking(found.order, found.scores, found.meaning, found.refused, notes)

    def _subtasks(self, target: Sequence[TokenSequence]) -> list[Indices]:
        return groups([sequence.domain if self.options.tasks == "domain" else "" for sequence in target])


def cosines(updates_NK: npt.NDArray[np.float32], aims: Sequence[npt.NDArray[np.float32]]) -> Doubles:
    """[N, number of subtasks] cosine of each row with the mean of each subtask's rows; 0 where one of them is 0."""
    means = np.stack([aim.mean(axis=0, dtype=np.float64) for aim in aims])
    rows: Doubles = np.asarray(updates_NK, dtype=np.float64)
    return _unit(rows) @ _unit(means).T


def _unit(rows: Doubles) -> Doubles:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Doubles = rows / np.where(norms > 0, norms, 1.0)
    return unit
