"""Gradients of a student's head under sparse targets, summed over tokens, and their angle to the dense one.

Legend: n rows of a block, V vocabulary, D hidden, K entries.

With q the student's and p the teacher's distribution, the gradient of the head is `sum_n dz_n h_n^T`, where

    full vocabulary        dz = q - p
    top-k renormalised     dz = q - p / P on the support, q elsewhere              P = sum of p on the support
    top-k + tail           dz = q - p on the support, q (1 - t / qbar) elsewhere   t = 1 - P, qbar = 1 - sum q
    sampled weights w      dz = q - w on the support, q elsewhere                  sum w = 1

All but the third share `q`, so one sum of `q h^T` serves them, and the teacher's half is a few entries per token.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from distill_core import ops

METHODS = ("top-k renormalised", "top-k + tail", "multinomial", "threshold")


class HeadGradients:
    """Sums over blocks of tokens, for one seed and several k."""

    def __init__(self, weight_VD: Tensor, entries: list[int], draws: dict[int, int], seed: int) -> None:
        self.weight_VD, self.entries, self.draws, self.seed = weight_VD, entries, draws, seed
        self.tokens = 0
        self.unique = dict.fromkeys(entries, 0)
        """Different ids that multinomial sampling kept so far, by k."""
        self.student_VD = torch.zeros_like(weight_VD)
        self.teacher_VD = torch.zeros_like(weight_VD)
        self.sparse_VD = {(k, m): torch.zeros_like(weight_VD) for k in entries for m in METHODS if m != "top-k + tail"}
        self.tail_VD = {k: torch.zeros_like(weight_VD) for k in entries}

    def add(self, student_nD: Tensor, teacher_nD: Tensor) -> None:
        """Take in a block of tokens: hidden states of both models before the head."""
        logq_nV = (student_nD @ self.weight_VD.T).log_softmax(1)
        teacher_nV = teacher_nD @ self.weight_VD.T
        keys_n = torch.arange(self.tokens, self.tokens + len(student_nD))
        self.tokens += len(student_nD)
        for k in self.entries:
            top = ops.topk_logits(teacher_nV, k)
            logp_nK, tail_logp_n = top.log_probs()
            self._add_entries(k, "top-k renormalised", top.ids_NK, logp_nK.softmax(1), student_nD)
            dz_nV = tail_gradient(logq_nV, top.ids_NK, logp_nK, tail_logp_n)
            self.tail_VD[k].addmm_(dz_nV.T, student_nD)
            for method, asked in (("multinomial", self.draws[k]), ("threshold", k)):
                ids_nK, weights_nK = ops.sample_support(
                    teacher_nV, asked, method=method, seed=self.seed, row_keys_N=keys_n
                )
                self._add_entries(k, method, ids_nK, weights_nK, student_nD)
                if method == "multinomial":
                    self.unique[k] += int((ids_nK >= 0).sum())
        self.student_VD.addmm_(logq_nV.exp_().T, student_nD)
        self.teacher_VD.addmm_(teacher_nV.softmax(1).T, student_nD)

    def _add_entries(self, k: int, method: str, ids_nK: Tensor, weights_nK: Tensor, hidden_nD: Tensor) -> None:
        """`sum_n sum_k w_nk h_n^T` at the rows named by the ids; -1 pads."""
        row_nK = torch.arange(len(ids_nK))[:, None].expand_as(ids_nK)
        kept = ids_nK >= 0
        weights = weights_nK[kept].to(hidden_nD.dtype)
        self.sparse_VD[k, method].index_add_(0, ids_nK[kept], weights[:, None] * hidden_nD[row_nK[kept]])

    def gradient(self, k: int, method: str) -> Tensor:
        """[V, D], summed over all tokens so far."""
        return self.tail_VD[k] if method == "top-k + tail" else self.student_VD - self.sparse_VD[k, method]

    def full_gradient(self) -> Tensor:
        """[V, D] of the KL over the whole vocabulary."""
        return self.student_VD - self.teacher_VD


def tail_gradient(logq_nV: Tensor, ids_nK: Tensor, logp_nK: Tensor, tail_logp_n: Tensor) -> Tensor:
    """[n, V] gradient by the logits of the forward KL on the k + 1 outcomes."""
    tail_logq_n = logq_nV.scatter(1, ids_nK, -torch.inf).logsumexp(1)
    dz_nV = logq_nV.exp().mul_(-torch.expm1(tail_logp_n - tail_logq_n)[:, None])
    return dz_nV.scatter_(1, ids_nK, logq_nV.gather(1, ids_nK).exp() - logp_nK.exp())


def draws_for_unique(teacher_blocks: list[Tensor], unique: int, *, limit: int = 1 << 16) -> int:
    """Fewest draws whose expected number of different ids, averaged over all rows, is at least `unique`.

    `E = sum_i 1 - (1 - p_i)^draws`; `teacher_blocks` hold log(1 - p), [n, V].
    """
    rows = sum(len(block) for block in teacher_blocks)

    def expected(draws: int) -> float:
        found = (torch.mul(block, draws).expm1_().sum(dtype=torch.float64) for block in teacher_blocks)
        return -math.fsum(map(float, found)) / rows

    low, high = unique, unique
    while expected(high) < unique:
        if high >= limit:
            raise ValueError(f"draws_for_unique: {limit} draws give fewer than {unique} different ids; ask for fewer")
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle) >= unique else (middle + 1, high)
    return low


def angle_degrees(a_VD: Tensor, b_VD: Tensor) -> float:
    """Angle between two tensors by `sin^2(angle / 2) = (|a - b|^2 - (|a| - |b|)^2) / (4 |a| |b|)`.

    Exact at small angles, where `acos` of a cosine near 1 has lost its digits.
    """

    def norm(x: Tensor) -> float:
        parts = torch.linalg.vector_norm(x, dim=1).double()
        return float(torch.linalg.vector_norm(parts))

    a, b = norm(a_VD), norm(b_VD)
    if a == 0 or b == 0:
        return 90.0 if a != b else 0.0
    squared = (norm(a_VD - b_VD) ** 2 - (a - b) ** 2) / (4 * a * b)
    return math.degrees(2 * math.asin(math.sqrt(min(1.0, max(0.0, squared)))))
