"""Random numbers of a selector, and orders that any cut divides fairly between groups."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.errors import DataError

Indices = npt.NDArray[np.int64]


def generator(name: str, seed: int, draw: int = 0) -> np.random.Generator:
    """Random numbers of a selector: equal for equal arguments, on every machine."""
    digest = hashlib.blake2b(f"{name} {seed} {draw}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def class_of(sequence: TokenSequence, position: int) -> int:
    """The one class of a sequence.

    Raises:
        DataError: it has none, or several.
    """
    found = sorted(set(sequence.labels[sequence.labels != IGNORE].tolist()))
    if sequence.next_token or len(found) != 1:
        what = "tokens to predict, not a class" if sequence.next_token else f"the classes {found}"
        raise DataError(
            f"sequence {position} (document {sequence.document}) has {what}; choosing per class expects exactly one "
            "per sequence: use a task such as sequence-classification, or another option"
        )
    return int(found[0])


def classes_of(pool: Sequence[TokenSequence]) -> Indices:
    """[N] the class of each sequence."""
    return np.array([class_of(sequence, i) for i, sequence in enumerate(pool)], dtype=np.int64)


def groups(keys: Sequence[Hashable]) -> list[Indices]:
    """Indices by key, in the order in which keys first appear."""
    found: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        found.setdefault(key, []).append(index)
    return [np.array(members, dtype=np.int64) for members in found.values()]


def in_turn(orders: Sequence[Indices], *, proportional: bool) -> Indices:
    """One order of several: every start of it holds its fair part of each.

    Proportional: element j of a group of size n stands at (j + 1/2) / n, so that any start holds of each group its
    share of the whole, to within one. Otherwise the groups take turns while they last.

    >>> in_turn([np.array([0, 1, 2, 3]), np.array([4, 5])], proportional=True).tolist()
    [0, 4, 1, 2, 5, 3]
    >>> in_turn([np.array([0, 1, 2, 3]), np.array([4, 5])], proportional=False).tolist()
    [0, 4, 1, 5, 2, 3]
    """
    places = [(np.arange(len(o)) + 0.5) / len(o) if proportional else np.arange(len(o), dtype=float) for o in orders]
    joined, order = np.concatenate(places), np.concatenate(list(orders))
    return order[np.argsort(joined, kind="stable")]
