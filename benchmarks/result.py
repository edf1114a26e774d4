"""The file a benchmark leaves: its command, the machine, its settings and what was measured."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path
from typing import Any

NOT_MEASURED = {"name", "json", "module", "defaults", "cache", "work", "at_most"}
"""Fields of the options that say nothing about what is measured."""


def setting_names(options: argparse.Namespace) -> list[str]:
    return [name for name in vars(options) if name not in NOT_MEASURED]


def arguments_of(options: argparse.Namespace) -> list[str]:
    """NAME and the options that differ from their defaults, as words of a command line."""
    words = [options.name]
    for name in setting_names(options):
        value = getattr(options, name)
        if value is None or value is False or value == options.defaults[name]:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words += [str(item) for item in (value if isinstance(value, list) else [value])]
    return words


def command_line(options: argparse.Namespace) -> str:
    """The command that measures the same again, without the name of the result file."""
    fixed = os.environ.get("OMP_NUM_THREADS")
    return (f"OMP_NUM_THREADS={fixed} " if fixed else "") + shlex.join(
        ["python", "-m", "benchmarks", *arguments_of(options)]
    )


def save(result: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(path)


def earlier(path: str | None, **same: Any) -> dict[str, Any] | None:
    """What an earlier call left in the file, None where there is none; one that measured something else is refused.

    Args:
        path: of the file; None: there is none.
        same: fields that must be as given, `settings` among them.
    """
    if path is None or not Path(path).exists():
        return None
    found = load(Path(path))
    if any(found[name] != value for name, value in same.items()):
        raise SystemExit(f"{path} holds other settings, {found['settings']}: name another file, or remove it")
    return found


def load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
