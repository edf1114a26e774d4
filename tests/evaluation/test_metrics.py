"""The pieces of the evaluators on hand-made rows: extremes, ties, bytes, positions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.engine.totals import DocumentTotals, PositionTotals, bin_edges
from distill_core.interfaces import EvaluatedRows, EvaluationContext
from distill_core.types import TokenBatch
from distill_evaluation.calibration import Calibration, equal_mass_bins
from distill_evaluation.fidelity import Fidelity, FidelityOptions, kl
from distill_evaluation.language_model import LanguageModel


def rows_of(ids: list[list[int]], logits_nV: Tensor, teacher_nU: Tensor | None = None, **options: Any) -> EvaluatedRows:
    """All rows of a batch without padding in one chunk."""
    input_ids_BT = torch.tensor(ids)
    batch = TokenBatch(
        input_ids_BT=input_ids_BT,
        attention_mask_BT=torch.ones_like(input_ids_BT),
        labels_BT=input_ids_BT,
        keys=tuple(bytes(16) for _ in ids),
        documents=options.get("documents", tuple(f"d{i}" for i in range(len(ids)))),
    )
    index = batch.rows()
    size = options.get("effective_vocabulary", logits_nV.shape[1])
    return EvaluatedRows(batch, index, slice(0, len(index)), logits_nV, teacher_nU, size)


def context(tokenizer: Any = None, **options: Any) -> EvaluationContext:
    return EvaluationContext("student", None, tokenizer, lambda: [], None, **options)


def test_kl_at_the_edges() -> None:
    inf = math.inf
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.2, 0.3, 0.5]]).log()
    q = torch.tensor([[0.25, 0.25, 0.5], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0]]).log()
    assert kl(p, q).tolist() == pytest.approx([math.log(2), math.log(2), inf])
    assert kl(p, p).tolist() == [0.0, 0.0, 0.0]


def test_the_tail_counts() -> None:
    """A student that agrees on the top and differs in a tail of 4,000 tokens: the tail's part is all there is."""
    top, tail = torch.tensor([0.4, 0.2, 0.1]), torch.rand(4000, generator=torch.Generator().manual_seed(0)).double()
    p = torch.cat([top.double(), 0.3 * tail / tail.sum()])
    q = torch.cat([top.double(), torch.full((4000,), 0.3 / 4000, dtype=torch.float64)])
    exact = float((p * (p / q).log()).sum())
    accumulator = Fidelity(FidelityOptions(overlap_k=3)).begin(context(teacher_rows=True))
    assert accumulator is not None
    accumulator.update(rows_of([[0, 1]], q.log().float()[None], p.log().float()[None]))
    found = {m.metric: m for m in accumulator.measurements()}
    assert exact > 0.05
    # fp32 logits near -9 are 1e-6 apart, and so is the logarithm of their normaliser.
    assert found["forward_kl"].value == pytest.approx(exact, abs=5e-6)
    assert found["top3_overlap"].value == 1.0
    assert not found["forward_kl"].higher_is_better and found["top1_agreement"].higher_is_better


def test_overlap_with_a_small_vocabulary() -> None:
    accumulator = Fidelity(FidelityOptions(overlap_k=10)).begin(context(teacher_rows=True))
    assert accumulator is not None
    accumulator.update(rows_of([[0, 1]], torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])))
    found = {m.metric: m.value for m in accumulator.measurements()}
    assert (found["top10_overlap"], found["top1_agreement"]) == (1.0, 0.0)


def test_nothing_seen_gives_nan_not_an_error(tokenizer: Any) -> None:
    for evaluator in (LanguageModel(), Calibration(), Fidelity()):
        accumulator = evaluator.begin(context(tokenizer, teacher_rows=True))
        assert accumulator is not None
        for measurement in accumulator.measurements():
            assert math.isnan(measurement.value) and measurement.n == 0 and measurement.document_sums == {}


def test_bytes_are_those_of_the_predicted_tokens_together(tokenizer: Any) -> None:
    """The first token is not predicted; an emoji split over tokens counts its four bytes; EOS counts none."""
    text = "naïve 🙂 x"
    ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    n_first = len(tokenizer.decode(ids[:1]).encode())
    vocabulary = len(tokenizer)
    accumulator = LanguageModel().begin(context(tokenizer))
    accumulator.update(rows_of([ids], torch.zeros(len(ids) - 1, vocabulary)))
    found = {m.metric: m for m in accumulator.measurements()}
    n_bytes = len(text.encode()) - n_first
    assert found["bits_per_byte"].detail["bytes"] == n_bytes
    assert found["bits_per_byte"].value == pytest.approx((len(ids) - 1) * math.log2(vocabulary) / n_bytes, rel=1e-6)
    assert found["bits_per_byte"].document_sums["d0"][1] == n_bytes


def test_equal_confidence_shares_a_bin_whatever_the_order() -> None:
    confidence = torch.tensor([0.2, 0.7, 0.7, 0.7, 0.1, 0.9, 0.7, 0.3])
    bins = equal_mass_bins(confidence, 4)
    assert len(set(bins[confidence == 0.7].tolist())) == 1
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    assert equal_mass_bins(confidence[order], 4).tolist() == bins[order].tolist()
    assert equal_mass_bins(torch.full((6,), 0.5), 15).tolist() == [0] * 6


def test_ece_of_a_deserved_and_an_undeserved_confidence() -> None:
    """Confidence 0.75 throughout: right three times in four costs nothing, never right costs all of it."""
    logits = torch.tensor([[math.log(3.0), 0.0]]).expand(4, 2)
    for labels, expected in (([0, 0, 0, 1], 0.0), ([1, 1, 1, 1], 0.75)):
        accumulator = Calibration().begin(context())
        accumulator.update(rows_of([[0, *labels]], logits))
        ece = accumulator.measurements()[0]
        assert ece.value == pytest.approx(expected, abs=1e-7)
        assert ece.detail["reliability"] == [
            {"confidence": pytest.approx(0.75), "accuracy": labels.count(0) / 4, "n": 4}
        ]


def test_document_totals_join_sequences_of_one_document() -> None:
    totals = DocumentTotals()
    rows = rows_of([[1, 2, 3], [4, 5, 6], [7, 8, 9]], torch.zeros(6, 10), documents=("a", "b", "a"))
    totals.add(rows, torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    assert totals.sums() == {"a": (14.0, 4.0), "b": (7.0, 2.0)}
    assert (totals.count, totals.value) == (6, 3.5)
    with pytest.raises(ValueError, match=r"must be \[6\]"):
        totals.add(rows, torch.zeros(5))
    with pytest.raises(ValueError, match="one document per sequence"):
        totals.add(rows_of([[1, 2]], torch.zeros(1, 10), documents=()), torch.zeros(1))


def test_position_totals_put_every_position_in_its_bin() -> None:
    positions = PositionTotals()
    rows = rows_of([list(range(26))], torch.zeros(25, 30))
    positions.add(rows, rows.position_n.double())
    edges = [0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32]
    assert bin_edges(25) == edges[:-1]
    for entry, start, stop in zip(positions.series(), edges, edges[1:], strict=False):
        members = [p for p in range(25) if start <= p < stop]
        assert (entry["start"], entry["stop"], entry["n"]) == (start, stop, len(members))
        assert entry["value"] == pytest.approx(sum(members) / len(members))
        assert entry["standard_error"] is None
