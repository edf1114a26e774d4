"""Answers already written, kept on disk line by line, so that a killed run asks for none of them twice."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.errors import SignalError
from distill_core.files import append_line
from distill_core.interfaces import Generator
from distill_synthesis.asking.json_lines import whole_lines
from distill_synthesis.asking.ledger import Ledger, LedgerSpent, most_spent

FILE = "completions.jsonl"


class CompletionCache:
    """Asks a teacher for what the file does not hold; every answer is on disk before the next one is used.

    The key covers the teacher's identity, the whole request and all parameters. A last line without its end, which a
    kill may leave, is cut off.
    """

    def __init__(self, directory: Path, teacher: Generator) -> None:
        self.path, self.teacher = Path(directory) / FILE, teacher
        self.identity = teacher.identity()
        self.held = {row.pop("key"): Completion(**row) for row in whole_lines(self.path)}
        self.asked = 0

    def complete(
        self, requests: Sequence[GenerationRequest], parameters: GenerationParameters
    ) -> Iterator[tuple[GenerationRequest, Completion]]:
        """One completion per request, in their order.

        Raises:
            SignalError: the teacher gave another number of answers than it was asked for.
        """
        keys = self._keys(requests, parameters)
        wanted = [request for request in requests if keys[request.id] not in self.held]
        if wanted:
            self._complete_count(sum(1 for _ in self._written(wanted, parameters, keys)), len(wanted))
        for request in requests:
            yield request, self.held[keys[request.id]]

    def affordable(
        self, requests: Sequence[GenerationRequest], parameters: GenerationParameters, ledger: Ledger
    ) -> list[Completion | None]:
        """One completion per request, in their order; None for those that the budget does not cover.

        The most that a request can cost is reserved before it is asked, in the order of the requests, and settled when
        its answer is used. Where the next one does not fit, what is under way is finished first: it may turn out
        cheaper.

        Raises:
            SignalError: the teacher gave another number of answers than it was asked for.
        """
        keys = self._keys(requests, parameters)
        pending = deque(request for request in requests if keys[request.id] not in self.held)
        while pending and not ledger.closed:
            self._wave(pending, parameters, keys, ledger)
        return [self.held.get(keys[request.id]) for request in requests]

    def _wave(
        self,
        pending: deque[GenerationRequest],
        parameters: GenerationParameters,
        keys: Mapping[str, str],
        ledger: Ledger,
    ) -> None:
        """Asks for as much of ``pending`` as can be paid whatever it turns out to cost."""
        admitted = 0

        def affordable() -> Iterator[GenerationRequest]:
            nonlocal admitted
            while pending:
                request = pending[0]
                if not ledger.admit(keys[request.id], most_spent(self.teacher, request, parameters)):
                    return
                admitted += 1
                yield pending.popleft()

        answered = 0
        try:
            for completion in self._written(affordable(), parameters, keys):
                answered += 1
                ledger.settle(keys[completion.id], completion)
        except LedgerSpent:
            return
        self._complete_count(answered, admitted)
        if not admitted:
            ledger.close()

    def _written(
        self, requests: Iterable[GenerationRequest], parameters: GenerationParameters, keys: Mapping[str, str]
    ) -> Iterator[Completion]:
        for completion in self.teacher.generate(requests, parameters):
            text = completion.text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair fits no file
            kept = replace(completion, text=text, tokens=None)
            append_line(self.path, json.dumps({"key": keys[kept.id], **asdict(kept)}, ensure_ascii=False))
            self.held[keys[kept.id]] = kept
            self.asked += 1
            yield kept

    def _complete_count(self, answered: int, asked: int) -> None:
        if answered != asked:
            raise SignalError(f"the teacher {self.identity} gave {answered} answers to {asked} requests")

    def _keys(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> dict[str, str]:
        return {request.id: self._key(request, parameters) for request in requests}

    def _key(self, request: GenerationRequest, parameters: GenerationParameters) -> str:
        everything: Any = [self.identity, asdict(request), asdict(parameters)]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
