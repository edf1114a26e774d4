"""Written text: what is asked of a teacher that can write, and what it answers. Standard library only.

A teacher that writes declares the signal ``"text"`` and has ``generate(requests, parameters)``
(:class:`distill_core.interfaces.Generator`). Log-probabilities are natural and those of the model itself, at
temperature 1 and before any cut by ``top_p``, whatever the text was sampled with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from distill_core.errors import DataError

TEXT = "text"
"""Name of the signal: among ``provides.signals`` of teachers that write, among ``needs.signals`` of who asks them."""


@dataclass(frozen=True)
class GenerationRequest:
    """One thing to be written: a continuation of ``prompt``, or the next turn after ``messages``.

    Args:
        id: names the answer, unique among the requests of a call. Random numbers depend on it, so ten samples of one
            prompt are ten requests with ids of their own.
        prompt: plain text.
        messages: chat turns, mappings with ``role`` and ``content``.

    Raises:
        ValueError: none or both of ``prompt`` and ``messages``, or no id.

    >>> GenerationRequest("q1", prompt="The capital of France is").id
    'q1'
    """

    id: str
    prompt: str | None = None
    messages: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise ValueError("a GenerationRequest needs an id: it names the answer and seeds its random numbers")
        if (self.prompt is None) == (not self.messages):
            given = "both" if self.messages else "none"
            raise ValueError(f"request {self.id!r}: give either prompt (text) or messages (chat turns), not {given}")


@dataclass(frozen=True)
class GenerationParameters:
    """How to write.

    Args:
        max_new_tokens: tokens at most.
        temperature: 0: the most likely token each time; else softmax temperature of the sample.
        top_p: the sample is drawn from the smallest set of tokens with this probability; 1: from all.
        stop: texts that end the answer; they are not part of it.
        top_logprobs: log-probabilities listed for each written token; 0: none, and no tokens are listed.
        seed: of all random numbers, combined with each request's id.

    Raises:
        ValueError: a number out of its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    top_logprobs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}; expected at least 1")
        if not self.temperature >= 0:
            raise ValueError(f"temperature is {self.temperature}; expected 0 (the most likely token) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected more than 0 and at most 1")
        if self.top_logprobs < 0:
            raise ValueError(f"top_logprobs is {self.top_logprobs}; expected 0 (none) or more")
        if "" in self.stop:
            raise ValueError("stop holds an empty text, which would end every answer at once")


@dataclass(frozen=True)
class TokenLogprob:
    """A token and its natural log-probability.

    Args:
        text: as the teacher shows it; a part of a multi-byte character may show as U+FFFD or nothing.
        logprob: nat.
        id: in the teacher's vocabulary; None where the text does not tell it exactly.
    """

    text: str
    logprob: float
    id: int | None = None


@dataclass(frozen=True)
class WrittenToken(TokenLogprob):
    """A token of an answer with the most likely ones in its place, most likely first."""

    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        id: the request's.
        text: what was written, without the prompt and without the text or token that ended it.
        finish_reason: ``stop`` (an end token or a stop text), ``length`` (``max_new_tokens`` or the context), or what a
            server says.
        prompt_tokens: tokens read; 0 where nobody counted.
        completion_tokens: tokens written; 0 where nobody counted.
        tokens: the written tokens, if ``top_logprobs`` asked for them and the teacher can tell; they may reach into
            the stop text. None: not known.
        cost: what it cost, in the currency of the teacher's prices.
        cached: answered without asking.
    """

    id: str
    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    tokens: tuple[WrittenToken, ...] | None = None
    cost: float = 0.0
    cached: bool = False


@dataclass(frozen=True)
class Spending:
    """What asking costs.

    Args:
        tokens: read and written.
        cost: in the currency of the teacher's prices.
    """

    tokens: int
    cost: float = 0.0


@dataclass
class GenerationTally:
    """What a teacher has written so far; a teacher keeps one as ``tally``.

    Args:
        requests: answers given.
        cached: of these, answered without asking.
        prompt_tokens: tokens read for the others.
        completion_tokens: tokens written for the others.
        cost: of the others, in the currency of the teacher's prices.
        seconds: wall-clock time spent in writing.
    """

    requests: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """Written tokens per second of wall-clock time, reading included; 0 before anything was written."""
        return self.completion_tokens / self.seconds if self.seconds > 0 else 0.0

    def add(self, completion: Completion) -> None:
        """Count one answer (its time is the teacher's to add)."""
        self.requests += 1
        self.cached += completion.cached
        if not completion.cached:
            self.prompt_tokens += completion.prompt_tokens
            self.completion_tokens += completion.completion_tokens
            self.cost += completion.cost


def unique_requests(requests: Iterable[GenerationRequest]) -> Iterator[GenerationRequest]:
    """The requests as they come.

    Raises:
        DataError: an id occurs a second time.
    """
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise DataError(
                f"two requests have the id {request.id!r}: answers and random numbers are told apart by it, so give "
                "each its own (for several samples of a prompt e.g. q1#0, q1#1)"
            )
        seen.add(request.id)
        yield request


def request_seed(seed: int, request_id: str) -> int:
    """Seed of one request, 31 bits: a hash of the call's seed and the id, the same in every process and batch.

    >>> request_seed(0, "q1") == request_seed(0, "q1") != request_seed(0, "q2")
    True
    """
    digest = hashlib.blake2b(f"{seed}:{request_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 33


def uniform(seed: int, step: int) -> float:
    """A uniform number in [0, 1), keyed by seed and step: sampling does not depend on what else is in a batch.

    >>> 0 <= uniform(3, 0) < 1
    True
    """
    digest = hashlib.blake2b(f"{seed}:{step}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / float(1 << 53)


def as_messages(request: GenerationRequest) -> list[dict[str, str]]:
    """The request as chat turns: a plain prompt becomes the user's only turn.

    >>> as_messages(GenerationRequest("q", prompt="Hello"))
    [{'role': 'user', 'content': 'Hello'}]
    """
    if request.messages:
        return [dict(message) for message in request.messages]
    return [{"role": "user", "content": request.prompt or ""}]
