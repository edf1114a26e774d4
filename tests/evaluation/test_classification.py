"""Accuracy, macro F1 and its linearisation against plain counting."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core.engine.statistics import estimate
from distill_core.interfaces import EvaluatedRows
from distill_core.types import RowIndex, TokenBatch
from distill_evaluation.classification import _ClassificationRows, class_f1


def rows(true_N: torch.Tensor, logits_NV: torch.Tensor) -> EvaluatedRows:
    """One row per sequence; three sequences share a document."""
    n = len(true_N)
    batch = TokenBatch(
        input_ids_BT=torch.zeros(n, 1, dtype=torch.long),
        attention_mask_BT=torch.ones(n, 1, dtype=torch.long),
        labels_BT=true_N[:, None],
        keys=tuple(bytes(16) for _ in range(n)),
        documents=tuple(f"d{index // 3}" for index in range(n)),
        next_token=False,
    )
    index = RowIndex(torch.arange(n), torch.zeros(n, dtype=torch.long), true_N, torch.ones(n))
    return EvaluatedRows(batch, index, slice(0, n), logits_NV, None, logits_NV.shape[1])


def material() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    true_N = torch.randint(0, 3, (60,), generator=generator)  # class 3 never occurs
    logits_NV = torch.randn(60, 4, generator=generator)
    logits_NV[:, 3] = -9
    logits_NV[torch.arange(60), true_N] += 1
    return true_N, logits_NV


def macro_f1(true: list[int], predicted: list[int]) -> float:
    """By the definition, over the classes that occur."""
    values = []
    for one in sorted({*true, *predicted}):
        tp = sum(t == p == one for t, p in zip(true, predicted, strict=True))
        fp = sum(p == one != t for t, p in zip(true, predicted, strict=True))
        fn = sum(t == one != p for t, p in zip(true, predicted, strict=True))
        values.append(2 * tp / (2 * tp + fp + fn))
    return sum(values) / len(values)


def test_values_and_document_sums() -> None:
    true_N, logits_NV = material()
    sink = _ClassificationRows(("a", "b", "c", "never"))
    sink.update(rows(true_N, logits_NV))
    found = {m.metric: m for m in sink.measurements()}
    predicted = logits_NV.argmax(1)
    assert found["accuracy"].value == pytest.approx(float((predicted == true_N).double().mean()))
    assert found["macro_f1"].value == pytest.approx(macro_f1(true_N.tolist(), predicted.tolist()), abs=1e-12)
    expected = torch.nn.functional.cross_entropy(logits_NV, true_N)
    assert found["cross_entropy"].value == pytest.approx(float(expected), rel=1e-6)
    for measurement in found.values():
        assert estimate(measurement.document_sums).value == pytest.approx(measurement.value, rel=1e-9)
    assert [entry["f1"] is None for entry in found["macro_f1"].detail["by_class"]] == [False, False, False, True]


def test_standard_error_of_macro_f1_is_that_of_leaving_documents_out() -> None:
    """The jackknife over documents needs no linearisation; with 20 documents the two agree within a tenth or so."""
    true_N, logits_NV = material()
    sink = _ClassificationRows(("a", "b", "c", "never"))
    sink.update(rows(true_N, logits_NV))
    measurement = next(m for m in sink.measurements() if m.metric == "macro_f1")
    true, predicted = true_N.tolist(), logits_NV.argmax(1).tolist()
    left_out = [
        macro_f1(true[: 3 * d] + true[3 * d + 3 :], predicted[: 3 * d] + predicted[3 * d + 3 :]) for d in range(20)
    ]
    mean = sum(left_out) / 20
    jackknife = math.sqrt(19 / 20 * sum((value - mean) ** 2 for value in left_out))
    assert estimate(measurement.document_sums).standard_error == pytest.approx(jackknife, rel=0.15)


def test_nothing_seen() -> None:
    f1_V, denominator_V = class_f1(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), 2)
    assert f1_V.tolist() == denominator_V.tolist() == [0, 0]
    sink = _ClassificationRows(("a", "b"))
    assert all(math.isnan(m.value) for m in sink.measurements())
