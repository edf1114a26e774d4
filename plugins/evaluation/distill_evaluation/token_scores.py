"""Log-probabilities of every predicted token of sequences under a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.row_pass import row_pass, scorer_of
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_core.store import sequence_key
from distill_core.types import TokenBatch

Floats = npt.NDArray[np.float64]


class _Sink:
    def __init__(self) -> None:
        self.found: list[tuple[str, list[float]]] = []

    def update(self, rows: EvaluatedRows) -> None:
        if rows.cut.start == 0:
            self.base = len(self.found)
            self.found += [(document, []) for document in rows.batch.documents]
        logp_n = rows.logp_nV.gather(1, rows.labels_n[:, None])[:, 0].double()
        for sequence, value in zip(rows.sequence_n.tolist(), logp_n.tolist(), strict=True):
            self.found[self.base + sequence][1].append(value)

    def measurements(self) -> list[Measurement]:
        return []


def token_scores(context: EvaluationContext, batches: Iterable[TokenBatch]) -> list[tuple[str, Floats]]:
    """(document, log-probabilities of its predicted tokens in order) of every sequence, in order."""
    sink = _Sink()
    row_pass(
        batches,
        {context.name: scorer_of(context.model, context.labels)},
        {context.name: [sink]},
        teacher=None,
        effective_vocabulary=len(context.labels) or len(context.tokenizer),
    )
    return [(document, np.array(values)) for document, values in sink.found]


def batches_of(sequences: Sequence[Any], batch_sequences: int) -> Iterable[TokenBatch]:
    """Batches of ``TokenSequence`` s, in order."""
    for start in range(0, len(sequences), batch_sequences):
        yield collate(sequences[start : start + batch_sequences])


def encoded(context: EvaluationContext, texts: Sequence[tuple[str, str]], who: str) -> list[TokenSequence]:
    """(document, text) as sequences, without special tokens, as the data stage encodes texts.

    Raises:
        SignalError: a text that does not fit the model's context.
    """
    limit = getattr(context.model.config, "max_position_embeddings", None)
    found = []
    for document, text in texts:
        ids = np.asarray(context.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        if limit is not None and len(ids) > limit:
            raise SignalError(f"{who}: {text[:60]!r} has {len(ids)} tokens, the model's context is {limit}")
        found.append(TokenSequence(ids, ids, document, sequence_key(ids.astype(np.int64))))
    return found


def total_nats(scores: Sequence[tuple[str, Floats]]) -> Floats:
    """Negative log-likelihood of each sequence, nat."""
    return np.array([-values.sum() for _, values in scores])
