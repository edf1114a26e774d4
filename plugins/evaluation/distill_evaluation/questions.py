"""Held-out questions of an evaluator, and their prompts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext
from distill_evaluation.asking_options import QuestionsOptions


def questions_of(options: QuestionsOptions, context: EvaluationContext, who: str) -> list[Mapping[str, Any]]:
    """The records of the source, each with a question.

    Raises:
        SignalError: the evaluation cannot build components.
        DataError: no question, or a record without one.
    """
    source = built(context, "source", options.questions, who)
    records = list(islice(source.records(), options.limit))
    if not records:
        raise DataError(f"{who}: the source {options.questions.use} yields no question")
    for record in records:
        if not isinstance(record.get("question"), str):
            raise DataError(
                f"{who}: document {record.get('document', '?')} of the source {options.questions.use} has no question; "
                f"its fields: {', '.join(sorted(record))}"
            )
    return records


def built(context: EvaluationContext, kind: str, ref: Any, who: str) -> Any:
    """A component that an option names."""
    if context.build is None:
        raise SignalError(f"{who} builds a {kind}, but this evaluation gives no `build`")
    return context.build(kind, {"use": ref.use, **ref.options})


def document_of(record: Mapping[str, Any], index: int) -> str:
    """What errors are clustered by."""
    return str(record.get("document", f"question-{index}"))


class Sums(dict[str, tuple[float, float]]):
    """Document sums, added to one by one."""

    def add(self, document: str, total: float, count: float = 1.0) -> None:
        before = self.get(document, (0.0, 0.0))
        self[document] = (before[0] + total, before[1] + count)

    @property
    def value(self) -> float:
        count = sum(n for _, n in self.values())
        return sum(s for s, _ in self.values()) / count if count else float("nan")

    @property
    def count(self) -> int:
        return round(sum(n for _, n in self.values()))
