"""The ``judge`` filter: a teacher scores records by a rubric."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.errors import SignalError
from distill_core.interfaces import FilterContext
from distill_synthesis.asking.completion_cache import CompletionCache
from distill_synthesis.filters.model_options import JudgeOptions
from distill_synthesis.filters.record_text import encodable
from distill_synthesis.filters.rubric import Rubric

DIRECTORY = "judge"


class Judge:
    """Drops a record whose score is too low (a model as a judge: 2306.05685).

    The most likely answer is taken (temperature 0) and must be a score from end to end: one that is not, or lies off
    the scale, is ``unparsable``, a reason of its own. Answers are on disk before they are used, by what was asked and
    whom, so nothing is asked twice, be it after an interruption or under another threshold.
    """

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self.batch_records = options.batch_records
        self.rubric = Rubric(None if options.rubric is None else Path(options.rubric).expanduser())
        self.pattern = re.compile(options.score_pattern)
        self.parameters = GenerationParameters(max_new_tokens=options.max_new_tokens)
        self.cache: CompletionCache | None = None

    def build(self, ctx: FilterContext) -> None:
        """
        Raises:
            SignalError: the teacher cannot write.
        """
        teacher = ctx.teacher(self.options.teacher)
        if not callable(getattr(teacher, "generate", None)):
            raise SignalError(
                f"judge asks a teacher for text, but {teacher.identity()} has no generate(): name a teacher that gives "
                "the signal `text`"
            )
        directory = ctx.directory / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        self.cache = CompletionCache(directory, teacher)

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        if self.cache is None:
            raise RuntimeError("judge asks a teacher: call build(ctx) first")
        asked = [self._request(record) for record in records]
        requests = {request.id: request for request in asked}  # equal questions are asked once
        answers = {request.id: one.text for request, one in self.cache.complete([*requests.values()], self.parameters)}
        return [self._reason(answers[request.id]) for request in asked]

    def _request(self, record: Mapping[str, Any]) -> GenerationRequest:
        question = encodable(
            self.rubric.render(record, part=self.options.part, low=self.options.low, high=self.options.high)
        )
        name = "judge-" + hashlib.sha256(question.encode()).hexdigest()[:32]
        if self.options.chat:
            return GenerationRequest(name, messages=({"role": "user", "content": question},))
        return GenerationRequest(name, prompt=question)

    def _reason(self, answer: str) -> str | None:
        score = self.score(answer)
        if score is None:
            return None if self.options.unparsable == "keep" else f"unparsable score: {answer.strip()[:80]!r}"
        if score < self.options.min_score:
            return f"score too low: {score:g}, at least {self.options.min_score:g}"
        return None

    def score(self, answer: str) -> float | None:
        """The score that an answer is; None where it is none on the scale."""
        match = self.pattern.fullmatch(answer)
        try:
            score = float(match["score"]) if match else None
        except (TypeError, ValueError):  # a pattern of the user's own may match what is no number
            return None
        return score if score is not None and self.options.low <= score <= self.options.high else None
