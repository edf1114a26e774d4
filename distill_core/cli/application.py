"""The ``distill`` command: its sub-commands, and the one place where errors become messages and exit codes.

Exit codes: 0 done; 2 something the user can mend (no traceback); 1 anything else (with its traceback); 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distill_core.cli import plan, run_file, running
from distill_core.errors import DistillError

GROUPS = {"plugins": "distill_core.cli.plugins", "store": "distill_core.cli.store"}
"""Groups of commands that are imported when asked for."""


class DistillGroup(TyperGroup):
    """The top group: its own commands, the groups above, and what plugins add through ``distill_commands``."""

    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *GROUPS, *(name for name in plugin_commands() if name not in (*own, *GROUPS))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is not None:
            return command
        if cmd_name in GROUPS:
            return _mounted(cmd_name, import_module(GROUPS[cmd_name]).app).get_command(ctx, cmd_name)
        return plugin_commands().get(cmd_name)


def _mounted(name: str, commands: typer.Typer) -> Any:
    """A group that holds ``commands`` under a name: they get the look of this command line."""
    holder = typer.Typer(add_completion=False, rich_markup_mode=None)
    holder.add_typer(commands, name=name)
    return typer.main.get_group(holder)


_COMPLETION = ("install_completion", "show_completion")

_plugin_commands: dict[str, Any] | None = None


def plugin_commands() -> dict[str, Any]:
    """Commands that plugins add; one that cannot be mounted is reported on standard error and left out."""
    global _plugin_commands
    if _plugin_commands is None:
        from distill_core.registry import get_registry

        _plugin_commands = {}
        for plugin, answer in get_registry().call_hook_by_plugin("distill_commands"):
            try:
                for name, commands in answer:
                    command = typer.main.get_command(commands)
                    command.name = name
                    command.params = [p for p in command.params if p.name not in _COMPLETION]
                    if name in _plugin_commands or name in GROUPS or name in {c.name for c in app.registered_commands}:
                        raise ValueError(f"the command name {name!r} is taken")
                    _plugin_commands[name] = command
            except Exception as error:
                typer.echo(f"commands of the plugin {plugin} are left out: {type(error).__name__}: {error}", err=True)
    return _plugin_commands


def _load_plugin_files(paths: list[Path] | None) -> list[Path] | None:
    """Eager, so that components and commands of the files are there before anything else is looked up."""
    if paths:
        from distill_core.registry import get_registry

        for path in paths:
            get_registry().load_file(path)
    return paths


app = typer.Typer(
    cls=DistillGroup,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Distil language models: one run file, from a teacher to a judged student.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            "-p",
            help="Load a one-file plugin (may be given several times).",
            metavar="FILE",
            is_eager=True,
            callback=_load_plugin_files,
        ),
    ] = None,
) -> None:
    """Options before the command."""


run_file.add_commands(app)
app.command()(plan.plan)
running.add_commands(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(exit_code(arguments))


def exit_code(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; errors that the user can mend become one message and code 2.

    Anything else that a command raises is a bug and passes through, so that its traceback is seen (code 1).
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="distill")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except DistillError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command again goes on where it was", err=True)
        return 130
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSED and error.filename is not None:
            typer.echo(
                f"error: {error.filename}: {error.strerror}: name another path, or mend its permissions",
                err=True,
            )
            return 2
        if not no_space_left(error):
            raise
        typer.echo(
            f"error: no space left on the device ({error}): free some, then run the same command again; it resumes",
            err=True,
        )
        return 2
    return 0


REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
"""What the operating system answers where a path cannot be used: the user's to mend."""


def no_space_left(error: BaseException) -> bool:
    """Whether a full disk or quota is the cause; libraries wrap it in errors of their own."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return "No space left on device" in str(error) or "os error 28" in str(error)
