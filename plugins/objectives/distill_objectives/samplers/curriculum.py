"""Easy sequences first, a growing share of the data from step to step.

Legend: S sequences of the training data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_objectives.sampler_options import CurriculumOptions
from distill_objectives.samplers.losses import of_student, of_teacher, sums_and_rows


class Curriculum:
    """Competence-based curriculum (Platanios et al. 2019, arXiv 1903.09848).

    At step t a sequence is drawn from the easiest share c(t) of the data, each at most once in a step:
    ``c(t) = min(1, c0 + (1 - c0) t / T)`` (linear) or ``min(1, sqrt(c0^2 + (1 - c0^2) t / T))`` (root), T the part of
    the run that ``until`` names. From then on the data goes by in one random permutation after another.

    >>> curriculum = Curriculum(CurriculumOptions(start_share=0.2, pacing="linear"))
    >>> [round(curriculum.share(step, 10), 9) for step in (0, 3, 5)]
    [0.2, 0.68, 1.0]
    """

    def __init__(self, options: CurriculumOptions) -> None:
        self.options = options
        self.easiest_first_S: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._seed = 0
        self._total_steps = 1

    def build(self, ctx: BuildContext) -> None:
        """Order the data once by its difficulty."""
        assert ctx.data is not None
        difficulty_S = self._difficulty(ctx, ctx.data)
        order_S = np.argsort(difficulty_S, kind="stable")
        self.easiest_first_S = order_S[::-1].copy() if self.options.hardest_first else order_S
        self._seed, self._total_steps = ctx.seed, ctx.total_steps

    def share(self, step: int, total_steps: int) -> float:
        """The share of the data that a step draws from."""
        start = self.options.start_share
        progress = min(1.0, step / max(1.0, self.options.until * total_steps))
        if self.options.pacing == "linear":
            return start + (1 - start) * progress
        return math.sqrt(start**2 + (1 - start**2) * progress)

    def indices(self, step: int, positions: range) -> Sequence[int]:
        """A step's sequences: from the easiest share, or of the present permutation."""
        size = len(self.easiest_first_S)
        pool = min(size, math.ceil(self.share(step, self._total_steps) * size))
        if pool == size:
            return self._permuted(positions, size)
        generator = np.random.default_rng([self._seed, step])
        chosen = generator.choice(pool, size=len(positions), replace=len(positions) > pool)
        return [int(index) for index in self.easiest_first_S[chosen]]

    def _permuted(self, positions: range, size: int) -> Sequence[int]:
        epochs = {position // size for position in positions}
        order = {epoch: np.random.default_rng([self._seed, epoch]).permutation(size) for epoch in epochs}
        return [int(order[position // size][position % size]) for position in positions]

    def _difficulty(self, ctx: BuildContext, data: Sequence[Any]) -> NDArray[np.float64]:
        by = self.options.by
        if by == "length":
            return np.array([len(sequence) for sequence in data], dtype=np.float64)
        if by == "record":
            return _of_records(data)
        if by == "teacher-loss" and ctx.teacher is None:
            raise TrainingError("a curriculum by teacher-loss needs a live teacher (train.teacher: live), got none")
        losses = of_student(ctx.student) if by == "student-loss" else of_teacher(ctx.teacher)
        total_S, rows_S = sums_and_rows(losses, data, self.options.batch_sequences, who=by.partition("-")[0])
        mean_S: NDArray[np.float64] = (total_S / rows_S.clamp_min(1)).numpy()
        return mean_S


def _of_records(data: Sequence[Any]) -> NDArray[np.float64]:
    given = [sequence.difficulty for sequence in data]
    missing = [index for index, value in enumerate(given) if value is None]
    if missing:
        raise TrainingError(
            f"a curriculum by record needs a number `difficulty` in every record, but {len(missing)} of {len(given)} "
            f"training sequences have none (first: document {data[missing[0]].document}): add it to the data, or use "
            "by: length"
        )
    return np.array(given, dtype=np.float64)
