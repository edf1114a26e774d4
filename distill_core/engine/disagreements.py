"""Where a student and its teacher disagree most: documents, tokens or classes, domains, and single places.

Legend: n rows of a chunk, V the student's vocabulary, U the vocabulary that the tokenizer knows, k most likely tokens.

Disagreement at a row is the total variation distance of the two distributions, ``1/2 sum_v |p_v - q_v|``: the share of
probability that the student puts elsewhere than the teacher, in [0, 1]. Mass of the student on padding rows of its head
counts as put elsewhere. Of a task, the rows are its predictions: classes stand for tokens, and an example is what was
classified.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from distill_core.interfaces import EvaluatedRows, Measurement

EXAMPLES = 24
"""Places that are kept to be looked at."""

CANDIDATES = 400
"""The largest rows that are held while going through the text; examples are chosen from them."""

PER_CHUNK = 16
"""The largest rows of each chunk that are looked at."""

TOP = 5
"""Most likely tokens kept of each model."""

LISTED = 12
"""Documents, tokens, classes and domains that are listed, largest mean first."""

FEWEST_ROWS = 5
"""A token met less often has no mean worth listing."""

CONTEXT_TOKENS = 40
"""Tokens shown before a place."""


def total_variation(
    teacher_logits_nU: Tensor, logp_nV: Tensor, effective_vocabulary: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Disagreement of each row, and the probabilities it is taken of.

    Args:
        teacher_logits_nU: the teacher's logits; columns beyond the vocabulary are ignored.
        logp_nV: the student's log-probabilities over all rows of its head.
        effective_vocabulary: tokens that the tokenizer knows.

    Returns:
        ``(value_n, teacher_nU, student_nU)``, fp32.

    >>> import torch
    >>> value, _, _ = total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 1e-30]]).log(), 2)
    >>> round(value.item(), 6)
    0.5
    """
    p_nU = teacher_logits_nU[:, :effective_vocabulary].float().softmax(dim=1)
    q_nV = logp_nV.exp()
    q_nU = q_nV[:, :effective_vocabulary]
    elsewhere_n = q_nV[:, effective_vocabulary:].sum(dim=1)
    return 0.5 * ((p_nU - q_nU).abs().sum(dim=1) + elsewhere_n), p_nU, q_nU


