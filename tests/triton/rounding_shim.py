"""Triton's interpreter narrows fp32 to bf16 by cutting bits off; every GPU rounds to nearest, ties to even."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton.language as tl
from triton.runtime import interpreter

_builder = interpreter.InterpreterBuilder
_own = _builder.cast_impl


def _rounded(self, source, to):
    if source.get_element_ty() == tl.float32 and to.scalar == tl.bfloat16:
        bits = torch.tensor(source.data).bfloat16().view(torch.uint16).numpy()
        return interpreter.TensorHandle(bits, tl.bfloat16)
    return _own(self, source, to)


def install() -> None:
    """From now on bf16 is rounded."""
    _builder.cast_impl = _rounded


@contextmanager
def removed() -> Iterator[None]:
    """The interpreter as it is."""
    _builder.cast_impl = _own
    try:
        yield
    finally:
        install()
