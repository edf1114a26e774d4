"""How varied a set of texts is, by several measures; plain functions of words, bytes and vectors."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from distill_evaluation.text_vectors import Floats

ORDERS = 4
"""Longest n-grams of BLEU."""


def ngrams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    """Counts of the runs of n words."""
    return Counter(tuple(words[start : start + n]) for start in range(len(words) - n + 1))


def distinct(counts: Mapping[str, Counter[tuple[str, ...]]]) -> tuple[float, dict[str, float]]:
    """Different n-grams over all n-grams (distinct-n: Li et al., arXiv 1510.03055), and without each document.

    >>> distinct({"a": ngrams("x y x".split(), 1), "b": ngrams(["y"], 1)})
    (0.5, {'a': 1.0, 'b': 0.6666666666666666})
    """
    everywhere: Counter[tuple[str, ...]] = Counter()
    for own in counts.values():
        everywhere.update(own)
    kinds, total = len(everywhere), everywhere.total()
    value = kinds / total if total else math.nan
    left_out = {}
    for document, own in counts.items():
        gone = sum(count == everywhere[gram] for gram, count in own.items())
        rest = total - own.total()
        left_out[document] = (kinds - gone) / rest if rest else value
    return value, left_out


def self_bleu(texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """BLEU-4 of each text with all others as its references (Zhu et al., arXiv 1802.01886), from 0 to 1.

    Counts clipped at the most that any reference has, the reference closest in length for the brevity penalty, orders
    that the text is long enough for, exponential smoothing of orders without a match: as sacreBLEU's sentence BLEU.

    >>> self_bleu({"a": "x y z w".split(), "b": "x y z w".split()})
    {'a': 1.0, 'b': 1.0}
    """
    grams = {name: [ngrams(words, n) for n in range(1, ORDERS + 1)] for name, words in texts.items()}
    # The two texts with the most of each n-gram: the most among the others is one of the two.
    most: list[dict[tuple[str, ...], list[tuple[int, str]]]] = [{} for _ in range(ORDERS)]
    for name, by_order in grams.items():
        for order, counts in enumerate(by_order):
            for gram, count in counts.items():
                most[order][gram] = sorted([*most[order].get(gram, []), (count, name)], reverse=True)[:2]
    found = {}
    for name, words in texts.items():
        clipped = [
            sum(
                min(count, next((c for c, owner in most[order][gram] if owner != name), 0))
                for gram, count in grams[name][order].items()
            )
            for order in range(ORDERS)
        ]
        lengths = [len(other) for key, other in texts.items() if key != name]
        found[name] = _bleu(clipped, len(words), lengths)
    return found


def _bleu(clipped: Sequence[int], length: int, references: Sequence[int]) -> float:
    orders = min(ORDERS, length)
    if orders == 0 or not references or clipped[0] == 0:
        return 0.0
    logs, smooth = 0.0, 1.0
    for order in range(orders):
        total = length - order
        if clipped[order]:
            logs += math.log(clipped[order] / total)
        else:
            smooth *= 2
            logs += math.log(1 / (smooth * total))
    closest = min(references, key=lambda reference: (abs(reference - length), reference))
    penalty = 1.0 if length >= closest else math.exp(1 - closest / length)
    return penalty * math.exp(logs / orders)


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes over compressed bytes (DEFLATE, level 9) of all texts, one after another (Shaib et al., arXiv 2403.00553).

    >>> compression_ratio(["abc " * 100]) > 10
    True
    """
    whole = "\n".join(texts).encode("utf-8", errors="replace")
    return len(whole) / len(zlib.compress(whole, 9)) if whole else math.nan


def vendi_score(cosines: Floats) -> float:
    """``exp(-sum_i l_i log l_i)``, l the eigenvalues of K / n (Friedman and Dieng, arXiv 2210.02410, definition 3.1).

    The effective number of different texts: 1 where all are alike, n where all are orthogonal.

    >>> round(vendi_score(np.eye(3)), 6), round(vendi_score(np.ones((3, 3))), 6)
    (3.0, 1.0)
    """
    if not len(cosines):
        return math.nan
    values = np.linalg.eigvalsh(cosines / len(cosines))
    values = values[values > 1e-12]
    return float(np.exp(-(values * np.log(values)).sum()))


def effective_number(counts: Sequence[float]) -> float:
    """``exp`` of the Shannon entropy of the shares (Hill number of order 1).

    >>> round(effective_number([5, 5]), 6), round(effective_number([7]), 6)
    (2.0, 1.0)
    """
    total = math.fsum(counts)
    shares = [count / total for count in counts if count] if total else []
    return math.exp(-math.fsum(share * math.log(share) for share in shares)) if shares else math.nan
