"""No first-party component without an options schema, a line in docs/methods.md, a page that names it, and a test."""

from __future__ import annotations

import re

import pytest

from distill_core.registry import Controls, Registered, Registry
from tests.house.pages import REPOSITORY

METHODS = REPOSITORY / "docs" / "methods.md"
FIRST_PARTY = ("teachers", "objectives", "synthesis", "evaluation")


REGISTRY = Registry().discover(Controls())


def components() -> list[Registered]:
    return [entry for entry in REGISTRY.components() if entry.id.partition(":")[0] in FIRST_PARTY]


def rows_naming(name: str) -> list[str]:
    lines = METHODS.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|") and f"`{name}`" in line]


every_component = pytest.mark.parametrize("entry", components(), ids=lambda entry: entry.id)


@every_component
def test_it_has_an_options_schema_with_descriptions(entry: Registered) -> None:
    model = REGISTRY.options_model(entry.component.kind, entry.id)
    schema = model.model_json_schema()
    assert schema["additionalProperties"] is False, f"{entry.id}: unknown options are accepted"
    silent = [name for name, field in model.model_fields.items() if not field.description]
    assert not silent, f"{entry.id}: options without a description: {silent}"
    assert entry.component.summary, f"{entry.id} has no summary"


@every_component
def test_it_has_a_line_a_page_and_a_test(entry: Registered) -> None:
    name = entry.component.name
    rows = rows_naming(name)
    assert rows, f"docs/methods.md has no line for `{name}` ({entry.id})"
    pages = [page for row in rows for page in re.findall(r"\]\(([\w-]+\.md)", row)]
    assert pages, f"docs/methods.md: the line of `{name}` links to no page"
    assert any(f"`{name}`" in (METHODS.parent / page).read_text(encoding="utf-8") for page in pages), (
        f"none of {pages} names `{name}`"
    )
    shown = [path for row in rows for path in re.findall(r"`((?:tests|recipes|benchmarks)/[\w./-]+)`", row)]
    assert shown, f"docs/methods.md: the line of `{name}` names no test, recipe or benchmark"
    assert any(_names(path, name) for path in shown), f"none of {shown} names {name!r}"


def _names(path: str, name: str) -> bool:
    """Whether a file, or one of a folder, names the component: as a word, a module or a class."""
    found = REPOSITORY / path
    files = sorted(found.rglob("*.py")) if found.is_dir() else [found]
    text = "".join(file.read_text(encoding="utf-8") for file in files)
    return name in text or name.replace("-", "_") in text or _camel(name) in text


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("-"))


def test_what_the_table_names_exists() -> None:
    text = METHODS.read_text(encoding="utf-8")
    missing = [
        path
        for path in re.findall(r"`((?:tests|recipes|benchmarks)/[\w./-]+)`", text)
        if not (REPOSITORY / path).exists()
    ]
    assert not missing
