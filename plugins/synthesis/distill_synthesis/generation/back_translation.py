"""The synthesizer ``back-translation``: an instruction is guessed for a text that exists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from distill_core.completions import GenerationParameters
from distill_core.errors import DataError
from distill_synthesis.generation.instruction_text import Named, named, plain_instruction
from distill_synthesis.generation.options import BackTranslationOptions
from distill_synthesis.generation.row import Check, MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable


class BackTranslation(Synthesis):
    """Instruction back-translation (Humpback, 2308.06259): people wrote the answers, the teacher the instructions.

    With ``min_score`` the teacher also scores each pair from 1 to 5, and only good ones stay (self-curation).

    Args:
        options: of the synthesizer.
    """

    NAME = "back-translation"
    STEPS = ("texts", "instructions asked", "instructions", "scores asked", "scores")

    def __init__(self, options: BackTranslationOptions) -> None:
        super().__init__(options)
        self.options = options
        self.pattern = re.compile(options.score_pattern)

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        """
        Raises:
            DataError: a record without the text.
        """
        records = named(source)
        while not self.full and (window := list(islice(records, self.window()))):
            begun = [row for one in window if (row := self._begun(one)) is not None]
            yield self._scored(self._instructions(begun))

    def _begun(self, one: Named) -> MadeRow | None:
        document, record = one.document, one.record
        text = record.get(self.options.field)
        if not isinstance(text, str) or not text.strip():
            raise DataError(
                f"back-translation: document {document} has no text in the field {self.options.field!r} (received "
                f"{text!r:.60}; its fields: {', '.join(sorted(record))}): name the field with `field`"
            )
        row = self.begin(f"{one.name}/instruction", parents=[document], completion=text.strip(), kept=record)
        if len(text) > self.options.max_characters:
            self.drop("texts", row, f"too long: {len(text)} characters")
            return None
        return self.passed("texts", row)

    def _instructions(self, rows: Sequence[MadeRow]) -> list[MadeRow]:
        template = self.templates["back_translation"]
        wishes = [Wish(row, self.request(row.document, template.render(text=row.completion)), template) for row in rows]
        found = []
        for row, completion in self.ask("instructions asked", wishes, self.parameters(), what="instruction"):
            row = replace(row, prompt=plain_instruction(completion.text), system=self.options.system)
            reason = unusable(completion) or ("" if row.prompt else "empty")
            if reason:
                self.drop("instructions", row, reason)
            else:
                found.append(self.passed("instructions", row))
        return found

    def _scored(self, rows: Sequence[MadeRow]) -> list[MadeRow]:
        """Those that the teacher finds good; all of them where nothing is scored."""
        if self.options.min_score is None:
            for row in rows:
                self.passed("scores asked", row)
                self.passed("scores", row)
            return list(rows)
        template = self.templates["curation"]
        wishes = [
            Wish(
                row,
                self.request(f"{row.document}#score", template.render(instruction=row.prompt, answer=row.completion)),
                template,
            )
            for row in rows
        ]
        found = []
        parameters = GenerationParameters(max_new_tokens=16, seed=self.seed)
        for row, completion in self.ask("scores asked", wishes, parameters, what="score"):
            match = self.pattern.search(completion.text)
            if match is None or not match["score"].strip().isdigit():
                reason = f"unparsable score: {completion.text.strip()[:60]!r}"
                self.drop("scores", row, reason, Check("score", False, reason))
                continue
            score = int(match["score"])
            reason = "" if score >= self.options.min_score else f"score too low: {score}"
            check = Check("score", not reason, reason, score)
            if reason:
                self.drop("scores", row, reason, check)
            else:
                found.append(self.passed("scores", row, check))
        return found
