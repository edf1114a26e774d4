"""Arrows point one way: plugins -> core; engine, report, cli -> store, ops, types; ops and store stand alone."""

from __future__ import annotations

import ast
import sys

import pytest

from tests.house.source_tree import (
    PLUGINS,
    REPOSITORY,
    Import,
    Source,
    core_sources,
    plugin_sources,
    reaches,
)

FIRST_PARTY = tuple(f"distill_{name}" for name in PLUGINS)
STANDARD_LIBRARY = tuple(sys.stdlib_module_names)

MAY_IMPORT = {
    "ops": ("torch", "triton", "distill_core.ops", "distill_core.shapes"),
    "shapes": ("torch", "jaxtyping"),
    "store": ("numpy", "pyarrow", "distill_core.store", "distill_core.errors", "distill_core.files"),
    "plugin": ("pluggy", "typer"),
    "options": ("pydantic", "distill_core.plugin"),
    "config": ("pydantic", "distill_core.config", "distill_core.options"),
    "engine.run_file": (
        "pydantic",
        "yaml",
        "distill_core.config",
        "distill_core.engine.run_file",
        "distill_core.errors",
        "distill_core.completions",
        "distill_core.options",
        "distill_core.plugin",
        "distill_core.registry",
        "distill_core.store",
    ),
    "errors": (),
    "files": ("distill_core.errors",),
}
"""Besides the standard library, all that a room may import."""

ROOMS_ABOVE_TYPES = ("distill_core.engine", "distill_core.report", "distill_core.cli", "distill_core.testing")


def _foreign(source: Source, allowed: tuple[str, ...]) -> list[str]:
    return [
        f"{source.shown}:{imported.line} imports {imported.name}"
        for imported in source.imports
        if not reaches(imported, *STANDARD_LIBRARY, *allowed)
    ]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_low_room_imports_only_what_it_may(room: str) -> None:
    found = core_sources(room)
    assert found, f"distill_core/{room} is gone: mend MAY_IMPORT"
    assert [line for source in found for line in _foreign(source, MAY_IMPORT[room])] == []


def test_types_and_registry_import_nothing_above_them() -> None:
    low = core_sources("types", "targets", "interfaces", "simplex", "registry", "plugin", "config")
    assert [
        f"{source.shown}:{imported.line} imports {imported.name}"
        for source in low
        for imported in source.imports
        if reaches(imported, *ROOMS_ABOVE_TYPES)
    ] == []


def test_core_knows_no_first_party_plugin() -> None:
    assert [
        f"{source.shown}:{imported.line} imports {imported.name}"
        for source in core_sources()
        for imported in source.imports
        if reaches(imported, *FIRST_PARTY)
    ] == []


def test_plugins_do_not_import_one_another() -> None:
    assert [
        f"{source.shown}:{imported.line} imports {imported.name}"
        for source in plugin_sources()
        for imported in source.imports
        if reaches(imported, *(name for name in FIRST_PARTY if not source.module.startswith(name)))
    ] == []


def _private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def _private_core_imports(source: Source) -> list[str]:
    return [
        f"{source.shown}:{imported.line} uses {imported.name}"
        for imported in source.imports
        if reaches(imported, "distill_core") and any(_private(part) for part in imported.name.split("."))
    ]


def _private_core_attributes(source: Source) -> list[str]:
    """`module._name` and `Class._name` where module or class was imported from the core."""
    bound: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "distill_core":
            bound |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            bound |= {alias.asname or "distill_core" for alias in node.names if alias.name.startswith("distill_core")}
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and _private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in bound:
                found.append(f"{source.shown}:{node.lineno} uses {ast.unparse(node)}")
    return found


def test_plugins_use_no_private_name_of_the_core() -> None:
    found = plugin_sources()
    assert len(found) > len(PLUGINS)
    assert [line for source in found for line in _private_core_imports(source) + _private_core_attributes(source)] == []


def test_private_names_would_be_seen(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """The check above finds each form of trespass."""
    monkeypatch.setattr("tests.house.source_tree.REPOSITORY", tmp_path)
    path = tmp_path / "bad.py"
    path.write_text(
        "from distill_core.ops._hidden import thing\nfrom distill_core.types import _secret\n"
        "import distill_core.store as store\nfrom distill_core import ops\nstore._packing.pack(); ops.topk._block\n"
        "self = 1\nself._own = 2\n"
    )
    source = Source(path, "bad")
    assert [line.split()[-1] for line in _private_core_imports(source)] == [
        "distill_core.ops._hidden.thing",
        "distill_core.types._secret",
    ]
    assert [line.split()[-1] for line in _private_core_attributes(source)] == ["ops.topk._block", "store._packing"]


def test_import_forms_are_understood(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "module.py"
    path.write_text(
        "import torch.nn\nfrom . import sibling\nfrom ..up import name\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import typer\ntry:\n    import triton\nexcept ImportError:\n    pass\n"
        "def later():\n    import scipy\nclass Now:\n    import json\n"
    )
    assert list(Source(path, "a.b.module").imports) == [
        Import("torch.nn", 1, True),
        Import("a.b.sibling", 2, True),
        Import("a.up.name", 3, True),
        Import("typing.TYPE_CHECKING", 4, True),
        Import("typer", 6, False),
        Import("triton", 8, True),
        Import("scipy", 12, False),
        Import("json", 14, True),
    ]


def test_every_folder_of_code_is_a_package() -> None:
    """Setuptools packs only folders with an `__init__.py`; a forgotten one would be missing after `pip install`."""
    folders = {source.path.parent for source in core_sources() + plugin_sources()}
    assert [
        str(folder.relative_to(REPOSITORY)) for folder in sorted(folders) if not (folder / "__init__.py").exists()
    ] == []


VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def test_every_file_has_a_name_that_says_what_it_holds() -> None:
    names = [*core_sources(), *plugin_sources()]
    assert [source.shown for source in names if set(source.module.split(".")) & VAGUE] == []


def test_files_stay_short() -> None:
    """One idea per file: about 400 lines."""
    long = {source.shown: source.text.count("\n") for source in core_sources() + plugin_sources()}
    assert {name: lines for name, lines in long.items() if lines > 440} == {}


def test_methods_are_named_only_in_their_own_files() -> None:
    """Nothing in the engine branches on the name of an objective."""
    objectives = {"forward-kl", "reverse-kl", "jsd", "skew-forward-kl", "skew-reverse-kl", "total-variation"}
    found = []
    for source in core_sources("engine", "ops", "registry", "report"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Compare | ast.MatchValue):
                constants = {inner.value for inner in ast.walk(node) if isinstance(inner, ast.Constant)}
                if constants & objectives:
                    found.append(f"{source.shown}:{node.lineno} branches on {sorted(constants & objectives)}")
    assert found == []
