"""Aligner ``byte-span``: exact probabilities of the byte spans that both tokenizations cut out.

Legend: N rows, A aligned rows, C rows whose label is several teacher tokens or part of one, P teacher tokens asked
about, K support.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from distill_core.interfaces import Teacher
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.aligners.asking import Asked, answer, check_asked, lookup, mapped, spread
from distill_teachers.aligners.options import ByteSpanOptions
from distill_teachers.aligners.reading import Chunk, Reader

TEMPERATURES = (1.0,)


class ByteSpan:
    """Compares teacher and student on spans of bytes whose two ends both tokenizations share (the idea of approximate
    likelihood matching, arXiv 2503.20083).

    - A label that is one teacher token: the teacher's ``k`` likeliest tokens mapped to the student's by their bytes,
      the rest in the tail, as ``shared-vocabulary`` does.
    - A label that is several teacher tokens: two outcomes, this span or not, with the exact probability of the span,
      ``prod_i P(b_i | prefix, b_1 .. b_{i-1})`` over its teacher tokens, and the tail.
    - With ``chunks``, a label ``s_i`` of student tokens ``s_1 .. s_m`` that together are one teacher token ``b``: two
      outcomes, this label or not, by the chain rule on how the student spells the teacher's next token::

          P(s_i | s_1 .. s_{i-1}) = P(spelled s_1 .. s_i ...) / P(spelled s_1 .. s_{i-1} ...)

      where the last numerator is P(b), so the product over the chunk is the probability of b exactly.
    - Any other label that begins or ends inside a teacher token: nothing (no entry, all mass in the tail).

    One pass of the teacher, another over the sequences with labels of several teacher tokens, and with ``chunks`` a
    third over those with chunks. Temperature 1 alone.
    """

    def __init__(self, options: ByteSpanOptions | None = None) -> None:
        self.options = options or ByteSpanOptions()

    def between(self, teacher_tokenizer: Any, student_tokenizer: Any) -> ByteSpanAlignment:
        return ByteSpanAlignment(Reader(teacher_tokenizer, student_tokenizer), chunks=self.options.chunks)


class ByteSpanAlignment:
    """Two vocabularies compared by bytes."""

    name = "byte-span"

    def __init__(self, reader: Reader, *, chunks: bool = False) -> None:
        self.reader, self.chunks = reader, chunks
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
        everywhere = spread(target, aligned_A, len(asked.rows))
        return self._with_chunks(everywhere, asked) if self.chunks else everywhere

    def _with_chunks(self, target: RowTarget, asked: Asked) -> RowTarget:
        """The target with two outcomes at every row whose label is part of a chunk."""
        assert target.logits_NK is not None and target.tail_NM is not None
        parts = asked.chunk_rows()
        if not parts:
            return target
        rows_C = torch.tensor([row for row, _, _ in parts], dtype=torch.int64)
        part_C = chunk_log_probs(asked, [(sequence, chunk) for _, sequence, chunk in parts], rows_C).clamp_max(0)
        rows_C, part_C = rows_C[~part_C.isnan()], part_C[~part_C.isnan()]
        target.ids_NK[rows_C, 0] = asked.rows.labels_N.cpu()[rows_C]
        target.logits_NK[rows_C, 0] = part_C.float()
        target.tail_NM[rows_C, 0] = _log_rest(part_C).float()
        return target


def chunk_log_probs(asked: Asked, chunks: Sequence[tuple[int, Chunk]], rows_C: Tensor) -> Tensor:
    """float64 [C] log-probability of each row's label, given that the teacher's token is spelled as the ones before it.

    NaN where that condition has probability 0.

    Args:
        asked: the batch.
        chunks: by row, its sequence and its chunk.
        rows_C: the rows, each of whose labels is in its chunk.
    """
    places = {(sequence, chunk.place): chunk for sequence, chunk in chunks}  # in order, each once
    begun = {place: _begun(asked, place[0], chunk) for place, chunk in places.items()}
    ids_PK = torch.full((len(places), max(len(sets[0]) for sets in begun.values())), -1, dtype=torch.int64)
    for number, sets in enumerate(begun.values()):
        ids_PK[number, : len(sets[0])] = torch.tensor(sets[0])
    logp_PK = asked.log_probs_of(list(places), ids_PK)
    masses = {
        place: [0.0, *(float(logp_K[torch.isin(ids_K, torch.tensor(ids))].logsumexp(dim=0)) for ids in sets)]
        for (place, sets), ids_K, logp_K in zip(begun.items(), ids_PK, logp_PK, strict=True)
    }
    found = []
    for position, (sequence, chunk) in zip(asked.rows.position_N[rows_C].tolist(), chunks, strict=True):
        before = position + 1 - chunk.start
        given, here = masses[sequence, chunk.place][before : before + 2]
        found.append(math.nan if given == -math.inf else here - given)
    return torch.tensor(found, dtype=torch.float64)


def _begun(asked: Asked, sequence: int, chunk: Chunk) -> list[list[int]]:
    """Teacher tokens spelled with the chunk's first student token, its first two, ..., and at its end its own alone.

    The chunk's own token is everywhere among them, however the tokenizer spells it elsewhere.
    """
    own = asked.readings[sequence].teacher_ids[chunk.place]
    spelled = asked.batch.input_ids_BT[sequence, chunk.start : chunk.start + chunk.count].tolist()
    begun = [asked.reader.spellings.beginning(spelled[:length]) for length in range(1, chunk.count)]
    return [*([own, *(index for index in ids if index != own)] for ids in begun), [own]]


def _log_rest(logp_C: Tensor) -> Tensor:
    """log(1 - p) of log p <= 0, in float64 without cancellation; -inf at p = 1."""
    return torch.where(logp_C > -0.6931, (-torch.expm1(logp_C)).log(), torch.log1p(-logp_C.exp()))
