"""A request as token ids: the prompt tokenised, or chat turns written out with the tokenizer's template."""

from __future__ import annotations

from typing import Any

from distill_core.completions import GenerationRequest
from distill_core.errors import SignalError


def prompt_ids(request: GenerationRequest, tokenizer: Any, *, label: str) -> list[int]:
    """Token ids that an answer is to follow.

    Args:
        request: a prompt, or chat turns.
        tokenizer: a Transformers tokenizer.
        label: the teacher's name for messages.

    Raises:
        SignalError: chat turns without a template, or a prompt without tokens.
    """
    if request.messages:
        if not getattr(tokenizer, "chat_template", None):
            raise SignalError(
                f"request {request.id!r} has chat turns, but the tokenizer of the teacher {label} has no chat "
                "template: give a prompt, or a teacher that was trained to chat"
            )
        messages = [dict(message) for message in request.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer(request.prompt)["input_ids"])
    if not ids:
        raise SignalError(f"request {request.id!r}: the prompt has no tokens: a continuation needs at least one")
    return ids
