"""From a record to token sequences: text is cut, prompts are masked, messages go through the chat template.

A record may carry ``weight``, a number: the weight of all its tokens in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from distill_core.errors import DataError
from distill_core.pieces import CutRecord, Piece

FORMS = "`text`, `prompt` and `completion`, `parts`, or `messages`"


class Cutting(Protocol):
    """How records become sequences; the fields of ``data`` in a run file that say so."""

    @property
    def sequence_length_tokens(self) -> int: ...

    @property
    def min_sequence_tokens(self) -> int: ...

    @property
    def overlong(self) -> str: ...

    @property
    def add_bos(self) -> bool: ...


@dataclass(frozen=True)
class Part:
    """A stretch of a sequence: its ids, whether they are predicted, their weight in the loss."""

    ids: list[int]
    predict: bool
    weight: float = 1.0


def cut_record(record: Mapping[str, Any], *, tokenizer: Any, data: Cutting, document: str) -> CutRecord:
    """Token sequences of one record.

    A ``text`` longer than a sequence becomes consecutive sequences, each starting at position 0. The prompt of
    ``prompt`` + ``completion`` and everything but the assistant's answers in ``messages`` is not predicted, and such
    a record is one sequence: its end may be cut, its prompt never. ``parts`` says it stretch by stretch:
    ``[{"text": ..., "predict": true, "weight": 1.0}, ...]``, each encoded by itself, EOS after the last one.

    Raises:
        DataError: a field of the wrong type, no known form, or a record too long for what ``overlong`` allows.
    """
    weight = weight_of(record, document)
    if "messages" in record:
        return _masked(_message_parts(record, tokenizer, document, weight), tokenizer, data, document)
    if "parts" in record:
        return _masked(_own_parts(record, tokenizer, document, weight), tokenizer, data, document)
    if "prompt" in record and "completion" in record:
        prompt, completion = _text(record, "prompt", document), _text(record, "completion", document)
        answer = _with_eos(_encode(tokenizer, completion), tokenizer)
        parts = [Part(_encode(tokenizer, prompt), False), Part(answer, True, weight)]
        return _masked(parts, tokenizer, data, document)
    if "text" in record:
        cut = _plain(_encode(tokenizer, _text(record, "text", document)), tokenizer, data, document)
        if weight == 1:
            return cut
        return CutRecord([Piece(p.input_ids, None, [weight] * len(p.input_ids)) for p in cut.pieces], cut.dropped)
    raise DataError(
        f"document {document}: a record needs {FORMS}; received the fields {sorted(record)}. What a source keeps of a "
        "row is named in its options: `text: FIELD`, `prompt` and `completion`, or `messages`, beside `fields`"
    )


def _text(record: Mapping[str, Any], field: str, document: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"document {document}: `{field}` must be a string, received {type(value).__name__}")
    return encodable_text(value, field, document)


def encodable_text(text: str, field: str, document: str) -> str:
    """The text, if it can be written as UTF-8: half of a surrogate pair, as JSON may hold it, is no character.

    Raises:
        DataError: it cannot.

    >>> encodable_text("naïve", "text", "d")
    'naïve'
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = ascii(text[max(0, error.start - 20) : error.start + 20])
        raise DataError(
            f"document {document}: `{field}` holds half of a surrogate pair, {text[error.start]!a} at character "
            f"{error.start} ({around}), which is no text and which no tokenizer takes: write the pair as one "
            "character, put another in its place, or leave the record out"
        ) from None
    return text


def weight_of(record: Mapping[str, Any], document: str) -> float:
    weight = record.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise DataError(f"document {document}: `weight` must be a number from 0, received {weight!r}")
    return float(weight)


def _own_parts(record: Mapping[str, Any], tokenizer: Any, document: str, weight: float) -> list[Part]:
    """``parts`` of a record; the record's own weight multiplies theirs."""
    given = record["parts"]
    if not isinstance(given, list) or not given or not all(isinstance(part, Mapping) for part in given):
        raise DataError(
            f"document {document}: `parts` must be a list of {{text, predict, weight}}, received {str(given)[:80]}"
        )
    parts = []
    for index, part in enumerate(given):
        unknown = sorted(set(part) - {"text", "predict", "weight"})
        if unknown or not isinstance(part.get("predict", True), bool):
            raise DataError(
                f"document {document}: parts[{index}] takes text, predict (true or false) and weight, received "
                f"{dict(part)!r:.120}"
            )
        ids = _encode(tokenizer, _text(part, "text", f"{document}, parts[{index}]"))
        predict = part.get("predict", True)
        if predict and index == len(given) - 1:
            ids = _with_eos(ids, tokenizer)
        parts.append(Part(ids, predict, weight * weight_of(part, f"{document}, parts[{index}]")))
    return parts


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _with_eos(ids: list[int], tokenizer: Any) -> list[int]:
    """A completion ends where the student must stop: with EOS, if the tokenizer has one."""
    eos = tokenizer.eos_token_id
    return ids if eos is None or (ids and ids[-1] == eos) else [*ids, eos]


