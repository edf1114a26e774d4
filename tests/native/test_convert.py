"""Widening of 16-bit numbers, every bit pattern, in each instruction set."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.native

CODE = """
import torch
from distill_core.ops import cpu_library
assert cpu_library.available()[0], cpu_library.available()[1]
patterns = torch.arange(-(2**15), 2**15).to(torch.int16)
for dtype in (torch.bfloat16, torch.float16):
    for cut in (0, 1, 3, 13):  # ragged ends
        x = patterns[cut:].view(dtype)
        wide = torch.empty(x.shape)
        torch.ops.distill_core_cpu.widen(x, wide)
        truth = x.float()
        same = (wide == truth) | (wide.isnan() & truth.isnan())
        assert bool(same.all()), (dtype, x[~same][:5], wide[~same][:5])
"""


def test_every_bit_pattern(on_isa):
    on_isa(CODE)
