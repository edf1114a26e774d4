"""The ``decontamination`` filter: no record that holds a passage of an evaluation set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill_core.errors import DataError
from distill_core.interfaces import FilterContext
from distill_synthesis.filters.options import DecontaminationOptions
from distill_synthesis.filters.record_text import document_of, text_of
from distill_synthesis.filters.words import words


@dataclass(frozen=True)
class EvaluationDocument:
    """A document of an evaluation set: how many different n-grams it has."""

    set_name: str
    document: str
    grams: int


class Decontamination:
    """Drops a record that shares word n-grams with named evaluation sets.

    An overlap of 13 normalised words, as in GPT-3 (2005.14165, appendix C). The share is of the evaluation document's
    different n-grams, so that a short question inside a long record counts in full. Where several documents are hit,
    the reason names the one with the greatest share, the first of equals.
    """

    def __init__(self, options: DecontaminationOptions) -> None:
        self.options = options
        self._documents: list[EvaluationDocument] = []
        self._holders: dict[int, dict[tuple[str, ...], list[int]]] = {}  # by length in words, then by n-gram

    def build(self, ctx: FilterContext) -> None:
        """Reads the evaluation sets.

        Raises:
            DataError: a set without any document that is long enough.
        """
        for name, reference in self.options.against.items():
            source = ctx.build("source", {"use": reference.use, **reference.options})
            self.add(name, source.records(), ctx)

    def add(self, name: str, records: Iterator[Mapping[str, Any]], ctx: FilterContext) -> None:
        """An evaluation set."""
        found = passed_over = 0
        for number, record in enumerate(records, start=1):
            text = words(text_of(record))
            n = min(self.options.ngram, len(text))
            if n < min(self.options.ngram, self.options.shortest_words):
                passed_over += 1
                continue
            found += 1
            grams = dict.fromkeys(tuple(text[i : i + n]) for i in range(len(text) - n + 1))
            holders = self._holders.setdefault(n, defaultdict(list))
            for gram in grams:
                holders[gram].append(len(self._documents))
            self._documents.append(EvaluationDocument(name, document_of(record, number), len(grams)))
        if not found:
            raise DataError(
                f"decontamination: the evaluation set {name} has no document of {self.options.shortest_words} words or "
                f"more ({passed_over} shorter ones): nothing could be found; look at its source, or lower "
                "shortest_words"
            )
        if passed_over:
            ctx.say(
                f"decontamination: {passed_over} documents of {name} are shorter than {self.options.shortest_words} "
                f"words and are not looked for, {found} are"
            )

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        if not self._documents:
            raise RuntimeError("decontamination reads evaluation sets: call build(ctx) first")
        text = words(text_of(record, self.options.part))
        hits: Counter[int] = Counter()
        first: dict[int, tuple[str, ...]] = {}
        for gram, holders in self._found(text):
            for holder in holders:
                hits[holder] += 1
                first.setdefault(holder, gram)
        shares = {holder: count / self._documents[holder].grams for holder, count in hits.items()}
        over = {holder: share for holder, share in shares.items() if share > self.options.share}
        if not over:
            return None
        holder = min(over, key=lambda one: (-over[one], one))
        document = self._documents[holder]
        return (
            f"in {document.set_name}: document {document.document}, {over[holder]:.0%} of its n-grams, "
            f'e.g. "{" ".join(first[holder])}"'
        )

    def _found(self, text: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """Each different n-gram of the text that an evaluation document has, with those documents."""
        for n, holders in self._holders.items():
            seen = set()
            for i in range(len(text) - n + 1):
                gram = tuple(text[i : i + n])
                if gram in holders and gram not in seen:
                    seen.add(gram)
                    yield gram, holders[gram]
