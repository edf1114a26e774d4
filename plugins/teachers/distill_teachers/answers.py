"""The ``answers`` teacher: what people, or somebody else's model, wrote beforehand, from a file.

A JSONL file with one object per line: ``id`` or ``prompt`` (or both) and ``answer``; lines with the same id or prompt
are several answers to one question. Requests are matched by their id first, then by their prompt's exact text.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from distill_core.completions import (
    Completion,
    GenerationParameters,
    GenerationRequest,
    GenerationTally,
    Spending,
    as_messages,
    request_seed,
    unique_requests,
)
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.types import Needs, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.options import AnswersOptions

Question = tuple[str, str]
"""``("id", ...)`` or ``("prompt", ...)``."""


class AnswersTeacher:
    """Answers from a file; nothing is computed.

    Args:
        options: ``path`` and the names of the fields.
    """

    def __init__(self, options: AnswersOptions) -> None:
        self.options = options
        self.path = Path(options.path).expanduser()
        self.tally = GenerationTally()

    def identity(self) -> str:
        """Hash of the file's content."""
        return f"answers-sha256:{hashlib.sha256(self._content).hexdigest()[:32]}"

    def vocabulary(self) -> VocabularyInfo:
        """Raises:
        SignalError: text has no vocabulary.
        """
        raise SignalError(f"the answers in {self.path} are text and have no vocabulary: set student.tokenizer")

    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Nothing but the empty answer to no need.

        Raises:
            SignalError: any signal.
        """
        if needs.signals:
            raise SignalError(
                f"the answers in {self.path} are text: they give no {sorted(needs.signals)}. Train on them as data "
                "(cross-entropy), or use a teacher with probabilities, e.g. hf"
            )
        return TeacherSignals()

    @cached_property
    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise DataError(f"the answers {self.path} cannot be read: {error.strerror}") from None

    @cached_property
    def _answers(self) -> dict[Question, list[str]]:
        """Answers in the order of the file."""
        found: dict[Question, list[str]] = {}
        for number, line in enumerate(self._content.split(b"\n"), start=1):
            if not line.strip():
                continue
            record = self._record(number, line)
            answer = record.get(self.options.answer_field)
            names = (("id", self.options.id_field), ("prompt", self.options.prompt_field))
            questions = [(kind, str(record[field])) for kind, field in names if record.get(field) is not None]
            if not isinstance(answer, str) or not questions:
                raise DataError(
                    f"{self.path}, line {number}: expected {self.options.answer_field!r} (text) and "
                    f"{self.options.id_field!r} or {self.options.prompt_field!r}, received the fields {sorted(record)}"
                )
            for question in questions:
                found.setdefault(question, []).append(answer)
        if not found:
            raise DataError(f"{self.path} holds no answers")
        return found

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{self.path}, line {number}: no JSON ({error})") from None
        if not isinstance(record, dict):
            raise DataError(f"{self.path}, line {number}: a JSON {type(record).__name__}, expected an object")
        return record

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """The kept answer of each request; of several, the first at temperature 0, else one drawn by its seed.

        ``max_new_tokens`` and ``stop`` do not cut what people wrote. Log-probabilities there are none.

        Raises:
            SignalError: a question without an answer (all that follow are not looked at), or log-probabilities asked.
        """
        if parameters.top_logprobs:
            raise SignalError(
                f"the answers in {self.path} have no log-probabilities: top_logprobs = {parameters.top_logprobs} was "
                "asked for, expected 0"
            )
        for request in unique_requests(requests):
            started_s = time.monotonic()
            answers = self._find(request)
            chosen = 0
            if parameters.temperature > 0:
                chosen = request_seed(parameters.seed, request.id) % len(answers)
            completion = Completion(id=request.id, text=answers[chosen])
            self.tally.seconds += time.monotonic() - started_s
            self.tally.add(completion)
            yield completion

    def most_spent(self, request: GenerationRequest, parameters: GenerationParameters) -> Spending:
        """Nothing: nothing is computed."""
        return Spending(0)

    def _find(self, request: GenerationRequest) -> list[str]:
        prompt = request.prompt if request.prompt is not None else as_messages(request)[-1].get("content", "")
        for question in (("id", request.id), ("prompt", prompt)):
            if question in self._answers:
                return self._answers[question]
        raise SignalError(
            f"{self.path} has no answer to request {request.id!r} (prompt {prompt[:60]!r}): neither its id nor its "
            "exact prompt is there. Add a line for it, or ask fewer questions"
        )
