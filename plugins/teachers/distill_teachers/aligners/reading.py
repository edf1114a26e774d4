"""A student's sequence read by another tokenizer: which teacher tokens stand where each student token stands.

Offsets are bytes of the UTF-8 text. A student token may begin or end inside a character; the teacher's tokens may too.
What the teacher would read as another text is never asked about:

- A sequence cut inside a character: the broken bytes at its start are left out, and it ends for the teacher where the
  first bytes that are no UTF-8 begin.
- A tokenizer that changes text (Unicode normalisation, unknown tokens): tokens keep their place by the tokenizer's own
  offsets; those whose bytes are not the text's are marked, and no row is asked about them.
- Special tokens: the teacher gets the ones its own tokenizer puts first, whatever the student has; others pass where
  both vocabularies know them by role or by text, and are left out where the teacher has none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

from distill_teachers.aligners.spelling import Spellings
from distill_teachers.aligners.token_bytes import token_bytes

_ROLES = ("bos", "eos", "sep", "cls", "mask")
_BROKEN_BYTES = 3
"""Continuation bytes that a cut can leave at the start of a text."""


@dataclass(frozen=True)
class Chunk:
    """Several student tokens that are exactly one teacher token.

    Args:
        start: index of the first student token.
        count: how many there are.
        place: index of the teacher token in ``teacher_ids``, at least 1.
    """

    start: int
    count: int
    place: int


@dataclass(frozen=True)
class SequenceReading:
    """One sequence.

    Args:
        teacher_ids: the teacher's tokens of the text.
        first: by student token, the index in ``teacher_ids`` of the token that begins where it begins; 0 where none
            does (nothing predicts token 0, so it is no answer either).
        count: by student token, how many teacher tokens stand for exactly its bytes; 0: none do.
        chunks: stretches of several student tokens that are one teacher token, in order.
    """

    teacher_ids: list[int]
    first: list[int]
    count: list[int]
    chunks: list[Chunk] = field(default_factory=list)


@dataclass(frozen=True)
class _Span:
    """A teacher token's bytes in a run of text; ``exact``: they are the text's."""

    start: int
    end: int
    exact: bool


class Reader:
    """Reads a student's sequences for a teacher.

    Args:
        teacher_tokenizer, student_tokenizer: fast tokenizers.

    Raises:
        VocabularyError: a tokenizer whose tokens are not bytes of the text.
    """

    def __init__(self, teacher_tokenizer: Any, student_tokenizer: Any) -> None:
        self.teacher = token_bytes(teacher_tokenizer, "teacher")
        self.student = token_bytes(student_tokenizer, "student")
        self.opening = _opening(teacher_tokenizer)
        self.bos = getattr(student_tokenizer, "bos_token_id", None)
        self.special = self._special_tokens(teacher_tokenizer, student_tokenizer)

    def _special_tokens(self, teacher_tokenizer: Any, student_tokenizer: Any) -> dict[int, int]:
        """Student id to teacher id of special tokens that mean the same."""
        by_text = {text: index for index, text in self.teacher.special.items()}
        found = {index: by_text[text] for index, text in self.student.special.items() if text in by_text}
        for role in _ROLES:
            ours, theirs = (getattr(one, f"{role}_token_id", None) for one in (student_tokenizer, teacher_tokenizer))
            if ours is not None and theirs is not None:
                found[ours] = theirs
        unknown = (getattr(student_tokenizer, "unk_token_id", None), getattr(teacher_tokenizer, "unk_token_id", None))
        return {ours: theirs for ours, theirs in found.items() if ours != unknown[0] and theirs != unknown[1]}

    def student_ids(self) -> dict[int, int]:
        """Teacher id to student id of the tokens that stand for the same bytes or the same special token."""
        ours, theirs = self.student.canonical(), self.teacher.canonical()
        same = {theirs[value]: ours[value] for value in theirs.keys() & ours.keys()}
        roles: dict[int, int] = {}
        for student, teacher in sorted(self.special.items(), key=lambda pair: -pair[0]):
            roles[teacher] = student
        return {**same, **roles}

    @cached_property
    def spellings(self) -> Spellings:
        """How the student spells the teacher's tokens."""
        return Spellings(self.teacher, self.student)

    def read(self, student_ids: Sequence[int]) -> SequenceReading:
        """Read one sequence, without padding."""
        reading = SequenceReading(list(self.opening), [0] * len(student_ids), [0] * len(student_ids))
        start = 0
        if len(student_ids) and student_ids[0] == self.bos:
            start = 1  # the teacher opens in its own way
        while start < len(student_ids):
            token = int(student_ids[start])
            if self._bytes(token) is None:
                if token in self.special:
                    reading.first[start] = len(reading.teacher_ids)
                    reading.count[start] = min(1, reading.first[start])
                    reading.teacher_ids.append(self.special[token])
                start += 1
                continue
            end = start
            while end < len(student_ids) and self._bytes(int(student_ids[end])) is not None:
                end += 1
            if not self._read_text(student_ids, start, end, reading):
                break
            start = end
        return reading

    def _bytes(self, token: int) -> bytes | None:
        return self.student.of_id[token] if token < len(self.student.of_id) else None

    def _read_text(self, student_ids: Sequence[int], start: int, end: int, reading: SequenceReading) -> bool:
        """Read a run of text into ``reading``; False where the teacher cannot read on."""
        pieces = [self._bytes(int(token)) or b"" for token in student_ids[start:end]]
        data = b"".join(pieces)
        nothing_yet = len(reading.teacher_ids) == len(self.opening)
        skipped = _continuation_bytes(data) if nothing_yet else 0
        text, whole = _readable(data[skipped:])
        if text:
            ids, spans = self._spans(text)
            base = len(reading.teacher_ids)
            places = {span.start: i for i, span in enumerate(spans) if span.exact and span.end > span.start}
            stops = [stop - skipped for stop in accumulate(map(len, pieces))]
            for index, stop in enumerate(stops):
                place = places.get(stop - len(pieces[index]))
                if place is not None and base + place > 0:
                    reading.first[start + index] = base + place
                    reading.count[start + index] = _tokens_to(spans, place, stop)
                    last = bisect_left(stops, spans[place].end, index)
                    together = b"".join(pieces[index : last + 1])  # unequal: the teacher puts a space before the text
                    if last > index and together == self.teacher.of_id[ids[place]]:
                        reading.chunks.append(Chunk(start + index, last - index + 1, base + place))
            reading.teacher_ids.extend(ids)
        return whole

    def _spans(self, text: str) -> tuple[list[int], list[_Span]]:
        """The teacher's tokens of a text and the bytes each stands for."""
        ids, offsets = self.teacher.encode(text)
        data = text.encode()
        values = [self.teacher.of_id[i] if i < len(self.teacher.of_id) else None for i in ids]
        known = b"".join(value or b"" for value in values)
        if None not in values and known in (data, b" " + data):
            added = len(known) - len(data)
            stops = [stop - added for stop in accumulate(len(value or b"") for value in values)]
            return ids, [_Span(a, b, True) for a, b in zip([0, *stops[:-1]], stops, strict=True)]
        return ids, _spans_by_offsets(text, offsets, values)


