"""``distill store``: what a store of teacher signals holds, whether it is whole, joining and expanding stores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from distill_core.store import StoreInfo

app = typer.Typer(help="Stores of teacher signals: info, verify, merge, export.", no_args_is_help=True)

StoreDirectory = Annotated[Path, typer.Argument(help="directory of a store", show_default=False)]


@app.command()
def info(
    directory: StoreDirectory,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show what a store holds, what a token of it costs and how exact it is."""
    from distill_core.store import store_info

    found = store_info(directory)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return
    from rich.console import Console

    console = Console()
    console.print(_table(f"{directory}", _description(found)))
    split = [(name, f"{value:.2f} B") for name, value in found.split_per_row.items()]
    console.print(_table("bytes per row, by column", [*split, ("all files", f"{found.bytes_per_row:.2f} B")]))


@app.command()
def verify(
    directory: StoreDirectory,
    remove_damaged: Annotated[
        bool, typer.Option("--remove-damaged", help="delete damaged shards: the next capture makes those again")
    ] = False,
) -> None:
    """Check every byte of a store; exit code 2 if a shard is damaged."""
    from distill_core.store import verify_store

    checked: list[str] = []
    problems = verify_store(directory, remove_damaged=remove_damaged, on_shard=checked.append)
    for problem in problems:
        typer.echo(problem, err=True)
    typer.echo(
        f"{len(checked)} shards checked, {len(problems)} damaged" + (", removed" * bool(remove_damaged and problems))
    )
    if problems:
        raise typer.Exit(2)


@app.command()
def merge(
    sources: Annotated[list[Path], typer.Argument(help="finished stores of one teacher", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="new directory", show_default=False)],
) -> None:
    """Join stores of one teacher into a new one; a sequence stored twice is kept once."""
    from distill_core.store import merge_stores

    n_sequences = merge_stores(sources, output)
    typer.echo(f"{output}: {n_sequences:,} sequences from {len(sources)} stores")


@app.command()
def export(
    directory: StoreDirectory,
    parquet: Annotated[Path, typer.Option("--parquet", help="Parquet file to write", show_default=False)],
) -> None:
    """Expand a store into a Parquet table, a line per stored position."""
    from distill_core.store import export_parquet

    n_lines = export_parquet(directory, parquet)
    typer.echo(f"{parquet}: {n_lines:,} lines")


def _description(found: StoreInfo) -> list[tuple[str, str]]:
    meta = found.meta
    exactness = f"{meta.error_nat:g} nat on log p and log(1 - p max)" if meta.error_nat else "none (counts)"
    return [
        ("teacher", meta.teacher + (f" @ {meta.revision}" if meta.revision else "")),
        ("method", f"{meta.method}, k = {meta.k}" + (f", {meta.draws} draws" if meta.draws > 1 else "")),
        ("temperatures", ", ".join(f"{value:g}" for value in meta.temperatures)),
        ("vocabulary", f"{meta.vocabulary_size:,} ({meta.tokenizer_fingerprint})"),
        ("computed in", meta.dtype),
        ("seed", str(meta.seed)),
        ("finished", "yes" if found.complete else "no: run the capture again, it resumes"),
        ("shards", f"{found.n_shards:,}"),
        ("sequences", f"{found.n_sequences:,}"),
        ("tokens", f"{found.n_tokens:,}"),
        ("rows", f"{found.n_rows:,}"),
        ("size", f"{found.n_bytes:,} B"),
        ("quantisation error", exactness),
    ]


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False)
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    return table
