"""Asking a teacher about a student's batch: which rows it can answer, and what it says there.

Legend: N rows of the student's batch, A aligned rows among them, C rows of multi-token spans, P tokens of those spans,
K support, M temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import Teacher
from distill_core.store import sequence_key
from distill_core.types import IGNORE, Needs, RowIndex, RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.aligners.reading import Chunk, Reader, SequenceReading

RANKED = "ranked_log_probs"
"""Signal [N, K + 1]: the teacher's largest log-probabilities, falling, whatever their tokens, the tail last; -inf
throughout on rows it cannot be asked about."""

DEFAULT_SUPPORT = 64
"""Entries of the teacher's distribution that are looked at where ``train.sparse`` does not say."""

TARGETS = frozenset({"targets"})


class Asked:
    """A student's batch as a teacher reads it.

    Args:
        teacher: a live teacher.
        batch: the student's.
        reader: reads its sequences.
        spec: how the teacher's distribution is made sparse.
    """

    def __init__(self, teacher: Teacher, batch: TokenBatch, reader: Reader, spec: SparseSpec) -> None:
        self.teacher, self.batch, self.reader, self.spec = teacher, batch, reader, spec
        self.rows: RowIndex = batch.rows()
        lengths_B = batch.attention_mask_BT.sum(dim=1).tolist()
        ids_BT = batch.input_ids_BT.tolist()
        self.readings: list[SequenceReading] = [
            reader.read(ids[:length]) for ids, length in zip(ids_BT, lengths_B, strict=True)
        ]
        self.sequences = self.rows.sequence_N.tolist()
        labels = [position + 1 for position in self.rows.position_N.tolist()]
        places = list(zip(self.sequences, labels, strict=True))
        self.first_N = torch.tensor([self.readings[s].first[i] for s, i in places], dtype=torch.int64)
        self.count_N = torch.tensor([self.readings[s].count[i] for s, i in places], dtype=torch.int64)

    @property
    def aligned_A(self) -> Tensor:
        """Rows before whose label the teacher has read exactly the same bytes, and may say what comes next."""
        return torch.nonzero(self.first_N > 0)[:, 0]

    def chunk_rows(self) -> list[tuple[int, int, Chunk]]:
        """(row, sequence, chunk) of the rows whose label is part of a chunk, in order."""
        inside = [
            {index: chunk for chunk in reading.chunks for index in range(chunk.start, chunk.start + chunk.count)}
            for reading in self.readings
        ]
        labels = [position + 1 for position in self.rows.position_N.tolist()]
        return [
            (row, sequence, inside[sequence][label])
            for row, (sequence, label) in enumerate(zip(self.sequences, labels, strict=True))
            if label in inside[sequence]
        ]

    @cached_property
    def likeliest(self) -> RowTarget:
        """The teacher's target at the aligned rows, over its own ids."""
        wanted = [(self.sequences[row], int(self.first_N[row])) for row in self.aligned_A.tolist()]
        return self._targets(wanted, self.spec)

    def next_ids_A(self) -> Tensor:
        """The teacher's own token at each aligned row."""
        ids = [
            self.readings[self.sequences[row]].teacher_ids[int(self.first_N[row])] for row in self.aligned_A.tolist()
        ]
        return torch.tensor(ids, dtype=torch.int64)

    def span_log_probs(self, rows_C: Tensor) -> Tensor:
        """float64 [C] log-probability of each row's label span: the chain rule over the teacher's tokens of it::

        log P(b_1 .. b_m | prefix) = sum_i log P(b_i | prefix, b_1 .. b_{i-1})
        """
        wanted = [
            (self.sequences[row], int(self.first_N[row]) + i)
            for row in rows_C.tolist()
            for i in range(int(self.count_N[row]))
        ]
        ids_P1 = torch.tensor([[self.readings[s].teacher_ids[i]] for s, i in wanted], dtype=torch.int64).view(-1, 1)
        logp_P = self.log_probs_of(wanted, ids_P1)[:, 0]
        row_P = torch.repeat_interleave(torch.arange(len(rows_C)), self.count_N[rows_C])
        return torch.zeros(len(rows_C), dtype=torch.float64).index_add_(0, row_P, logp_P)

    def log_probs_of(self, wanted: Sequence[tuple[int, int]], ids_PK: Tensor) -> Tensor:
        """float64 [P, K] log-probability of given teacher tokens before each (sequence, token); -inf on padding.

        Raises:
            SignalError: a teacher that does not answer on given ids.
        """
        target = self._targets(wanted, SparseSpec("topk", max(1, ids_PK.shape[1]), (1.0,), ids_NK=ids_PK))
        if target.ids_NK.shape != ids_PK.shape or not bool((target.ids_NK == ids_PK).all()):
            raise SignalError(
                f"the teacher {self.teacher.identity()} was asked how likely {len(ids_PK)} given tokens are and "
                "answered about others: probabilities of spans need a teacher that answers on given ids (a local "
                "model); the aligner shared-vocabulary asks for none"
            )
        return target.log_probs()[:, :-1].double()

    def ranked(self) -> Tensor:
        """The signal :data:`RANKED`."""
        logp_AK1 = self.likeliest.log_probs()
        best_AK = logp_AK1[:, :-1].sort(dim=1, descending=True).values
        ranked_NK1 = torch.full((len(self.rows), logp_AK1.shape[1]), -torch.inf)
        ranked_NK1[self.aligned_A] = torch.cat([best_AK, logp_AK1[:, -1:]], dim=1)
        return ranked_NK1

    def _targets(self, wanted: Sequence[tuple[int, int]], spec: SparseSpec) -> RowTarget:
        """The teacher's target before each (sequence, token), which come in order and each once."""
        if not wanted:
            empty = torch.zeros(0, spec.k)
            tail_NM = torch.zeros(0, len(spec.temperatures))
            return RowTarget("exact", empty.long(), spec.temperatures, logits_NK=empty, tail_NM=tail_NM)
        batch = teacher_batch(self.readings, wanted, self.batch)
        needs = Needs(TARGETS, ("exact",), spec.temperatures)
        target = self.teacher.signals(batch, needs, spec).target
        if target is None or target.kind != "exact" or len(target) != len(wanted):
            found = "none" if target is None else f"{len(target)} {target.kind} rows"
            raise SignalError(
                f"an aligner asked the teacher {self.teacher.identity()} for exact targets at {len(wanted)} rows and "
                f"got {found}"
            )
        return target.to("cpu")


