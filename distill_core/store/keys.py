"""The content key of a sequence: what it is, never where or when it was seen."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

KEY_BYTES = 16
"""Length of a key: 128 bits."""

MAX_VOCABULARY = 1 << 32
"""Token ids are below this."""


def token_array(input_ids: ArrayLike) -> NDArray[np.uint32]:
    """Token ids as a 1-D little-endian uint32 array.

    Raises:
        TypeError: the ids are not integers.
        ValueError: more than one dimension, or an id outside [0, 2^32).
    """
    ids_T: NDArray[Any] = np.asarray(input_ids)
    if ids_T.ndim != 1:
        raise ValueError(f"input_ids has shape {ids_T.shape}; expected one sequence, shape [T]")
    if ids_T.size == 0:
        return np.zeros(0, dtype="<u4")
    if ids_T.dtype.kind not in "iu":
        raise TypeError(f"input_ids has dtype {ids_T.dtype}; expected integers")
    if int(ids_T.min()) < 0 or int(ids_T.max()) >= MAX_VOCABULARY:
        raise ValueError(
            f"input_ids holds values from {int(ids_T.min())} to {int(ids_T.max())}; expected token ids in [0, 2^32): "
            "cut padding off first"
        )
    return ids_T.astype("<u4")


def sequence_key(input_ids: ArrayLike, *, layout: str = "plain") -> bytes:
    """128-bit key of a token sequence from position 0 with its attention layout.

    blake2b-128 of the layout's name, a zero byte and the ids as little-endian uint32. Two captures of the same tokens
    have the same key on every machine; padding, batch and step play no part.

    Args:
        input_ids: [T] integers, without padding.
        layout: name of the attention layout; ``plain``: causal from position 0, one document.

    Raises:
        TypeError: ids are not integers.
        ValueError: ids outside [0, 2^32), or not one-dimensional.

    >>> sequence_key([1, 2, 3]).hex()
    '1aaa78999f34b1373ddce1ec95dc7a06'
    >>> sequence_key([1, 2, 3]) == sequence_key(np.array([1, 2, 3], dtype=np.int64))
    True
    """
    return key_of(token_array(input_ids), layout=layout)


def key_of(ids_T: NDArray[np.uint32], *, layout: str) -> bytes:
    """:func:`sequence_key` of an array made by :func:`token_array`."""
    state = hashlib.blake2b(layout.encode("utf-8") + b"\0", digest_size=KEY_BYTES)
    state.update(np.ascontiguousarray(ids_T).data)
    return state.digest()
