"""Aligner ``shared-vocabulary``: tokens that stand for the same bytes are the same token; the rest is tail.

Legend: N rows, A aligned rows, K support.
"""

from __future__ import annotations

from typing import Any

from distill_core.interfaces import Teacher
from distill_core.options import NoOptions
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.aligners.asking import Asked, answer, check_asked, lookup, mapped, spread
from distill_teachers.aligners.reading import Reader


class SharedVocabulary:
    """Maps the teacher's tokens to the student's by their bytes, wherever both have read the same bytes so far.

    At such a row the target holds the teacher's ``k`` likeliest tokens that the student has too, each with its exact
    probability *as a teacher token*, at any temperature; all other mass is in the tail. One pass of the teacher.

    What is approximate: a teacher token and the student's token of the same bytes are taken for the same event,
    although each vocabulary would go on in its own way (``Ġthe`` + ``reby`` against one ``▁thereby``).
    """

    def __init__(self, options: NoOptions | None = None) -> None:
        self.options = options or NoOptions()

    def between(self, teacher_tokenizer: Any, student_tokenizer: Any) -> SharedVocabularyAlignment:
        return SharedVocabularyAlignment(Reader(teacher_tokenizer, student_tokenizer))


class SharedVocabularyAlignment:
    """Two vocabularies compared by bytes."""

    name = "shared-vocabulary"

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        pairs = reader.student_ids()
        self.shared = len(pairs)
        self.student_of = lookup(pairs, len(reader.teacher.of_id))

    def describe(self) -> str:
        return f"{self.shared:,} of the teacher's {len(self.student_of):,} tokens have a counterpart"

    def signals(
        self, teacher: Teacher, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None
    ) -> TeacherSignals:
        """Targets and ranked probabilities at the student's rows.

        Raises:
            SignalError: another signal, a sampled target, or given ids.
        """
        spec = check_asked(self.name, needs, sparse, temperatures=None)
        asked = Asked(teacher, batch, self.reader, spec)
        target = None
        if "targets" in needs.signals:
            over_student_ids = mapped(asked.likeliest, self.student_of, needs.temperatures or (1.0,))
            target = spread(over_student_ids, asked.aligned_A, len(asked.rows))
        return answer(asked, target, needs, batch.input_ids_BT.device)
