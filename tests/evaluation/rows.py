"""Hand-made rows for evaluators that are fed logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.types import TokenBatch


def rows_of(labels: Tensor, logits_nV: Tensor, teacher_nU: Tensor | None = None, **options: Any) -> EvaluatedRows:
    """One row per sequence of two tokens, ``labels`` the second; documents of ``per_document`` rows, in order.

    Args:
        labels: int64 [n], what is to be predicted.
        options: ``per_document`` (default 3), ``documents``, ``effective_vocabulary``, ``domains``.
    """
    n, size = len(labels), options.get("per_document", 3)
    ids = torch.stack([torch.zeros(n, dtype=torch.long), labels], dim=1)
    batch = TokenBatch(
        input_ids_BT=ids,
        attention_mask_BT=torch.ones_like(ids),
        labels_BT=ids,
        keys=tuple(i.to_bytes(16, "big") for i in range(n)),
        documents=options.get("documents", tuple(f"d{i // size}" for i in range(n))),
        domains=options.get("domains", ()),
    )
    index = batch.rows()
    width = options.get("effective_vocabulary", logits_nV.shape[1])
    return EvaluatedRows(batch, index, slice(0, n), logits_nV, teacher_nU, width)


def measured(evaluator: Any, context: EvaluationContext, *rows: EvaluatedRows) -> dict[str, Measurement]:
    """What a row evaluator measures of these rows, by metric."""
    sink = evaluator.begin(context)
    for one in rows:
        sink.update(one)
    return {m.metric: m for m in sink.measurements()}


def bare_context(**options: Any) -> EvaluationContext:
    """A context of a student without model or data."""
    given: dict[str, Any] = {
        "name": "student",
        "model": None,
        "tokenizer": None,
        "batches": lambda: [],
        "teacher": None,
    }
    return EvaluationContext(**{**given, **options})
