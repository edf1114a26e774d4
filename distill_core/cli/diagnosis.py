"""What ``distill doctor`` says. The only command about the installation that imports torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from distill_core.engine.manifest import environment
from distill_core.registry import get_registry

OPTIONAL = {
    "datasets": "source hf-dataset",
    "peft": "student.peft",
    "gguf": "teachers in GGUF files",
    "triton": "Triton kernels",
    "tensorboard": "train.trackers",
}
"""Packages that some part needs, and which."""


def diagnose() -> Iterator[str]:
    """Lines of the diagnosis."""
    yield from _versions()
    yield from _devices()
    yield from _plugins()
    yield from _disk()


def _versions() -> Iterator[str]:
    here = environment()
    yield f"python {here['python']} on {here['platform']}, {here['processors']} processors"
    yield ", ".join(f"{name} {version}" for name, version in here["versions"].items())
    for name, purpose in OPTIONAL.items():
        try:
            yield f"  {name} {metadata.version(name)} ({purpose})"
        except metadata.PackageNotFoundError:
            yield f"  {name} is not installed: needed for {purpose}"


def _devices() -> Iterator[str]:
    try:
        import torch
    except ImportError as error:
        yield f"torch cannot be imported ({error}): nothing can be captured or trained here"
        return
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    yield f"\ntorch: {torch.get_num_threads()} threads (OMP_NUM_THREADS {threads})"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"  cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "  no GPU that torch can use: everything runs on the CPU"
    from distill_core import ops

    yield "\n" + str(ops.status())


def _plugins() -> Iterator[str]:
    yield "\nplugins (more by `distill plugins doctor`):"
    records = get_registry().records
    for record in records:
        yield f"  {record.describe()}, {len(record.components)} components"
    if not records:
        yield "  none: install distill-teachers, distill-objectives, distill-synthesis and distill-evaluation"


def _disk() -> Iterator[str]:
    usage = shutil.disk_usage(Path.cwd())
    yield f"\ndisk: {usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.1f} GiB in the present directory"
