"""docs/benchmarks.md shows what the committed results say, and names every benchmark."""

from __future__ import annotations

import re
from typing import Any

import pytest

from benchmarks import bias_plot, dataset_plot, quality_plot
from benchmarks.__main__ import NAMES
from benchmarks.result import load
from benchmarks.tables import MARK, PAGE, RESULTS, renewed


def test_tables_of_the_page_are_those_of_the_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert renewed(page) == page, "run: python -m benchmarks tables"


def test_every_result_is_shown_and_every_benchmark_named() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = {match[2] for match in MARK.finditer(page)}
    assert {path.name for path in RESULTS.glob("*.json")} <= shown
    assert all(f"`{name}`" in page for name in NAMES)


def test_a_changed_result_would_change_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = re.sub(r"(<!-- result: gradient_quality.json -->\n)", r"\1| an old line |\n", page)
    assert stale != page and renewed(stale) == page


@pytest.mark.parametrize(
    ("name", "plot"),
    [
        ("gradient_quality", quality_plot),
        ("target_bias", bias_plot),
        ("dataset_distillation_digits", dataset_plot),
    ],
)
def test_the_plot_is_that_of_the_result(name: str, plot: Any) -> None:
    assert plot.PICTURE.read_text(encoding="utf-8") == plot.picture(load(RESULTS / f"{name}.json"))
