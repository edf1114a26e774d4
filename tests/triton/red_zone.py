"""What the interpreter cannot see by itself: accesses outside a tensor, and races between programs.

A `Guarded` tensor lies in the middle of a buffer of NaN (or of an impossible integer): what is read outside poisons the
result, what is written outside shows. `AccessLog` notes which program wrote and read which address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from triton.runtime import interpreter

ZONE = 64


class Guarded:
    """Copies of tensors inside red zones."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def put(self, x: Tensor) -> Tensor:
        """`x` with its shape, its row stride widened by 3 elements of red zone."""
        poison = float("nan") if x.is_floating_point() else -(2**30)
        matrix = x if x.dim() == 2 else x[None]
        rows, width = matrix.shape
        pitch = width + 3 if x.dim() == 2 else width
        buffer = torch.full((2 * ZONE + rows * pitch,), poison, dtype=x.dtype)
        inside = buffer.as_strided((rows, width), (pitch, 1), ZONE)
        inside.copy_(matrix)
        outside = torch.ones_like(buffer, dtype=torch.bool)
        outside.as_strided((rows, width), (pitch, 1), ZONE).fill_(False)
        self._kept.append((buffer, buffer.clone(), outside))
        return inside if x.dim() == 2 else inside[0]

    def intact(self) -> bool:
        """Whether everything outside the tensors is as it was."""
        return all(
            torch.equal(a[outside].view(torch.uint8), b[outside].view(torch.uint8)) for a, b, outside in self._kept
        )


class AccessLog:
    """Pairs of programs that touched one address where one of them wrote."""

    def __init__(self) -> None:
        self.clashes: list[tuple[str, object, object]] = []
        self.stores = 0
        self._writer: dict[int, object] = {}
        self._readers: dict[int, set[object]] = {}

    def store(self, program: object, addresses: list[int]) -> None:
        self.stores += len(addresses)
        for address in addresses:
            others = {self._writer.get(address, program), *self._readers.get(address, set())} - {program}
            self.clashes += [("write", program, other) for other in others]
            self._writer[address] = program

    def load(self, program: object, addresses: list[int]) -> None:
        for address in addresses:
            writer = self._writer.get(address, program)
            if writer != program:
                self.clashes.append(("read", program, writer))
            self._readers.setdefault(address, set()).add(program)


@contextmanager
def access_log() -> Iterator[AccessLog]:
    """Logs every masked load and store of one kernel launch."""
    log, builder = AccessLog(), interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def touched(pointer, mask) -> list[int]:
        at, on = np.broadcast_arrays(pointer.data, mask.data.astype(bool))
        return at[on].ravel().tolist()

    def logged_load(self, pointer, mask, *rest):
        log.load(self.grid_idx, touched(pointer, mask))
        return load(self, pointer, mask, *rest)

    def logged_store(self, pointer, value, mask, *rest):
        log.store(self.grid_idx, touched(pointer, mask))
        return store(self, pointer, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = logged_load, logged_store
    try:
        yield log
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store
