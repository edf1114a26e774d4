"""`distill compare` of runs of several sizes: lines with errors, one for each way of getting data and each baseline."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from distill_core.report.compare import compare_runs
from distill_core.report.comparison_view import comparison_page
from distill_core.report.sizes import size_of, way_of
from tests.report.fake_run import write_json, write_run
from tests.report.test_compare import shift


def make(parent: Path, name: str, size: int, *, way: str = "", seed: int = 0, factor: float = 1.0) -> Path:
    """A run that learned from ``size`` sequences."""
    directory = write_run(parent / name)
    config = yaml.safe_load((directory / "run.yaml").read_text(encoding="utf-8"))
    config |= {"name": name, "seed": seed, "output_dir": str(directory)}
    config["select"] = {"selector": {"use": way or "random"}, "budget": {"sequences": size}}
    (directory / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    write_json(directory / "select" / "data.json", {"split": "train", "sequences": size, "tokens": 9 * size})
    if factor != 1.0:
        shift(directory, factor)
    return directory


def lines(comparison: dict[str, Any], metric: str = "cross_entropy") -> dict[str, list[dict[str, Any]]]:
    return dict(comparison["sizes"][metric]["lines"])


def value_of(directory: Path, model: str) -> float:
    found = json.loads((directory / "evaluate" / "results.json").read_text())
    return float(found["models"][model]["metrics"]["cross_entropy"]["value"])


def test_a_line_for_each_way_and_each_baseline(tmp_path: Path) -> None:
    runs = [
        make(tmp_path, f"{way}-{size}", size, way=way, factor=factor)
        for way, factor in (("herding", 0.9), ("dsir", 0.8))
        for size in (20, 10)
    ]
    found = lines(compare_runs(runs))
    assert list(found) == ["herding", "hard-labels", "dsir"]
    assert [one["size"] for one in found["dsir"]] == [10, 20]
    assert found["dsir"][0]["value"] == pytest.approx(value_of(runs[3], "student")) and found["dsir"][0]["runs"] == 1
    assert found["dsir"][0]["standard_error"] > 0
    assert [one["runs"] for one in found["hard-labels"]] == [2, 2], "the baselines of both runs of a size"
    assert "teacher" not in found


def test_seeds_of_a_size_are_averaged(tmp_path: Path) -> None:
    runs = [make(tmp_path, f"s{n}", 10, seed=n, factor=1 + 0.1 * n) for n in range(3)] + [make(tmp_path, "big", 40)]
    found = lines(compare_runs(runs))["student"]
    values = [value_of(one, "student") for one in runs[:3]]
    assert found[0]["value"] == pytest.approx(np.mean(values)) and found[0]["runs"] == 3
    assert found[0]["standard_error"] == pytest.approx(np.std(values, ddof=1) / math.sqrt(3))


def test_the_page_draws_it_and_one_size_has_none(tmp_path: Path) -> None:
    runs = [make(tmp_path, f"n{size}", size, factor=1 - size / 400) for size in (10, 20, 40)]
    page = comparison_page(compare_runs(runs))
    assert "By size of the training set" in page
    chart = page[page.index('aria-label="Cross-entropy by size"') :]
    chart = chart[: chart.index("</svg>")]
    assert chart.count("<title>student:") == 3 and chart.count('class="band') == 2
    same = [make(tmp_path, f"same{n}", 10, way=("a", "b")[n]) for n in range(2)]
    alike = compare_runs(same)
    assert alike["sizes"] is None and "By size" not in comparison_page(alike)


def test_what_a_run_says_of_its_size(tmp_path: Path) -> None:
    from distill_core.report.collect import CollectedRun

    data = {"select": {"sequences": 5}, "train": {"sequences": 50}}
    assert size_of(CollectedRun(tmp_path, data=data)) == 5
    assert size_of(CollectedRun(tmp_path, {"train": {"learns_from": "all"}}, data=data)) == 50
    assert size_of(CollectedRun(tmp_path)) is None
    both = {"synthesize": {"use": "dm"}, "select": {"selector": {"use": "herding"}}}
    assert way_of(CollectedRun(tmp_path, both)) == "dm, herding" and way_of(CollectedRun(tmp_path)) == "all data"
