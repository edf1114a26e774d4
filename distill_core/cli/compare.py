"""``distill compare``: runs side by side, with verdicts. Nothing is run, and no model is loaded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from distill_core.errors import DistillError


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="directories of evaluated runs, the reference first", metavar="RUN...")
    ],
    model: Annotated[
        str | None, typer.Option(help="which model of each run is compared (its student)", metavar="NAME")
    ] = None,
    confidence: Annotated[float, typer.Option(help="of intervals and verdicts")] = 0.95,
    html: Annotated[Path | None, typer.Option(help="write a page", metavar="FILE", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Put evaluated runs side by side, paired where their data are equal."""
    from distill_core.files import atomic_write_bytes
    from distill_core.report.compare import compare_runs

    if not 0.5 < confidence < 1:
        raise DistillError(f"--confidence {confidence}: expected a number between 0.5 and 1")
    if html is not None and not html.absolute().parent.is_dir():
        raise DistillError(f"--html {html}: there is no directory {html.parent} to write into")
    found = compare_runs(runs, model=model, confidence=confidence)
    if html is not None:
        from distill_core.report.comparison_view import comparison_page

        atomic_write_bytes(html, comparison_page(found).encode("utf-8", errors="replace"))
    if as_json:
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    from rich.console import Console

    from distill_core.report.comparison_view import comparison_table

    Console(width=None if sys.stdout.isatty() else 120).print(comparison_table(found))
    if html is not None:
        typer.echo(f"page: {html}")
