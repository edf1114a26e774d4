"""The synthesizer ``self-instruct``: new instructions in the manner of a few, then their answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_core.completions import Completion
from distill_core.errors import DataError
from distill_synthesis.generation.draws import sample
from distill_synthesis.generation.instruction_text import instruction_of, named, numbered_instructions
from distill_synthesis.generation.options import SelfInstructOptions
from distill_synthesis.generation.rouge import rouge_l, words
from distill_synthesis.generation.row import Check, MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable


class SelfInstruct(Synthesis):
    """Self-Instruct (2212.10560): a pool of instructions grows from seeds.

    Each prompt shows instructions of the source and of those already made, in random order; what is written is split
    into new ones. One that is like one of the pool (ROUGE-L), too short, too long, or speaks of images is dropped. The
    pool of a round is that of its beginning, so the order in which answers come changes nothing.

    Args:
        options: of the synthesizer.
    """

    NAME = "self-instruct"
    STEPS = ("instructions asked", "instructions", "novelty", "answers asked", "answers")

    def __init__(self, options: SelfInstructOptions) -> None:
        super().__init__(options)
        self.options = options
        banned = "|".join(re.escape(word) for word in options.banned_words)
        self.banned = re.compile(rf"\b(?:{banned})\b", re.I) if banned else None

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        """
        Raises:
            DataError: no record, or one without an instruction.
        """
        seeds = {one.name: instruction_of(one.record, document=one.document, who=self.NAME) for one in named(source)}
        if not seeds:
            raise DataError("self-instruct begins with instructions, but data.train.source has no record")
        made: dict[str, str] = {}
        known = {document: words(text) for document, text in seeds.items()}
        for start in range(0, self.options.requests, self.options.requests_per_round):
            if self.full:
                return
            numbers = range(start, min(start + self.options.requests_per_round, self.options.requests))
            new = self._new(seeds, made, numbers, known)
            made |= {row.document: row.prompt or "" for row in new}
            yield self.answered(new, self.options.answer, ask_as=self.options.answer_as)

    def _new(
        self, seeds: Mapping[str, str], made: Mapping[str, str], numbers: Iterable[int], known: dict[str, list[str]]
    ) -> list[MadeRow]:
        """Rows with instructions that are like none in ``known``, which gets theirs."""
        template = self.templates["instructions"]
        wishes = []
        for number in numbers:
            name = f"{self.NAME}-{number}"
            fresh = sample(self.seed, f"{name}/made", list(made), self.options.made_examples)
            old = sample(self.seed, f"{name}/seeds", list(seeds), self.options.seed_examples)
            shown = sample(self.seed, f"{name}/order", [*old, *fresh], len(old) + len(fresh))
            text = template.render(tasks=[seeds[one] if one in seeds else made[one] for one in shown])
            wishes.append(Wish(self.begin(name, parents=shown), self.request(name, text), template))
        found = []
        for row, completion in self.ask("instructions asked", wishes, self.parameters(), what="instruction"):
            for candidate in self._read(row, completion):
                reason, check = self._judged(candidate.prompt or "", known)
                if reason:
                    self.drop("novelty", candidate, reason, check)
                    continue
                known[candidate.document] = words(candidate.prompt or "")
                found.append(self.passed("novelty", candidate, check))
        return found

    def _read(self, row: MadeRow, completion: Completion) -> list[MadeRow]:
        """A row per instruction of the text; the last one is left out where it was cut."""
        texts = numbered_instructions(completion.text)
        if completion.finish_reason == "length":
            texts = texts[:-1]
        texts = texts[: self.options.instructions_per_request]
        if not texts:
            reason = unusable(completion) or "no instruction in the text"
            self.drop("instructions", replace(row, prompt=completion.text), reason)
            return []
        self.steps["instructions"].keep(len(texts))
        return [replace(row, document=f"{row.document}.{index}", prompt=text) for index, text in enumerate(texts)]

    def _judged(self, text: str, known: Mapping[str, Sequence[str]]) -> tuple[str, Check]:
        """Why an instruction is dropped (empty if it is not), and the check for its provenance."""
        own = words(text)
        count = len(text.split())
        nearest, likeness = "", 0.0
        reason = ""
        if not own or count < self.options.min_words:
            reason = f"too short: {count} words"
        elif count > self.options.max_words:
            reason = f"too long: {count} words"
        elif self.banned is not None and (word := self.banned.search(text)):
            reason = f"needs more than text: {word.group().lower()}"
        else:
            for document, other in known.items():
                if (score := rouge_l(own, other)) > likeness:
                    nearest, likeness = document, score
            if likeness >= self.options.max_similarity:
                reason = f"like one of the pool: {nearest}"
        return reason, Check("novelty", not reason, reason or f"nearest: {nearest}", likeness)
