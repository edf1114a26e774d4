"""A teacher that writes what a function says, with counted tokens, prices and interruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest, Spending, as_messages
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry

Answer = str | tuple[str, str]
"""A text, or a text and its finish reason."""


class Scribe:
    """Answers ``write(request)``; a word is a token, read and written, and costs ``price``.

    Args:
        write: from a request to its answer.
        ahead: requests taken before the first of them is answered.
        die_after: answers after which it is interrupted.
        price: of a token.
    """

    def __init__(
        self,
        write: Callable[[GenerationRequest], Answer],
        *,
        ahead: int = 4,
        die_after: int | None = None,
        price: float = 0.0,
    ) -> None:
        self.write, self.ahead, self.die_after, self.price = write, ahead, die_after, price
        self.asked: list[GenerationRequest] = []
        self.parameters: list[GenerationParameters] = []
        self.paid = 0

    def identity(self) -> str:
        return "scribe@1"

    def most_spent(self, request: GenerationRequest, parameters: GenerationParameters) -> Spending:
        most = len(prompt_of(request).split()) + parameters.max_new_tokens
        return Spending(most, most * self.price)

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        taken: list[GenerationRequest] = []
        for request in requests:
            taken.append(request)
            if len(taken) == self.ahead:
                yield from self._answers(taken, parameters)
                taken = []
        yield from self._answers(taken, parameters)

    def _answers(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            self.parameters.append(parameters)
            given = self.write(request)
            text, reason = (given, "stop") if isinstance(given, str) else given
            read, written = len(prompt_of(request).split()), min(len(text.split()), parameters.max_new_tokens)
            self.paid += read + written
            yield Completion(request.id, text, reason, read, written, cost=(read + written) * self.price)


def prompt_of(request: GenerationRequest) -> str:
    """The text that is asked with."""
    return as_messages(request)[-1]["content"]


def context(teacher: Any, seed: int = 0) -> SynthesisContext:
    return SynthesisContext(seed, get_registry().build, lambda name: teacher, lambda: None, lambda text: None)


def made(
    name: str, teacher: Any, directory: Path, source: Iterable[Mapping[str, Any]] = (), *, seed: int = 0, **options: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The records that a synthesizer makes, and its summary, whose funnel is checked."""
    synthesizer = get_registry().build("synthesizer", {"use": name, **options})
    synthesizer.build(context(teacher, seed))
    records = list(synthesizer.synthesize(iter(source), directory))
    summary = synthesizer.summary()
    adds_up(summary["funnel"], len(records))
    return records, summary


def adds_up(funnel: list[dict[str, Any]], rows: int) -> None:
    """Every step explains what it lost, hands on the rest to the next one, and the last one leaves the rows."""
    for step in funnel:
        assert step["in"] + step.get("made", 0) == step["out"] + sum(step["reasons"].values()), step
    for before, after in pairwise(funnel):
        assert before["out"] == after["in"], (before, after)
    assert funnel[-1]["out"] == rows, funnel


def step(summary: Mapping[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in summary["funnel"] if one["step"] == name)
