"""The ``semantic-dedup`` filter: the first of texts that mean nearly the same stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill_core.interfaces import FilterContext
from distill_synthesis.filters.encoder import Encoder
from distill_synthesis.filters.model_options import SemanticDedupOptions
from distill_synthesis.filters.record_text import document_of, text_of


class SemanticDedup:
    """Drops a record whose embedding lies within a cosine similarity of one that was kept (SemDeDup, 2303.09540).

    Against every kept record, where the paper looks within k-means clusters only; and the first stays, where the paper
    keeps the farthest from the centre: records come one after the other. The selector of this name has both.
    """

    def __init__(self, options: SemanticDedupOptions) -> None:
        self.options = options
        self.batch_records = options.batch_records
        self.encoder: Encoder | None = None
        self._embeddings: Any = None  # [room, D], of which the first len(_names) are filled
        self._names: list[str] = []
        self._seen = 0

    def build(self, ctx: FilterContext) -> None:
        """Loads the encoder."""
        self.encoder = Encoder(self.options, asks="semantic-dedup")

    def verdict(self, record: Mapping[str, Any]) -> str | None:
        return self.verdicts([record])[0]

    def verdicts(self, records: Sequence[Mapping[str, Any]]) -> list[str | None]:
        if self.encoder is None:
            raise RuntimeError("semantic-dedup asks an encoder: call build(ctx) first")
        embeddings = self.encoder.embed([text_of(record, self.options.part) for record in records])
        return [self._judge(record, embedding) for record, embedding in zip(records, embeddings, strict=True)]

    def _judge(self, record: Mapping[str, Any], embedding: Any) -> str | None:
        self._seen += 1
        count = len(self._names)
        if count:
            similarities = self._embeddings[:count] @ embedding
            best = int(np.argmax(similarities))
            if similarities[best] >= self.options.threshold:
                return f"means the same: as document {self._names[best]}, cosine {similarities[best]:.3f}"
        self._keep(embedding)
        self._names.append(document_of(record, self._seen))
        return None

    def _keep(self, embedding: Any) -> None:
        count = len(self._names)
        if self._embeddings is None:
            self._embeddings = np.zeros((64, len(embedding)), dtype=np.float32)
        elif count == len(self._embeddings):
            self._embeddings = np.concatenate([self._embeddings, np.zeros_like(self._embeddings)])
        self._embeddings[count] = embedding
