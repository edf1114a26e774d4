"""Random projection by the compiled CPU kernel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cpu_library
from ..buffers import with_rows
from .reference import seed_state

cpu_library.define("project(Tensor[] tensors, int dim, int state, int feature_offset, float scale) -> Tensor")


def project(tensors_nF: Sequence[Tensor], dim: int, seed: int, feature_offset: int) -> Tensor:
    """[n, dim] fp32 of fp32, bf16 and fp16 matrices side by side, with any row stride."""
    rows = [with_rows(x) for x in tensors_nF]
    found: Tensor = torch.ops.distill_core_cpu.project(rows, dim, seed_state(seed), feature_offset, dim**-0.5)
    return found