class Disagreements:
    """Collects over the shared pass of an evaluation; a sink like those of evaluators, without measurements.

    Args:
        name: of the student.
        tokenizer: decodes what is shown; None where a task reads no text.
        labels: of a task: what class ids stand for; empty where the next token is predicted.
    """

    def __init__(self, name: str, tokenizer: Any, labels: Sequence[str] = ()) -> None:
        self.name, self.tokenizer, self.labels = name, tokenizer, tuple(labels)
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.sums: dict[str, defaultdict[Any, list[float]]] = {
            key: defaultdict(lambda: [0.0, 0.0]) for key in ("documents", "tokens", "domains")
        }
        self.held: list[tuple[float, int, dict[str, Any]]] = []
        self._order = 0

    def update(self, rows: EvaluatedRows) -> None:
        if rows.teacher_logits_nU is None or not len(rows.labels_n):
            return
        value_n, p_nU, q_nU = total_variation(rows.teacher_logits_nU, rows.logp_nV, rows.effective_vocabulary)
        values = value_n.double().cpu()
        sequences = rows.sequence_n.cpu().tolist()
        documents, domains = rows.batch.documents, rows.batch.domains
        for value, sequence, label in zip(values.tolist(), sequences, rows.labels_n.cpu().tolist(), strict=True):
            self._add("documents", documents[sequence], value)
            self._add("tokens", label, value)
            if domains and domains[sequence]:
                self._add("domains", domains[sequence], value)
        if self.labels:
            self.pairs.update(zip(p_nU.argmax(dim=1).tolist(), q_nU.argmax(dim=1).tolist(), strict=True))
        for row in values.topk(min(PER_CHUNK, len(values))).indices.tolist():
            self._hold(values[row].item(), row, rows, p_nU, q_nU)

    def _add(self, key: str, name: Any, value: float) -> None:
        entry = self.sums[key][name]
        entry[0] += value
        entry[1] += 1

    def _hold(self, value: float, row: int, rows: EvaluatedRows, p_nU: Tensor, q_nU: Tensor) -> None:
        """Keep what an example needs, while it is among the largest."""
        if len(self.held) == CANDIDATES and value <= self.held[0][0]:
            return
        sequence, position = int(rows.sequence_n[row]), int(rows.position_n[row])
        start, stop = max(0, position + 1 - CONTEXT_TOKENS), position + 1
        if self.labels:
            # The label of a sequence stands anywhere in it, that of a token where it is: what was read is shown.
            of_token = int((rows.index.sequence_N == sequence).sum()) > 1
            start, stop = (start, stop) if of_token else (0, int(rows.batch.attention_mask_BT[sequence].sum()))
        example = {
            "document": rows.batch.documents[sequence],
            "position": position + (0 if self.labels else 1),
            "before": rows.batch.input_ids_BT[sequence, start:stop].tolist(),
            "actual": int(rows.labels_n[row]),
            "top": {"teacher": _top(p_nU[row]), "model": _top(q_nU[row])},
        }
        self._order += 1
        entry = (value, -self._order, example)
        if len(self.held) < CANDIDATES:
            heapq.heappush(self.held, entry)
        else:
            heapq.heappushpop(self.held, entry)

    def measurements(self) -> list[Measurement]:
        return []

    def found(self) -> dict[str, Any] | None:
        """What ``results.json`` says under ``disagreements``; None where the teacher's distribution was not there."""
        total = sum(entry[0] for entry in self.sums["documents"].values())
        count = sum(entry[1] for entry in self.sums["documents"].values())
        if not count:
            return None
        predicted = {k: entry for k, entry in self.sums["tokens"].items() if entry[1] >= FEWEST_ROWS or self.labels}
        named = [{**row, "name": self._outcome(row["name"])} for row in _largest(predicted)]
        apart = [(pair, n) for pair, n in self.pairs.most_common() if pair[0] != pair[1]][:LISTED]
        return {
            "model": self.name,
            "mean": total / count,
            "n": int(count),
            "documents": _largest(self.sums["documents"]),
            "tokens": [] if self.labels else named,
            "classes": named if self.labels else [],
            "pairs": [
                {"teacher": self.labels[ours], "model": self.labels[theirs], "n": n} for (ours, theirs), n in apart
            ],
            "domains": _largest(self.sums["domains"]),
            "examples": [self._shown(value, example) for value, example in self._chosen()],
        }

    def _chosen(self) -> list[tuple[float, dict[str, Any]]]:
        """The largest, one of each document first, then what is left."""
        ranked = sorted(self.held, reverse=True)
        seen: set[str] = set()
        first: list[tuple[float, dict[str, Any]]] = []
        later: list[tuple[float, dict[str, Any]]] = []
        for value, _, example in ranked:
            (later if example["document"] in seen else first).append((value, example))
            seen.add(example["document"])
        return sorted([*first, *later][:EXAMPLES], key=lambda pair: -pair[0])

    def _shown(self, value: float, example: Mapping[str, Any]) -> dict[str, Any]:
        top = {role: [[self._outcome(token), p] for token, p in guesses] for role, guesses in example["top"].items()}
        before, actual = self._text(example["before"]), self._outcome(example["actual"])
        return {**example, "value": value, "before": before, "actual": actual, "top": top}

    def _outcome(self, index: int) -> str:
        return self.labels[index] if self.labels else self._text([index])

    def _text(self, ids: list[int]) -> str:
        if self.tokenizer is None:
            return ""
        if self.labels:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _top(p_U: Tensor) -> list[tuple[int, float]]:
    found = p_U.topk(min(TOP, p_U.shape[0]))
    return list(zip(found.indices.tolist(), found.values.tolist(), strict=True))


def _largest(sums: Mapping[Any, list[float]]) -> list[dict[str, Any]]:
    rows = [{"name": name, "mean": total / count, "n": int(count)} for name, (total, count) in sums.items()]
    return sorted(rows, key=lambda row: -row["mean"])[:LISTED]
