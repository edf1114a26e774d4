"""Independent dense computations in float64 numpy, straight from the formulas: no torch, nothing of the project's.

Legend: N rows, V vocabulary, K support.

``simplex`` folds full distributions to the k+1 outcomes of a support; ``DIVERGENCES`` are sums over outcomes, with
0 log 0 = 0, valid on the full vocabulary and on the simplex alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    weights = np.exp(scaled)
    return weights / weights.sum(axis=-1, keepdims=True)


def simplex(probability_NV: Array, ids_NK: NDArray[np.int64]) -> Array:
    """[N, K+1]; padding ids (-1) have probability 0; the last column is the sum over everything else."""
    rows = []
    for probability_V, ids_K in zip(probability_NV, ids_NK, strict=True):
        outside = np.ones(len(probability_V), dtype=bool)
        outside[ids_K[ids_K >= 0]] = False
        on = [probability_V[i] if i >= 0 else 0.0 for i in ids_K]
        rows.append([*on, probability_V[outside].sum()])
    return np.array(rows, dtype=np.float64).reshape(len(probability_NV), ids_NK.shape[1] + 1)


def _xlog(x: Array, ratio_of: Array) -> Array:
    """x log(x / y), 0 where x = 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * (np.log(x) - np.log(ratio_of)), 0.0)


def kl(p: Array, q: Array) -> Array:
    return _xlog(p, q).sum(axis=-1)


def jsd(p: Array, q: Array, beta: float) -> Array:
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


DIVERGENCES: dict[str, Callable[..., Array]] = {
    "forward-kl": kl,
    "reverse-kl": lambda p, q: kl(q, p),
    "jsd": lambda p, q, beta=0.5: jsd(p, q, beta),
    "skew-forward-kl": lambda p, q, alpha=0.1: kl(p, alpha * p + (1 - alpha) * q),
    "skew-reverse-kl": lambda p, q, alpha=0.1: kl(q, (1 - alpha) * p + alpha * q),
    "total-variation": lambda p, q: 0.5 * np.abs(p - q).sum(axis=-1),
}


def forward_kl_mode(p_NK1: Array, q_NK1: Array, mode: str) -> Array:
    p, q = p_NK1[:, :-1], q_NK1[:, :-1]
    mass, student_mass = p.sum(axis=-1, keepdims=True), q.sum(axis=-1, keepdims=True)
    if mode == "tail":
        return kl(p_NK1, q_NK1)
    if mode == "truncated":
        return kl(p, q)
    if mode == "renormalized":
        return kl(p / mass, q)
    return kl(p / mass, q / student_mass)


def gradient_table(name: str, p_NV: Array, q_NV: Array, ids_NK: NDArray[np.int64], **options: float) -> Array:
    """d value / d logits [N, V] at temperature 1 from the table of u_i: ``u_j 1(j in I) + s q_j``, s = -sum u."""
    p, q = simplex(p_NV, ids_NK), simplex(q_NV, ids_NK)
    d = _slope(name, p, q, **options)
    gradient = np.zeros_like(q_NV)
    for n, ids_K in enumerate(ids_NK):
        u_K = q[n, :-1] * (d[n, :-1] - d[n, -1])
        gradient[n] = -u_K.sum() * q_NV[n]
        gradient[n, ids_K] += u_K
    return gradient


def _slope(name: str, p: Array, q: Array, *, beta: float = 0.5, alpha: float = 0.1) -> Array:
    """d value / d q of one outcome, up to a constant."""
    if name == "forward-kl":
        return -p / q
    if name == "reverse-kl":
        return np.log(q / p)
    if name == "jsd":
        return (1 - beta) * np.log(q / (beta * p + (1 - beta) * q))
    if name == "skew-forward-kl":
        return -(1 - alpha) * p / (alpha * p + (1 - alpha) * q)
    if name == "skew-reverse-kl":
        m = (1 - alpha) * p + alpha * q
        return np.log(q / m) + 1 - alpha * q / m
    return 0.5 * np.sign(q - p)
