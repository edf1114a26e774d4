"""`support_logits` on logits that exist, in C++: forward and backward straight from the logits, without a copy.

Legend: N rows, V vocabulary, T temperatures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..buffers import with_rows
from . import native
from .chunked import LogitsSource, Request, empty_statistics
from .reference import Statistics
from .tile import Cotangents


def logits_forward(source: LogitsSource, request: Request) -> Statistics:
    """Statistics of all rows: one read of the logits."""
    out = empty_statistics(source, request)
    support = native.support_of(request.ids_NK, request.labels_N)
    z_NV = with_rows(source.logits_NV)
    native.statistics_into(out, z_NV, support, request.temperatures, request.extras)
    return out


def logits_backward(source: LogitsSource, request: Request, tail_NT: Tensor, cotangents: Cotangents) -> Tensor:
    """Gradient of the logits in their own dtype: one read, one write."""
    z_NV = with_rows(source.logits_NV)
    support = native.support_of(request.ids_NK, request.labels_N)
    dlogits_NV = torch.empty_like(z_NV, memory_format=torch.contiguous_format)
    entropy_NT = None
    if cotangents.entropy_NT is not None:
        entropy_NT = native.entropies(z_NV, support, request.temperatures)
    native.gradient_into(dlogits_NV, z_NV, support, request.temperatures, tail_NT, entropy_NT, cotangents)
    return dlogits_NV
