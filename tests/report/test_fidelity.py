"""Closeness and usefulness told apart: the four sentences, the way gone, the chart, no section without data."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from distill_core.report import write_report
from distill_core.report.charts import tones
from distill_core.report.fidelity import fidelity
from tests.report.fake_run import results, write_run


class NoPlugins:
    def call_hook_by_plugin(self, name: str, **arguments: Any) -> list[tuple[str, Any]]:
        return []


def told(found: dict[str, Any]) -> list[str]:
    section = fidelity(found, tones(found, []))
    assert section is not None
    return section.sentences


@pytest.fixture
def found() -> dict[str, Any]:
    return copy.deepcopy(results())


CASES = {
    ("better", "better"): "closer to the teacher than hard-labels and better",
    ("no clear difference", "better"): "the gain is no sign of copying",
    ("better", "worse"): "this much fidelity does not pay here",
    ("undecidable", "no clear difference"): "neither clearly closer",
}


@pytest.mark.parametrize(("close", "useful"), CASES)
def test_four_diagnoses(found: dict[str, Any], close: str, useful: str) -> None:
    for comparison in found["comparisons"]:
        if comparison["baseline"] == "hard-labels":
            comparison["verdict"] = {"forward_kl": close, "cross_entropy": useful}.get(comparison["metric"], "worse")
    assert CASES[close, useful] in told(found)[1]


def test_levels_and_the_way_gone(found: dict[str, Any]) -> None:
    level, diagnosis, way = told(found)
    assert level.startswith("How close the student is to the teacher: KL to the teacher 2.")
    assert "top-1 agreement" in level and "cross-entropy" not in level
    assert diagnosis.startswith("The student is closer")
    values = {name: model["metrics"]["cross_entropy"]["value"] for name, model in found["models"].items()}
    gone = (values["hard-labels"] - values["student"]) / (values["hard-labels"] - values["teacher"])
    assert f"{100 * gone:.0f}\u202f% of the way from hard-labels to the teacher" in way


def test_a_student_behind_its_baseline_hints_at_the_capacity_gap(found: dict[str, Any]) -> None:
    found["models"]["student"]["metrics"]["cross_entropy"]["value"] = 9.0
    assert "the capacity gap" in told(found)[2]


def test_a_metric_of_any_name_takes_part(found: dict[str, Any]) -> None:
    for model in found["models"].values():
        model["metrics"] = {f"own_{name}": metric for name, metric in model["metrics"].items()}
    for comparison in found["comparisons"]:
        comparison["metric"] = f"own_{comparison['metric']}"
    assert len(told(found)) == 3


def test_no_section_without_teacher_or_metrics(found: dict[str, Any]) -> None:
    assert fidelity(None, {}) is None
    without = copy.deepcopy(found)
    del without["models"]["teacher"]
    assert fidelity(without, tones(without, [])) is None
    for name in ("forward_kl", "reverse_kl", "top1_agreement", "top10_overlap"):
        for model in found["models"].values():
            model["metrics"].pop(name, None)
    assert fidelity(found, tones(found, [])) is None


def test_on_the_page_and_in_the_data(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path), registry=NoPlugins())  # type: ignore[arg-type]
    text = page.read_text()
    assert "<bdi>Fidelity</bdi></h2>" in text
    section = text[text.index('id="fidelity"') : text.index('id="calibration"')]
    assert "closer to the teacher than hard-labels and better" in section
    chart = section[section.index("Cross-entropy over KL to the teacher") :]
    assert chart.count("<circle") == 2 and chart.count('class="end ') == 2, "each dot has its label"
