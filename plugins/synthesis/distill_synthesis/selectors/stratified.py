"""The ``stratified`` selector: random within strata, each with its part of the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from distill_core.engine.data import TokenSequence
from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import StratifiedOptions
from distill_synthesis.selectors.strata import classes_of, generator, groups, in_turn


class Stratified:
    """Strata by class, domain, document, or bins of difficulty or length; in each a random order, then fair turns.

    With ``proportional``, of S sequences each stratum gets its share of S to within one sequence; with ``equal``, all
    strata get the same number until one is used up.
    """

    def __init__(self, options: StratifiedOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        numbers = generator("stratified", context.seed, self.options.draw).random(len(context.pool))
        keys = self._keys(context.pool)
        strata = [members[np.argsort(-numbers[members], kind="stable")] for members in groups(keys)]
        order = in_turn(strata, proportional=self.options.allocation == "proportional")
        sizes = {str(key): count for key, count in Counter(keys).items()}
        return Ranking(
            order, numbers, "random number from 0 to 1, greatest first within a stratum", notes={"strata": sizes}
        )

    def _keys(self, pool: Sequence[TokenSequence]) -> list[Hashable]:
        by = self.options.by
        if by == "class":
            return [int(label) for label in classes_of(pool)]
        if by == "document":
            return [sequence.document for sequence in pool]
        if by == "domain":
            if not any(sequence.domain for sequence in pool):
                raise DataError(
                    "stratified by domain, but no record of the pool has a `domain`: set the source's domain field, or "
                    "stratify by document or length"
                )
            return [sequence.domain for sequence in pool]
        return list(_bins(_numbers(pool, by), self.options.bins))


def _numbers(pool: Sequence[TokenSequence], by: str) -> list[float]:
    if by == "length":
        return [float(len(sequence)) for sequence in pool]
    lacking = [i for i, sequence in enumerate(pool) if sequence.difficulty is None]
    if lacking:
        raise DataError(
            f"stratified by difficulty, but {len(lacking)} of {len(pool)} sequences have none (first: {lacking[0]}): "
            "give each record a number `difficulty`, or stratify by length"
        )
    return [float(sequence.difficulty or 0.0) for sequence in pool]


def _bins(numbers: list[float], bins: int) -> list[int]:
    """The bin of each number, of equal size up to one; ties are broken by position."""
    order = np.argsort(np.array(numbers), kind="stable")
    found = np.empty(len(numbers), dtype=np.int64)
    found[order] = np.arange(len(numbers)) * min(bins, len(numbers)) // len(numbers)
    return [int(one) for one in found]
