"""An install never fails for want of torch, a compiler or nvcc; `require` makes it fail with the reason.

Wheels are built in a build environment made here: a bare virtual environment that holds setuptools and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import setuptools

BUILD = "import sys; from setuptools import build_meta; print('WHEEL=' + build_meta.build_wheel(sys.argv[1]))"
EXTENSIONS = {"distill_core._codec", "distill_core._C", "distill_core._CU"}

BROKEN_CPP = "this is not C++\n"
CODEC_CPP = """
#include <pybind11/pybind11.h>
PYBIND11_MODULE(_codec, module) { module.def("answer", [] { return 42; }); }
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of an environment with setuptools alone: no torch, no pip, no pybind11."""
    directory = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    origin = Path(setuptools.__file__).parent.parent
    for name in ("setuptools", "_distutils_hack", f"setuptools-{setuptools.__version__}.dist-info"):
        (site_packages / name).symlink_to(origin / name)
    python = directory / "bin" / "python"
    missing = subprocess.run([str(python), "-c", "import torch"], capture_output=True)
    assert missing.returncode != 0, "the build environment must not see torch"
    return python


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    """A copy of what the build reads."""
    copy = tmp_path / "project"
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(repository / name, copy / name)
    skip = shutil.ignore_patterns("__pycache__", "*.so", "native_build.json")
    for name in ("distill_core", "csrc"):
        if (repository / name).is_dir():  # csrc is absent from a clone while it holds no file
            shutil.copytree(repository / name, copy / name, ignore=skip)
    return copy


def build_wheel(
    python: Path, project: Path, out: Path, **environment: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    out.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILL_", "PYTHON"))}
    result = subprocess.run(
        [str(python), "-c", BUILD, str(out)],
        cwd=project,
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    names = [line[6:] for line in result.stdout.splitlines() if line.startswith("WHEEL=")]
    return result, out / (names[0] if names else "missing.whl")


def native_record(wheel: Path) -> dict[str, dict[str, object]]:
    with zipfile.ZipFile(wheel) as archive:
        record: dict[str, dict[str, object]] = json.loads(archive.read("distill_core/native_build.json"))
    assert set(record) == EXTENSIONS
    return record


def test_builds_without_torch_and_says_what_is_missing(bare_python: Path, project: Path, tmp_path: Path) -> None:
    result, wheel = build_wheel(bare_python, project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    for name, entry in native_record(wheel).items():
        assert entry["built"] is False
        assert entry["reason"], name
        assert f"{name} not built: {entry['reason']}" in result.stderr
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "distill_core/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    assert metadata.startswith("distill_core-")


def test_wheel_holds_every_source_file(bare_python: Path, project: Path, tmp_path: Path) -> None:
    """No room and no template is forgotten by the packaging."""
    result, wheel = build_wheel(bare_python, project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("distill_core/")}
    present = {str(path.relative_to(project)) for path in (project / "distill_core").rglob("*") if path.is_file()}
    assert {name for name in present - packed if not name.endswith(".pyc")} == set()


def test_installed_wheel_imports_outside_the_checkout(bare_python: Path, project: Path, tmp_path: Path) -> None:
    result, wheel = build_wheel(bare_python, project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    target = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    code = "import distill_core; print(distill_core.__file__, distill_core.__version__)"
    shown = subprocess.run(
        [str(bare_python), "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(target) in shown.stdout


def plant(project: Path, folder: str, text: str) -> None:
    directory = project / "csrc" / folder
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():
        old.unlink()
    (directory / "planted.cpp").write_text(text)


def test_sources_without_torch_are_skipped_with_the_way_out(bare_python: Path, project: Path, tmp_path: Path) -> None:
    plant(project, "cpu", "int kernel() { return 1; }\n")
    result, wheel = build_wheel(bare_python, project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    reason = str(native_record(wheel)["distill_core._C"]["reason"])
    assert "torch is not importable" in reason and "--no-build-isolation" in reason


def test_missing_compiler_is_said(bare_python: Path, project: Path, tmp_path: Path) -> None:
    plant(project, "cpu", "int kernel() { return 1; }\n")
    result, wheel = build_wheel(bare_python, project, tmp_path / "out", CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
    assert "no C++ compiler: 'no-such-compiler'" in str(native_record(wheel)["distill_core._C"]["reason"])


@pytest.mark.parametrize("variable", ["DISTILL_BUILD_EXT", "DISTILL_BUILD_CUDA"])
def test_require_fails_with_the_reason(bare_python: Path, project: Path, tmp_path: Path, variable: str) -> None:
    result, wheel = build_wheel(bare_python, project, tmp_path / "out", **{variable: "require"})
    assert result.returncode != 0
    assert not wheel.exists()
    extension, folder = ("_CU", "cuda") if variable == "DISTILL_BUILD_CUDA" else ("_C", "cpu")
    assert "required native extensions cannot be built: " in result.stderr
    expected = "holds no sources" if not any((project / "csrc" / folder).glob("*")) else "torch is not importable"
    assert f"distill_core.{extension} (" in result.stderr and expected in result.stderr


def test_zero_builds_nothing(bare_python: Path, project: Path, tmp_path: Path) -> None:
    plant(project, "codec", BROKEN_CPP)
    result, wheel = build_wheel(bare_python, project, tmp_path / "out", DISTILL_BUILD_EXT="0")
    assert result.returncode == 0, result.stderr
    assert {entry["reason"] for entry in native_record(wheel).values()} == {"DISTILL_BUILD_EXT=0"}


def test_a_mode_that_does_not_exist_is_refused(bare_python: Path, project: Path, tmp_path: Path) -> None:
    result, _ = build_wheel(bare_python, project, tmp_path / "out", DISTILL_BUILD_EXT="yes")
    assert result.returncode != 0
    assert "DISTILL_BUILD_EXT='yes': expected auto, 0 or require" in result.stderr


@pytest.mark.native
@pytest.mark.slow
def test_codec_that_compiles_is_packed(project: Path, tmp_path: Path) -> None:
    plant(project, "codec", CODEC_CPP)
    result, wheel = build_wheel(Path(sys.executable), project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert native_record(wheel)["distill_core._codec"] == {"built": True, "reason": ""}
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "from distill_core import _codec; print(_codec.__file__, _codec.answer())"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", capture_output=True, text=True)
    assert "none-any" not in wheel.name and "abi3" not in wheel.name, "this wheel fits one Python version only"
    assert shown.stdout.split()[1:] == ["42"], shown.stderr
    assert str(tmp_path) in shown.stdout


@pytest.mark.native
@pytest.mark.slow
@pytest.mark.parametrize("folder, extension", [("codec", "distill_core._codec"), ("cpu", "distill_core._C")])
def test_code_that_does_not_compile(project: Path, tmp_path: Path, folder: str, extension: str) -> None:
    plant(project, folder, BROKEN_CPP)
    result, wheel = build_wheel(Path(sys.executable), project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    entry = native_record(wheel)[extension]
    assert entry["built"] is False and "compilation failed" in str(entry["reason"])
    result, _ = build_wheel(Path(sys.executable), project, tmp_path / "strict", DISTILL_BUILD_EXT="require")
    assert result.returncode != 0
