"""The reference pages list every field of the run file and every environment variable, with what the code says.

`DISTILL_UPDATE_DOCS=1 pytest tests/house/test_docs_reference.py` rewrites the field tables.
"""

from __future__ import annotations

import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from distill_core import config
from tests.house.pages import REPOSITORY
from tests.house.source_tree import core_sources, plugin_sources

RUN_FILE = REPOSITORY / "docs" / "run-file.md"
ENVIRONMENT = REPOSITORY / "docs" / "environment.md"
MODELS = [
    name
    for name, model in vars(config).items()
    if isinstance(model, type)
    and issubclass(model, BaseModel)
    and model.__module__.startswith(config.__name__)
    and name not in ("Section", "ComponentRef")
]


def table_pattern(model: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- fields: {model} -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def type_text(annotation: Any) -> str:
    """An annotation as a user reads it."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is typing.Annotated:
        return type_text(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments if argument is not type(None))
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is dict:
        return f"map of {type_text(arguments[1])}"
    if annotation is Any:
        return "value"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "ComponentRef": "component"}
    names |= {"ObjectiveRef": "objective", "ScheduleRef": "schedule"}
    return names.get(annotation.__name__, "section")


def default_text(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, BaseModel):
        return "defaults of the section"
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return "`[" + ", ".join(item.use for item in value) + "]`"
    shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
    return f"`{shown}`" if value not in ([], {}) else "none"


def table(model: type[BaseModel]) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", type_text(field.annotation), default_text(field), field.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


@pytest.mark.parametrize("name", MODELS)
def test_field_table_is_current(name: str) -> None:
    text = RUN_FILE.read_text(encoding="utf-8")
    match = table_pattern(name).search(text)
    assert match is not None, f"docs/run-file.md has no table `<!-- fields: {name} -->`"
    expected = "\n" + table(getattr(config, name)) + "\n"
    if os.environ.get("DISTILL_UPDATE_DOCS") == "1" and match[2] != expected:
        RUN_FILE.write_text(text[: match.start(2)] + expected + text[match.end(2) :], encoding="utf-8")
    else:
        assert match[2] == expected, "run DISTILL_UPDATE_DOCS=1 pytest tests/house to bring it up to date"


def test_every_environment_variable_is_documented() -> None:
    texts = [source.text for source in core_sources() + plugin_sources()]
    texts += [(REPOSITORY / "setup.py").read_text()]
    texts += [
        path.read_text() for path in sorted((REPOSITORY / "tests" / "house").glob("*.py")) if path != Path(__file__)
    ]
    read = {name for text in texts for name in re.findall(r"\bDISTILL_[A-Z]+(?:_[A-Z]+)*\b", text)}
    native = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "csrc").rglob("*.cpp")]
    read |= {name for text in native for name in re.findall(r'getenv\("(DISTILL_[A-Z_]+)"\)', text)}
    documented = set(re.findall(r"`(DISTILL_[A-Z_]+)`", ENVIRONMENT.read_text(encoding="utf-8")))
    assert read == documented


@pytest.mark.parametrize("name", MODELS)
def test_every_field_says_what_it_means(name: str) -> None:
    """`distill schema` shows the same descriptions in editors."""
    fields = getattr(config, name).model_fields
    assert [field for field, info in fields.items() if not info.description] == []
