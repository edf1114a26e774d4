"""One self-contained page that says whether the student is good, compared with what, at what cost.

>>> from distill_core.report import write_report  # write_report(Path("runs/quickstart")) -> .../report/index.html
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core.files import atomic_write_bytes
from distill_core.report.collect import CollectedRun, collect
from distill_core.report.content import as_json, content_of, schema
from distill_core.report.model_card import write_model_cards
from distill_core.report.page import render
from distill_core.report.summary import summary_table

if TYPE_CHECKING:
    from distill_core.registry import Registry

__all__ = ["CollectedRun", "collect", "render", "schema", "summary_table", "write_cards", "write_report"]


def write_report(
    run_directory: Path,
    *,
    directory: Path | None = None,
    registry: Registry | None = None,
    page_name: str = "index.html",
) -> Path:
    """Write ``report/index.html`` and ``report/report.json`` from what a run directory holds; returns the page's path.

    Works on a run of which only some stages have finished: the page then says which command produces the rest.

    Args:
        run_directory: the ``output_dir`` of a run.
        directory: where to write; default: ``report`` in the run directory.
        registry: whose plugins may add sections (hook ``distill_report_sections``); default: the process-wide one.
        page_name: file name of the page.

    Raises:
        DistillError: nothing of a run lies in ``run_directory``.
    """
    run = collect(Path(run_directory))
    text = as_json(content_of(run, _plugin_sections(run, registry)))
    target = Path(directory) if directory is not None else Path(run_directory) / "report"
    target.mkdir(parents=True, exist_ok=True)
    page = render(json.loads(text)).encode("utf-8", errors="replace")
    atomic_write_bytes(target / "report.json", text.encode())
    atomic_write_bytes(target / page_name, page)
    return target / page_name


def write_cards(run_directory: Path) -> list[Path]:
    """Write a model card (``README.md``) into every exported student of a run; returns their paths.

    Raises:
        DistillError: nothing of a run lies in ``run_directory``.
    """
    run = collect(Path(run_directory))
    return write_model_cards(run, json.loads(as_json(content_of(run))))


def _plugin_sections(run: CollectedRun, registry: Registry | None) -> list[tuple[str, str]]:
    """Sections of plugins; what is no (title, text) pair is named among the run's problems, not dropped in silence."""
    if registry is None:
        from distill_core.registry import get_registry

        registry = get_registry()
    sections: list[tuple[str, str]] = []
    for plugin, answer in registry.call_hook_by_plugin("distill_report_sections", run=run):
        entries: Sequence[Any] = answer if isinstance(answer, list | tuple) else [answer]
        for entry in entries:
            if isinstance(entry, list | tuple) and len(entry) == 2 and all(isinstance(part, str) for part in entry):
                sections.append((entry[0], entry[1]))
            else:
                run.problems.append(
                    f"plugin {plugin}: distill_report_sections must return (title, text) pairs of strings, got "
                    f"{type(entry).__name__} {str(entry)[:60]!r}"
                )
    return sections
