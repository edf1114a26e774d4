"""Where student and teacher disagree: values against dense float64, examples that can be found again in the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.config import ComponentRef, EvaluateConfig
from distill_core.engine.data import TokenDataset
from distill_core.engine.disagreements import EXAMPLES, Disagreements, total_variation
from distill_core.engine.evaluation import EvaluationTarget, evaluate
from distill_core.interfaces import EvaluatedRows
from distill_core.registry import get_registry
from distill_core.types import RowIndex, TokenBatch


@pytest.fixture(scope="module")
def found(
    models: dict[str, Any], tokenizer: Any, held_out: TokenDataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    targets = {
        name: EvaluationTarget(source=models[name], is_teacher=name == "teacher", tokenizer=tokenizer)
        for name in ("teacher", "student")
    }
    results = evaluate(
        targets,
        data=held_out,
        config=EvaluateConfig(evaluators=[ComponentRef(use="language-model")], batch_sequences=4),
        registry=get_registry(),
        directory=tmp_path_factory.mktemp("evaluate"),
        measure_speed=False,
    )
    return dict(results["disagreements"])


def dense(models: dict[str, Any], ids: Any) -> torch.Tensor:
    """Total variation at every position but the last, float64."""
    with torch.no_grad():
        p, q = (
            models[name](torch.as_tensor(ids)[None].long()).logits[0].double().softmax(-1)
            for name in ("teacher", "student")
        )
    return 0.5 * (p - q).abs().sum(-1)[:-1]


def test_means_equal_a_dense_computation(found: dict[str, Any], models: dict[str, Any], held_out: TokenDataset) -> None:
    sums: dict[str, list[float]] = {}
    for sequence in held_out:
        keep = torch.as_tensor(sequence.labels[1:] != -100)
        sums.setdefault(sequence.document, []).extend(dense(models, sequence.input_ids)[keep].tolist())
    means = {name: sum(values) / len(values) for name, values in sums.items()}
    assert [row["name"] for row in found["documents"]] == sorted(means, key=lambda name: -means[name])
    for row in found["documents"]:
        assert row["mean"] == pytest.approx(means[row["name"]], abs=1e-5) and row["n"] == len(sums[row["name"]])
    values = [value for several in sums.values() for value in several]
    assert found["n"] == len(values) and found["mean"] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_examples_are_the_largest_and_can_be_found_in_the_text(
    found: dict[str, Any], models: dict[str, Any], tokenizer: Any, held_out: TokenDataset
) -> None:
    assert len(found["examples"]) == EXAMPLES
    assert {one["document"] for one in found["examples"]} == {row["name"] for row in found["documents"]}
    values = [one["value"] for one in found["examples"]]
    assert values == sorted(values, reverse=True)
    largest = max(float(dense(models, s.input_ids)[torch.as_tensor(s.labels[1:] != -100)].max()) for s in held_out)
    assert values[0] == pytest.approx(largest, abs=1e-5)
    example = found["examples"][0]
    matches = []
    for sequence in held_out:
        ids, at = sequence.input_ids.tolist(), example["position"]
        if sequence.document == example["document"] and at < len(ids):
            before = tokenizer.decode(ids[max(0, at - 40) : at], clean_up_tokenization_spaces=False)
            if before == example["before"] and tokenizer.decode(ids[at : at + 1]) == example["actual"]:
                matches.append(float(dense(models, ids)[at - 1]))
    assert any(abs(value - example["value"]) < 1e-5 for value in matches)
    for guesses in example["top"].values():
        chances = [p for _, p in guesses]
        assert len(guesses) == 5 and chances == sorted(chances, reverse=True) and sum(chances) <= 1 + 1e-6


def test_padding_rows_of_the_head_count_as_elsewhere() -> None:
    value, p, q = total_variation(torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[0.5, 0.25, 0.25]]).log(), 2)
    assert value.tolist() == pytest.approx([0.25]) and p.shape == q.shape == (1, 2)


def test_extreme_logits_stay_within_bounds() -> None:
    logits = torch.tensor([[1e4, -1e4, float("-inf")], [0.0, 0.0, 0.0]])
    value, _, _ = total_variation(logits, torch.tensor([[-1e4, 0.0, -1e4], [0.0, -1e4, -1e4]]), 3)
    assert value.tolist() == pytest.approx([1.0, 2 / 3])


def test_without_a_teacher_nothing_is_said(
    models: dict[str, Any], tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    results = evaluate(
        {"student": EvaluationTarget(source=models["student"], tokenizer=tokenizer)},
        data=held_out,
        config=EvaluateConfig(evaluators=[ComponentRef(use="language-model")]),
        registry=get_registry(),
        directory=tmp_path,
        measure_speed=False,
    )
    assert results["disagreements"] is None
    assert Disagreements("student", tokenizer).found() is None


def classified(
    labels: list[int], teacher: torch.Tensor, student: torch.Tensor, tokenizer: Any, texts: list[str]
) -> EvaluatedRows:
    """One prediction per sequence; its label stands at the last token."""
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    width = max(map(len, ids))
    padded = torch.tensor([one + [0] * (width - len(one)) for one in ids])
    mask = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in ids])
    placed = torch.full_like(padded, -100)
    for row, (one, label) in enumerate(zip(ids, labels, strict=True)):
        placed[row, len(one) - 1] = label
    names = tuple(f"d{row // 2}" for row in range(len(ids)))
    keys = tuple(bytes(16) for _ in ids)
    batch = TokenBatch(padded, mask, placed, keys, names, next_token=False)
    index: RowIndex = batch.rows()
    return EvaluatedRows(batch, index, slice(0, len(index)), student.log(), teacher.log(), teacher.shape[1])


def test_of_a_task_classes_pairs_and_what_was_read(tokenizer: Any) -> None:
    teacher = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]])
    student = torch.tensor([[0.8, 0.2, 0.0], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.1, 0.1, 0.8]])
    texts = ["the state of the union", "we must invest", "my fellow citizens", "the people"]
    watched = Disagreements("student", tokenizer, ("red", "green", "blue"))
    watched.update(classified([0, 1, 2, 0], teacher, student, tokenizer, texts))
    found = watched.found()
    assert found is not None and found["n"] == 4 and found["tokens"] == []
    apart = [0.1, 0.3, 0.1, 0.7]
    assert found["mean"] == pytest.approx(sum(apart) / 4)
    assert [(row["name"], row["n"]) for row in found["classes"]] == [("red", 2), ("green", 1), ("blue", 1)]
    assert found["classes"][0]["mean"] == pytest.approx(0.4)
    pairs = [{"teacher": "green", "model": "red", "n": 1}, {"teacher": "red", "model": "blue", "n": 1}]
    assert sorted(found["pairs"], key=lambda pair: pair["teacher"]) == pairs
    first = found["examples"][0]
    assert (first["actual"], first["before"], first["value"]) == ("red", tokenizer.decode(
        tokenizer("the people", add_special_tokens=False)["input_ids"], skip_special_tokens=True
    ), pytest.approx(0.7))  # fmt: skip
    assert [name for name, _ in first["top"]["teacher"]][:1] == ["red"]
    assert [name for name, _ in first["top"]["model"]][:1] == ["blue"]
    blind = Disagreements("student", None, ("red", "green", "blue"))
    blind.update(classified([0, 1, 2, 0], teacher, student, tokenizer, texts))
    assert (blind.found() or {})["examples"][0]["before"] == "", "images are not read"
