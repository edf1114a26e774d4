"""The synthesizer ``rejection-sampling``: several answers per question, of which a checker accepts some."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from distill_core.completions import Completion
from distill_core.errors import DataError
from distill_core.interfaces import SynthesisContext
from distill_synthesis.generation.instruction_text import Named, named
from distill_synthesis.generation.options import RejectionSamplingOptions
from distill_synthesis.generation.row import Check, MadeRow
from distill_synthesis.generation.synthesis import Synthesis, Wish, unusable


class RejectionSampling(Synthesis):
    """Answers that are right (as in STaR, 2203.14465): the teacher samples, a checker accepts.

    Of the accepted ones ``keep`` different ones stay, shortest first.

    Args:
        options: of the synthesizer.
    """

    NAME = "rejection-sampling"
    STEPS = ("answers asked", "answers", "checker", "choice")

    def __init__(self, options: RejectionSamplingOptions) -> None:
        super().__init__(options)
        self.options = options
        self.pattern = None if options.answer_pattern is None else re.compile(options.answer_pattern)

    def build(self, ctx: SynthesisContext) -> None:
        super().build(ctx)
        reference = self.options.checker
        self.checker = ctx.build("checker", {"use": reference.use, **reference.options})

    def rows(self, source: Iterable[Mapping[str, Any]]) -> Iterator[Sequence[MadeRow]]:
        """
        Raises:
            DataError: a record without the question, or without what the checker needs.
        """
        records = named(source)
        size = max(1, self.options.window // self.options.samples)
        while not self.full and (window := list(islice(records, min(size, self.window())))):
            accepted: dict[str, list[MadeRow]] = {}
            for row, completion in self.ask("answers asked", self._wishes(window), self.parameters(), what="answer"):
                judged = self._judged(row, completion)
                if judged is not None:
                    accepted.setdefault(row.document.rpartition("/")[0], []).append(judged)
            yield [row for rows in accepted.values() for row in self._chosen(rows)]

    def _wishes(self, window: Sequence[Named]) -> list[Wish]:
        template = self.templates["sampled_answer"]
        wishes = []
        for one in window:
            document, record = one.document, one.record
            question = record.get(self.options.field)
            if not isinstance(question, str) or not question.strip():
                raise DataError(
                    f"rejection-sampling: document {document} has no question in the field {self.options.field!r} "
                    f"(received {question!r:.60}; its fields: {', '.join(sorted(record))}): name the field with `field`"
                )
            self.checker.check(record, "")  # says at once what the record lacks, before anything is paid for
            text = template.render(question=question.strip(), record=record)
            for draw in range(self.options.samples):
                name = f"{one.name}/answer-{draw}"
                row = self.begin(name, parents=[document], prompt=question.strip(), kept=record)
                wishes.append(Wish(row, self.request(name, text), template))
        return wishes

    def _judged(self, row: MadeRow, completion: Completion) -> MadeRow | None:
        """The row with its answer, if the checker accepts it."""
        row = replace(row, completion=completion.text.strip(), system=self.options.system)
        answer = completion.text
        reason = unusable(completion)
        if not reason and self.pattern is not None:
            found = self.pattern.search(completion.text)
            answer = "" if found is None else found["answer"] or ""
            reason = "" if answer.strip() else "no answer in the text"
        if reason:
            self.drop("answers", row, reason)
            return None
        self.passed("answers", row)
        verdict = self.checker.check(row.kept, answer)
        right = verdict.score >= self.options.accept
        check = Check(self.options.checker.use, right, verdict.reason, verdict.score)
        if not right:
            self.drop("checker", row, verdict.reason or "score below accept", check)
            return None
        return self.passed("checker", row, check)

    def _chosen(self, rows: Sequence[MadeRow]) -> list[MadeRow]:
        """``keep`` different ones, shortest first; the order of the samples among equally long ones."""
        different: dict[str, MadeRow] = {}
        for row in rows:
            same = " ".join((row.completion or "").split())
            if same in different:
                self.drop("choice", row, "same as another")
            else:
                different[same] = row
        ordered = sorted(different.values(), key=lambda row: len(row.completion or ""))
        for row in ordered[self.options.keep :]:
            self.drop("choice", row, "beyond keep")
        return [self.passed("choice", row) for row in ordered[: self.options.keep]]
