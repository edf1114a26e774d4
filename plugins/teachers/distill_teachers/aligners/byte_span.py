"""Aligner ``byte-span``: exact probabilities of the byte spans that both tokenizations cut out.

Legend: N rows, A aligned rows, C rows whose label is several teacher tokens, K support.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_core.interfaces import Teacher
from distill_core.options import NoOptions
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.aligners.asking import Asked, answer, check_asked, lookup, mapped, spread
from distill_teachers.aligners.reading import Reader

TEMPERATURES = (1.0,)


class ByteSpan:
    """Compares teacher and student on spans of bytes whose two ends both tokenizations share (the idea of approximate
    likelihood matching, arXiv 2503.20083).

    - A label that is one teacher token: the teacher's ``k`` likeliest tokens mapped to the student's by their bytes,
      the rest in the tail, as ``shared-vocabulary`` does.
    - A label that is several teacher tokens: two outcomes, this span or not, with the exact probability of the span,
      ``prod_i P(b_i | prefix, b_1 .. b_{i-1})`` over its teacher tokens, and the tail.
    - A label that begins or ends inside a teacher token: nothing (no entry, all mass in the tail).

    One pass of the teacher, and another over the sequences with labels of several teacher tokens. Temperature 1 alone.
    """

    def __init__(self, options: NoOptions | None = None) -> None:
        self.options = options or NoOptions()

    def between(self, teacher_tokenizer: Any, student_tokenizer: Any) -> ByteSpanAlignment:
        return ByteSpanAlignment(Reader(teacher_tokenizer, student_tokenizer))


class ByteSpanAlignment:
    """Two vocabularies compared by bytes."""

    name = "byte-span"

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        pairs = reader.student_ids()
        self.shared = len(pairs)
        self.student_of = lookup(pairs, len(reader.teacher.of_id))

    def describe(self) -> str:
        return (
            f"{self.shared:,} of the teacher's {len(self.student_of):,} tokens have a counterpart, others are compared "
            "as spans of bytes"
        )

    def signals(
        self, teacher: Teacher, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None
    ) -> TeacherSignals:
        """Targets and ranked probabilities at the student's rows.

        Raises:
            SignalError: another signal, another temperature, a sampled target, or a teacher that cannot answer on
                given ids.
        """
        spec = check_asked(self.name, needs, sparse, temperatures=TEMPERATURES)
        asked = Asked(teacher, batch, self.reader, spec)
        target = self._target(asked) if "targets" in needs.signals else None
        return answer(asked, target, needs, batch.input_ids_BT.device)

    def _target(self, asked: Asked) -> RowTarget:
        aligned_A = asked.aligned_A
        labels_A, count_A = asked.rows.labels_N.cpu()[aligned_A], asked.count_N[aligned_A]
        one_A1 = (count_A == 1)[:, None]
        own = (asked.next_ids_A(), torch.where(count_A == 1, labels_A, -1))
        full = mapped(asked.likeliest, self.student_of, TEMPERATURES, labels=own)
        assert full.logits_NK is not None and full.tail_NM is not None
        ids_AK = torch.where(one_A1, full.ids_NK, -1)
        logits_AK = torch.where(one_A1, full.logits_NK, 0)
        tail_A1 = torch.where(one_A1, full.tail_NM, 0)
        several = torch.nonzero(count_A > 1)[:, 0]
        if len(several):
            span_C = asked.span_log_probs(aligned_A[several]).clamp_max(0)
            ids_AK[several, 0] = labels_A[several]
            logits_AK[several, 0] = span_C.float()
            tail_A1[several, 0] = _log_rest(span_C).float()
        target = RowTarget("exact", ids_AK, TEMPERATURES, logits_NK=logits_AK, tail_NM=tail_A1)
        return spread(target, aligned_A, len(asked.rows))


def _log_rest(logp_C: Tensor) -> Tensor:
    """log(1 - p) of log p <= 0, in float64 without cancellation; -inf at p = 1."""
    return torch.where(logp_C > -0.6931, (-torch.expm1(logp_C)).log(), torch.log1p(-logp_C.exp()))
