"""`dataset_distillation`: every method makes a set and is judged, files resume, and the table's figures are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import dataset_distillation as bench
from benchmarks import dataset_table
from benchmarks.__main__ import parse
from benchmarks.image_data import _shares
from benchmarks.set_accuracy import Share
from distill_synthesis.matching.options import NetworkOptions

SMALL = ["--per-class", "1", "2", "--iterations", "1", "--epochs", "2", "--sets", "2", "--networks", "2"]


def pictures(count: int, seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [
        {"image": generator.integers(0, 256, 64).tolist(), "label": index % 3, "document": f"{seed}-{index}"}
        for index in range(count)
    ]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path):
    monkeypatch.setattr(bench, "records", lambda name: (pictures(30, 0), pictures(12, 1)))
    monkeypatch.setattr(bench, "NETWORKS", {"digits": NetworkOptions(depth=2, width=4)})
    quick = {"use": "trajectory-matching", "experts": 1, "expert_epochs": 2, "latest_start": 0, "student_steps": 1}
    monkeypatch.setitem(bench.SYNTHESIZERS, "trajectory matching", quick)
    found = tmp_path / "found.json"
    return ["dataset_distillation", *SMALL, "--draws", "3", "--json", str(found), "--work", str(tmp_path / "work")]


def test_every_method_is_measured_once_and_a_file_goes_on(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = bench.run(parse([*small, "--only", "random", "gradient matching"]))
    assert len(some["measurements"]) == 2 * (3 * 2 + 2 * 2)
    result = bench.run(parse(small))
    assert result["measurements"][: len(some["measurements"])] == some["measurements"]
    keys = [tuple(row[name] for name in bench.Unit._fields) for row in result["measurements"]]
    assert len(set(keys)) == len(keys) == len(list(bench.units(parse(small))))
    assert {row["method"] for row in result["measurements"]} == set(bench.METHODS)
    assert {row["per_class"] for row in result["measurements"] if row["method"] == "full"} == {None}
    with monkeypatch.context() as patch:
        patch.setattr(bench, "records", None)
        assert bench.run(parse(small)) == result
    monkeypatch.setitem(bench.SYNTHESIZERS, "distribution matching", {"use": "distribution-matching", "start": "mean"})
    again = bench.run(parse(small))["measurements"]
    assert len(again) == len(keys) and again[-1]["options"]["start"] == "mean"
    with pytest.raises(SystemExit, match="other settings"):
        bench.run(parse([*small, "--epochs", "3"]))


def test_baselines_are_real_images_of_their_class(small: list[str]) -> None:
    scene = bench.Scene(parse(small), pictures(30, 0), pictures(12, 1))
    real = scene.scale.read(scene.real.pixels_NCHW)
    for method in bench.BASELINES:
        images, targets = scene.training_set(2, method, 0)
        assert len(images) == 6
        if method == "class mean":
            torch.testing.assert_close(images[2:4].mean(0), real[scene.real.class_N == 1].mean(0))
            continue
        for image, label in zip(images, [0, 0, 1, 1, 2, 2], strict=True):
            assert any(torch.equal(image, one) for one in real[scene.real.class_N == label])
        if method == "random, soft labels":
            assert targets.shape == (6, 3) and torch.allclose(targets.sum(1), torch.ones(6))
            assert torch.equal(images, scene.training_set(2, "random", 0)[0])


def test_the_teacher_is_the_first_network_on_all_images(small: list[str]) -> None:
    """Trained once, kept on disk, and judged as such."""
    scenes = [bench.Scene(parse(small), pictures(30, 0), pictures(12, 1)) for _ in range(2)]
    images, classes = scenes[0].training_set(None, "full", 0)
    expected = scenes[0].trained(images, classes, "full", 0, 0)
    scenes[1].recipe = None  # the second must read it
    for scene in scenes:
        for own, other in zip(scene.teacher, expected, strict=True):
            assert torch.equal(own, other)


def row(method: str, number: int, network: int, accuracy: float, per_class: int | None = 1) -> dict[str, Any]:
    return {"per_class": per_class, "method": method, "set": number, "network": network, "accuracy": accuracy}


def test_table() -> None:
    lines = [row("random", n, 0, 0.6 + 0.1 * n) for n in range(2)]  # mean 0.65, standard error 0.05 over sets
    lines += [row("full", 0, n, 0.9 + 0.1 * n, None) for n in range(2)]  # mean 0.95, over networks
    lines += [row("gradient matching", s, n, 0.8 + 0.1 * s + 0.02 * n) for s in range(2) for n in range(2)]
    lines += [row("class mean", 0, n, 0.7 + 0.02 * n) for n in range(2)]  # 0.71, 0.01; over networks
    lines += [row("random", n, 0, 0.8, 2) for n in range(2)]
    size = {"data": "digits", "iterations": 5, "epochs": 2}
    table = dataset_table.table({"settings": size, "measurements": lines, "machine": "a machine"})
    assert "all images: 95.0 ± 5.0 % (2 networks)" in table
    one, two = table.split("2 per class:")
    assert "| random | 65.0 ± 5.0 | 68.4 | 0 ± 17 |  |  | 2 x 1 |" in one
    assert "| class mean | 71.0 ± 1.0 | 74.7 | 20 ± 3 |  |  | 1 x 2 |" in one
    # 0.21 ahead of random with error hypot(0.05, 0.05): more than twice; 0.15 ahead of the mean with hypot(0.05, 0.01)
    ours = "86.0 ± 5.0 | 90.5 | 70 ± 17 | **+21.0 ± 7.1 (random)** | **+15.0 ± 5.1 (class mean)** | 2 x 2 |"
    assert f"| gradient matching | {ours}" in one
    assert "| random | 80.0 ± 0.0 | 84.2 | 0 ± 0 |" in two and "gradient" not in two


def test_a_difference_within_two_errors_is_not_bold() -> None:
    ours, other = Share(0.9, 0.06, 5, 5), Share(0.8, 0.0, 1, 25)
    assert dataset_table.ahead(ours, {"random": other}, ["random"]) == ("random", pytest.approx(0.1), 0.06)
    assert dataset_table._difference("random", 0.1, 0.06) == "+10.0 ± 6.0 (random)"
    assert dataset_table.ahead(ours, {}, ["random"]) is None


def test_held_out_images_are_dealt_in_proportion() -> None:
    labels, counts = _shares(np.repeat([0, 1, 2], [10, 20, 31]), 15)
    assert labels.tolist() == [0, 1, 2] and counts.tolist() == [2, 5, 8]
