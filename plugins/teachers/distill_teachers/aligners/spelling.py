"""How the student spells each token of the teacher, and which tokens of the teacher begin with some student tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from distill_teachers.aligners.token_bytes import TokenBytes, joined

_BEFORE = ("", "\n", "a")
"""What a text is put behind to see how it is spelled inside one: a line end, or a letter; nothing is tried first."""
_PUT_BEFORE = frozenset((b"", b" ", b"\n", b" \n", b"a", b" a"))
"""Bytes that may stand before it then; SentencePiece puts a space before every text."""


class Spellings:
    """The student's tokens for the bytes of every teacher token, as its tokenizer cuts them inside a text.

    A token that is no text by itself (part of a character), or that the student does not spell alone (it cuts no
    boundary before it), has no spelling.

    Args:
        teacher, student: the vocabularies.
    """

    def __init__(self, teacher: TokenBytes, student: TokenBytes) -> None:
        texts = [(index, value) for index, value in enumerate(teacher.of_id) if value]
        spelled = _spelled([value for _, value in texts], student)
        pairs = sorted((ids, index) for (index, _), ids in zip(texts, spelled, strict=True) if ids)
        self._spellings = [ids for ids, _ in pairs]
        self._teacher = [index for _, index in pairs]

    def __len__(self) -> int:
        return len(self._teacher)

    def beginning(self, student_ids: Sequence[int]) -> list[int]:
        """Teacher ids whose spelling begins with these student ids (at least one)."""
        first = tuple(student_ids)
        after = (*first[:-1], first[-1] + 1)
        return self._teacher[bisect_left(self._spellings, first) : bisect_left(self._spellings, after)]


def _spelled(values: Sequence[bytes], student: TokenBytes) -> list[tuple[int, ...]]:
    """The student's ids of each byte string; () for one without."""
    found: list[tuple[int, ...]] = [()] * len(values)
    left = [index for index, value in enumerate(values) if _is_text(value)]
    for before in _BEFORE:
        encoded = student.backend.encode_batch([before + values[i].decode() for i in left], add_special_tokens=False)
        for index, one in zip(left, encoded, strict=True):
            found[index] = _ending(one.ids, values[index], student)
        left = [index for index in left if not found[index]]
    return found


def _ending(ids: Sequence[int], value: bytes, student: TokenBytes) -> tuple[int, ...]:
    """The last ids that are exactly ``value``, if what stands before them may; else ()."""
    for start in range(len(ids)):
        if joined(student, ids[:start]) not in _PUT_BEFORE:
            break
        if joined(student, ids[start:]) == value:
            return tuple(ids[start:])
    return ()


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
