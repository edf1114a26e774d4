"""ROUGE-L of two texts, on lower-case words (Lin 2004): how long a common subsequence of words they have."""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """
    >>> words("Don't stop.")
    ['don', 't', 'stop']
    """
    return _WORD.findall(text.lower())


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits of one number (Hyyro 2004): a step per word of ``b``.

    >>> common_length("a b c d".split(), "b x d".split())
    2
    """
    places: dict[str, int] = {}
    for index, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << index
    every = (1 << len(a)) - 1
    unmatched = every
    for word in b:
        found = unmatched & places.get(word, 0)
        unmatched = ((unmatched + found) | (unmatched - found)) & every
    return len(a) - unmatched.bit_count()


def rouge_l(a: Sequence[str], b: Sequence[str]) -> float:
    """F-measure of precision and recall of the common subsequence: 2 L / (len(a) + len(b)); 0 for an empty text.

    >>> rouge_l("write a poem".split(), "write a short poem".split())
    0.8571428571428571
    """
    return 2 * common_length(a, b) / (len(a) + len(b)) if a and b else 0.0
