"""Understanding a server's answer: text, usage, and log-probabilities in the forms that servers use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PARSER_VERSION = 1
"""Part of every key: raise it whenever an answer would be read differently."""


class Unreadable(ValueError):
    """An answer that is JSON, but not of the form that the protocol promises."""


@dataclass(frozen=True)
class Shown:
    """A token as a server shows it.

    Args:
        text: its text, or ``token_id:123``.
        logprob: nat; None where the server gives none (the first token of a prompt).
        content: its exact bytes, if the server gives them.
    """

    text: str
    logprob: float | None
    content: bytes | None = None


@dataclass(frozen=True)
class Position:
    """A listed token and the entries listed with it; None: the server lists none there."""

    token: Shown
    top: tuple[Shown, ...] | None


@dataclass(frozen=True)
class ReadAnswer:
    """What an answer says.

    Args:
        text: written text (with the prompt in front if it was echoed).
        finish_reason: as the server says.
        prompt_tokens: read; None if the server does not say.
        completion_tokens: written; None if the server does not say.
        positions: listed tokens; None if the server lists none.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    positions: tuple[Position, ...] | None


def read_answer(body: Mapping[str, Any]) -> ReadAnswer:
    """Read an answer of either endpoint.

    Raises:
        Unreadable: a field is missing or of another type.

    >>> read_answer({"choices": [{"text": " Paris", "finish_reason": "length"}]}).text
    ' Paris'
    """
    try:
        (choice,) = body["choices"]
        message = choice.get("message")
        text = choice["text"] if message is None else (message.get("content") or "")
        usage = body.get("usage") or {}
        return ReadAnswer(
            text=_typed(text, str),
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=_count(usage.get("prompt_tokens")),
            completion_tokens=_count(usage.get("completion_tokens")),
            positions=_positions(choice.get("logprobs")),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unreadable(f"{type(error).__name__}: {error}") from None


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.60} is no {kind.__name__}")
    return value


def _count(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r:.60} is no number of tokens")
    return value


def _positions(listed: Any) -> tuple[Position, ...] | None:
    if not listed:
        return None
    if listed.get("content") is not None:
        return tuple(_chat_position(entry) for entry in listed["content"])
    if listed.get("tokens") is None:
        return None
    tokens, logprobs, tops = listed["tokens"], listed.get("token_logprobs"), listed.get("top_logprobs")
    logprobs = [None] * len(tokens) if logprobs is None else logprobs
    tops = [None] * len(tokens) if tops is None else tops
    return tuple(
        Position(Shown(_typed(token, str), _logprob(logprob)), _completion_top(top))
        for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
    )


def _completion_top(top: Any) -> tuple[Shown, ...] | None:
    if top is None:
        return None
    return _sorted([Shown(_typed(text, str), _logprob(logprob)) for text, logprob in top.items()])


def _chat_position(entry: Mapping[str, Any]) -> Position:
    top = entry.get("top_logprobs")
    return Position(_chat_token(entry), None if top is None else _sorted([_chat_token(one) for one in top]))


def _chat_token(entry: Mapping[str, Any]) -> Shown:
    content = entry.get("bytes")
    return Shown(_typed(entry["token"], str), _logprob(entry["logprob"]), None if content is None else bytes(content))


def _logprob(value: Any) -> float | None:
    """A log-probability; servers write an impossible token as -9999 or so."""
    if value is None:
        return None
    number = float(value)
    if math.isnan(number) or number > 1e-3:
        raise ValueError(f"{value!r:.60} is no log-probability")
    return -math.inf if number <= -1000 else min(number, 0.0)


def _sorted(entries: list[Shown]) -> tuple[Shown, ...]:
    return tuple(sorted(entries, key=lambda shown: -math.inf if shown.logprob is None else -shown.logprob))
