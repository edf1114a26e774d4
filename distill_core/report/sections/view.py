"""What every section is given: the content of ``report.json``, with the few things all of them look up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from distill_core.report.blocks import Cell, Column, Table
from distill_core.report.charts import tones
from distill_core.report.summary import metric_rows
from distill_core.report.text import MISSING, difference, figure, number, share, unit_and_direction

ASPECTS = {
    "utility": "Usefulness",
    "fidelity": "Fidelity",
    "calibration": "Calibration",
    "reasoning": "Reasoning",
    "diversity": "Diversity",
    "integrity": "Integrity",
    "fairness": "Fairness",
    "transfer": "Transfer",
    "continual": "Between revisions",
    "distillation": "Distillation degree",
    "influence": "Which training examples hurt",
    "cost": "Cost",
}
"""Aspects a metric may belong to (``Measurement.aspect``), with the heading of their section."""

DRAWN = ("by_position", "reliability")
"""Entries of a metric's detail that have a chart of their own."""


@dataclass(frozen=True)
class Missing:
    """A section that has nothing to show: what is missing, and how to get it."""

    title: str
    why: str


@dataclass(frozen=True)
class View:
    """The content, seen by a section."""

    content: Mapping[str, Any]

    @property
    def results(self) -> Mapping[str, Any] | None:
        return self.content.get("results")

    @property
    def of_run(self) -> bool:
        """False for model directories that were evaluated without a run file."""
        return bool(self.content.get("kind", "run") == "run")

    @cached_property
    def tone(self) -> dict[str, str]:
        return tones(self.results, list(self.content.get("trainings", {})))

    @cached_property
    def teacher(self) -> str | None:
        models = (self.results or {}).get("models", {})
        return next((name for name, model in models.items() if model["role"] == "teacher"), None)

    @cached_property
    def student(self) -> str | None:
        models = (self.results or {}).get("models", {})
        return next((name for name, model in models.items() if model["role"] != "teacher"), None)

    @cached_property
    def aspects(self) -> dict[str, list[str]]:
        """Names of the metrics of each aspect, in the order they were measured.

        A metric that does not say its aspect: with a reliability curve it is calibration; one that the teacher has no
        figure of measures closeness to it; any other is usefulness.
        """
        found: dict[str, list[str]] = {}
        if self.results is None:
            return found
        models = self.results["models"]
        own = models[self.teacher]["metrics"] if self.teacher is not None else None
        for name, described in metric_rows(self.results).items():
            aspect = described.get("aspect") or (
                "calibration"
                if described["detail"].get("reliability")
                else "fidelity"
                if own is not None and name not in own
                else "utility"
            )
            found.setdefault(aspect, []).append(name)
        return found

    def metric_table(self, names: Sequence[str], caption: str) -> Table:
        """Metrics by models, each figure with its interval, and the student's paired differences."""
        assert self.results is not None
        results, described = self.results, metric_rows(self.results)
        models = [name for name in results["models"] if any(n in results["models"][name]["metrics"] for n in names)]
        columns = [Column("Metric"), *(Column(name, number=True, model=name) for name in models)]
        compared = any(c["metric"] in (described[n]["derived_from"] or n for n in names) for c in self._rivals())
        if compared:
            columns.append(Column("Student against baseline"))
        rows = []
        for name in names:
            metric = described[name]
            row = [Cell(metric["label"], unit_and_direction(metric))]
            row += [_figure_cell(results["models"][model]["metrics"].get(name)) for model in models]
            rows.append(row + ([self._verdict_cell(name, metric)] if compared else []))
        primary = frozenset(index for index, name in enumerate(names) if described[name]["primary"])
        return Table(caption, columns, rows, primary)

    def _rivals(self) -> list[Mapping[str, Any]]:
        assert self.results is not None
        return [c for c in self.results["comparisons"] if c["baseline"] != self.teacher]

    def _verdict_cell(self, name: str, metric: Mapping[str, Any]) -> Cell:
        source = metric["derived_from"] or name
        found = [c for c in self._rivals() if c["metric"] == source]
        if not found:
            return Cell(MISSING)
        kinds = list(dict.fromkeys(c["verdict"] for c in found))
        if metric["derived_from"]:
            label = metric_rows(self.results or {})[source]["label"].lower()
            return Cell(kinds[0] if len(kinds) == 1 else "mixed", f"see {label}", verdict=_class(kinds))
        parts = []
        for c in found:
            shown = difference(c, metric["unit"])
            evidence = ", ".join(
                part for part in (f"({shown['interval']})" if shown["interval"] else "", shown["p"]) if part
            )
            who = f"{c['baseline']}: " if len(found) > 1 else ""
            said = f"{c['verdict']}, " if len(kinds) > 1 else ""
            parts.append(f"{who}{said}{shown['value']} {evidence}".strip())
        return Cell(kinds[0] if len(kinds) == 1 else "mixed", "\n".join(parts), verdict=_class(kinds))


def _class(kinds: Sequence[str]) -> str:
    return kinds[0].replace(" ", "-") if len(kinds) == 1 else "mixed"


def _figure_cell(metric: Mapping[str, Any] | None) -> Cell:
    if metric is None:
        return Cell(MISSING)
    shown = figure(metric)
    return Cell(shown["value"], shown["interval"], sort=number(metric["value"]))


def held_out_caption(results: Mapping[str, Any]) -> str:
    """What the figures were measured on, and how their uncertainty is meant."""
    data = results["data"]
    return (
        f"Held-out figures of {data['rows']:,} predicted tokens in {data['documents']:,} documents, each with its "
        f"{share(results['settings']['confidence'])} interval. Standard errors are clustered by document; differences "
        "are paired by document; p values carry Holm\u2019s correction over the baselines."
    )