def bos_prefix(tokenizer: Any, data: Cutting) -> list[int]:
    """The ids every sequence starts with."""
    if not data.add_bos:
        return []
    if tokenizer.bos_token_id is None:
        raise DataError("data.add_bos is true, but the tokenizer has no BOS token: set it to false")
    return [tokenizer.bos_token_id]


def _plain(ids: list[int], tokenizer: Any, data: Cutting, document: str) -> CutRecord:
    prefix = bos_prefix(tokenizer, data)
    room = data.sequence_length_tokens - len(prefix)
    if len(ids) > room and data.overlong == "error":
        _refuse(document, len(ids) + len(prefix), data)
    pieces, dropped = [], []
    for start in range(0, len(ids), room):
        piece = prefix + ids[start : start + room]
        shortest = max(2, data.min_sequence_tokens) if start else 2
        if len(piece) < shortest:
            dropped.append("short remainder" if start else "fewer than 2 tokens")
        else:
            pieces.append(Piece(piece))
    if not ids:
        dropped.append("fewer than 2 tokens")
    return CutRecord(pieces, dropped)


def _masked(parts: list[Part], tokenizer: Any, data: Cutting, document: str) -> CutRecord:
    """One sequence of parts that are predicted or not."""
    length = data.sequence_length_tokens
    prefix = bos_prefix(tokenizer, data)
    if prefix and parts and parts[0].ids[:1] == prefix:
        prefix = []  # the chat template has already written it
    input_ids, predict, weights = list(prefix), [False] * len(prefix), [1.0] * len(prefix)
    for part in parts:
        input_ids += part.ids
        predict += [part.predict] * len(part.ids)
        weights += [part.weight] * len(part.ids)
    dropped = []
    if len(input_ids) > length:
        if data.overlong == "error":
            _refuse(document, len(input_ids), data)
        prompt = predict.index(True) if True in predict else len(predict)
        if prompt >= length:
            raise DataError(
                f"document {document}: the prompt alone has {prompt} tokens, data.sequence_length_tokens is {length}: "
                "a prompt is never cut; raise the length or drop the record"
            )
        input_ids, predict, weights = input_ids[:length], predict[:length], weights[:length]
        dropped.append("end of a completion")
    if not any(predict[1:]):
        return CutRecord([], ["nothing to predict"])
    return CutRecord([Piece(input_ids, predict, weights if any(w != 1 for w in weights) else None)], dropped)


def _refuse(document: str, tokens: int, data: Cutting) -> None:
    raise DataError(
        f"document {document}: {tokens} tokens, but data.sequence_length_tokens is {data.sequence_length_tokens} and "
        "data.overlong is `error`: raise the length, or allow cutting with `overlong: cut`"
    )


def _message_parts(record: Mapping[str, Any], tokenizer: Any, document: str, weight: float) -> list[Part]:
    """Alternating unpredicted and predicted parts of a conversation, by growing the rendered prefix."""
    messages = record["messages"]
    if not isinstance(messages, list) or not all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    ):
        raise DataError(
            f"document {document}: `messages` must be a list of {{role, content}} with strings, "
            f"received {str(messages)[:80]}"
        )
    for index, message in enumerate(messages):
        encodable_text(message["content"], f"messages[{index}].content", document)
    if not getattr(tokenizer, "chat_template", None):
        raise DataError(
            f"document {document} has `messages`, but the tokenizer {tokenizer.name_or_path} has no chat template: "
            "give `prompt` and `completion`, or a tokenizer with a template"
        )

    def render(upto: int, *, answer_follows: bool) -> str:
        if not upto and not answer_follows:
            return ""
        text = tokenizer.apply_chat_template(messages[:upto], tokenize=False, add_generation_prompt=answer_follows)
        return str(text)

    parts: list[Part] = []
    written = ""
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            steps = [(render(i, answer_follows=True), False), (render(i + 1, answer_follows=False), True)]
        else:
            steps = []
        for text, predicted in steps:
            if not text.startswith(written):
                raise DataError(
                    f"document {document}: the chat template rewrites earlier turns, so the assistant's answers cannot "
                    "be told from the prompt; give `prompt` and `completion`"
                )
            parts.append(Part(_encode(tokenizer, text[len(written) :]), predicted, weight))
            written = text
    return parts
