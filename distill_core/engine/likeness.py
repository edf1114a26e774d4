"""Does a target differ from the pool that a selection draws from? A permutation test over documents.

Legend: n sequences, D features, d documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

PERMUTATIONS = 999
LEVEL = 0.05
HASHED = 512
"""Buckets of token counts, where no model gives features."""


@dataclass(frozen=True)
class Likeness:
    """What the test came to.

    Args:
        p_value: how often documents dealt at random differ as much; NaN where there are too few documents to tell.
        features: what was compared.
        documents: of pool and target.
    """

    p_value: float
    features: str
    documents: tuple[int, int]

    @property
    def alike(self) -> bool:
        """Whether no difference was found although there were documents enough to find one."""
        return self.p_value > LEVEL

    def sentence(self) -> str:
        """One line for the run's output and its report."""
        compared = f"{self.features} of {self.documents[1]} target documents and {self.documents[0]} of the pool"
        if np.isnan(self.p_value):
            return f"whether the pool is already like the target is not known: too few documents ({compared})"
        how = f"{compared}, permutation test, p = {self.p_value:.3f}"
        if self.alike:
            return (
                "no difference found between target and pool: where the pool is already like the target, selection "
                f"cannot gain ({how})"
            )
        return f"the target differs from the pool ({how})"


def likeness(
    pool_nD: npt.ArrayLike,
    pool_documents: Sequence[str],
    target_nD: npt.ArrayLike,
    target_documents: Sequence[str],
    *,
    features: str,
    seed: int = 0,
) -> Likeness:
    """Compare the mean features of documents: a two-sample permutation test.

    The sequences of a document are alike, so documents are what is exchanged, and each is one of its sequences, drawn
    at random: means over many sequences on one side and few on the other would differ by their noise alone. Features
    are scaled by their standard deviation over all documents. The statistic is ``|mean of pool - mean of target|^2``,
    its distribution under equality that of the same documents dealt at random. One in both counts on either side.

    Args:
        pool_nD, target_nD: features of the sequences.
        pool_documents, target_documents: the document of each.
        features: what they are, for the sentence.
        seed: of the draw of sequences and of the permutations.

    >>> x, names = np.arange(40.0)[:, None] % 7, [str(i) for i in range(40)]
    >>> likeness(x[:20], names[:20], x[20:], names[20:], features="numbers").alike
    True
    >>> likeness(x[:20], names[:20], x[20:] + 9, names[20:], features="numbers").alike
    False
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    pool_dD = np.asarray(pool_nD, dtype=np.float64)[_one_each(pool_documents, rng)]
    target_dD = np.asarray(target_nD, dtype=np.float64)[_one_each(target_documents, rng)]
    sizes = (len(pool_dD), len(target_dD))
    if not _can_tell(*sizes):
        return Likeness(float("nan"), features, sizes)
    x_dD = np.concatenate([pool_dD, target_dD])
    x_dD = x_dD - x_dD.mean(axis=0)
    spread = x_dD.std(axis=0)
    x_dD = x_dD / np.where(spread > 0, spread, 1.0)
    # The features are centred, so the sum of one side says the difference of the means.
    dealt = np.zeros((PERMUTATIONS + 1, len(x_dD)))
    dealt[0, sizes[0] :] = 1
    for row in dealt[1:]:
        row[rng.permutation(len(x_dD))[: sizes[1]]] = 1
    statistics = np.square(dealt @ x_dD).sum(axis=1)
    # rounding must not part a permutation from itself
    as_large = int((statistics[1:] >= statistics[0] * (1 - 1e-12)).sum())
    return Likeness((1 + as_large) / (1 + PERMUTATIONS), features, sizes)


def _can_tell(pool: int, target: int) -> bool:
    """Whether there are so many ways to deal the documents that the rarest is rarer than the level."""
    ways = 1.0
    for i in range(min(pool, target)):
        ways *= (pool + target - i) / (i + 1)
    return min(pool, target) > 0 and ways * LEVEL > 1


def _one_each(documents: Sequence[str], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """The place of one sequence of every document, in the order in which documents first appear."""
    order = rng.permutation(len(documents))
    drawn = {documents[int(place)]: int(place) for place in order}
    return np.array([drawn[name] for name in dict.fromkeys(documents)], dtype=np.int64)


def token_shares(sequences: Sequence[Any]) -> Doubles:
    """[n, HASHED] shares of each sequence's tokens by hashed id: features that need no model."""
    shares = np.zeros((len(sequences), HASHED))
    for row, sequence in zip(shares, sequences, strict=True):
        for token, count in zip(*np.unique(sequence.input_ids, return_counts=True), strict=True):
            row[_bucket(int(token))] += count / len(sequence)
    return shares


def _bucket(token: int) -> int:
    digest = hashlib.blake2b(token.to_bytes(8, "little", signed=True), digest_size=8).digest()
    return int.from_bytes(digest, "little") % HASHED
