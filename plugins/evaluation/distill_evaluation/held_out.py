"""Some of the held-out sequences, where all of them would take too long."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from distill_core.interfaces import EvaluationContext
from distill_core.types import TokenBatch


def some_batches(context: EvaluationContext, most: int) -> Iterator[TokenBatch]:
    """The held-out batches, cut down to at most ``most`` sequences; which ones depends on the run's seed alone."""
    names = [name for batch in context.batches() for name in batch.documents]
    chosen, start = chosen_indices(names, most, context.seed), 0
    for batch in context.batches():
        kept = [index for index in range(len(batch.keys)) if start + index in chosen]
        start += len(batch.keys)
        if len(kept) == len(batch.keys):
            yield batch
        elif kept:
            yield batch.take(kept)


def chosen_indices(documents: Sequence[str], most: int, seed: int) -> set[int]:
    """At most ``most`` indices: one of each document before the second of any, since documents carry the errors.

    >>> sorted(chosen_indices(["a", "a", "a", "b"], 2, seed=0))[1]
    3
    """
    order = np.random.default_rng(seed).permutation(len(documents)).tolist()
    met: Counter[str] = Counter()
    ranked = []
    for place, index in enumerate(order):
        ranked.append((met[documents[index]], place, index))
        met[documents[index]] += 1
    return {index for _, _, index in sorted(ranked)[:most]}
