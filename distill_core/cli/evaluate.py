"""``distill evaluate``: the evaluation of a run file, or of model directories on text files. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_core.cli.run_file import Set
from distill_core.cli.running import Quiet, print_summary, quiet_libraries, run_upto
from distill_core.errors import DistillError

if TYPE_CHECKING:
    from distill_core.config import EvaluateConfig

OUTPUT = Path("evaluation")

EVALUATORS = ("language-model", "fidelity", "calibration")
"""What model directories are measured by if nothing else is asked for."""


def evaluate(
    file: Annotated[
        Path | None,
        typer.Argument(help="run file (YAML); without it, models are options", show_default=False, metavar="FILE"),
    ] = None,
    set_: Set = None,
    teacher: Annotated[Path | None, typer.Option(help="the teacher's model directory", metavar="DIR")] = None,
    student: Annotated[Path | None, typer.Option(help="the student's model directory", metavar="DIR")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="a further model to compare with (repeatable)", metavar="[NAME=]DIR", show_default=False),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="held-out text: .jsonl, a text file, or a directory (repeatable)", metavar="FILE", show_default=False
        ),
    ] = None,
    documents: Annotated[str, typer.Option(help="what is a document of a text file: file, paragraph, line")] = "file",
    evaluator: Annotated[
        list[str] | None,
        typer.Option(
            help="what to measure: a name, or YAML with options (repeatable)", metavar="NAME", show_default=False
        ),
    ] = None,
    length: Annotated[int, typer.Option(help="longest sequence, in tokens", min=2)] = 256,
    batch: Annotated[int, typer.Option(help="sequences per forward pass", min=1)] = 8,
    limit: Annotated[int | None, typer.Option(help="use the first so many sequences", min=1)] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="prompt of a sample continuation (repeatable)", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help=f"where to write ({OUTPUT})", metavar="DIR")] = None,
    quiet: Quiet = False,
) -> None:
    """Evaluate a run, or model directories on text: --teacher DIR --student DIR --text FILE."""
    options = (teacher, student, baseline, text, out, evaluator, prompt, limit)
    if file is not None:
        if any(option is not None for option in options):
            raise DistillError(
                f"{file} says what is evaluated: leave out --teacher, --student, --baseline, --text and what goes with "
                "them, or leave out the run file"
            )
        run_upto(file, set_, quiet, "evaluate")
        return
    if set_:
        raise DistillError("--set changes values of a run file, but no run file was given")
    missing = [name for name, value in (("--student", student), ("--text", text)) if value is None]
    if missing or student is None or text is None:
        raise DistillError(
            f"{' and '.join(missing)} missing: give a run file, or --student DIR and --text FILE (and --teacher DIR, "
            "--baseline DIR)"
        )
    from distill_core.engine.model_directories import Cut, evaluate_directories
    from distill_core.engine.progress import Progress
    from distill_core.registry import get_registry
    from distill_core.report import write_report

    if documents not in ("file", "paragraph", "line"):
        raise DistillError(f"--documents {documents}: expected file, paragraph or line")
    quiet_libraries(quiet)
    registry, directory = get_registry(), out or OUTPUT
    evaluate_directories(
        teacher=teacher,
        student=student,
        baselines=named_baselines(baseline or ()),
        texts=text,
        directory=directory,
        config=_config(evaluator, batch),
        registry=registry,
        progress=Progress(quiet=quiet),
        documents=documents,  # type: ignore[arg-type]  # checked above
        cut=Cut(sequence_length_tokens=length),
        limit_sequences=limit,
        prompts=prompt or (),
    )
    page = write_report(directory, directory=directory, registry=registry, page_name="report.html")
    print_summary(directory / "evaluate" / "results.json", page)


def named_baselines(given: list[str] | tuple[str, ...]) -> dict[str, Path]:
    """``NAME=DIR`` or ``DIR``, whose last part is then the name.

    Raises:
        DistillError: a name is taken.

    >>> named_baselines(["runs/hard", "kl=runs/b/model"])
    {'hard': PosixPath('runs/hard'), 'kl': PosixPath('runs/b/model')}
    """
    found: dict[str, Path] = {}
    for text in given:
        name, separator, path = text.partition("=")
        place = Path(path if separator else text)
        if not separator:
            name = place.parent.name if place.name == "model" and place.parent.name else place.name
        if name in (*found, "teacher", "student", ""):
            raise DistillError(f"--baseline {text}: the name {name!r} is taken; give another, --baseline NAME={place}")
        found[name] = place
    return found


def _config(evaluators: list[str] | None, batch: int) -> EvaluateConfig:
    import yaml
    from pydantic import ValidationError

    from distill_core.config import EvaluateConfig

    refs: list[dict[str, Any]] = []
    for text in evaluators or EVALUATORS:
        value = yaml.safe_load(text)
        refs.append({"use": value} if isinstance(value, str) else value)
    try:
        return EvaluateConfig.model_validate({"evaluators": refs, "batch_sequences": batch})
    except ValidationError as error:
        raise DistillError(
            f"--evaluator {evaluators}: expected a name, or YAML such as '{{use: NAME, option: 1}}'"
        ) from error
