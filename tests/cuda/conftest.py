"""The CUDA kernels on the host: csrc/cuda compiled by g++ with csrc/testing, called through ctypes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
CSRC = REPOSITORY / "csrc"
DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ORDERS = ("forward", "reverse", "random")


def host_compiler() -> str:
    """The C++ compiler of the shim; a test that needs it and finds none fails."""
    name = os.environ.get("CXX", "g++").split()[0]
    assert shutil.which(name), f"{name} is not on PATH: the shim lane needs a C++20 compiler"
    return name


def compile_for_host(out: Path, sources: list[Path], *flags: str, csrc: Path = CSRC) -> Path:
    """Compile .cu and .cpp files as C++ with the shim's headers."""
    command = [host_compiler(), "-std=c++20", "-O1", "-g", "-Wall", "-Wextra", "-Werror", f"-I{csrc / 'testing'}"]
    command += [f"-I{csrc / 'cuda'}", *flags, "-x", "c++", *map(str, sources), "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Shim:
    """Launchers of csrc/cuda, run on the host in one thread order."""

    def __init__(self, library: ctypes.CDLL, order: str) -> None:
        self.library = library
        library.distill_shim_order(ORDERS.index(order), 7)

    def call(self, name: str, *arguments: object) -> None:
        """Tensors go as pointers, ints as int64, floats as double; wants 0 back."""
        converted = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                converted.append(ctypes.c_void_p(argument.data_ptr()))
            elif isinstance(argument, float):
                converted.append(ctypes.c_double(argument))
            else:
                converted.append(ctypes.c_int64(int(argument)))
        assert getattr(self.library, name)(*converted, ctypes.c_void_p()) == 0


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All launchers in one library, compiled once per session."""
    out = tmp_path_factory.mktemp("shim") / "shim.so"
    sources = [path for path in sorted((CSRC / "cuda").glob("*.cu")) if path.name != "device.cu"]
    compile_for_host(out, [*sources, CSRC / "testing" / "shim_order.cpp"], "-fPIC", "-shared")
    return ctypes.CDLL(str(out))


@pytest.fixture(params=ORDERS)
def shim(request: pytest.FixtureRequest, shim_library: ctypes.CDLL) -> Shim:
    """The launchers, in each of three thread orders."""
    return Shim(shim_library, request.param)
