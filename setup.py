"""Optional native extensions: an install never fails for want of a compiler, nvcc or torch, it says what was not built.

Metadata lives in pyproject.toml; this file decides only which extensions can be built here:

    distill_core._codec   csrc/codec/*.cpp   bit packing, pybind11, no torch
    distill_core._C       csrc/cpu/*.cpp     CPU kernels, libtorch stable ABI (abi3)
    distill_core._CU      csrc/cuda/*        CUDA kernels, libtorch stable ABI (abi3)

Environment:
    DISTILL_BUILD_EXT    auto (default): build what can be built; 0: build nothing; require: fail with the reasons
    DISTILL_BUILD_CUDA   the same for distill_core._CU alone

torch is deliberately not a build requirement (it would be downloaded a second time for each install): to build against
the torch that is installed, use `pip install --no-build-isolation`. What was built, and why the rest was not, is
printed and recorded in distill_core/native_build.json.
"""

from __future__ import annotations

import glob
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
RECORD = "native_build.json"
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000"]  # libtorch stable ABI of torch 2.10
CUDA_CODE = ["80", "90a", "100a"]
CUDA_PTX = "arch=compute_80,code=compute_80"
CXX_FLAGS = ["-O3", "-g0", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]

reasons: dict[str, str] = {}
"""Why an extension is not built, by extension name; filled while planning and while building."""


def mode(variable: str) -> str:
    value = os.environ.get(variable, "auto")
    if value not in ("auto", "0", "require"):
        sys.exit(f"distill-core setup: {variable}={value!r}: expected auto, 0 or require")
    return value


EXT_MODE, CUDA_MODE = mode("DISTILL_BUILD_EXT"), mode("DISTILL_BUILD_CUDA")


def say(message: str) -> None:
    print(f"distill-core setup: {message}", file=sys.stderr, flush=True)


def required(name: str) -> bool:
    if name == "distill_core._CU":
        return CUDA_MODE == "require" or (EXT_MODE == "require" and CUDA_MODE != "0")
    return EXT_MODE == "require"


def sources(folder: str) -> list[str]:
    found = [path for suffix in ("cpp", "cu") for path in glob.glob(f"csrc/{folder}/*.{suffix}", root_dir=ROOT)]
    if not found:
        raise LookupError(f"csrc/{folder} holds no sources")
    return sorted(found)


def headers(folder: str) -> list[str]:
    """Files that a change of which builds the extension again."""
    found = [path for suffix in ("h", "inl", "cuh") for path in glob.glob(f"csrc/{folder}/*.{suffix}", root_dir=ROOT)]
    return sorted(found)


def compiler() -> None:
    name = os.environ.get("CXX", "c++").split()[0]
    if not shutil.which(name):
        raise LookupError(f"no C++ compiler: {name!r} is not on PATH (install one, e.g. g++, or set CXX)")


def cpp_extension() -> Any:
    try:
        return importlib.import_module("torch.utils.cpp_extension")
    except ImportError as error:
        raise LookupError(
            f"torch is not importable in the build environment ({error}); install torch first and use "
            "pip install --no-build-isolation"
        ) from error


def pybind11_include() -> str:
    try:
        return str(importlib.import_module("pybind11").get_include())
    except ImportError:
        raise LookupError("pybind11 is not importable in the build environment: pip install pybind11") from None


def codec() -> Extension:
    files = sources("codec")
    compiler()
    flags = [*CXX_FLAGS, "-std=c++17"]
    include = [pybind11_include(), "csrc/codec"]
    return Extension(
        "distill_core._codec",
        files,
        include_dirs=include,
        extra_compile_args=flags,
        depends=headers("codec"),
        language="c++",
    )


def cpu() -> Extension:
    files = sources("cpu")
    compiler()
    torch_build = cpp_extension()
    flags = [*CXX_FLAGS, *STABLE_ABI, "-Wno-psabi", "-Wno-maybe-uninitialized"]  # g++ 12 misreads its own headers
    return torch_build.CppExtension(
        "distill_core._C", files, py_limited_api=True, extra_compile_args=flags, depends=headers("cpu")
    )


def nvcc() -> str:
    """Path of nvcc: below CUDA_HOME or CUDA_PATH, on PATH, or where the toolkit installs itself."""
    homes = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    candidates = [os.path.join(home, "bin", "nvcc") for home in homes] + ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if found := shutil.which(candidate):
            return found
    raise LookupError("nvcc was not found: install the CUDA toolkit or set CUDA_HOME")


def cuda() -> Extension:
    if CUDA_MODE == "0":
        raise LookupError("DISTILL_BUILD_CUDA=0")
    files = sources("cuda")
    compiler()
    cpp_extension()
    nvcc()
    if importlib.import_module("torch").version.cuda is None and CUDA_MODE != "require":
        raise LookupError("the installed torch is a CPU build; DISTILL_BUILD_CUDA=require compiles the kernels anyway")
    if not shutil.which("ninja"):
        raise LookupError("ninja is not on PATH: pip install ninja")
    # torch's BuildExtension refuses any .cu among the sources of a CPU build: they go where it does not look.
    kernels = [file for file in files if file.endswith(".cu")]
    depends = kernels + headers("cuda") + headers("kernels")
    bindings = [file for file in files if file not in kernels]
    return Extension("distill_core._CU", bindings, depends=depends, py_limited_api=True, language="c++")


