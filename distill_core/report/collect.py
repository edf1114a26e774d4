"""Reads a run directory into plain data; whatever a stage has not written yet is simply absent."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill_core.errors import DistillError
from distill_core.report import recorded


@dataclass
class CollectedRun:
    """What a run directory holds; given to the hook ``distill_report_sections`` as ``run``.

    Args:
        directory: the run directory.
        config: the resolved run file as plain data, empty if there is none.
        config_text: the same as text.
        results: ``evaluate/results.json``, or None.
        data: ``data.json`` by split, and of a selection, if there was one, as ``select``.
        trainings: lines of ``metrics.jsonl`` by training.
        stores: ``store_info(...).to_json()`` by capture.
        manifests: ``manifest.json`` of each stage, by its directory.
        overlap: held-out sequences and documents that are in the training data, or None where one split is missing.
        siblings: runs beside this one with the same run file but another seed.
        replaced: seeds of trainings that were replaced in this directory.
        active: ``active.json`` where the directory holds active rounds; all else is then that of the last round.
        problems: files that could not be read, and why.
    """

    directory: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    results: dict[str, Any] | None = None
    data: dict[str, dict[str, Any]] = field(default_factory=dict)
    trainings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    overlap: dict[str, Any] | None = None
    siblings: list[dict[str, Any]] = field(default_factory=list)
    replaced: list[Any] = field(default_factory=list)
    active: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        report = self.config.get("report") or {}
        return str(report.get("title") or self.config.get("name") or self.directory.name)

    @property
    def trainings_in_order(self) -> list[str]:
        """Names of trainings, the student first, then as the run file has them, then what else lies there."""
        named = ["student", *(self.config.get("compare") or {})]
        return [name for name in named if name in self.trainings] + [n for n in self.trainings if n not in named]


def collect(directory: Path) -> CollectedRun:
    """Read what there is.

    Raises:
        DistillError: ``directory`` is no run directory (nothing of a run lies in it).
    """
    if (Path(directory) / "active.json").is_file():
        return _last_round(Path(directory))
    run = CollectedRun(Path(directory))
    run_file = run.directory / "run.yaml"
    if run_file.is_file():
        run.config_text = run_file.read_text(encoding="utf-8", errors="replace")
        try:
            config = yaml.safe_load(run.config_text)
            run.config = config if isinstance(config, dict) else {}
        except yaml.YAMLError as error:
            run.problems.append(f"run.yaml is no YAML: {error}")
    run.results = _json(run, run.directory / "evaluate" / "results.json")
    for path in [*sorted(run.directory.glob("data/*/data.json")), run.directory / "select" / "data.json"]:
        if (summary := _json(run, path)) is not None:
            run.data[path.parent.name] = summary
    for path in sorted(run.directory.glob("train/*/metrics.jsonl")):
        run.trainings[path.parent.name] = _lines(path)
    for path in sorted(run.directory.glob("capture/*/")):
        _store(run, path)
    for pattern in ("*/manifest.json", "*/*/manifest.json"):
        for path in sorted(run.directory.glob(pattern)):
            if (manifest := _json(run, path)) is not None:
                run.manifests[path.parent.relative_to(run.directory).as_posix()] = manifest
    found = (run.config, run.results, run.data, run.trainings, run.stores, run.manifests, run.problems)
    if not any(found):
        raise DistillError(
            f"{directory} is not a run directory: it holds no run.yaml and no stage's output. Give the output_dir of a "
            "run file, or run it first: distill run FILE"
        )
    try:
        run.overlap = recorded.overlap(run.directory)
    except (OSError, ValueError, KeyError) as error:
        run.problems.append(f"the prepared sequences cannot be compared: {error}")
    run.siblings = recorded.siblings(run.directory, run.config)
    run.replaced = recorded.replaced_seeds(run.directory)
    return run


def _last_round(directory: Path) -> CollectedRun:
    """The last round of active rounds, and what all of them brought."""
    whole = CollectedRun(directory)
    active = _json(whole, directory / "active.json")
    try:
        run = collect(directory / "rounds" / f"{active['rounds'][-1]['round']:02d}")  # type: ignore[index]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DistillError(
            f"{directory / 'active.json'} names no round ({type(error).__name__}: {error}): run the rounds again, "
            "distill run FILE"
        ) from error
    run.active = active
    return run


def _json(run: CollectedRun, path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        run.problems.append(f"{path.relative_to(run.directory)} cannot be read: {error}")
        return None
    if not isinstance(value, dict):
        run.problems.append(f"{path.relative_to(run.directory)} holds a {type(value).__name__}, expected an object")
        return None
    return value


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines; a last one that is half written (a training under way) is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            value = json.loads(text)
        except ValueError:
            break
        if isinstance(value, dict) and isinstance(value.get("step"), int):
            lines.append(value)
    return lines


def _store(run: CollectedRun, directory: Path) -> None:
    from distill_core.store import store_info

    try:
        run.stores[directory.name] = store_info(directory).to_json()
    except DistillError as error:
        run.problems.append(f"capture/{directory.name}: {error}")
