"""Licence, readmes, versions and packaging of the five distributions agree; nothing names a machine or a registry."""

from __future__ import annotations

import ast
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tomllib

from tests.house.source_tree import PLUGINS, REPOSITORY

DISTRIBUTIONS = {"distill-core": REPOSITORY, **{f"distill-{name}": REPOSITORY / "plugins" / name for name in PLUGINS}}


def project(name: str) -> dict[str, Any]:
    return tomllib.loads((DISTRIBUTIONS[name] / "pyproject.toml").read_text(encoding="utf-8"))


def source_version(name: str) -> str:
    path = DISTRIBUTIONS[name] / name.replace("-", "_") / "__init__.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise AssertionError(f"{path} has no __version__")


def test_all_distributions_have_one_version_and_the_changelog_knows_it() -> None:
    versions = {name: source_version(name) for name in DISTRIBUTIONS}
    assert len(set(versions.values())) == 1, versions
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {versions['distill-core']}\n" in changelog


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distribution_is_complete(name: str) -> None:
    folder, described = DISTRIBUTIONS[name], project(name)
    assert described["project"]["name"] == name
    assert described["project"]["license"] == "Apache-2.0"
    assert described["build-system"]["requires"] == ["setuptools>=77"], "torch is never a build requirement"
    assert (folder / name.replace("-", "_") / "py.typed").exists()
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert readme.startswith(f"# {name}\n") and len(readme.splitlines()) >= 3
    assert metadata.version(name) == source_version(name), "install again: make setup"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_plugin_is_found_by_entry_point_alone(plugin: str) -> None:
    described = project(f"distill-{plugin}")["project"]
    assert described["entry-points"]["distill_core"] == {plugin: f"distill_{plugin}.plugin"}
    assert any(requirement.startswith("distill-core") for requirement in described["dependencies"])
    assert plugin in {point.name for point in metadata.entry_points(group="distill_core")}


def test_licence_is_apache_2() -> None:
    text = (REPOSITORY / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text


def tracked_texts() -> dict[str, str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    found = {}
    for name in listed:
        path = REPOSITORY / name
        if path.is_file() and path.suffix in {
            ".py",
            ".md",
            ".toml",
            ".yaml",
            ".yml",
            ".cfg",
            ".in",
            ".txt",
            "",
            ".j2",
            ".jinja",
        }:
            found[name] = path.read_text(encoding="utf-8", errors="replace")
    return found


FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.{}])/(?:work|root|home/\w+|opt/(?:wheels|pypi))/"),
    "a registry's host": re.compile(
        r"\b(?:files\.pythonhosted\.org|pypi\.org|download\.pytorch\.org|deb\.debian\.org)\b"
    ),
}


def test_nothing_names_a_machine_or_a_registry() -> None:
    texts = tracked_texts()
    assert len(texts) > 50
    own = "tests/house/test_project_files.py"
    found = [
        f"{name}: {what}: {match[0]}"
        for name, text in texts.items()
        if name != own
        for what, pattern in FORBIDDEN.items()
        if (match := pattern.search(text))
    ]
    assert found == []


def test_nothing_is_left_to_do() -> None:
    pattern = re.compile(r"\b(?:TODO|FIXME|XXX)\b")
    own = "tests/house/test_project_files.py"
    texts = {name: text for name, text in tracked_texts().items() if name.endswith(".py") and name != own}
    assert [name for name, text in texts.items() if pattern.search(text)] == []


def test_packaging_names_every_room() -> None:
    """setuptools finds packages by `__init__.py`; `namespaces = false` keeps templates from becoming packages."""
    find = project("distill-core")["tool"]["setuptools"]["packages"]["find"]
    assert find["namespaces"] is False
    assert Path(REPOSITORY / "distill_core").is_dir() and find["include"] == ["distill_core", "distill_core.*"]