def teacher_batch(
    readings: Sequence[SequenceReading], wanted: Sequence[tuple[int, int]], batch: TokenBatch
) -> TokenBatch:
    """The teacher's token ids, its rows those that predict the ``wanted`` (sequence, token index), at least one.

    Sequences that nothing is wanted of are left out, and so is what comes after the last wanted token of one: a causal
    teacher does not need it.
    """
    last: dict[int, int] = {}
    for sequence, index in wanted:
        last[sequence] = max(index, last.get(sequence, 0))
    place = {sequence: number for number, sequence in enumerate(last)}
    cut = [readings[sequence].teacher_ids[: index + 1] for sequence, index in last.items()]
    ids_BT = torch.zeros(len(cut), max(map(len, cut)), dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for number, ids in enumerate(cut):
        ids_BT[number, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        mask_BT[number, : len(ids)] = 1
    labels_BT = torch.full_like(ids_BT, IGNORE)
    for sequence, index in wanted:
        labels_BT[place[sequence], index] = ids_BT[place[sequence], index]
    return TokenBatch(
        input_ids_BT=ids_BT,
        attention_mask_BT=mask_BT,
        labels_BT=labels_BT,
        keys=tuple(sequence_key(ids) for ids in cut),
        documents=tuple(batch.documents[sequence] for sequence in last) if batch.documents else (),
        domains=tuple(batch.domains[sequence] for sequence in last) if batch.domains else (),
    )


def check_asked(
    name: str, needs: Needs, sparse: SparseSpec | None, *, temperatures: tuple[float, ...] | None
) -> SparseSpec:
    """What the teacher will be asked, or why the aligner cannot give it.

    Raises:
        SignalError: a signal, a temperature, a sampled target or given ids, which no aligner translates.
    """
    lacking = sorted(needs.signals - {"targets", RANKED})
    if lacking:
        raise SignalError(
            f"{', '.join(lacking)} of a teacher with another tokenizer were asked for, but the aligner {name} passes "
            f"on targets and {RANKED}: its positions are not the student's"
        )
    if sparse is not None and (sparse.method != "topk" or sparse.ids_NK is not None):
        asked = f"method {sparse.method}" if sparse.method != "topk" else "targets on given ids, as a mixture needs"
        raise SignalError(
            f"the aligner {name} was asked for {asked}; it translates exact top-k targets: use method: topk, and mix "
            "losses rather than distributions of teachers with other tokenizers"
        )
    wanted = needs.temperatures or (1.0,)
    if temperatures is not None and set(wanted) - set(temperatures):
        raise SignalError(
            f"temperatures {list(wanted)} were asked for, but the aligner {name} answers at {list(temperatures)}: the "
            "probability of a span of several tokens is a product of theirs at temperature 1"
        )
    if sparse is None:
        return SparseSpec("topk", DEFAULT_SUPPORT, tuple(dict.fromkeys((1.0, *wanted))))
    return replace(sparse, temperatures=tuple(dict.fromkeys((1.0, *wanted))))


def mapped(
    target: RowTarget,
    student_of: Tensor,
    wanted: Sequence[float],
    labels: tuple[Tensor, Tensor] | None = None,
) -> RowTarget:
    """A target over teacher ids as one over student ids; entries without a counterpart go into the tails, exactly.

    Args:
        target: exact, [A, K].
        student_of: by teacher id, the student's id or -1.
        wanted: temperatures to keep.
        labels: teacher's and student's label [A], the same bytes, -1 where they are not: a student may spell a byte by
            another id than ``student_of`` says (``<0x0A>`` beside a newline), and then its own counts.
    """
    assert target.logits_NK is not None and target.tail_NM is not None
    inside_AK = (target.ids_NK >= 0) & (target.ids_NK < len(student_of))
    ids_AK = torch.where(inside_AK, student_of[torch.where(inside_AK, target.ids_NK, 0)], -1)
    if labels is not None:
        theirs_A1, ours_A1 = (label_A[:, None] for label_A in labels)
        own_AK = (target.ids_NK == theirs_A1) & (ours_A1 >= 0)
        elsewhere_AK = (ids_AK == ours_A1) & own_AK.any(dim=1, keepdim=True)
        ids_AK = torch.where(own_AK, ours_A1, torch.where(elsewhere_AK, -1, ids_AK))
    dropped_AK = (ids_AK < 0) & (target.ids_NK >= 0)
    tails = []
    for temperature in wanted:
        tail_A = target.tail_NM[:, target.temperatures.index(temperature)].double()
        logits_AK = target.logits_NK.double() / temperature
        left_AK = torch.where(dropped_AK, logits_AK, -torch.inf)
        tails.append(torch.cat([left_AK, tail_A[:, None]], dim=1).logsumexp(dim=1).float())
    return RowTarget(
        "exact", ids_AK, tuple(wanted), logits_NK=target.logits_NK.float(), tail_NM=torch.stack(tails, dim=1)
    )


def spread(target: RowTarget, aligned_A: Tensor, rows: int) -> RowTarget:
    """A target at some of the rows as one at all: the others have no entry and everything in the tail."""
    assert target.logits_NK is not None and target.tail_NM is not None
    width = target.ids_NK.shape[1]
    ids_NK = torch.full((rows, width), -1, dtype=torch.int64)
    logits_NK = torch.zeros(rows, width)
    tail_NM = torch.zeros(rows, target.tail_NM.shape[1])
    ids_NK[aligned_A], logits_NK[aligned_A], tail_NM[aligned_A] = target.ids_NK, target.logits_NK, target.tail_NM
    return RowTarget("exact", ids_NK, target.temperatures, logits_NK=logits_NK, tail_NM=tail_NM)


def lookup(student_ids: Mapping[int, int], size: int) -> Tensor:
    """int64 [size] student id by teacher id, -1 where there is none."""
    table = torch.full((size,), -1, dtype=torch.int64)
    for teacher, student in student_ids.items():
        table[teacher] = student
    return table


def answer(asked: Asked, target: RowTarget | None, needs: Needs, device: Any) -> TeacherSignals:
    """Signals on the device of the batch."""
    extra = {RANKED: asked.ranked().to(device)} if RANKED in needs.signals else {}
    return TeacherSignals(target=None if target is None else target.to(device), extra=extra)
