"""Conformance of evaluators, on a random two-layer Llama with another as its teacher."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from distill_core.engine.data import TokenSequence
from distill_core.engine.row_pass import evaluate_rows
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_core.testing.subject import NotApplicable, Subject
from distill_core.testing.tiny_model import tiny_model, tiny_tokenizer, token_batch
from distill_core.types import TokenBatch

OTHER_SENTENCES = ("Nothing of this was held out.", "Seven shells lie on the beach.", "日本 🙂 twice, 🙂.")
"""What the student of the checks is said to have been trained on."""


def context(*, batch_sequences: int = 2) -> EvaluationContext:
    """A student and a teacher of one vocabulary, three held-out sequences."""
    tokenizer = tiny_tokenizer()
    teacher: Any = SimpleNamespace(model=tiny_model(len(tokenizer), seed=1))
    whole = token_batch(tokenizer)
    starts = range(0, len(whole.keys), batch_sequences)
    ids = [np.asarray(tokenizer(text)["input_ids"], dtype=np.int32) for text in OTHER_SENTENCES]
    training = [TokenSequence(one, one, f"training-{i}", bytes([i] * 16)) for i, one in enumerate(ids)]
    return EvaluationContext(
        name="student",
        model=tiny_model(len(tokenizer)),
        tokenizer=tokenizer,
        batches=lambda: [whole.select_sequences(start, start + batch_sequences) for start in starts],
        teacher=teacher,
        teacher_rows=True,
        training=training,
        records=lambda split: _records(split, tokenizer, whole),
    )


def _records(split: str, tokenizer: Any, held_out: TokenBatch) -> list[tuple[str, dict[str, Any]]]:
    """Records of the sequences, in two groups by ``domain`` and ``language``."""
    if split == "train":
        texts = {f"training-{index}": text for index, text in enumerate(OTHER_SENTENCES)}
    else:
        rows = zip(held_out.documents, held_out.input_ids_BT, held_out.attention_mask_BT, strict=True)
        texts = {document: tokenizer.decode(ids[mask.bool()], skip_special_tokens=True) for document, ids, mask in rows}
    return [
        (document, {"document": document, "text": text, "domain": "ab"[index % 2], "language": "ab"[index % 2]})
        for index, (document, text) in enumerate(texts.items())
    ]


def measure(evaluator: Any, given: EvaluationContext) -> list[Measurement]:
    """Everything it measures: of the data, through the shared pass for a row evaluator, else by ``evaluate``."""
    found: list[Measurement] = []
    try:
        if hasattr(evaluator, "evaluate_data"):
            found += evaluator.evaluate_data(replace(given, model=None, teacher_rows=False))
        if hasattr(evaluator, "begin"):
            found += evaluate_rows(evaluator, given)
        elif hasattr(evaluator, "evaluate"):
            found += evaluator.evaluate(given)
    except SignalError as error:
        raise NotApplicable(f"needs what the kit's texts and models do not have: {error}") from error
    return found


def measures_something_finite_with_units(subject: Subject) -> None:
    found = measure(subject.build(), context())
    assert found, "no measurement was returned"
    metrics = [one.metric for one in found]
    assert len(set(metrics)) == len(metrics), f"a metric is returned twice: {metrics}"
    for one in found:
        assert isinstance(one, Measurement), f"returned {type(one).__name__}, expected Measurement"
        assert math.isfinite(one.value), f"{one.metric} is {one.value}"
        assert isinstance(one.unit, str) and one.n > 0, f"{one.metric} has no unit ('' for a ratio) or no rows"
        json.dumps(dict(one.detail))


def sums_over_documents_give_the_value(subject: Subject) -> None:
    """What confidence intervals are made of: sum / denominator over all documents, through the transform."""
    found = [one for one in measure(subject.build(), context()) if one.document_sums]
    if not found:
        raise NotApplicable("keeps no sums by document")
    held_out = {"document-0", "document-1", "document-2"}  # or units of its own: training documents, prompts
    counted = held_out & {document for one in found for document in one.document_sums}
    assert counted in (held_out, set()), f"only {sorted(counted)} of {sorted(held_out)} are in the sums"
    for one in found:
        ratio = sum(s for s, _ in one.document_sums.values()) / sum(n for _, n in one.document_sums.values())
        value = math.exp(ratio) if one.transform == "exp" else ratio
        assert math.isclose(value, one.value, rel_tol=1e-6, abs_tol=1e-9), f"{one.metric}: {one.value} is not {value}"


def does_not_depend_on_the_batch_size(subject: Subject) -> None:
    """One sequence at a time gives the same figures; products round differently, 1e-4."""
    together = measure(subject.build(), context(batch_sequences=3))
    one_by_one = measure(subject.build(), context(batch_sequences=1))
    for first, second in zip(together, one_by_one, strict=True):
        same = math.isclose(first.value, second.value, rel_tol=1e-4, abs_tol=1e-6)
        assert same and first.n == second.n, f"{first.metric}: {first.value} in a batch, {second.value} one by one"


def leaves_the_model_as_it_was(subject: Subject) -> None:
    given = context()
    before = {name: tensor.clone() for name, tensor in given.model.state_dict().items()}
    measure(subject.build(), given)
    assert not given.model.training, "the model was left in training mode"
    for name, tensor in given.model.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} was changed"


CHECKS = (
    measures_something_finite_with_units,
    sums_over_documents_give_the_value,
    does_not_depend_on_the_batch_size,
    leaves_the_model_as_it_was,
)
