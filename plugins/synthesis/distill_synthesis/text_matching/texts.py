"""Real texts as token sequences with a class, and texts that survive being written and read.

Legend: N real texts, A token ids that occur in them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill_core.engine.data import IGNORE, TokenSequence
from distill_core.errors import DataError
from distill_core.interfaces import SynthesisContext
from distill_core.store import sequence_key

ROUNDS = 8
"""Times that a text is read again until its ids stay: each round starts from real text."""

REPLACEMENT = "\ufffd"
"""What decoders write for bytes that are no character."""


@dataclass(frozen=True)
class LabelledTexts:
    """The real texts.

    Args:
        sequences: as the data stage makes them.
        contents: their ids without special ones at both ends.
        class_N: int64, places in ``labels``; all 0 where the next token is predicted.
        labels: names of the classes; empty where the next token is predicted.
        prefix, suffix: special ids at both ends.
        allowed_A: int64, ids that occur in the contents, special ones apart, ascending.
        position: where a class is predicted: 0 or -1.
    """

    sequences: tuple[TokenSequence, ...]
    contents: tuple[tuple[int, ...], ...]
    class_N: Tensor
    labels: tuple[str, ...]
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    allowed_A: Tensor
    position: int

    @property
    def classes(self) -> int:
        """How many; 1 where the next token is predicted."""
        return max(1, len(self.labels))

    def of_class(self, number: int) -> Tensor:
        """Indices int64 of the texts of a class, in order."""
        return (self.class_N == number).nonzero()[:, 0]

    def fingerprint(self) -> str:
        """sha256 of the sequences, what is predicted in them, and the labels."""
        state = hashlib.sha256(repr(self.labels).encode())
        for sequence in self.sequences:
            state.update(sequence.key)
            state.update(np.ascontiguousarray(sequence.labels, dtype=np.int32).tobytes())
        return state.hexdigest()

    def framed(self, content: Sequence[int], number: int) -> TokenSequence:
        """A synthetic sequence: the content between special ids, with its class."""
        ids = np.array([*self.prefix, *content, *self.suffix], dtype=np.int32)
        labels = ids
        if self.labels:
            labels = np.full(len(ids), IGNORE, dtype=np.int32)
            labels[self.position] = number
        return TokenSequence(ids, labels, "", sequence_key(ids), next_token=not self.labels)


def read_texts(records: Iterable[Mapping[str, Any]], ctx: SynthesisContext) -> LabelledTexts:
    """All texts of the records.

    Raises:
        DataError: a task that predicts anything but one class per text, no text, a class without any.
    """
    task, tokenizer = ctx.task, ctx.tokenizer()
    if tokenizer is None:
        raise DataError(
            f"the task {type(task).__name__} reads no text; texts are matched with sequence-classification, or without "
            "a task (next token); for images use gradient-matching"
        )
    labels = () if task is None else tuple(task.labels)
    special = set(tokenizer.all_special_ids)
    sequences: list[TokenSequence] = []
    for index, record in enumerate(records):
        sequences += ctx.sequences({"document": f"record-{index + 1}", **record})
    if not sequences:
        raise DataError("the source has no text that makes a sequence: check its path and its fields")
    ends = [_ends(sequence.input_ids.tolist(), special) for sequence in sequences]
    contents = [tuple(s.input_ids.tolist()[a:b]) for s, (a, b) in zip(sequences, ends, strict=True)]
    first, (start, stop) = sequences[0].input_ids.tolist(), ends[0]
    classes = [_class(sequence) if labels else 0 for sequence in sequences]
    found = np.bincount([number for number, _ in classes] if labels else classes, minlength=max(1, len(labels)))
    if missing := [label for label, count in zip(labels, found, strict=False) if not count]:
        raise DataError(
            f"no text of the class {', '.join(missing[:5])}: nothing can be matched for it; add records, or take it "
            "out of task.labels"
        )
    positions = {place for _, place in classes} if labels else {0}
    if len(positions) > 1:
        raise DataError("classes stand at different places of the texts; expected the first token, or the last")
    allowed = sorted({one for content in contents for one in content} - special)
    return LabelledTexts(
        tuple(sequences),
        tuple(contents),
        torch.tensor([number for number, _ in classes] if labels else classes),
        labels,
        tuple(first[:start]),
        tuple(first[stop:]),
        torch.tensor(allowed),
        positions.pop(),
    )


def _ends(ids: list[int], special: set[int]) -> tuple[int, int]:
    """Where the content starts and stops."""
    inside = [place for place, one in enumerate(ids) if one not in special]
    return (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))


def _class(sequence: TokenSequence) -> tuple[int, int]:
    """The class of a sequence, and where it is predicted: 0 or -1."""
    (places,) = np.nonzero(sequence.labels != IGNORE)
    if len(places) != 1 or sequence.next_token or places[0] not in (0, len(sequence) - 1):
        raise DataError(
            f"document {sequence.document}: {len(places)} classes in one text, at the tokens {places[:5].tolist()}; "
            "expected one, at the first token or the last: use the task sequence-classification, or none (next token)"
        )
    return int(sequence.labels[places[0]]), 0 if places[0] == 0 else -1


@dataclass(frozen=True)
class Written:
    """A text that can be read again: its ids are those that the data stage makes of it."""

    text: str
    content: tuple[int, ...]


class Reader:
    """From ids to text and back, as the data stage reads it.

    Args:
        ctx: of the synthesis.
        texts: the real ones.
        length: most tokens.
        record: makes the record of a text and a class.
    """

    def __init__(
        self,
        ctx: SynthesisContext,
        texts: LabelledTexts,
        length: int,
        record: Callable[[str, int], dict[str, Any]],
    ) -> None:
        self.ctx, self.texts, self.length, self.record = ctx, texts, length, record
        self.tokenizer = ctx.tokenizer()
        self.special = set(self.tokenizer.all_special_ids)

    def written(self, content: Sequence[int], number: int) -> Written | str:
        """The text of some ids, repaired until it is read as it was written; else the reason why not.

        Ids that a tokenizer would not choose (two pieces that it would merge) become those that it does choose.
        """
        ids = tuple(content)
        for _ in range(ROUNDS):
            text = self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
            if not text.strip():
                return "empty"
            if REPLACEMENT in text:
                return "no characters"
            found = self.read(text, number)
            if found is None:
                return "not one sequence"
            if found == ids:
                return Written(text, ids) if len(ids) <= self.length else "too long"
            ids = found
        return "ids do not settle"

    def read(self, text: str, number: int) -> tuple[int, ...] | None:
        """The content's ids as the data stage makes them, None if it makes no sequence of it, or several."""
        made = self.ctx.sequences(self.record(text, number))
        if len(made) != 1:
            return None
        ids = made[0].input_ids.tolist()
        start, stop = len(self.texts.prefix), len(ids) - len(self.texts.suffix)
        framed = tuple(ids[:start]) == self.texts.prefix and tuple(ids[stop:]) == self.texts.suffix
        content = tuple(ids[start:stop])
        return content if framed and content and not self.special.intersection(content) else None
