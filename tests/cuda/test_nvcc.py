"""The CUDA kernels by nvcc: no spills, registers as recorded, linked against the installed torch, loaded in Python.

`python -m tests.cuda.test_nvcc` records registers and shared memory in baseline.json.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cuda.conftest import CSRC, REPOSITORY

pytestmark = pytest.mark.nvcc
BASELINE = Path(__file__).with_name("baseline.json")
MACHINE_CODE = {"sm_80", "sm_90a", "sm_100a"}
SHARED_LIMIT_BYTES = 48 * 1024  # what a kernel may have without asking


@dataclass
class Build:
    """A copy of the project with `_CU` built in place, and what the compilers said."""

    project: Path
    log: str


def build(project: Path) -> Build:
    """`DISTILL_BUILD_CUDA=require` on a copy that holds no other native source."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, project / name)
    shutil.copytree(REPOSITORY / "distill_core", project / "distill_core", ignore=shutil.ignore_patterns("*.so"))
    for room in ("kernels", "cuda"):
        shutil.copytree(CSRC / room, project / "csrc" / room)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=project,
        env={**os.environ, "DISTILL_BUILD_CUDA": "require", "DISTILL_BUILD_EXT": "auto"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Build(project, done.stdout + done.stderr)


def figures(log: str) -> dict[str, dict[str, dict[str, int]]]:
    """What ptxas reports: kernel -> architecture -> registers, shared memory, spills, in bytes where they are bytes."""
    pattern = (
        r"Compiling entry function '(\w+)' for '(\w+)'.*?"
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers([^\n]*)"
    )
    found: dict[str, dict[str, dict[str, int]]] = {}
    for name, code, stack, stores, loads, registers, rest in re.findall(pattern, log, flags=re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        plain = subprocess.run(["c++filt", name], check=True, capture_output=True, text=True).stdout.strip()
        plain = plain.removeprefix("void ").partition("(")[0].replace("distill_cuda::", "")
        found.setdefault(plain, {})[code] = {
            "registers": int(registers),
            "shared": int(shared[1]) if shared else 0,
            "stack": int(stack),
            "spilled": int(stores) + int(loads),
        }
    return found


def release() -> str:
    said = subprocess.run([nvcc(), "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"V(\d+\.\d+\.\d+)", said)
    assert match, said
    return match[1]


def nvcc() -> str:
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    for candidate in (*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"):
        if found := shutil.which(candidate):
            return found
    raise AssertionError("nvcc was not found: this lane needs it (make verify-cuda says so and leaves it out)")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return build(tmp_path_factory.mktemp("project"))


def test_every_kernel_for_every_architecture_without_spills(built: Build) -> None:
    found = figures(built.log)
    headers = "\n".join(path.read_text() for path in CSRC.glob("kernels/*.cuh"))
    declared = set(re.findall(r"__global__ void __launch_bounds__\(\w+\)\s+(\w+)\(", headers))
    assert len(declared) == headers.count("__global__")
    assert declared and declared == {name.partition("<")[0] for name in found}
    for name, by_code in found.items():
        assert set(by_code) == MACHINE_CODE, name
        for code, figure in by_code.items():
            assert figure["spilled"] == 0, (name, code, figure)
            assert figure["shared"] <= SHARED_LIMIT_BYTES, (name, code, figure)


def test_registers_as_recorded(built: Build) -> None:
    """No kernel takes more than recorded. Another release of nvcc allocates otherwise: only the names are compared."""
    baseline, found = json.loads(BASELINE.read_text()), figures(built.log)
    assert set(found) == set(baseline["kernels"])
    if release() != baseline["nvcc"]:
        return
    for name, by_code in found.items():
        for code, figure in by_code.items():
            recorded = baseline["kernels"][name][code]
            assert all(figure[key] <= recorded[key] for key in recorded), (name, code, figure, recorded)


@pytest.mark.parametrize(
    ("launcher", "instruction"),
    [
        ("topk_rows", r"ld\.global(\.nc)?\.v4\.(f|b|u)32"),
        ("topk_rows", r"ld\.global(\.nc)?\.v4\.(b|u)16"),
        # Addresses out of a table are generic: the compiler cannot know that they are global.
        ("match_rows", r"ld\.v4\.(f|b|u)32"),
        ("match_rows", r"st\.v4\.(f|b|u)32"),
        ("sample_rows", r"ld\.global(\.nc)?\.v4\.(f|b|u)32"),
    ],
)
def test_rows_are_read_by_vector_loads(tmp_path: Path, launcher: str, instruction: str) -> None:
    out = tmp_path / "kernels.ptx"
    command = [nvcc(), "-O3", "-std=c++17", "-arch=compute_80", "-ptx", str(CSRC / "cuda" / f"{launcher}.cu")]
    subprocess.run([*command, "-o", str(out)], check=True)
    assert re.search(instruction, out.read_text())


CODE = """
import importlib
from distill_core import ops
from distill_core.ops import cuda_library
import torch
for op in ("gradient_match", "random_projection", "sample_support", "topk_logits", "unpack_rows"):
    importlib.import_module(f"distill_core.ops.{{op}}.cuda")
can_run, reason = cuda_library.available()
print(reason)
for name in {names}:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"distill_core_cuda::{{name}}", "CUDA"), name
print(ops.status())
"""


def test_loads_and_says_whether_it_can_run(built: Build) -> None:
    """Also where the installed torch is a CPU build and there is no driver."""
    bindings = "\n".join(path.read_text() for path in (CSRC / "cuda").glob("*.cpp"))
    names = re.findall(r'm\.impl\("(\w+)"', bindings)
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(names=names)],
        cwd=built.project,
        env={**os.environ, "PYTHONPATH": str(built.project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    reason = done.stdout.splitlines()[0]
    assert re.match(r"distill_core\._CU, compiled with CUDA \d+\.\d+, is loaded[,;] ", reason), reason
    row = next(line for line in done.stdout.splitlines() if line.startswith("topk_logits ") and " cuda " in line)
    assert row.endswith(reason)


def record() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = figures(build(Path(folder)).log)
    kept = {
        name: {
            code: {key: figure[key] for key in ("registers", "shared", "stack")} for code, figure in sorted(by.items())
        }
        for name, by in sorted(found.items())
    }
    BASELINE.write_text(json.dumps({"nvcc": release(), "kernels": kept}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
