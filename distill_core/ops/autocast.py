"""Autocast must not reach into an op: it would round logits to bf16 before p - q is formed."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_arithmetic(like: Tensor) -> torch.autocast:
    """A context in which autocast is off for the device of `like`; the op chooses its own precision."""
    return torch.autocast(device_type=like.device.type, enabled=False)