def architectures() -> list[str]:
    """-gencode options: machine code for each of CUDA_CODE that this nvcc knows, and PTX for later devices."""
    known = subprocess.run([nvcc(), "--list-gpu-code"], check=True, capture_output=True, text=True).stdout
    codes = [code for code in CUDA_CODE if f"sm_{code.rstrip('a')}" in known.split()]
    return [f"-gencode=arch=compute_{code},code=sm_{code}" for code in codes] + [f"-gencode={CUDA_PTX}"]


def compile_cuda(out: Path, folder: Path) -> None:
    """Kernels by nvcc, bindings by the C++ compiler, linked by nvcc with its static runtime; driven by ninja.

    torch's CUDAExtension refuses a CPU build of torch. Nothing here needs a CUDA build: no kernel includes a torch
    header, and the bindings use the stable ABI alone.
    """
    torch_build = cpp_extension()
    nvcc_flags = " ".join(["-O3", "-std=c++17", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Xptxas=-v", *architectures()])
    include = " ".join(f"-I{path}" for path in torch_build.include_paths())
    libraries = " ".join(f"-L{path}" for path in torch_build.library_paths())
    cxx = f"{os.environ.get('CXX', 'c++')} {' '.join([*CXX_FLAGS, *STABLE_ABI])} -std=c++20 -fPIC"
    lines = [
        f"nvcc = {nvcc()} {nvcc_flags}",
        "rule kernel\n  command = $nvcc -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        f"rule binding\n  command = {cxx} {include} -MD -MF $out.d -c $in -o $out\n  depfile = $out.d\n  deps = gcc",
        "rule link\n  command = $nvcc -shared --cudart static $in -o $out "
        f"{libraries} -Xlinker --no-as-needed -ltorch -ltorch_cpu -lc10",
    ]
    objects = []
    for source in sources("cuda"):
        rule = "kernel" if source.endswith(".cu") else "binding"
        objects.append(f"{Path(source).name}.o")
        lines.append(f"build {objects[-1]}: {rule} {ROOT / source}")
    lines.append(f"build {out.resolve()}: link {' '.join(objects)}")
    folder.mkdir(parents=True, exist_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    (folder / "build.ninja").write_text("\n".join(lines) + "\n", encoding="utf-8")
    jobs = [f"-j{os.environ['MAX_JOBS']}"] if os.environ.get("MAX_JOBS") else []
    subprocess.run(["ninja", "-C", str(folder), *jobs], check=True, stdout=sys.stderr)


PLANS = {"distill_core._codec": codec, "distill_core._C": cpu, "distill_core._CU": cuda}


def plan() -> list[Extension]:
    """The extensions to try; the reason of every other one goes into `reasons`."""
    extensions = []
    for name, make in PLANS.items():
        if EXT_MODE == "0":
            reasons[name] = "DISTILL_BUILD_EXT=0"
            continue
        try:
            extensions.append(make())
        except LookupError as error:
            reasons[name] = str(error)
    for name, reason in reasons.items():
        say(f"{name} not built: {reason}")
    missing = [f"{name} ({reason})" for name, reason in reasons.items() if required(name)]
    if missing:
        sys.exit("distill-core setup: required native extensions cannot be built: " + "; ".join(missing))
    return extensions


def optional(base: type) -> type:
    """A build_ext whose failures are told and recorded instead of ending the install, unless they are required.

    `Extension(optional=True)` does not cover errors raised by torch's BuildExtension.
    """

    class OptionalBuildExt(base):  # type: ignore[misc]
        def fail(self, extensions: list[Extension], error: BaseException) -> None:
            if isinstance(error, KeyboardInterrupt) or any(required(extension.name) for extension in extensions):
                raise error
            for extension in extensions:
                reasons[extension.name] = f"compilation failed ({type(error).__name__}: {str(error)[:300]})"
                say(f"{extension.name} not built: {reasons[extension.name]}")

        def build_extension(self, extension: Extension) -> None:
            try:
                if extension.name == "distill_core._CU":
                    out = Path(self.get_ext_fullpath(extension.name))
                    compile_cuda(out, Path(self.build_temp).resolve() / "cuda")
                else:
                    super().build_extension(extension)
            except BaseException as error:
                self.fail([extension], error)

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except BaseException as error:
                self.fail(list(self.extensions), error)
            self.extensions = [extension for extension in self.extensions if extension.name not in reasons]

    return OptionalBuildExt


class RecordNative(Command):
    """Last step of `build`: write what was built, and why the rest was not, into the package."""

    def initialize_options(self) -> None:
        self.build_lib: str | None = None
        self.editable_mode = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def target(self) -> Path:
        return (ROOT if self.editable_mode else Path(str(self.build_lib))) / "distill_core" / RECORD

    def run(self) -> None:
        record = {name: {"built": name not in reasons, "reason": reasons.get(name, "")} for name in PLANS}
        self.target().parent.mkdir(parents=True, exist_ok=True)
        self.target().write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        return [str(self.target())]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    sub_commands = [*build.sub_commands, ("record_native", None)]  # noqa: RUF012 - setuptools' own form


extensions = plan()
torch_needed = any(extension.name != "distill_core._codec" for extension in extensions)
abi3 = torch_needed and all(extension.name != "distill_core._codec" for extension in extensions)
setup(
    ext_modules=extensions,
    cmdclass={
        "build": Build,
        "build_ext": optional(cpp_extension().BuildExtension if torch_needed else build_ext),
        "record_native": RecordNative,
    },
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if abi3 else {},
)
