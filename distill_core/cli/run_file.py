"""Commands about run files: ``init``, ``validate``, ``schema``. None imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from distill_core.errors import ConfigError, DistillError

RunFile = Annotated[Path, typer.Argument(help="run file (YAML)", show_default=False, metavar="FILE")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Change a value: train.learning_rate=1e-3, train.objectives[0].weight=0.5",
        metavar="PATH=VALUE",
    ),
]


def add_commands(app: typer.Typer) -> None:
    app.command()(init)
    app.command()(validate)
    app.command()(schema)


def init(
    file: Annotated[Path, typer.Argument(help="where to write", metavar="FILE")] = Path("run.yaml"),
    teacher: Annotated[
        str, typer.Option(help="the teacher: hub id or directory of a causal language model", metavar="MODEL")
    ] = "HuggingFaceTB/SmolLM2-135M-Instruct",
    data: Annotated[
        Path, typer.Option(help="directory of train.jsonl and eval.jsonl; examples are written if it does not exist")
    ] = Path("data"),
    force: Annotated[bool, typer.Option("--force", help="overwrite FILE")] = False,
) -> None:
    """Write a commented run file that validates."""
    from distill_core.cli.starter import EXAMPLES, starter_text
    from distill_core.files import write_text

    if file.exists() and not force:
        raise DistillError(f"{file} exists already: give another name, or --force to overwrite it")
    if not file.parent.is_dir():
        raise DistillError(f"there is no directory {file.parent} to write {file.name} into: create it first")
    if data.exists():
        missing = [name for name in EXAMPLES if not (data / name).is_file()]
        if missing:
            raise DistillError(f"{data} exists but holds no {' and no '.join(missing)}: give another --data")
    else:
        data.mkdir(parents=True)
        for name, rows in EXAMPLES.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            write_text(data / name, "\n".join(lines) + "\n")
        typer.echo(f"wrote a few example rows to {data}: put your own in their place")
    write_text(file, starter_text(name=file.stem, teacher=teacher, data=data))
    typer.echo(f"wrote {file}; next: distill validate {file}")


def validate(file: RunFile, set_: Set = None) -> None:
    """Check a run file: form, components, options, files, and whether the parts fit together."""
    from distill_core.engine.run_file.validate import load_run_file
    from distill_core.registry import get_registry

    checked = load_run_file(file, set_ or (), registry=get_registry())
    config = checked.config
    stages = [
        "data",
        "student",
        *(["select"] if config.select else []),
        *(f"capture {c.name}" for c in config.captures),
    ]
    stages += [f"train {name}" for name in config.trainings()]
    typer.echo(f"{file} is valid: {len(checked.components)} components; stages: {', '.join(stages)}, evaluate, report")


def schema(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write to a file", show_default=False)] = None,
) -> None:
    """Print the JSON schema of run files, installed components included, for completion in an editor."""
    from distill_core.cli.editor_schema import run_file_schema
    from distill_core.files import write_text
    from distill_core.registry import get_registry

    text = json.dumps(run_file_schema(get_registry()), indent=2, ensure_ascii=False)
    if output is None:
        typer.echo(text)
        return
    if not output.parent.is_dir():
        raise ConfigError([f"there is no directory {output.parent}: create it first"], source="--output")
    write_text(output, text + "\n")
    typer.echo(f"wrote {output}; in an editor: # yaml-language-server: $schema={output}")
