"""Reading a run file: YAML with line numbers, duplicate keys refused, ``--set`` overrides applied.

Nothing in a run file is executed: the safe loader builds plain lists, mappings and scalars.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distill_core.errors import ConfigError

Location = tuple[str | int, ...]
"""Where something stands in a run file: keys and list indices from the top."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class RunFileLoader(yaml.SafeLoader):
    """The safe loader, with YAML 1.2 floats (``1e-4`` is a number) and without dates."""


RunFileLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
RunFileLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


@dataclass
class RawRunFile:
    """A run file as plain data.

    Args:
        data: the top mapping, overrides applied.
        source: name for messages.
        lines: line of each location, from 1.
        overridden: locations set on the command line.
    """

    data: dict[str, Any]
    source: str
    lines: dict[Location, int] = field(default_factory=dict)
    overridden: set[Location] = field(default_factory=set)

    def where(self, location: Location) -> str:
        """`` (line 12)``, `` (--set)`` or nothing: for messages, the nearest enclosing location that is known."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.overridden:
                return " (--set)"
            if location[:length] in self.lines:
                return f" (line {self.lines[location[:length]]})"
        return ""


def path_text(location: Sequence[str | int]) -> str:
    """
    >>> path_text(("train", "objectives", 1, "use"))
    'train.objectives[1].use'
    """
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def parse_path(text: str) -> Location:
    """The inverse of :func:`path_text`; a number between dots is an index too.

    >>> parse_path("train.objectives[1].use"), parse_path("train.objectives.1.use")[2]
    (('train', 'objectives', 1, 'use'), 1)
    """
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        if steps and text[position] == ".":
            position += 1
        match = _STEP.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a path such as `train.objectives[0].weight`")
        name = match[1]
        steps.append(int(match[2]) if name is None else int(name) if name.isdigit() else name)
        position = match.end()
    if not steps:
        raise ValueError("the path is empty; expected one such as `train.learning_rate`")
    return tuple(steps)


def read_run_file(path: Path | str, overrides: Iterable[str] = ()) -> RawRunFile:
    """Read ``path`` and apply ``overrides`` such as ``train.learning_rate=1e-3``.

    Raises:
        ConfigError: no such file, not UTF-8, a YAML syntax error, duplicate keys (all of them), no mapping at the top,
            or an override that does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path} does not exist; `distill init {path}` writes one"], source=str(path)) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            [f"not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}"], source=str(path)
        ) from None
    except OSError as error:
        raise ConfigError([f"cannot be read: {error.strerror}"], source=str(path)) from None
    return parse_run_text(text, overrides, source=str(path))


def parse_run_text(text: str, overrides: Iterable[str] = (), *, source: str = "run file") -> RawRunFile:
    """As :func:`read_run_file`, from text."""
    try:
        loader = RunFileLoader(text)
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error)], source=source) from None
    lines: dict[Location, int] = {}
    problems: list[str] = []
    _walk(node, (), lines, problems, set())
    if problems:
        raise ConfigError(problems, source=source)
    if not isinstance(node, yaml.MappingNode):
        received = "an empty file" if node is None else f"a {node.tag.rpartition(':')[2]}"
        raise ConfigError(
            [f"a run file is a mapping of sections (name, data, ...), received {received}"], source=source
        )
    try:
        data = loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error)], source=source) from None
    raw = RawRunFile(data, source, lines)
    problems = [problem for override in overrides if (problem := _override(raw, override))]
    if problems:
        raise ConfigError(problems, source="--set")
    return raw


def _syntax_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    what = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    return f"{where}YAML syntax: {what}" + (f" ({context})" if context else "")


def _walk(node: Any, at: Location, lines: dict[Location, int], problems: list[str], inside: set[int]) -> None:
    """Record lines; collect duplicate keys and keys that are no strings."""
    if node is None or id(node) in inside:
        return
    inside = inside | {id(node)}
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            lines[(*at, index)] = child.start_mark.line + 1
            _walk(child, (*at, index), lines, problems, inside)
    elif isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, child in node.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                problems.append(f"line {line}: a key of {path_text(at) or 'the file'} is a {key.id}, expected a name")
                continue
            name = str(key.value)
            if name in seen:
                problems.append(
                    f"{path_text((*at, name))} (line {line}): duplicate key, already given on line {seen[name]}"
                )
            seen.setdefault(name, line)
            lines[(*at, name)] = line
            _walk(child, (*at, name), lines, problems, inside)


def _override(raw: RawRunFile, override: str) -> str | None:
    """Apply one override in place; the problem, if it does not fit."""
    path, equals, value_text = override.partition("=")
    if not equals:
        return f"{override!r}: expected PATH=VALUE, e.g. train.learning_rate=1e-3"
    try:
        location = parse_path(path.strip())
        value = yaml.load(value_text, RunFileLoader)
    except ValueError as error:
        return f"{override!r}: {error}"
    except yaml.YAMLError as error:
        return f"{override!r}: the value is no YAML: {getattr(error, 'problem', error)}"
    here: Any = raw.data
    for depth, step in enumerate(location):
        last = depth == len(location) - 1
        problem = _step_problem(here, step, location[:depth])
        if problem is not None:
            return f"{override!r}: {problem}"
        if isinstance(here, list) and step == len(here):
            here.append(None)
        if last:
            here[step] = value
        elif isinstance(here, list) or here.get(step) is not None:
            if here[step] is None:
                here[step] = {}
            here = here[step]
        else:
            here[step] = {}
            here = here[step]
    raw.overridden.add(location)
    return None


def _step_problem(here: Any, step: str | int, above: Location) -> str | None:
    at = path_text(above) or "the file"
    if isinstance(here, list):
        if not isinstance(step, int):
            return f"{at} is a list: give an index, 0 to {len(here)}, not {step!r}"
        if step > len(here):
            return f"{at} has {len(here)} entries: index {step} is neither one of them nor the next"
        return None
    if isinstance(here, dict):
        return f"{at} is a mapping: give a name, not the index {step}" if isinstance(step, int) else None
    return f"{at} is the value {here!r}, which has no part {step!r}"
