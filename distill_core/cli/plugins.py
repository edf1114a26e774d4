"""``distill plugins``: what is installed, what it offers, what is wrong with it, and how to begin one's own.

``list``, ``show`` and ``doctor`` never import torch, and no broken plugin stops them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from distill_core.plugin import KINDS, Needs, Provides
from distill_core.registry import PluginRecord, Registered, Registry, get_registry

app = typer.Typer(help="Plugins: list, inspect, diagnose, create, check.", no_args_is_help=True)


@app.command("list")
def list_components(
    kind: Annotated[str | None, typer.Option(help="only this kind, e.g. objective")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print a JSON array")] = False,
) -> None:
    """List every component that can be named in a run file."""
    registry = get_registry()
    entries = registry.components(kind)
    if as_json:
        typer.echo(json.dumps([row(entry) for entry in entries], indent=2, ensure_ascii=False))
    elif entries:
        header = ("KIND", "NAME", "PLUGIN", "VERSION", "SUMMARY")
        typer.echo(table(header, [_columns(entry) for entry in entries]))
    else:
        known = sorted({entry.component.kind for entry in registry.components()} | set(KINDS))
        of_kind = f" of kind {kind!r}; kinds: {', '.join(known)}" if kind else ""
        typer.echo(f"no components{of_kind}", err=kind is not None)
    _mention_problems(registry)


def row(entry: Registered) -> dict[str, str]:
    """A row of ``list --json``. Only usable components are listed, so ``status`` is ``ok``; plugins that failed are
    the doctor's."""
    component = entry.component
    return {
        "id": entry.id,
        "name": component.name,
        "kind": component.kind,
        "summary": component.summary,
        "plugin": entry.plugin,
        "version": entry.version,
        "status": "ok",
    }


