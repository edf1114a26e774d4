"""Block sizes of the Triton kernels, one table for all chips: nothing is tuned when a module is imported.

Sizes are chosen by what the compiler reports (`python -m tests.triton.compile_report`): no spilled register, shared
memory within the chip's limit, matrix instructions and vector loads. No GPU timed them.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

ALIGNED = 16
"""Rows are read on a grid of 16 elements (32 bytes in bf16), whatever their length: full vector loads at any V."""

GROUP_ROWS = 8
"""Row blocks of the head that share a column of tiles while it is in the cache."""


class Rows(NamedTuple):
    """A kernel with one program per row: columns per step, warps."""

    columns: int
    warps: int


class Head(NamedTuple):
    """One tile of logits, rows x columns, multiplied `depth` at a time; how fp32 is multiplied."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    precision: str = "ieee"


class TopK(NamedTuple):
    """Top-k of a row: columns per program, how wide a block may be, entries sorted at the end, warps."""

    columns: int
    narrowest: int
    widest: int
    sorted: int
    warps: int


class Sample(NamedTuple):
    """Sampling: columns per program, columns of a block, points and blocks handled together, warps."""

    columns: int
    width: int
    points: int
    blocks: int
    warps: int


class Chip(NamedTuple):
    """All sizes of one chip. `head16` for bf16 and fp16, `head32` for fp32; `topk16`, `topk32` for the head's top-k."""

    rows: Rows
    rows_back: Rows
    topk: TopK
    sample: Sample
    head16: Head
    head32: Head
    topk16: Head
    topk32: Head


TINY = Head(16, 32, 16, 1, 1)
TOPK = TopK(columns=4096, narrowest=32, widest=64, sorted=4096, warps=8)
SAMPLE = Sample(columns=2048, width=128, points=16, blocks=1024, warps=4)
TOPK_HEADS = (Head(128, 128, 64, 8, 3), Head(64, 128, 32, 8, 3, "tf32x3"))
# tf32x3 splits each fp32 into two tf32 and keeps fp32's accuracy on tensor cores; CDNA multiplies fp32 as it is.
CHIPS = {
    "sm_80": Chip(
        Rows(4096, 8),
        Rows(4096, 8),
        TOPK,
        SAMPLE,
        Head(128, 128, 64, 8, 3),
        Head(64, 128, 32, 8, 3, "tf32x3"),
        *TOPK_HEADS,
    ),
    "sm_90": Chip(
        Rows(4096, 8),
        Rows(4096, 8),
        TOPK,
        SAMPLE,
        Head(128, 256, 64, 8, 3),
        Head(64, 128, 32, 8, 3, "tf32x3"),
        *TOPK_HEADS,
    ),
    "sm_100": Chip(
        Rows(4096, 8),
        Rows(4096, 8),
        TOPK,
        SAMPLE,
        Head(128, 128, 64, 8, 3),
        Head(64, 128, 32, 8, 3, "tf32x3"),
        *TOPK_HEADS,
    ),
    "gfx942": Chip(
        Rows(4096, 8),
        Rows(4096, 8),
        TOPK,
        SAMPLE,
        Head(128, 128, 64, 8, 2),
        Head(64, 64, 32, 4, 2),
        Head(64, 128, 64, 8, 2),
        Head(64, 64, 32, 4, 2),
    ),
    # Small, so that little inputs cross many block borders.
    "interpreter": Chip(
        Rows(32, 1), Rows(32, 1), TopK(32, 2, 8, 32, 1), Sample(32, 8, 4, 4, 1), TINY, TINY, TINY, TINY
    ),
}
CHIPS["default"] = CHIPS["sm_80"]


@functools.cache
def _chip_name(device: torch.device) -> str:
    if torch.version.hip is not None:
        name: str = torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    else:
        name = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    return name if name in CHIPS else "default"


def chip_of(device: torch.device) -> Chip:
    """The sizes for tensors on `device`."""
    return CHIPS["interpreter" if device.type == "cpu" else _chip_name(device)]