def _spans_by_offsets(text: str, offsets: list[tuple[int, int]], values: list[bytes | None]) -> list[_Span]:
    """Where the tokenizer changed the text: tokens by the characters it says they come from.

    Tokens that share characters form a group (bytes of one character, a space put before a word). Inside a group the
    bytes count, if together they are the text's; else the group is one stretch that nothing is known about.
    """
    byte_at = [0, *accumulate(len(character.encode()) for character in text)]
    spans: list[_Span] = []
    index = 0
    while index < len(offsets):
        begin, end = offsets[index]
        stop = index + 1
        while stop < len(offsets) and offsets[stop][0] < end:
            end = max(end, offsets[stop][1])
            stop += 1
        start = byte_at[begin]
        if spans and start < spans[-1].end:  # out of order: nothing is known here
            start = spans[-1].end
        data = text.encode()[start : byte_at[end]]
        group = values[index:stop]
        together = b"".join(value or b"" for value in group)
        added = len(together) - len(data)
        if None not in group and (together == data or (not spans and together == b" " + data)):
            stops = [start + s - added for s in accumulate(len(value or b"") for value in group)]
            spans += [_Span(max(a, start), b, True) for a, b in zip([start, *stops[:-1]], stops, strict=True)]
        else:
            last = max(byte_at[end], start)
            spans += [_Span(start, last, False)] + [_Span(last, last, False)] * (stop - index - 1)
        index = stop
    return spans


def _tokens_to(spans: Sequence[_Span], place: int, stop: int) -> int:
    """How many tokens from ``place`` on end exactly at ``stop`` and are all the text's bytes; 0: none do."""
    reached = spans[place].start
    for count, span in enumerate(spans[place:], 1):
        if not span.exact or span.start != reached or span.end > stop:
            return 0
        reached = span.end
        if reached == stop:
            return count
    return 0


def _continuation_bytes(data: bytes) -> int:
    """How many bytes of a cut character the data begins with."""
    count = 0
    while count < min(_BROKEN_BYTES, len(data)) and 0x80 <= data[count] < 0xC0:
        count += 1
    return count


def _readable(data: bytes) -> tuple[str, bool]:
    """The text up to the first bytes that are no UTF-8, and whether that is all of it."""
    try:
        return data.decode(), True
    except UnicodeDecodeError as error:
        return data[: error.start].decode(), False


def _opening(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text."""
    with_special = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    without = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without:
            return with_special[:start]
    return []
