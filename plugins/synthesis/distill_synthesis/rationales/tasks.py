"""The transform ``rationale-tasks``: training records of a question, its rationale and its answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distill_core.errors import DataError
from distill_synthesis.rationales.options import RationaleTasksOptions

Part = dict[str, Any]

LABEL, RATIONALE = "label", "rationale"
"""Value of the field ``task`` of the records, and their ``domain``."""


class RationaleTasks:
    """Forms of training on rationales, one record per task, told apart by ``domain`` (``label``, ``rationale``).

    - ``multi-task``: ``L = L_label + lambda L_rationale`` of Distilling Step-by-Step (arXiv 2305.02301): two records
      with the prefixes ``[label]`` and ``[rationale]``, the second with weight ``rationale_weight``.
    - ``rationale-then-answer``: question -> rationale + answer (2212.10071).

    >>> record = {"question": "1 + 2?", "rationale": "1 + 2 = 3.", "answer": "3", "document": "a"}
    >>> [r["parts"][-1]["text"] for r in RationaleTasks(RationaleTasksOptions()).transform(record)]
    ['3', '1 + 2 = 3.']
    """

    def __init__(self, options: RationaleTasksOptions) -> None:
        self.options = options

    def transform(self, record: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Raises ``DataError`` for a record without question, rationale or answer."""
        options = self.options
        question = _text(record, "question", options.form)
        answer = _text(record, "answer", options.form)
        if options.form == "answer-only":
            return [self._label(record, question, answer)]
        rationale = _text(record, "rationale", options.form)
        explained = self._explained(record, question, rationale, answer)
        return [self._label(record, question, answer), explained] if options.form == "multi-task" else [explained]

    def _label(self, record: Mapping[str, Any], question: str, answer: str) -> dict[str, Any]:
        parts = [self._asked(self.options.label_prefix, question), {"text": answer, "predict": True}]
        return {**_kept(record), "parts": parts, "domain": LABEL}

    def _explained(self, record: Mapping[str, Any], question: str, rationale: str, answer: str) -> dict[str, Any]:
        options = self.options
        given, rest = split_steps(rationale, options.given_steps, options.step_end)
        parts = [self._asked(options.rationale_prefix, question)]
        if given:
            parts.append({"text": given, "predict": False})
        parts += self._weighted(rest)
        if options.form == "rationale-then-answer" or options.rationale_answer:
            parts.append({"text": f"{options.answer_lead}{answer}", "predict": True})
        made = {**_kept(record), "parts": parts, "domain": RATIONALE}
        factor = options.rationale_weight if options.form == "multi-task" else 1.0
        factor *= float(record.get("rationale_weight", 1.0))  # of the teacher that wrote it
        if factor != 1:
            made["weight"] = float(record.get("weight", 1.0)) * factor
        return made

    def _asked(self, prefix: str, question: str) -> Part:
        return {"text": f"{prefix}{question}{self.options.question_end}", "predict": False}

    def _weighted(self, text: str) -> list[Part]:
        """Predicted parts; those that match ``key_points`` weigh more. Each part is tokenised by itself."""
        points = self.options.key_points
        if points is None:
            return [{"text": text, "predict": True}]
        parts, at = [], 0
        for found in re.finditer(points.pattern, text):
            if found.start() > at:
                parts.append({"text": text[at : found.start()], "predict": True})
            if found.group():
                parts.append({"text": found.group(), "predict": True, "weight": points.weight})
                at = found.end()
        if at < len(text):
            parts.append({"text": text[at:], "predict": True})
        return parts


def split_steps(rationale: str, given_steps: int, step_end: str) -> tuple[str, str]:
    """The first ``given_steps`` steps with what separates them from the rest, and the rest: at least the last step.

    >>> split_steps("1 + 2 = 3. 3 + 4 = 7. 7 - 1 = 6.", 2, r"(?<=[.;])\\s+")
    ('1 + 2 = 3. 3 + 4 = 7. ', '7 - 1 = 6.')
    """
    starts = [0] + [found.end() for found in re.finditer(step_end, rationale.rstrip())]
    at = starts[min(given_steps, len(starts) - 1)]
    return rationale[:at], rationale[at:]


def _text(record: Mapping[str, Any], field: str, form: str) -> str:
    value = record.get(field)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"rationale-tasks: document {record.get('document', '?')} has no {field} (received {value!r}), which the "
            f"form {form} needs: write rationales first (synthesize: {{use: rationales}}), or take form: answer-only"
        )
    return value.strip()


def _kept(record: Mapping[str, Any]) -> dict[str, Any]:
    """Everything but the record's own training form."""
    return {key: value for key, value in record.items() if key not in ("prompt", "completion", "text", "messages")}
