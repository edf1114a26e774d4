"""The raw CUDA kernel of the sign projection: signs from a counter, no matrix stored.

Legend: n samples, F features of one tensor, P columns of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import cuda_library
from ..buffers import with_rows

cuda_library.define("project_signs(Tensor[] matrices, int dim, int seed, int first_feature) -> Tensor")


def project(tensors_nF: Sequence[Tensor], dim: int, seed: int, feature_offset: int) -> Tensor:
    """[n, P] fp32: the projection of fp32, bf16 or fp16 matrices side by side, divided by sqrt(P)."""
    rows = [with_rows(x) for x in tensors_nF]
    found: Tensor = torch.ops.distill_core_cuda.project_signs(rows, dim, seed, feature_offset)
    return found
