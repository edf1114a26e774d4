"""Plants installed distributions (a dist-info directory and modules) in a folder that a test puts on ``sys.path``."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from distill_core.registry import Controls, Registry, reset_registry

ROOT = Path(__file__).resolve().parents[2]

Plant = Callable[..., None]


def plant_distribution(
    directory: Path, name: str, version: str, entry_points: Mapping[str, str], modules: Mapping[str, str]
) -> None:
    """Write ``name-version.dist-info`` with entry points of the group, and the modules beside it."""
    info = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = "".join(f"{key} = {value}\n" for key, value in entry_points.items())
    info.joinpath("entry_points.txt").write_text(f"[distill_core]\n{lines}")
    for module, source in modules.items():
        directory.joinpath(f"{module}.py").write_text(textwrap.dedent(source))


def entry_module(*names: str, kind: str = "schedule", extra: str = "") -> str:
    """Source of an entry module that declares one schedule for each name."""
    declared = ", ".join(f'component("{kind}", "{name}", "{name.replace("-", "_")}_impl:Target")' for name in names)
    return textwrap.dedent(
        f"""
        from distill_core.plugin import component, hookimpl

        @hookimpl
        def distill_components():
            return [{declared}]
        """
    ) + textwrap.dedent(extra)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on ``sys.path``; modules imported from it are forgotten afterwards."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(str(directory))
    before = set(sys.modules)
    yield directory
    for module in set(sys.modules) - before:
        path = getattr(sys.modules[module], "__file__", None) or ""
        if path.startswith(str(tmp_path)):
            del sys.modules[module]


@pytest.fixture
def plant(site: Path) -> Plant:
    def write(name: str, version: str, entry_points: Mapping[str, str], **modules: str) -> None:
        plant_distribution(site, name, version, entry_points, modules)

    return write


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    reset_registry()
    yield
    reset_registry()


def discover(*allow: str, **controls: object) -> Registry:
    """A registry with the named plugins only (the first-party ones stay out of the way)."""
    return Registry().discover(Controls(allow=allow or None, **controls))  # type: ignore[arg-type]


def run_python(*arguments: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with ``path`` before the project on its path; the present environment's plugin controls are unset."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("DISTILL_")}
    clean |= {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, *arguments], env=clean, capture_output=True, text=True, timeout=120, check=False
    )
