"""Random signs from a counter, and the projection by them, in plain torch.

Legend: n samples, F features, P = dim projected, C features of a chunk, W = ceil(P / 64) words per feature.

    word[f, w] = mix(mix(mix(seed + G) + f G) + (w + 1) G)       f counted over all features, G the golden ratio
    sign[f, p] = -1 where bit p % 64 of word[f, p // 64] is set, else +1
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..head import compute_dtype
from ..sample_support.counter_random import _GOLDEN, _signed, mix

SIGNS_AT_ONCE = 2**20


def seed_state(seed: int) -> int:
    """mix(seed + G): what both implementations start from."""
    return int(mix(torch.tensor([_signed(_signed(seed) + _GOLDEN)]))[0])


def sign_words(features_C: Tensor, dim: int, seed: int) -> Tensor:
    """[C, W] int64: the sign bits of global features `features_C`."""
    words_W = torch.arange(1, -(-dim // 64) + 1, device=features_C.device)
    state_C1 = mix(seed_state(seed) + features_C * _GOLDEN)[:, None]
    return mix(state_C1 + words_W * _GOLDEN)


def signs(features_C: Tensor, dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[C, P] of +1 and -1."""
    bits_64 = torch.arange(64, device=features_C.device)
    set_CW64 = (sign_words(features_C, dim, seed)[:, :, None] >> bits_64) & 1
    return (1 - 2 * set_CW64.flatten(1)[:, :dim]).to(dtype)


def project(tensors_nF: Sequence[Tensor], dim: int, seed: int, feature_offset: int) -> Tensor:
    """[n, P] by matrix products in fp64 with chunks of the sign matrix, in the order of the features."""
    first = tensors_nF[0]
    sum_nP = first.new_zeros(first.shape[0], dim, dtype=torch.float64)
    chunk = max(1, SIGNS_AT_ONCE // dim)
    for x_nF in tensors_nF:
        for start in range(0, x_nF.shape[1], chunk):
            x_nC = x_nF[:, start : start + chunk].double()
            features_C = torch.arange(x_nC.shape[1], device=first.device) + (feature_offset + start)
            sum_nP += x_nC @ signs(features_C, dim, seed, torch.float64)
        feature_offset += x_nF.shape[1]
    scale: float = dim**-0.5
    return (sum_nP * scale).to(compute_dtype(*tensors_nF))
