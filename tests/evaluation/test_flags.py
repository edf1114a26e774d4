"""What makes an evaluation look better than it is, planted and caught; and what is honest, not flagged."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from distill_core.engine.flags import (
    TrainingFacts,
    compare_facts,
    detectable,
    few_documents,
    few_seeds,
    run_flags,
    seed_flags,
    tokenizer_changed,
    underpowered,
)

FAIR = TrainingFacts(100, 800, 6400.0, "train", "eval", "tokenizer", "start", 0)


def names(flags: list[Any]) -> list[tuple[str, str]]:
    return [(flag.flag, flag.severity) for flag in flags]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"steps": 50}, [("baseline-budget", "error")]),
        ({"sequences": 400}, [("baseline-budget", "error")]),
        ({"tokens": 3200.0}, [("baseline-budget", "error")]),
        ({"steps": 94}, [("baseline-budget", "error")]),
        ({"steps": 96}, []),
        ({"steps": 200}, [("student-budget", "warning")]),
        ({"steps": None, "sequences": None, "tokens": None}, []),
        ({"train_data": "x"}, [("different-data", "error")]),
        ({"eval_data": "x"}, [("different-held-out-data", "error")]),
        ({"tokenizer": "x"}, [("different-tokenizer", "error")]),
        ({"student": "x"}, [("different-start", "warning")]),
        ({"seed": 3}, [("different-seed", "warning")]),
    ],
    ids=str,
)
def test_unequal_trainings(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    other = TrainingFacts(**{**FAIR.__dict__, **change})
    found = compare_facts("student", {"student": FAIR, "baseline": other})
    assert names(found) == expected
    for flag in found:
        assert "student" in flag.reason and "baseline" in flag.reason and flag.evidence["models"]


def test_other_data_that_the_run_file_declares_is_a_warning() -> None:
    other = TrainingFacts(**{**FAIR.__dict__, "train_data": "x"})
    assert names(compare_facts("s", {"s": FAIR, "b": other}, data_is_declared=True)) == [("different-data", "warning")]


def test_half_the_steps_says_how_much() -> None:
    (flag,) = compare_facts("s", {"s": FAIR, "b": TrainingFacts(**{**FAIR.__dict__, "steps": 50})})
    assert "50%" in flag.reason and flag.evidence["steps"] == [100, 50] and flag.evidence["share"] == 0.5


def test_manifests_of_a_run_are_read() -> None:
    def manifest(steps: int, **parts: Any) -> Any:
        base = {"train.batch_sequences": 8, "train.accumulation_steps": 2, "seed": 0, "output of data:train": "a"}
        return SimpleNamespace(parts={**base, **parts}, notes={"steps": steps})

    assert run_flags({"student": manifest(40), "base": manifest(40)}) == []
    assert names(run_flags({"student": manifest(40), "base": manifest(20)})) == [("baseline-budget", "error")]
    smaller = manifest(40, **{"train.batch_sequences": 4})
    assert names(run_flags({"student": manifest(40), "base": smaller})) == [("baseline-budget", "error")]
    assert run_flags({"student": manifest(40), "base": None}) == [] and run_flags({}) == []


def test_a_shuffled_tokenizer_is_told_from_its_own(tokenizer: Any) -> None:
    class Shuffled:
        def get_vocab(self) -> dict[str, int]:
            vocabulary = tokenizer.get_vocab()
            order = np.random.default_rng(0).permutation(len(vocabulary)).tolist()
            return {token: order[index] for token, index in vocabulary.items()}

    assert tokenizer_changed("student", tokenizer, tokenizer) == []
    (flag,) = tokenizer_changed("student", tokenizer, Shuffled())
    assert flag.flag == "shuffled-tokenizer" and flag.severity == "error" and flag.evidence["moved"] > 100
    assert "the same tokens under other ids" in flag.reason


@pytest.mark.parametrize("higher", [False, True])
def test_a_cherry_picked_seed(higher: bool) -> None:
    sign = -1 if higher else 1
    found = {seed: sign * value for seed, value in enumerate([2.4, 2.3, 2.0, 2.5, 2.6])}
    picked = seed_flags({2: found[2]}, found, metric="loss", higher_is_better=higher)
    assert names(picked) == [("cherry-picked-seed", "error")] and picked[0].evidence["reported"] == {"2": found[2]}
    honest = seed_flags({1: found[1]}, found, metric="loss", higher_is_better=higher)
    assert names(honest) == [("seeds-left-out", "warning")]
    assert seed_flags(found, found, metric="loss", higher_is_better=higher) == []
    assert seed_flags({}, found, metric="loss", higher_is_better=higher) == []
    unfinished = seed_flags({2: found[2]}, {3: math.nan}, metric="loss", higher_is_better=higher)
    assert names(unfinished) == [("seeds-left-out", "warning")], "a seed without a figure is no worse one"
    assert names(few_seeds(4)) == [("few-seeds", "warning")] and few_seeds(5) == []


def test_too_few_documents() -> None:
    assert names(few_documents(1)) == [("few-documents", "error")]
    assert names(few_documents(7)) == [("few-documents", "warning")]
    assert few_documents(8) == []


def test_what_could_not_have_been_found() -> None:
    """Simulated: an effect of the size named is found in about 80 of 100 worlds."""
    smallest = detectable(1 / math.sqrt(20), 20)
    rng, found, worlds = np.random.default_rng(0), 0, 2000
    for _ in range(worlds):
        sample = rng.normal(smallest, 1.0, size=20)
        found += abs(sample.mean()) / (sample.std(ddof=1) / math.sqrt(20)) > 2.093  # t quantile, 19 degrees
    assert found / worlds == pytest.approx(0.8, abs=0.04)


def test_a_difference_that_matters_and_would_be_missed() -> None:
    (flag,) = underpowered("a and b in loss", 0.1, 20, margin=0.2)
    assert flag.severity == "warning" and flag.evidence["detectable"] == detectable(0.1, 20) > 0.2
    assert "between a and b in loss, but 20 documents find only one of 0.295" in flag.reason
    assert "3 seeds" in underpowered("a and b", 0.1, 3, margin=0.2, units="seeds")[0].reason
    assert underpowered("a and b", 0.1, 20, margin=0.3) == []
    assert underpowered("a and b", math.nan, 20, margin=0.3) == [], "no error, no verdict: few-documents speaks of it"
    assert underpowered("a and b", 0.1, 1, margin=0.0) == [] == underpowered("a and b", 0.0, 20, margin=0.0)
