"""Herding, k-center and class mean against brute force on given features; random and stratified by counting."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.errors import DataError
from distill_core.interfaces import Budget, Ranking
from distill_core.registry import get_registry
from tests.selection.conftest import FixedFeatures, context, sequence, token_pool


def selected(use: str, directory: Path, pool: Any, **given: Any) -> Ranking:
    changes = {name: given.pop(name) for name in ("budget", "features", "labels", "seed", "target") if name in given}
    found: Ranking = get_registry().build("selector", {"use": use, **given}).select(context(pool, directory, **changes))
    return found


def points(count: int, *, seed: int = 3) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def brute_herding(x: Any, count: int) -> list[int]:
    """Tries every candidate at every step."""
    kept: list[int] = []
    for _ in range(count):
        free = [i for i in range(len(x)) if i not in kept]
        kept.append(min(free, key=lambda i: np.linalg.norm(x.mean(0) - x[[*kept, i]].mean(0))))
    return kept


def brute_k_center(x: Any, count: int) -> list[int]:
    kept = [min(range(len(x)), key=lambda i: np.linalg.norm(x[i] - x.mean(0)))]
    while len(kept) < count:
        free = [i for i in range(len(x)) if i not in kept]
        kept.append(max(free, key=lambda i: min(np.linalg.norm(x[i] - x[j]) for j in kept)))
    return kept


@pytest.mark.parametrize("count", [1, 2, 17, 40])
def test_herding_by_brute_force(tmp_path: Path, count: int) -> None:
    x, pool = points(40), token_pool(40)
    given = {"features": FixedFeatures(x), "budget": Budget(sequences=count)}
    found = selected("herding", tmp_path, pool, normalize=False, **given)
    double = x.astype(np.float64)
    assert found.order.tolist() == brute_herding(double, count)
    reached = [np.linalg.norm(double.mean(0) - double[found.order[: k + 1]].mean(0)) for k in range(count)]
    np.testing.assert_allclose(found.scores[found.order], reached, rtol=1e-9, atol=1e-12)
    unit = double / np.linalg.norm(double, axis=1, keepdims=True)
    assert selected("herding", tmp_path, pool, **given).order.tolist() == brute_herding(unit, count)


@pytest.mark.parametrize("count", [1, 2, 17, 40])
def test_k_center_by_brute_force(tmp_path: Path, count: int) -> None:
    x, pool = points(40, seed=5), token_pool(40)
    found = selected("k-center", tmp_path, pool, features=FixedFeatures(x), budget=Budget(sequences=count))
    assert found.order.tolist() == brute_k_center(x.astype(np.float64), count)
    assert np.isnan(found.scores[found.order[0]])
    assert (np.diff(found.scores[found.order[1:]]) <= 1e-12).all()


def test_k_center_covers_within_twice_the_best(tmp_path: Path) -> None:
    """The greedy radius is at most twice the optimum, found here by trying all triples."""
    from itertools import combinations

    x, pool = points(12, seed=8).astype(np.float64), token_pool(12)
    distances = np.linalg.norm(x[:, None] - x[None], axis=-1)
    best = min(distances[:, list(three)].min(1).max() for three in combinations(range(12), 3))
    for start in ("nearest-mean", "random"):
        budget = Budget(sequences=3)
        found = selected("k-center", tmp_path, pool, start=start, features=FixedFeatures(x), budget=budget)
        radius = distances[:, found.order[:3]].min(1).max()
        assert best <= radius <= 2 * best + 1e-6


def test_equal_points_are_chosen_once_each(tmp_path: Path) -> None:
    for use in ("herding", "k-center"):
        found = selected(use, tmp_path, token_pool(6), features=FixedFeatures(np.ones((6, 4))))
        assert sorted(found.order.tolist()) == list(range(6))
    zero = selected("herding", tmp_path, token_pool(3), features=FixedFeatures(np.zeros((3, 4))))
    assert np.isfinite(zero.scores).all()


def labelled(labels: list[int]) -> Any:
    return [sequence([5, 6, 7 + i], document=f"d{i}", label=label) for i, label in enumerate(labels)]


def test_class_mean_by_hand(tmp_path: Path) -> None:
    labels = [0, 1, 0, 1, 0, 2]
    x = np.array([[0.0], [10.0], [1.0], [14.0], [5.0], [7.0]])
    found = selected("class-mean", tmp_path, labelled(labels), features=FixedFeatures(x), labels=("a", "b", "c"))
    # means 2, 12, 7: distances 2, 2, 1, 2, 3, 0; classes take turns
    np.testing.assert_allclose(found.scores, [2, 2, 1, 2, 3, 0])
    assert found.order.tolist() == [2, 1, 5, 0, 3, 4]
    one = selected("class-mean", tmp_path, token_pool(6), features=FixedFeatures(x), per_class=False)
    np.testing.assert_allclose(one.scores, np.abs(x[:, 0] - x.mean()))
    assert one.order.tolist() == np.argsort(one.scores, kind="stable").tolist()


@pytest.mark.parametrize("use", ["herding", "k-center", "class-mean"])
def test_per_class_is_the_selection_within_each_class(tmp_path: Path, use: str) -> None:
    labels = [0, 1] * 10
    x, pool = points(20), labelled(labels)
    found = selected(use, tmp_path, pool, per_class=True, features=FixedFeatures(x), labels=("a", "b"))
    for label in (0, 1):
        members = [i for i in range(20) if labels[i] == label]
        alone = selected(use, tmp_path, token_pool(10), per_class=False, features=FixedFeatures(x[members]))
        assert [i for i in found.order.tolist() if labels[i] == label] == [members[i] for i in alone.order]
    assert Counter(labels[i] for i in found.order[:6]) == {0: 3, 1: 3}


@pytest.mark.parametrize("use", ["herding", "k-center", "class-mean"])
def test_labels_are_needed_per_class(tmp_path: Path, use: str) -> None:
    with pytest.raises(DataError, match=r"sequence 0 \(document d0\) has tokens to predict, not a class"):
        selected(use, tmp_path, token_pool(4), per_class=True, features=FixedFeatures(points(4)))


def test_random_is_reproducible_nested_and_fair(tmp_path: Path) -> None:
    pool = token_pool(30)
    first = selected("random", tmp_path, pool)
    assert first.order.tolist() == selected("random", tmp_path, pool).order.tolist()
    assert sorted(first.order.tolist()) == list(range(30))
    for changes in ({"seed": 1}, {"draw": 1}):
        assert first.order.tolist() != selected("random", tmp_path, pool, **changes).order.tolist()
    times = Counter(int(i) for seed in range(300) for i in selected("random", tmp_path, pool, seed=seed).order[:10])
    # 300 draws of 10 in 30: mean 100, standard deviation 8.2; 5 of them allow for 30 looks
    assert all(abs(times[i] - 100) < 41 for i in range(30))


def test_stratified_shares_are_right_at_every_budget(tmp_path: Path) -> None:
    sizes = {"a": 24, "b": 12, "c": 4}
    pool = [sequence([3, 4, i + 5], domain=name) for name, size in sizes.items() for i in range(size)]
    found = selected("stratified", tmp_path, pool)
    for count in range(1, 41):
        kept = Counter(pool[i].domain for i in found.order[:count])
        assert all(abs(kept[name] - count * size / 40) <= 1 for name, size in sizes.items())
    equal = selected("stratified", tmp_path, pool, allocation="equal")
    assert Counter(pool[i].domain for i in equal.order[:12]) == {"a": 4, "b": 4, "c": 4}
    assert Counter(pool[i].domain for i in equal.order[:20]) == {"a": 8, "b": 8, "c": 4}
    assert found.notes["strata"] == sizes


@pytest.mark.parametrize("by", ["length", "difficulty", "document", "class"])
def test_strata_of_each_kind(tmp_path: Path, by: str) -> None:
    pool = [
        sequence([3] * (2 + i), document=f"d{i % 3}", difficulty=float(-i), label=i % 3 if by == "class" else None)
        for i in range(12)
    ]
    found = selected("stratified", tmp_path, pool, by=by, bins=3)
    assert sorted(found.notes["strata"].values()) == [4, 4, 4]
    first = found.order[:3]
    of = {"length": lambda i: i // 4, "difficulty": lambda i: i // 4}.get(by, lambda i: i % 3)
    assert {of(int(i)) for i in first} == {0, 1, 2}


def test_stratified_wrong_use(tmp_path: Path) -> None:
    pool = [sequence([3, 4, 5])] * 2
    with pytest.raises(DataError, match="no record of the pool has a `domain`"):
        selected("stratified", tmp_path, pool)
    with pytest.raises(DataError, match="2 of 2 sequences have none"):
        selected("stratified", tmp_path, pool, by="difficulty")
    with pytest.raises(DataError, match="not a class"):
        selected("stratified", tmp_path, pool, by="class")
