"""Targets from listed log-probabilities: k entries by id, and the tail as what is left of 1.

Legend: N rows, K support size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from distill_core.errors import SignalError
from distill_core.types import Needs, RowTarget, SparseSpec

LEAST_TAIL = 1e-7
"""A tail below this cannot be told from rounding in the server's float32 log-probabilities; it stands here."""

EXCESS = 1e-3
"""Listed probabilities may sum to so much more than 1 by rounding; more is no distribution."""


def tail_logprob(logprobs: Sequence[float], *, whole_vocabulary: bool = False) -> float:
    """log(1 - sum of the listed probabilities), summed exactly in float64.

    A server's float32 log-probabilities carry errors of about 1e-7, so 1 - sum cannot tell a smaller tail: it is set
    to 1e-7, and the row is renormalised by whoever reads it. A vocabulary listed whole has no tail.

    Args:
        logprobs: natural, of distinct tokens.
        whole_vocabulary: every token is listed.

    Raises:
        SignalError: the probabilities sum to more than 1.

    >>> round(tail_logprob([math.log(0.5), math.log(0.25)]), 4) == round(math.log(0.25), 4)
    True
    """
    total = math.fsum(math.exp(logprob) for logprob in logprobs)
    if total > 1 + EXCESS:
        raise SignalError(
            f"the listed probabilities of one position sum to {total:.6f}, more than 1: these are no log-probabilities "
            "of one distribution (logits? another base than e?), so no target can be made of them"
        )
    if whole_vocabulary:
        return -math.inf
    return math.log(max(1.0 - total, LEAST_TAIL))


def listed_target(rows: Sequence[Mapping[int, float]], *, k: int, vocabulary: int) -> RowTarget:
    """An exact target at temperature 1.

    Args:
        rows: per row, natural log-probabilities by token id.
        k: entries kept in a row, the largest; the rest joins the tail.
        vocabulary: number of tokens.

    Returns:
        ids [N, K] with K the widest row, at most ``k``; -1 pads.
    """
    kept = [sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:k] for row in rows]
    width = max((len(row) for row in kept), default=0)
    ids_NK = torch.full((len(kept), width), -1, dtype=torch.int64)
    logits_NK = torch.zeros(len(kept), width)
    tail_N1 = torch.zeros(len(kept), 1)
    for index, row in enumerate(kept):
        ids = [entry[0] for entry in row]
        logprobs = [entry[1] for entry in row]
        ids_NK[index, : len(row)] = torch.tensor(ids, dtype=torch.int64)
        logits_NK[index, : len(row)] = torch.tensor(logprobs)
        tail_N1[index, 0] = tail_logprob(logprobs, whole_vocabulary=len(row) == vocabulary)
    return RowTarget("exact", ids_NK, (1.0,), logits_NK=logits_NK, tail_NM=tail_N1)


def listed_k(needs: Needs, sparse: SparseSpec | None, *, most: int, label: str) -> int:
    """Entries per row to ask for; refuses what listed log-probabilities cannot give.

    Args:
        needs: temperatures that will be read.
        sparse: what was asked for; None: as many entries as there are.
        most: entries that are listed per position at most.
        label: the teacher's name for messages.

    Raises:
        SignalError: a sample, another temperature than 1, given ids, or more entries than are listed.
    """
    temperatures = {*(needs.temperatures or ()), *(() if sparse is None else sparse.temperatures)}
    if sparse is not None and sparse.method != "topk":
        raise SignalError(
            f"{label} lists its largest log-probabilities, from which no {sparse.method} sample can be drawn: use "
            "method: topk (exact, with a tail)"
        )
    if temperatures - {1.0}:
        raise SignalError(
            f"{label} was asked for temperatures {sorted(temperatures)}; listed log-probabilities are those at "
            "temperature 1, and their tail has no other: use temperature 1, or a teacher of kind hf"
        )
    if sparse is not None and sparse.ids_NK is not None:
        raise SignalError(
            f"{label} lists its own likeliest tokens, not given ones, so it cannot take part in a joint capture: give "
            "it a capture of its own and mix losses"
        )
    k = most if sparse is None else sparse.k
    if k > most:
        raise SignalError(
            f"{label} was asked for k = {k} entries, but lists at most {most} (top_logprobs): use a smaller k, or "
            "raise top_logprobs if the server lists more"
        )
    return k
