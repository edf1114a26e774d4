"""The checker ``numeric-answer``: the same number as the record's answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import Verdict
from distill_synthesis.checkers.options import NumericAnswerOptions
from distill_synthesis.checkers.reference import reference

_NUMBER = re.compile(r"[-+\u2212]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:/\d+)?")
_GROUPS = re.compile(r"\d{1,3}(,\d{3})+(?!\d)")


class NumericAnswer:
    """Score 1 where the last number of the answer is the record's, within ``tolerance``; else 0.

    Reads ``1,234``, ``-3.5``, ``.5`` and ``3/4``; numbers are compared exactly, as fractions.

    >>> checker = NumericAnswer(NumericAnswerOptions())
    >>> checker.check({"answer": "1200"}, "She has 1,200 shells."), checker.check({"answer": "8"}, "about 9")
    (Verdict(score=1.0, reason=''), Verdict(score=0.0, reason='another number'))
    """

    def __init__(self, options: NumericAnswerOptions) -> None:
        self.options = options

    def canonical(self, answer: str) -> str:
        number = last_number(answer)
        return answer.strip() if number is None else str(number)

    def check(self, record: Mapping[str, Any], answer: str) -> Verdict:
        text = reference(record, self.options.field, "numeric-answer")
        right = last_number(text)
        if right is None:
            raise DataError(
                f"checker numeric-answer: document {record.get('document', '?')} has the answer {text!r}, which holds "
                "no number: take the checker exact-answer"
            )
        given = last_number(answer)
        if given is None:
            return Verdict(0.0, "no number")
        if abs(given - right) <= Fraction(self.options.tolerance):
            return Verdict(1.0)
        return Verdict(0.0, "another number")


def last_number(text: str) -> Fraction | None:
    """The last number of a text, or None.

    >>> last_number("7 + 5 = 12."), last_number("no")
    (Fraction(12, 1), None)
    """
    found = _NUMBER.findall(text)
    if not found:
        return None
    number = found[-1].replace("\u2212", "-")
    digits = number.lstrip("+-").split("/")[0].split(".")[0]
    if "," in digits and not _GROUPS.fullmatch(digits):  # "3,4" is a list, not a number
        number = number.rsplit(",", 1)[1]
    try:
        return Fraction(number.replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None
