"""Task ``token-classification``: one class per word, e.g. named entities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill_core.engine.data import IGNORE
from distill_core.engine.records import encodable_text, weight_of
from distill_core.errors import DataError
from distill_core.pieces import CutRecord, Piece
from distill_objectives.tasks.fields import class_of, field_of
from distill_objectives.tasks.options import TokenClassificationOptions


class TokenClassification:
    """One class per word, predicted at the first token of the word; its other tokens, and special ones, have none.

    A record has its words as a list and as many labels; a label of null is not predicted. Words beyond the sequence
    length are left out.
    """

    architecture = "AutoModelForTokenClassification"

    def __init__(self, options: TokenClassificationOptions) -> None:
        self.options = options
        self.labels = options.labels

    def pieces(self, record: Mapping[str, Any], *, tokenizer: Any, length_tokens: int, document: str) -> CutRecord:
        """The words as one sequence.

        Raises:
            DataError: no lists of equal length, an unknown label, or a tokenizer that cannot tell words.
        """
        words = field_of(record, self.options.tokens, "tokens", document)
        labels = field_of(record, self.options.label, "label", document)
        if not isinstance(words, list) or not isinstance(labels, list) or len(words) != len(labels):
            raise DataError(
                f"document {document}: {self.options.tokens!r} and {self.options.label!r} must be lists of equal "
                f"length, one label a word; received {_sized(words)} and {_sized(labels)}"
            )
        for index, word in enumerate(words):
            if not isinstance(word, str):
                raise DataError(
                    f"document {document}: {self.options.tokens}[{index}] must be a string, received "
                    f"{type(word).__name__} {str(word)[:40]}"
                )
            encodable_text(word, f"{self.options.tokens}[{index}]", document)
        if not getattr(tokenizer, "is_fast", False):
            raise DataError("token-classification needs a fast tokenizer, which knows the word of each token")
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length_tokens)
        ids, word_of_token = list(encoded["input_ids"]), encoded.word_ids()
        classes, seen = [IGNORE] * len(ids), set()
        for index, word in enumerate(word_of_token):
            if word is not None and word not in seen and labels[word] is not None:
                classes[index] = class_of(labels[word], self.labels, document)
            seen.add(word)
        if all(one == IGNORE for one in classes):
            return CutRecord([], ["nothing to predict"])
        left_out = len(words) - len(seen - {None})
        weight = weight_of(record, document)
        weights = None if weight == 1 else [weight] * len(ids)
        return CutRecord([Piece(ids, None, weights, classes)], ["words beyond the length"] * (left_out > 0))


def _sized(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else f"a {type(value).__name__}"
