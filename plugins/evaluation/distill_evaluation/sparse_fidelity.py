"""How closely a model follows a teacher that gives only its likeliest tokens: exactly on those, bounded on the rest.

Legend: n rows of a chunk, V the model's vocabulary, K support size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.teacher_answers import ask_teacher
from distill_core.engine.totals import SplitTotals
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.plugin import Needs
from distill_core.types import RowTarget, SparseSpec
from distill_evaluation.fidelity import PARTS, kl
from distill_evaluation.options import SparseFidelityOptions

NEEDS = Needs(signals=frozenset({"targets"}), targets=("exact", "sampled"), temperatures=(1.0,))


class SparseFidelity:
    """Evaluator ``sparse-fidelity``: for teachers without full logits (a server, a store). S: the tokens they give.

    - ``sparse_forward_kl``, nat per token: forward KL on the tokens of S and all others as one outcome. By the data
      processing inequality at most the KL over the vocabulary.
    - ``acceptance_lower`` ``sum_S min(p, q)`` and ``acceptance_upper``, the same plus ``min(p_rest, q_rest)``: the
      speculative acceptance rate lies between them, and no closer bounds hold for what S and the rest weigh.
    - ``sparse_top1_agreement``: share of rows where both find the same token most likely, over rows where S has it.

    A threshold sample is read as its exact head and the rest. Split by teacher right and wrong as in ``fidelity``.
    """

    aspect = "fidelity"

    def __init__(self, options: SparseFidelityOptions | None = None) -> None:
        self.options = options or SparseFidelityOptions()
        self._asked: tuple[Any, RowTarget] | None = None

    def begin(self, context: EvaluationContext) -> _SparseRows | None:
        if context.is_teacher:
            return None
        if context.teacher is None or not hasattr(context.teacher, "signals"):
            raise SignalError(f"sparse-fidelity asks a teacher for its likeliest tokens, but {context.teacher_missing}")
        return _SparseRows(self, context.teacher, "nat/row" if context.labels else "nat/token")

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)

    def target(self, rows: EvaluatedRows, teacher: Any) -> RowTarget:
        """The teacher's answer for a batch, asked once for all models."""
        key = (rows.batch.keys, len(rows.index))
        if self._asked is None or self._asked[0] != key:
            spec = SparseSpec(method="topk", k=self.options.k)
            signals = ask_teacher(teacher, rows.batch.to("cpu"), NEEDS, spec, torch.device("cpu"))
            assert signals.target is not None
            self._asked = (key, _exact(signals.target))
        return self._asked[1]


def _exact(target: RowTarget) -> RowTarget:
    try:
        found = target.head()
    except ValueError as error:
        raise SignalError(f"sparse-fidelity needs exact probabilities: {error}") from error
    if 1.0 not in found.temperatures:
        raise SignalError(
            f"sparse-fidelity compares at temperature 1, but the teacher answers at {list(found.temperatures)}: "
            "capture with temperatures: [1.0]"
        )
    return found


class _SparseRows:
    def __init__(self, owner: SparseFidelity, teacher: Any, unit: str) -> None:
        self.owner, self.teacher, self.unit = owner, teacher, unit
        self.kl, self.lower, self.upper, self.top1 = (SplitTotals(PARTS) for _ in range(4))

    def update(self, rows: EvaluatedRows) -> None:
        target = self.owner.target(rows, self.teacher)[rows.cut].to(rows.logits_nV.device)
        teacher_nK1 = target.log_probs(1.0)
        student_nK1 = on_support(rows.logp_nV, target.ids_NK)
        best_nK = teacher_nK1[:, :-1]
        top_n = target.ids_NK.gather(1, best_nK.argmax(dim=1, keepdim=True))[:, 0]
        right_n = top_n == rows.labels_n
        self.kl.add(rows, kl(teacher_nK1, student_nK1), right_n)
        shared_nK1 = torch.minimum(teacher_nK1, student_nK1).exp()
        self.lower.add(rows, shared_nK1[:, :-1].sum(dim=1), right_n)
        self.upper.add(rows, shared_nK1.sum(dim=1), right_n)
        known_n = ~torch.isneginf(best_nK).all(dim=1)
        self.top1.add(rows, (top_n == rows.best_n[1]).float(), right_n, known_n)

    def measurements(self) -> list[Measurement]:
        n = self.kl.all.count
        entries = [
            ("sparse_forward_kl", "KL on the teacher's likeliest tokens", self.unit, self.kl, n),
            ("acceptance_lower", "Speculative acceptance, at least", "fraction", self.lower, n),
            ("acceptance_upper", "Speculative acceptance, at most", "fraction", self.upper, n),
            ("sparse_top1_agreement", "Top-1 agreement", "fraction", self.top1, self.top1.all.count),
        ]
        return [
            Measurement(metric, t.all.value, unit, rows, unit == "fraction", t.all.sums(), t.detail(), label=label)
            for metric, label, unit, t, rows in entries
        ]


def on_support(logp_nV: Tensor, ids_nK: Tensor) -> Tensor:
    """[n, K+1] log-probabilities on ``ids_nK`` (-1 pads: -inf) and, last, of all other ids together.

    >>> on_support(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[1, -1]])).exp()
    tensor([[0.2500, 0.0000, 0.7500]])
    """
    padding_nK = ids_nK < 0
    safe_nK = ids_nK.masked_fill(padding_nK, 0).long()
    support_nK = logp_nV.gather(1, safe_nK).masked_fill(padding_nK, -math.inf)
    # Padding must not take id 0 out of the rest: it is written to a column of its own.
    wide_nV1 = torch.cat([logp_nV, logp_nV.new_full((len(logp_nV), 1), -math.inf)], dim=1)
    rest_nV1 = wide_nV1.scatter(1, ids_nK.long().masked_fill(padding_nK, logp_nV.shape[1]), -math.inf)
    return torch.cat([support_nK, rest_nV1.logsumexp(dim=1, keepdim=True)], dim=1)
