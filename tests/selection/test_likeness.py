"""Is the pool already like the target? The level of the test, its power, its units, and what a run says of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.engine.likeness import likeness, token_shares
from tests.run.conftest import Workshop, write_rows
from tests.selection.conftest import sequence
from tests.selection.test_select_run import decisions, done, notes


def documents(count: int, sequences: int = 1, *, first: int = 0) -> list[str]:
    return [str(first + i) for i in range(count) for _ in range(sequences)]


def p_value(pool: Any, target: Any, pool_names: list[str], target_names: list[str], seed: int = 0) -> float:
    return likeness(pool, pool_names, target, target_names, features="numbers", seed=seed).p_value


def test_equal_sides_are_called_different_as_often_as_the_level_says() -> None:
    """300 draws at 5 %: 15 are expected, 4 standard errors are 15 more; p values are spread evenly."""
    found = []
    for draw in range(300):
        x = np.random.default_rng(draw).normal(size=(60, 3))
        found.append(p_value(x[:45], x[45:], documents(45), documents(15, first=45)))
    assert 2 <= sum(p <= 0.05 for p in found) <= 30
    assert 0.4 < np.mean(found) < 0.6


def test_sequences_of_a_document_do_not_count_as_many() -> None:
    """Every document has an offset of its own: dealt by sequence nearly every draw would seem different."""
    by_document, by_sequence = [], []
    for draw in range(40):
        rng = np.random.default_rng(draw)
        x = np.repeat(rng.normal(size=(20, 2)), 10, axis=0) + 0.1 * rng.normal(size=(200, 2))
        by_document.append(p_value(x[:150], x[150:], documents(15, 10), documents(5, 10, first=15)))
        by_sequence.append(p_value(x[:150], x[150:], documents(150), documents(50, first=150)))
    assert sum(p <= 0.05 for p in by_document) <= 7 and sum(p <= 0.05 for p in by_sequence) >= 20


def test_many_sequences_a_document_against_few_are_no_difference() -> None:
    """The same text in documents of 40 sequences and of one: 200 draws at 5 %, 10 expected, 4 standard errors more."""
    found = []
    for draw in range(200):
        rng = np.random.default_rng(draw)
        pool, target = rng.normal(size=(20 * 40, 5)), rng.normal(size=(10, 5))
        found.append(p_value(pool, target, documents(20, 40), documents(10, first=20)))
    assert sum(p <= 0.05 for p in found) <= 22


def test_a_shift_is_found_and_a_mixture_still_differs() -> None:
    rng = np.random.default_rng(0)
    pool, target = rng.normal(size=(100, 4)), rng.normal(size=(20, 4)) + 1.5
    names = (documents(100), documents(20, first=100))
    assert p_value(pool, target, *names) == 0.001  # none of 999 permutations reaches it
    pool[:5] += 1.5  # 5 % of the pool are like the target
    assert p_value(pool, target, *names) == 0.001


def test_the_pool_against_itself_and_too_few_documents() -> None:
    x = np.random.default_rng(1).normal(size=(30, 4))
    same = likeness(x, documents(30), x, documents(30), features="numbers")
    assert same.p_value == 1.0 and same.alike
    assert same.sentence().startswith("no difference found between target and pool: where the pool is already like")
    few = likeness(x[:3], documents(3), x[3:6] + 9, documents(3, first=3), features="numbers")
    assert np.isnan(few.p_value) and not few.alike and "too few documents" in few.sentence()
    constant = likeness(np.ones((30, 2)), documents(30), np.ones((9, 2)), documents(9, first=30), features="numbers")
    assert constant.p_value == 1.0


def test_token_shares_by_counting() -> None:
    pool = [sequence([5, 5, 6, 7]), sequence([5])]
    found = token_shares(pool)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    expected = sorted(count / 4 for count in Counter([5, 5, 6, 7]).values())
    np.testing.assert_allclose(np.sort(found[0][found[0] > 0]), expected)
    assert found[1].max() == 1.0 and found[1].argmax() == found[0].argmax()


@pytest.mark.parametrize("use", ["dsir", "less"])
@pytest.mark.parametrize("same", [True, False], ids=["same", "other"])
def test_a_run_says_whether_selection_can_gain(tmp_path: Path, tiny_model_dir: Path, use: str, same: bool) -> None:
    workshop = Workshop(tmp_path, tiny_model_dir)
    rows = [f"{'quiet words of one kind'[i % 5 :]} and number {i % 7}" for i in range(24)]
    write_rows(workshop.directory / "train.jsonl", rows[:16])
    write_rows(workshop.directory / "target.jsonl", rows[16:] if same else [f"ZYX WVU {i} QQ!!" for i in range(8)])
    workshop.good["data"]["target"] = {"source": {"use": "jsonl", "path": str(workshop.directory / "target.jsonl")}}
    options: dict[str, Any] = {"dim": 8, "layers": "q_proj"} if use == "less" else {}
    workshop.good["select"] = {"selector": {"use": use, **options}, "budget": {"sequences": 4}}
    done(workshop)
    said = notes(workshop)["likeness"]
    assert said.startswith(
        "no difference found between target and pool" if same else "the target differs from the pool"
    ), said
    assert ("mean hidden states" if use == "less" else "token shares") in said
    assert sum(decisions(workshop).column("kept").to_pylist()) == 4
