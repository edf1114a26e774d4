"""Commands named in the documentation exist, with the sub-commands and options shown; `--help` output is current.

`DISTILL_UPDATE_DOCS=1 pytest tests/house/test_docs_commands.py` rewrites the help texts shown in the pages.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import tomllib
import typer

from tests.house.pages import REPOSITORY, Block, blocks, page_id, pages

BASH = [block for page in pages() for block in blocks(page) if block.language == "bash"]
HELP = [block for page in pages() for block in blocks(page) if "help" in block.words]
OTHER_PROGRAMS = {"cd", "git", "export", "source", "pytest", "torchrun", "accelerate", "ls", "cat", "mkdir", "apt-get"}
OTHER_PROGRAMS |= {"sudo", "echo", "pre-commit", "tensorboard", "xdg-open"}
"""Programs of others that pages may show; nothing about them is checked."""


@pytest.fixture(scope="module")
def command_line() -> Any:
    from distill_core.cli import app

    return typer.main.get_command(app) if isinstance(app, typer.Typer) else app


def lines(block: Block) -> list[list[str]]:
    """The block's commands as words; comments, prompts, environment settings and pipes are taken off."""
    found = []
    for line in block.code.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s(?:&&|\|\||\||;)\s", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Za-z_][A-Za-z_0-9]*=.*", words[0]):
                words.pop(0)
            if words:
                found.append(words)
    return found


def check_click(command: Any, words: list[str], place: str) -> None:
    """Walk `words` down the command tree and look up each option."""
    context = click.Context(command, info_name=words[0])
    path = [words.pop(0)]
    while words:
        word = words.pop(0)
        is_group = hasattr(command, "get_command")
        if word == "--":
            break
        if word.startswith("-"):
            name, _, _ = word.partition("=")
            known = {
                option
                for parameter in command.get_params(context)
                for option in parameter.opts + parameter.secondary_opts
            }
            assert name in known, f"{place}: {' '.join(path)} has no option {name}; it has {sorted(known)}"
            parameter = next(p for p in command.get_params(context) if name in p.opts + p.secondary_opts)
            if "=" not in word and not getattr(parameter, "is_flag", False) and name != "--help" and words:
                words.pop(0)
        elif is_group:
            inner = command.get_command(context, word)
            known_commands = command.list_commands(context)
            assert inner is not None, f"{place}: {' '.join(path)} has no command {word!r}; it has {known_commands}"
            command, context = inner, click.Context(inner, info_name=word, parent=context)
            path.append(word)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))


def check_pip(words: list[str], place: str) -> None:
    """Extras asked of our own packages exist."""
    declared: dict[str, set[str]] = {}
    for path in [REPOSITORY / "pyproject.toml", *sorted((REPOSITORY / "plugins").glob("*/pyproject.toml"))]:
        project = tomllib.loads(path.read_text())["project"]
        declared[project["name"]] = set(project.get("optional-dependencies", {}))
    for word in words:
        match = re.fullmatch(r"(distill-[a-z]+|\.)(?:\[([a-z,-]+)\])?", word)
        if match:
            name = "distill-core" if match[1] == "." else match[1]
            extras = set((match[2] or "").split(",")) - {""}
            assert name in declared or not match[2], f"{place}: no package {name}"
            assert extras <= declared.get(name, set()), f"{place}: {name} has no extra {extras - declared[name]}"


@pytest.mark.parametrize("block", BASH, ids=lambda block: block.place)
def test_shell_block_names_what_exists(block: Block, command_line: Any) -> None:
    for words in lines(block):
        program = words[0]
        if program == "distill":
            check_click(command_line, list(words), block.place)
        elif program == "make":
            targets = {word for word in words[1:] if "=" not in word and not word.startswith("-")}
            assert targets <= make_targets(), f"{block.place}: no make target {targets - make_targets()}"
        elif program == "pip":
            check_pip(words, block.place)
        elif program == "python":
            if words[1:2] == ["-m"] and words[2] != "pip":
                assert importlib.util.find_spec(words[2]) is not None, f"{block.place}: no module {words[2]}"
        elif program.startswith((".ci/", "examples/")):
            assert (REPOSITORY / program).exists(), f"{block.place}: no file {program}"
        else:
            assert program in OTHER_PROGRAMS, f"{block.place}: unknown program {program!r}"


def help_text(command: str) -> str:
    environment = {**os.environ, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", "TERMINAL_WIDTH": "100"}
    environment.pop("FORCE_COLOR", None)
    words = shlex.split(command)
    assert words[0] == "distill"
    result = subprocess.run(
        [sys.executable, "-m", "distill_core.cli", *words[1:], "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return "\n".join(line.rstrip() for line in result.stdout.strip("\n").splitlines()) + "\n"


@pytest.mark.parametrize("block", HELP, ids=lambda block: f"{page_id(block.page)}-{block.words['help']}")
def test_help_shown_is_current(block: Block) -> None:
    shown = help_text(block.words["help"])
    if os.environ.get("DISTILL_UPDATE_DOCS") == "1" and block.code != shown:
        fence = f'```text help="{block.words["help"]}"\n'
        text = block.page.read_text(encoding="utf-8")
        block.page.write_text(text.replace(fence + block.code, fence + shown), encoding="utf-8")
    else:
        assert block.code == shown, (
            "run DISTILL_UPDATE_DOCS=1 pytest tests/house/test_docs_commands.py to bring it up to date"
        )


def test_the_check_refuses_what_does_not_exist(command_line: Any) -> None:
    for text in (
        "distill explode",
        "distill run --no-such-option x.yaml",
        "make nothing",
        "pip install distill-core[nope]",
        "frobnicate",
    ):
        block = Block(Path(__file__), 1, "bash", {}, text + "\n")
        with pytest.raises(AssertionError):
            test_shell_block_names_what_exists(block, command_line)


def test_every_command_is_shown(command_line: Any) -> None:
    """docs/cli.md holds the help of each command, those of plugins excepted."""

    def names(command: Any, path: str) -> list[str]:
        if not hasattr(command, "list_commands"):
            return [path]
        context = click.Context(command, info_name=path)
        inner = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
        return [path, *(found for name, child in inner for found in names(child, f"{path} {name}"))]

    shown = [block.words["help"] for block in HELP if block.page.name == "cli.md"]
    assert shown == names(command_line, "distill")
