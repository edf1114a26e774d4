"""`dataset_distillation`: every method makes a set and is judged, files resume, and the table's figures are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import dataset_distillation as bench
from benchmarks.__main__ import parse
from benchmarks.image_data import _shares
from distill_synthesis.matching.options import NetworkOptions

SMALL = ["--iterations", "1", "--epochs", "2", "--sets", "2", "--networks", "2", "--draws", "3"]


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
    return ["dataset_distillation", *SMALL, "--json", str(found), "--work", str(tmp_path / "work")]


def test_every_method_is_measured_once_and_a_file_goes_on(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = bench.run(parse([*small, "--only", "random", "gradient matching"]))
    assert len(some["measurements"]) == 3 * 2 + 2 * 2
    result = bench.run(parse(small))
    assert result["measurements"][: len(some["measurements"])] == some["measurements"]
    keys = [(row["method"], row["set"], row["network"]) for row in result["measurements"]]
    assert len(set(keys)) == len(keys) == len(list(bench.units(parse(small))))
    assert {row["method"] for row in result["measurements"]} == set(bench.METHODS)
    with monkeypatch.context() as patch:
        patch.setattr(bench, "records", None)
        assert bench.run(parse(small)) == result
    monkeypatch.setitem(bench.SYNTHESIZERS, "distribution matching", {"use": "distribution-matching", "start": "mean"})
    again = bench.run(parse(small))["measurements"]
    assert len(again) == len(keys) and again[-1]["options"]["start"] == "mean"
    with pytest.raises(SystemExit, match="other settings"):
        bench.run(parse([*small, "--epochs", "3"]))


def test_baselines_are_real_images_of_their_class(small: list[str]) -> None:
    scene = bench.Scene(parse([*small, "--per-class", "2"]), pictures(30, 0), pictures(12, 1))
    real = scene.scale.read(scene.real.pixels_NCHW)
    for method in bench.BASELINES:
        images, targets = scene.training_set(method, 0)
        assert len(images) == 6
        if method == "class mean":
            torch.testing.assert_close(images[2:4].mean(0), real[scene.real.class_N == 1].mean(0))
            continue
        for image, label in zip(images, [0, 0, 1, 1, 2, 2], strict=True):
            assert any(torch.equal(image, one) for one in real[scene.real.class_N == label])
        if method == "random, soft labels":
            assert targets.shape == (6, 3) and torch.allclose(targets.sum(1), torch.ones(6))
            assert torch.equal(images, scene.training_set("random", 0)[0])


def row(method: str, number: int, network: int, accuracy: float) -> dict[str, Any]:
    return {"method": method, "set": number, "network": network, "accuracy": accuracy}


def test_table() -> None:
    lines = [row("random", n, 0, 0.6 + 0.1 * n) for n in range(2)]  # mean 0.65, standard error 0.05 over sets
    lines += [row("full", 0, n, 0.9 + 0.1 * n) for n in range(2)]  # mean 0.95, over networks
    lines += [row("gradient matching", s, n, 0.8 + 0.1 * s + 0.02 * n) for s in range(2) for n in range(2)]
    size = {"data": "digits", "per_class": 1, "iterations": 5, "epochs": 2}
    table = bench.table({"settings": size, "measurements": lines, "machine": "a machine"})
    assert "| random | 65.0 ± 5.0 | 68.4 | 0 ± 17 | 2 x 1 |" in table
    assert "| full | 95.0 ± 5.0 | 100.0 | 100 ± 17 | 1 x 2 |" in table
    assert "| gradient matching | 86.0 ± 5.0 | 90.5 | 70 ± 17 | 2 x 2 |" in table


def test_held_out_images_are_dealt_in_proportion() -> None:
    labels, counts = _shares(np.repeat([0, 1, 2], [10, 20, 31]), 15)
    assert labels.tolist() == [0, 1, 2] and counts.tolist() == [2, 5, 8]
