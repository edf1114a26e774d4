"""Counter-based uniform numbers: a pure function of (seed, key, draw), so that no split of the work changes them.

The mixer is SplitMix64's finaliser (Steele, Lea and Flood 2014), in wrapping int64 arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(x: int) -> int:
    """The int64 with the bits of x modulo 2^64."""
    x &= 2**64 - 1
    return x - 2**64 if x >= 2**63 else x


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's is arithmetic."""
    mask: int = 2 ** (64 - bits) - 1
    return (x >> bits) & mask


def mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64: a bijection whose output bits all depend on all input bits."""
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def uniform(seed: int, keys_N: Tensor, draws: int) -> Tensor:
    """[N, draws] fp64 numbers in [0, 1), multiples of 2^-53."""
    seed_1 = torch.full((1,), _signed(seed), dtype=torch.int64, device=keys_N.device)
    state_N1 = mix(mix(seed_1 + _GOLDEN) + keys_N.long() * _GOLDEN)[:, None]
    counter_M = torch.arange(1, draws + 1, device=keys_N.device) * _GOLDEN
    return _shifted(mix(state_N1 + counter_M), 11).double() * 2.0**-53
