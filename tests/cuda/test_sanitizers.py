"""The kernels on the host under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer; planted faults.

ThreadSanitizer takes every CUDA thread for a thread: two of them that touch one word of shared memory, one writing,
without a barrier between are a race, whatever the order in which they ran.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import CSRC, compile_for_host

pytestmark = [pytest.mark.native, pytest.mark.slow]
SANITIZERS = {
    "none": (),
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread", "-Wno-tsan"),
}
CHECKS = sorted(path.stem.removeprefix("check_") for path in (CSRC / "testing").glob("check_*.cpp"))


def build(out: Path, kernel: str, sanitizer: str, csrc: Path = CSRC) -> Path:
    sources = [csrc / "cuda" / f"{kernel}.cu", csrc / "testing" / f"check_{kernel}.cpp"]
    return compile_for_host(out, sources, *SANITIZERS[sanitizer], csrc=csrc)


def run(program: Path) -> tuple[int, str]:
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def test_every_launcher_has_a_check() -> None:
    launchers = sorted(path.stem for path in (CSRC / "cuda").glob("*.cu") if path.stem != "device")
    assert launchers == CHECKS


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("kernel", CHECKS)
def test_clean(tmp_path: Path, kernel: str, sanitizer: str) -> None:
    status, said = run(build(tmp_path / "check", kernel, sanitizer))
    assert status == 0 and said.strip() == "right", said


# What is replaced in the kernel's text, by what, in which build it must show, and the words that show it.
FAULTS = {
    "missing barrier": (
        "    if (!__syncthreads_or(passing)) continue;\n    sorted = count > limit;",
        "    if (passing == 0) continue;\n    sorted = count > limit;",
        "none",
        "a barrier that not every thread reaches",
    ),
    "missing barrier in the sort": (
        "keys[high] = a; }\n      }\n      __syncthreads();",
        "keys[high] = a; }\n      }",
        "thread",
        "data race",
    ),
    "wrong result by thread order": (
        "keys[high] = a; }\n      }\n      __syncthreads();",
        "keys[high] = a; }\n      }",
        "none",
        "WRONG",
    ),
    "write out of bounds": (
        "ids[r * k + i] = id;",
        "ids[r * k + i + 1] = id;",
        "address",
        "heap-buffer-overflow",
    ),
    "shared memory out of bounds": (
        "constexpr int BUFFER = MAX_K + CHUNK;",
        "constexpr int BUFFER = MAX_K + CHUNK - 64;",
        "address",
        "heap-buffer-overflow",
    ),
    "unguarded counter": (
        "int at = atomicAdd(&count, passing);",
        "int at = count; count += passing;",
        "thread",
        "data race",
    ),
    "uninitialised shared memory": (
        "if (threadIdx.x == 0) { count = 0; entry",
        "if (threadIdx.x == 0) { entry",
        "address",
        "AddressSanitizer",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(tmp_path: Path, fault: str) -> None:
    """The same checks on a copy of the sources with one fault must fail, and say what is wrong."""
    right, wrong, sanitizer, words = FAULTS[fault]
    csrc = tmp_path / "csrc"
    for room in ("kernels", "cuda", "testing"):
        shutil.copytree(CSRC / room, csrc / room)
    kernel = csrc / "kernels" / "topk_rows.cuh"
    text = kernel.read_text()
    assert text.count(right) == 1, f"the text to break was found {text.count(right)} times"
    kernel.write_text(text.replace(right, wrong))
    status, said = run(build(tmp_path / "check", "topk_rows", sanitizer, csrc))
    assert status != 0 and words in said, said[-2000:]
    if sanitizer != "none":
        assert "distill_cuda::" in said, f"the report does not point at the kernel: {said[-2000:]}"
