"""Commands that run stages, and those that describe this installation."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distill_core.cli.run_file import RunFile, Set
from distill_core.errors import DistillError

if TYPE_CHECKING:
    from distill_core.engine.run_file.validate import CheckedRun
    from distill_core.registry import Registry

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="show only errors and the result")]


def add_commands(app: typer.Typer) -> None:
    from distill_core.cli.compare import compare
    from distill_core.cli.evaluate import evaluate

    for command in (run, capture, synthesize, select, train, evaluate, report, compare, doctor, version):
        app.command()(command)


def run(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Run every stage; what is finished is reused, what was interrupted resumes."""
    run_upto(file, set_, quiet, None)


def capture(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Run the captures, and the stages they need if those are not finished."""
    run_upto(file, set_, quiet, "capture")


def synthesize(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Run the synthesizer of the run file."""
    run_upto(file, set_, quiet, "synthesize")


def select(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Choose the training sequences, and run the stages that this needs if those are not finished."""
    run_upto(file, set_, quiet, "select")


def train(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Run the trainings, and the stages they need if those are not finished."""
    run_upto(file, set_, quiet, "train")


def report(file: RunFile, set_: Set = None, quiet: Quiet = False) -> None:
    """Write the report, and run the stages it needs if those are not finished."""
    run_upto(file, set_, quiet, "report")


def run_upto(file: Path, overrides: list[str] | None, quiet: bool, upto: str | None) -> None:
    """Run the stages of a run file up to a kind (None: all), then print what there is to see."""
    from distill_core.engine.progress import Progress
    from distill_core.engine.run import run as run_stages
    from distill_core.engine.run_file.validate import load_run_file
    from distill_core.registry import get_registry

    quiet_libraries(quiet)
    registry = get_registry()
    checked = load_run_file(file, overrides or (), registry=registry)
    if upto == "synthesize" and checked.config.synthesize is None:
        raise DistillError(f"{file} has no `synthesize:` section: name a synthesizer there, or use `distill run`")
    if upto == "select" and checked.config.select is None:
        raise DistillError(f"{file} has no `select:` section: name a selector and a budget there, or use `distill run`")
    if upto == "capture" and not checked.config.captures:
        raise DistillError(f"{file} has no `capture:` section: there is nothing to capture")
    if checked.config.active is not None:
        _run_rounds(file, checked, registry, quiet, upto)
        return
    leads = os.environ.get("RANK", "0") == "0"
    result = run_stages(checked, registry=registry, progress=Progress(quiet=quiet), upto=upto)
    if not leads:
        return
    if result.nothing_done:
        typer.echo(f"{checked.config.name}: everything was finished already; nothing was done")
    if upto in (None, "evaluate", "report"):
        print_summary(result.directory / "evaluate" / "results.json", result.report if upto != "evaluate" else None)


def _run_rounds(file: Path, checked: CheckedRun, registry: Registry, quiet: bool, upto: str | None) -> None:
    from distill_core.engine.active import run_active
    from distill_core.engine.progress import Progress

    if upto is not None:
        raise DistillError(
            f"{file} has an `active:` section: its stages run in rounds, so only `distill run` can run them; the "
            f"directories of the rounds hold run files for `distill {upto}`"
        )
    result = run_active(checked, registry=registry, progress=Progress(quiet=quiet))
    last = result.rounds[-1]
    for one in result.rounds:
        gain = "" if one.gain is None else f", gain {one.gain:+.4f}"
        typer.echo(
            f"round {one.round}: {one.sequences} sequences ({one.tokens} tokens) bought, {result.metric} "
            f"{one.value:.4f}{gain}"
        )
        for name, rival in one.compare.items():
            error = rival.difference_standard_error
            within = "" if error is None else f" (difference {rival.difference:+.4f}, standard error {error:.4f})"
            typer.echo(f"  {name}: {rival.sequences} sequences ({rival.tokens} tokens), {rival.value:.4f}{within}")
    typer.echo(
        f"{checked.config.name}: {result.stopped}; the student is in {Path(last.directory) / 'train/student/model'}"
    )


def print_summary(results: Path, report: Path | None) -> None:
    """The table of the evaluation, what the report flags, and its path."""
    import json

    from rich.console import Console

    from distill_core.report.summary import summary_table

    width = None if sys.stdout.isatty() else 120
    found = json.loads(results.read_text(encoding="utf-8"))
    content = None if report is None else json.loads(report.with_name("report.json").read_text(encoding="utf-8"))
    Console(width=width, soft_wrap=False).print(summary_table(found, report=report, content=content))


def quiet_libraries(quiet: bool) -> None:
    """Libraries speak of errors alone, and show bars only to someone who watches; the environment has the last word."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if quiet or not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def doctor() -> None:
    """Say what this installation can do: versions, devices, kernels, plugins, disk."""
    from distill_core.cli.diagnosis import diagnose

    for line in diagnose():
        typer.echo(line)


def version() -> None:
    """Print the version."""
    from distill_core import __version__

    typer.echo(__version__)