def _columns(entry: Registered) -> tuple[str, ...]:
    component = entry.component
    return component.kind, component.name, entry.plugin, entry.version, component.summary


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns two spaces apart."""
    widths = [max(len(line[column]) for line in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *rows]]
    return "\n".join(line.rstrip() for line in lines)


def _mention_problems(registry: Registry) -> None:
    problems = registry.problems()
    if problems:
        names = ", ".join(record.plugin for record in problems)
        typer.echo(f"{len(problems)} plugin(s) with problems: {names}; see `distill plugins doctor`", err=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="`plugin:name`, or a bare name")],
    kind: Annotated[str | None, typer.Option(help="where components of several kinds share the name")] = None,
) -> None:
    """Show a component: where it comes from, its options, what it needs or provides."""
    registry = get_registry()
    kinds = [kind] if kind else sorted({entry.component.kind for entry in registry.components()})
    bare = name.rpartition(":")[2]
    offering = [k for k in kinds if any(entry.component.name == bare for entry in registry.components(k))]
    if len(offering) == 1:
        found = [registry.find(offering[0], name)]
    else:
        found = [e for e in registry.components() if e.component.kind in offering and name in (e.id, e.component.name)]
    if not found:
        _refuse_unknown(registry, name, kinds)
    typer.echo("\n\n".join(description(entry) for entry in found))


def _refuse_unknown(registry: Registry, name: str, kinds: Sequence[str]) -> None:
    from distill_core.errors import UnknownComponent
    from distill_core.registry.names import near_misses

    if len(kinds) == 1:
        registry.find(kinds[0], name)  # raises with everything known about this kind
    near = near_misses(name, name.rpartition(":")[2], registry.components())
    broken = [record.describe() for record in registry.problems()]
    hint = f" Did you mean {' or '.join(near)}?" if near else " `distill plugins list` shows what is there."
    failed = f" Plugins with problems: {'; '.join(broken)}." if broken else ""
    raise UnknownComponent(f"no component is called {name!r}.{hint}{failed}")


def description(entry: Registered) -> str:
    """Everything about one component, as text."""
    from distill_core.registry.option_display import explain_options
    from distill_core.registry.option_values import options_model

    component = entry.component
    distribution = entry.distribution if entry.distribution != entry.plugin else ""
    lines = [
        f"{entry.id} ({component.kind})",
        *([f"  {component.summary}"] if component.summary else []),
        f"  plugin   {entry.plugin} {entry.version}" + (f" of {distribution}" if distribution else ""),
        f"  target   {component.target}",
        *_capabilities(component.needs, component.provides),
    ]
    options = explain_options(options_model(entry))
    if not options:
        return "\n".join([*lines, "  options  none"])
    rows = table(("OPTION", "TYPE", "DEFAULT", "DESCRIPTION"), options)
    return "\n".join([*lines, "  options", *(f"    {line}" for line in rows.splitlines())])


def _capabilities(needs: Needs, provides: Provides) -> list[str]:
    lines = []
    for label, value in (("needs", needs), ("provides", provides)):
        if not value.signals:
            continue
        text = ", ".join(sorted(value.signals))
        if "targets" in value.signals and value.targets:
            text += f"; {' or '.join(value.targets)} targets"
        lines.append(f"  {label:<8} {text}")
    return lines


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="print a JSON array")] = False) -> None:
    """Report every plugin found, with stage and traceback of those that failed; exit code 1 if there is a problem."""
    registry = get_registry(strict=False)
    registry.call_hook("distill_commands")  # the one hook that may be called outside a run
    if as_json:
        fields = ("plugin", "distribution", "version", "status", "stage", "error", "traceback", "location")
        rows = [{field: getattr(record, field) for field in fields} for record in registry.records]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        typer.echo(_diagnosis(registry))
    if registry.problems():
        raise typer.Exit(1)


def _diagnosis(registry: Registry) -> str:
    if not registry.records:
        return "no plugins are installed"
    header = ("PLUGIN", "DISTRIBUTION", "VERSION", "STATUS", "STAGE", "COMPONENTS")
    rows = [
        (r.plugin, r.distribution, r.version, r.status, r.stage or "-", str(len(r.components)))
        for r in registry.records
    ]
    parts = [table(header, rows), *(_explained(record) for record in registry.records if record.error)]
    count = len(registry.problems())
    parts.append(f"{count} problem(s)" if count else "no problems")
    return "\n\n".join(parts)


def _explained(record: PluginRecord) -> str:
    lines = [f"{record.plugin} ({record.distribution} {record.version}): {record.status}"]
    if record.stage:
        lines[0] += f" at {record.stage}"
    lines.append(f"  {record.error}")
    if record.location:
        lines.append(f"  found in {record.location}")
    lines += [f"  | {line}" for line in record.traceback.splitlines()]
    return "\n".join(lines)


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="name of the component, kebab-case, e.g. my-loss")],
    kind: Annotated[str, typer.Option(help="objective, teacher, source, filter, schedule, evaluator, ...")],
    output: Annotated[Path | None, typer.Option(help="directory to create; default: ./distill-NAME")] = None,
) -> None:
    """Create an installable plugin package with one component, its options, its tests and a README."""
    from distill_core.cli.new_plugin import render_plugin

    directory = output or Path(f"distill-{name}")
    written = render_plugin(name, kind, directory)
    typer.echo(f"created {directory}:")
    for path in written:
        typer.echo(f"  {path}")
    typer.echo(f"next:\n  pip install -e {directory}\n  pytest {directory}\n  distill plugins show {name}:{name}")


@app.command()
def check(
    distribution: Annotated[str, typer.Argument(help="name of an installed distribution or plugin")],
    kind: Annotated[str | None, typer.Option(help="only components of this kind")] = None,
) -> None:
    """Run the conformance suite over every component of a plugin; exit code 1 if a check fails."""
    from distill_core.testing import check_plugin

    results = check_plugin(distribution, kind=kind)
    rows = [(result.component, result.check, result.status, result.detail.split("\n")[0]) for result in results]
    typer.echo(table(("COMPONENT", "CHECK", "RESULT", "DETAIL"), rows))
    failed = [result for result in results if result.status == "failed"]
    for result in failed:
        typer.echo(f"\n{result.component}: {result.check}\n{result.detail}", err=True)
    counts = {status: sum(result.status == status for result in results) for status in ("passed", "failed", "left out")}
    typer.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if failed:
        raise typer.Exit(1)
