"""The ``dsir`` selector: importance resampling to a target by hashed n-grams."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import TokenSequence
from distill_core.errors import DataError
from distill_core.interfaces import Ranking, SelectionContext
from distill_synthesis.selectors.options import DsirOptions
from distill_synthesis.selectors.strata import Indices, generator

Doubles = npt.NDArray[np.float64]


class Dsir:
    """DSIR (2302.03169): keep what is likely under the target's n-grams and unlikely under the pool's.

    Each sequence becomes counts of its hashed n-grams. With bucket probabilities p of the target and q of the pool, its
    log importance weight is ``sum over buckets of count * (log p - log q)``. ``sample`` adds Gumbel noise and takes the
    greatest, which is sampling without replacement in proportion to the weights. N-grams are of the student's tokens
    (the paper: words); both distributions are smoothed.
    """

    def __init__(self, options: DsirOptions) -> None:
        self.options = options

    def select(self, context: SelectionContext) -> Ranking:
        if not context.target:
            raise DataError("dsir aims at a target, and was given none: set data.target")
        hashed = [self.buckets(sequence) for sequence in context.pool]
        aimed = [self.buckets(sequence) for sequence in context.target]
        ratio = np.log(self._distribution(aimed)) - np.log(self._distribution(hashed))
        weights = np.array([ratio[buckets].sum() for buckets in hashed])
        chosen = weights
        if self.options.sample:
            chosen = weights + generator("dsir", context.seed, self.options.draw).gumbel(size=len(weights))
        return Ranking(
            np.argsort(-chosen, kind="stable"),
            weights,
            "log importance weight: target over pool, by hashed n-grams",
            notes={"sampled": self.options.sample, "target": len(context.target)},
        )

    def buckets(self, sequence: TokenSequence) -> Indices:
        """The bucket of every n-gram of a sequence, with repetition."""
        ids = np.ascontiguousarray(sequence.input_ids, dtype="<i4")
        found = [
            bucket(ids[start : start + n].tobytes(), self.options.buckets)
            for n in range(1, self.options.ngrams + 1)
            for start in range(len(ids) - n + 1)
        ]
        return np.array(found, dtype=np.int64)

    def _distribution(self, hashed: Sequence[Indices]) -> Doubles:
        counts = np.full(self.options.buckets, float(self.options.smoothing))
        for buckets in hashed:
            counts += np.bincount(buckets, minlength=self.options.buckets)
        total: Doubles = counts / counts.sum()
        return total


def bucket(ngram: bytes, buckets: int) -> int:
    """The bucket of an n-gram, equal on every machine."""
    return int.from_bytes(hashlib.blake2b(ngram, digest_size=8).digest(), "little") % buckets
