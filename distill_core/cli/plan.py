"""``distill plan``: what a distillation will cost and what may come of it, before anything runs. No torch at import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distill_core.cli.run_file import Set
from distill_core.errors import DistillError

if TYPE_CHECKING:
    from distill_core.planning.request import Request
    from distill_core.planning.shape import ModelShape

VOCABULARY = 32_768
"""Of the models of the scaling law (arXiv 2502.08606, Table 13)."""


def plan(
    file: Annotated[
        Path | None,
        typer.Argument(help="run file (YAML); without it, sizes are options", show_default=False, metavar="FILE"),
    ] = None,
    set_: Set = None,
    teacher: Annotated[
        str | None, typer.Option(help="the teacher's GGUF file, model directory or hub id", metavar="MODEL")
    ] = None,
    student: Annotated[
        str | None, typer.Option(help="the student's GGUF file, model directory or hub id", metavar="MODEL")
    ] = None,
    teacher_parameters: Annotated[float | None, typer.Option(help="parameters of the teacher, with embeddings")] = None,
    student_parameters: Annotated[float | None, typer.Option(help="parameters of the student, with embeddings")] = None,
    teacher_loss: Annotated[float | None, typer.Option(help="the teacher's held-out loss, nat per token")] = None,
    teacher_tokens: Annotated[float | None, typer.Option(help="tokens the teacher was, or will be, trained on")] = None,
    train_teacher: Annotated[bool, typer.Option("--train-teacher", help="count the teacher's own training")] = False,
    tokens: Annotated[float | None, typer.Option(help="tokens the student is trained on, over all epochs")] = None,
    epochs: Annotated[float | None, typer.Option(help="passes over the same tokens (1)")] = None,
    students: Annotated[int | None, typer.Option(help="students of this teacher (1)")] = None,
    vocabulary: Annotated[int | None, typer.Option(help=f"tokens of the vocabulary ({VOCABULARY:,})")] = None,
    hidden: Annotated[int | None, typer.Option(help="hidden width of the student (from its parameters)")] = None,
    layers: Annotated[int | None, typer.Option(help="layers of the student (from its parameters)")] = None,
    sequence: Annotated[int | None, typer.Option(help="tokens per sequence (1024)")] = None,
    batch: Annotated[int | None, typer.Option(help="sequences per micro-batch (8)")] = None,
    dtype: Annotated[str | None, typer.Option(help="of the student's weights: float32, bfloat16, float16")] = None,
    checkpointing: Annotated[bool, typer.Option("--checkpointing", help="gradient checkpointing")] = False,
    live: Annotated[bool, typer.Option("--live", help="the teacher stays in memory and answers in every step")] = False,
    method: Annotated[str | None, typer.Option(help="of the store: topk, threshold, multinomial")] = None,
    k: Annotated[int | None, typer.Option("--k", help="entries stored per position")] = None,
    flops: Annotated[float | None, typer.Option(help="FLOP/s of the hardware, for times")] = None,
    utilisation: Annotated[float | None, typer.Option(help="share of them that is reached (0.4)")] = None,
    memory: Annotated[float | None, typer.Option(help="bytes of memory of the device")] = None,
    disk: Annotated[float | None, typer.Option(help="bytes per second of the disk that holds a store (5e8)")] = None,
    formulas: Annotated[bool, typer.Option("--formulas", help="print each formula, its source and domain")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Estimate loss, compute, memory, storage and time of a distillation, and advise; nothing is run."""
    from distill_core.planning.make import make_plan

    options = dict(locals())
    for name in ("make_plan", "as_json", "formulas"):
        options.pop(name)
    found = make_plan(_request(options))
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    from rich.console import Console

    from distill_core.cli.plan_view import show_plan

    show_plan(found, Console(width=None if sys.stdout.isatty() else 110, soft_wrap=False), formulas=formulas)


def _request(options: dict[str, Any]) -> Request:
    """The run file's values, then the options over them."""
    from distill_core.planning.request import Request

    file, overrides = options.pop("file"), options.pop("set_")
    method, k = options.pop("method"), options.pop("k")
    if (method is None) != (k is None):
        raise DistillError("--method and --k belong together: give both, as in --method threshold --k 12")
    values: dict[str, Any] = {}
    if file is not None:
        from distill_core.engine.run_file.validate import load_run_file
        from distill_core.planning.from_run import of_run
        from distill_core.registry import get_registry

        checked = load_run_file(file, overrides or (), registry=get_registry())
        values = of_run(checked, tokens=options["tokens"])
    elif overrides:
        raise DistillError("--set changes a run file, but none was given: distill plan FILE --set PATH=VALUE")
    shapes = _shapes(options)
    values |= {name: shape for name, shape in shapes.items() if shape is not None}
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    values |= given
    if method is not None:
        values["captures"] = ((method, k),)
    missing = [name for name in ("student", "tokens") if name not in values]
    if missing:
        ask = {"student": "--student-parameters (or --student)", "tokens": "--tokens"}
        raise DistillError(
            f"a plan needs {' and '.join(ask[name] for name in missing)}, or a run file: distill plan RUN.yaml, or "
            "distill plan --teacher-parameters 1.7e9 --teacher-loss 2.1 --student-parameters 135e6 --tokens 2e9"
        )
    if values.get("dtype", "float32") not in ("float32", "bfloat16", "float16"):
        raise DistillError(f"--dtype must be float32, bfloat16 or float16, got {values['dtype']!r}")
    return Request(**values)


def _shapes(options: dict[str, Any]) -> dict[str, ModelShape | None]:
    """The two models as far as options give them; takes their options away."""
    from distill_core.planning.model_files import model_shape
    from distill_core.planning.shape import shape_of_size

    vocabulary, hidden, layers = (options.pop(name) for name in ("vocabulary", "hidden", "layers"))
    found: dict[str, ModelShape | None] = {}
    for label in ("student", "teacher"):
        source, parameters = options.pop(label), options.pop(f"{label}_parameters")
        if source is not None and parameters is not None:
            raise DistillError(f"--{label} and --{label}-parameters say the same thing: give one of them")
        sizes = {"hidden": hidden, "layers": layers} if label == "student" else {}
        if source is not None:
            found[label] = model_shape(source, label=label)
        elif parameters is not None:
            found[label] = shape_of_size(parameters, label=label, vocabulary=vocabulary or VOCABULARY, **sizes)
        else:
            found[label] = None
    return found
