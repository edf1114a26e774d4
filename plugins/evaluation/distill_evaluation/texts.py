"""The texts of a run's sequences, put together again by document."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext


def held_out_texts(context: EvaluationContext, who: str) -> dict[str, str]:
    """Text of each held-out document, special tokens skipped; raises ``SignalError`` where nothing is read as text."""
    tokenizer = _tokenizer(context, who)
    pairs = (
        (document, ids[mask.bool()].tolist())
        for batch in context.batches()
        for document, ids, mask in zip(batch.documents, batch.input_ids_BT, batch.attention_mask_BT, strict=True)
    )
    return _joined(pairs, tokenizer)


def training_texts(context: EvaluationContext, who: str) -> dict[str, str]:
    """Text of each training document; raises ``SignalError`` where the training data is not known."""
    tokenizer = _tokenizer(context, who)
    return _joined(((one.document, one.input_ids.tolist()) for one in training_sequences(context, who)), tokenizer)


def training_sequences(context: EvaluationContext, who: str) -> Sequence[Any]:
    """The sequences trained on; raises ``SignalError`` where they are not known."""
    if not context.training:
        raise SignalError(f"{who} reads the training data, but this evaluation was not given it")
    return context.training


def _tokenizer(context: EvaluationContext, who: str) -> Any:
    if context.tokenizer is None:
        raise SignalError(f"{who} reads texts, but this run's inputs are none")
    return context.tokenizer


def _joined(pairs: Iterable[tuple[str, list[int]]], tokenizer: Any) -> dict[str, str]:
    ids: dict[str, list[int]] = {}
    for document, more in pairs:
        ids.setdefault(document, []).extend(more)
    return {
        document: str(tokenizer.decode(found, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for document, found in ids.items()
    }
