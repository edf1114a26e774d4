"""Keys of rows for random numbers: a hash of the sequence's content and the position.

Random numbers keyed this way are the same whatever batch, chunk, thread or process a row is computed in.

Legend: N rows, B sequences.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_keys(keys: Sequence[bytes], sequence_N: Tensor, position_N: Tensor) -> Tensor:
    """int64 [N] keys: the mixed first and second half of the sequence's 16-byte key and the position.

    The mixer is splitmix64's finaliser (Steele, Lea & Flood 2014), a bijection: two positions of one sequence never
    collide.

    Args:
        keys: B content keys of 16 bytes.
        sequence_N: int64, index into ``keys``.
        position_N: int64, position in the sequence.

    >>> one, two = torch.tensor([0, 0]), torch.tensor([0, 1])
    >>> row_keys([bytes(16)], one, two).tolist() == row_keys([b"x" * 16, bytes(16)], one + 1, two).tolist()
    True
    """
    halves_B2 = np.frombuffer(b"".join(keys), dtype="<u8").reshape(len(keys), 2)
    with np.errstate(over="ignore"):
        sequence_B = _mix(halves_B2[:, 0] ^ _mix(halves_B2[:, 1]))
        index_N = sequence_N.cpu().numpy()
        position = position_N.cpu().numpy().astype(np.uint64)
        mixed_N = _mix(sequence_B[index_N] + (position + np.uint64(1)) * _GOLDEN)
    return torch.from_numpy(mixed_N.view(np.int64).copy())


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
