"""Independent float64 computations of the weighted, decoupled and ranked losses, row by row in plain numpy loops.

A row is a list of probabilities of outcomes; with ``tail=True`` the last one stands for many tokens. ``frozen`` is the
student that detached weights and targets are computed from: with it held fixed, differences in ``q`` give the gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float64]


def kl(p: Row, q: Row) -> float:
    return float(sum(a * (np.log(a) - np.log(b)) for a, b in zip(p, q, strict=True) if a > 0))


def alpha_beta(p: Row, q: Row, frozen: Row, tail: bool, label: int, *, alpha: float, beta: float) -> float:
    """Cichocki's formula, its limits written out as in the paper."""
    a, b = alpha, beta
    if b == 0:
        return float((p**a * np.log(p**a / q**a) - p**a + q**a).sum() / a**2)
    if a == 0:
        return float((q**b * np.log(q**b / p**b) - q**b + p**b).sum() / b**2)
    return float(-(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)).sum() / (a * b))


def adaptive_kl(p: Row, q: Row, frozen: Row, tail: bool, label: int, *, head_mass: float = 0.5) -> float:
    singles = len(p) - 1 if tail else len(p)
    order = sorted(range(singles), key=lambda i: -p[i])
    head, mass = {order[0]}, p[order[0]]
    for i in order[1:]:
        mass += p[i]
        if mass > head_mass:
            break
        head.add(i)
    gaps = np.abs(p - frozen)
    in_head = sum(gaps[i] for i in head)
    share = in_head / gaps.sum()
    return float(share * kl(p, q) + (1 - share) * kl(q, p))


def token_wise_kl(p: Row, q: Row, frozen: Row, tail: bool, label: int) -> float:
    weight = 1 / (1 + np.exp(-(np.log(p) - np.log(frozen))))
    return float((weight * p * np.log(p / q) + (1 - weight) * q * np.log(q / p)).sum())


def decoupled_kd(
    p: Row, q: Row, frozen: Row, tail: bool, label: int, *, alpha: float = 1.0, beta: float = 8.0
) -> float:
    def binary(x: Row) -> Row:
        return np.array([x[label], 1 - x[label]])

    def others(x: Row) -> Row:
        rest = np.delete(x, label)
        return rest / rest.sum()

    return alpha * kl(binary(p), binary(q)) + beta * kl(others(p), others(q))


def tail_aware_kl(
    p: Row,
    q: Row,
    frozen: Row,
    tail: bool,
    label: int,
    *,
    modes: int = 10,
    beta: float = 2.0,
    mean_tail_mass: float = 1.0,
) -> float:
    singles = len(p) - 1 if tail else len(p)
    top = sorted(range(singles), key=lambda i: -p[i])[:modes]
    rest = [i for i in range(len(p)) if i not in top]
    a, b = p[rest].sum(), q[rest].sum()
    first = kl(np.append(p[top], a), np.append(q[top], b))
    return float(first + beta / mean_tail_mass * a * kl(p[rest] / a, q[rest] / b))


def logit_differences(
    p: Row, q: Row, frozen: Row, tail: bool, label: int, *, top_k: int = 8, led: str = "both"
) -> float:
    singles = len(p) - 1 if tail else len(p)
    total = 0.0
    for leader, name in ((p, "teacher"), (frozen, "student")):
        if led not in ("both", name):
            continue
        top = sorted((i for i in range(singles) if p[i] > 0), key=lambda i: -leader[i])[:top_k]
        pairs = [(i, j) for n, i in enumerate(top) for j in top[n + 1 :]]
        t = np.array([p[i] / p[j] for i, j in pairs])
        s = np.array([q[i] / q[j] for i, j in pairs])
        total += kl(t / t.sum(), s / s.sum()) if pairs else 0.0
    return total


def interpolated_support_kl(p: Row, q: Row, frozen: Row, tail: bool, label: int, *, interpolation: float) -> float:
    r = frozen ** (1 - interpolation) * p**interpolation
    return kl(r / r.sum(), q)


LOSSES: dict[str, Callable[..., float]] = {
    "alpha-beta": alpha_beta,
    "adaptive-kl": adaptive_kl,
    "token-wise-kl": token_wise_kl,
    "decoupled-kd": decoupled_kd,
    "tail-aware-kl": tail_aware_kl,
    "logit-differences": logit_differences,
    "interpolated-support-kl": interpolated_support_kl,
}
