"""A question to a server: what is sent, under which key its answer is kept, and what it may cost at most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_core.completions import GenerationParameters, GenerationRequest, as_messages, request_seed
from distill_teachers.openai_options import OpenAIOptions
from distill_teachers.server.reading import PARSER_VERSION

CHAT, COMPLETIONS = "/chat/completions", "/completions"


@dataclass(frozen=True)
class Question:
    """One request.

    Args:
        path: of the endpoint, after the base address.
        payload: the JSON that is sent.
        prompt_tokens: the most that the server can read.
        completion_tokens: the most that it can write.
        also: what else tells the answer from others (a seed that is not sent, a server's alignment).
    """

    path: str
    payload: Mapping[str, Any]
    prompt_tokens: int
    completion_tokens: int
    also: Mapping[str, Any] = field(default_factory=dict)

    def key(self, base_url: str) -> str:
        """Hash of everything the answer depends on: endpoint, model, prompt, parameters, and how it is read."""
        content = {
            "endpoint": base_url + self.path,
            "payload": self.payload,
            "also": self.also,
            "parser": PARSER_VERSION,
        }
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
        return hashlib.blake2b(text.encode("ascii"), digest_size=24).hexdigest()


def most_tokens(text: str) -> int:
    """More tokens than any tokenizer makes of a text: one per byte, and a few around it.

    >>> most_tokens("naïve")
    14
    """
    return len(text.encode("utf-8")) + 8


def text_question(
    request: GenerationRequest,
    parameters: GenerationParameters,
    options: OpenAIOptions,
    *,
    prompt: str | None = None,
) -> Question:
    """What is asked for a piece of text.

    Args:
        request: what to write.
        parameters: how.
        options: endpoint, model, further fields.
        prompt: for the completions endpoint: the prompt, a chat template applied.
    """
    chat = options.endpoint == "chat"
    sampled = parameters.temperature > 0
    payload: dict[str, Any] = {**options.extra, "model": options.model, "temperature": parameters.temperature}
    payload[options.max_tokens_field if chat else "max_tokens"] = parameters.max_new_tokens
    if sampled:
        payload["top_p"] = parameters.top_p
    if parameters.stop:
        payload["stop"] = list(parameters.stop)
    seed = request_seed(parameters.seed, request.id) if sampled else None
    if seed is not None and options.send_seed:
        payload["seed"] = seed
    if chat:
        payload["messages"] = messages = as_messages(request)
        most = sum(most_tokens(text) for message in messages for text in message.values()) + options.template_tokens
        if parameters.top_logprobs:
            payload["logprobs"], payload["top_logprobs"] = True, parameters.top_logprobs
        return Question(CHAT, payload, most, parameters.max_new_tokens, {"seed": seed})
    payload["prompt"] = request.prompt if prompt is None else prompt
    if parameters.top_logprobs:
        payload["logprobs"] = parameters.top_logprobs
    return Question(
        COMPLETIONS, payload, most_tokens(str(payload["prompt"])), parameters.max_new_tokens, {"seed": seed}
    )


def logprobs_question(
    prompt: str | list[int],
    options: OpenAIOptions,
    *,
    k: int,
    echo: bool,
    n_tokens: int,
    also: Mapping[str, Any] | None = None,
) -> Question:
    """What is asked for distributions: the k largest log-probabilities at every token of a prompt, or after it.

    One token is written, the least that every server understands (0 means no limit to some).

    Args:
        prompt: text or token ids.
        k: entries per position.
        echo: over the prompt; else only after it.
        n_tokens: tokens of the prompt.
        also: goes into the key.
    """
    payload: dict[str, Any] = {
        **options.extra,
        "model": options.model,
        "prompt": prompt,
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": k,
    }
    if echo:
        payload["echo"] = True
    most = n_tokens + 8 if isinstance(prompt, list) else max(most_tokens(prompt), n_tokens + 8)
    return Question(COMPLETIONS, payload, most, 1, also or {})
