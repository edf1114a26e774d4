"""The checker ``exact-answer``: the same text as the record's answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from distill_core.interfaces import Verdict
from distill_synthesis.checkers.options import ExactAnswerOptions
from distill_synthesis.checkers.reference import reference

_AROUND = " \t\n.,;:!?\"'`()[]{}*"


class ExactAnswer:
    """Score 1 for the same text, white space apart, else 0.

    >>> ExactAnswer(ExactAnswerOptions()).check({"answer": "Paris"}, "paris.")
    Verdict(score=1.0, reason='')
    """

    def __init__(self, options: ExactAnswerOptions) -> None:
        self.options = options

    def canonical(self, answer: str) -> str:
        text = re.sub(r"\s+", " ", answer).strip()
        if self.options.ignore_punctuation:
            text = text.strip(_AROUND)
        return text.casefold() if self.options.ignore_case else text

    def check(self, record: Mapping[str, Any], answer: str) -> Verdict:
        right = reference(record, self.options.field, "exact-answer")
        if self.canonical(right) == self.canonical(answer):
            return Verdict(1.0)
        return Verdict(0.0, "empty answer" if not answer.strip() else "another answer")
