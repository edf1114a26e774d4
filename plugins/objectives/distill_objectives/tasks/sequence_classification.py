"""Task ``sequence-classification``: one class per text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.engine.data import IGNORE
from distill_core.engine.records import encodable_text, weight_of
from distill_core.errors import DataError
from distill_core.pieces import CutRecord, Piece
from distill_objectives.tasks.fields import class_of, field_of
from distill_objectives.tasks.options import SequenceClassificationOptions


class SequenceClassification:
    """One class per text, predicted from its first token (encoders) or its last one (decoders).

    A text is encoded with the tokenizer's special tokens and cut to the sequence length. The last token is the last one
    that is not the tokenizer's padding token, as in Transformers' own decoders for classification.
    """

    architecture = "AutoModelForSequenceClassification"

    def __init__(self, options: SequenceClassificationOptions) -> None:
        self.options = options
        self.labels = options.labels

    def pieces(self, record: Mapping[str, Any], *, tokenizer: Any, length_tokens: int, document: str) -> CutRecord:
        """The text as one sequence with one class."""
        text = field_of(record, self.options.text, "text", document)
        if not isinstance(text, str):
            raise DataError(
                f"document {document}: {self.options.text!r} must be a string, received {type(text).__name__}"
            )
        encodable_text(text, self.options.text, document)
        label = class_of(field_of(record, self.options.label, "label", document), self.labels, document)
        whole = list(tokenizer(text, verbose=False)["input_ids"])
        ids = list(tokenizer(text, truncation=True, max_length=length_tokens)["input_ids"])
        if not ids:
            return CutRecord([], ["no tokens"])
        classes = [IGNORE] * len(ids)
        classes[self._position(ids, tokenizer.pad_token_id)] = label
        weight = weight_of(record, document)
        weights = None if weight == 1 else [weight] * len(ids)
        return CutRecord([Piece(ids, None, weights, classes)], ["end of a text"] if len(ids) < len(whole) else [])

    def _position(self, ids: list[int], pad_id: int | None) -> int:
        if self.options.position == "first":
            return 0
        return max((index for index, one in enumerate(ids) if one != pad_id), default=len(ids) - 1)
