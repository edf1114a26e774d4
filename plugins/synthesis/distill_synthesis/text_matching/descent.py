"""Adam on named tensors, whose moments go to disk with them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BETAS, EPS = (0.9, 0.999), 1e-8


def new_moments(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Zeros: ``NAME:m`` and ``NAME:v`` for each."""
    return {f"{name}:{kind}": torch.zeros_like(x) for name, x in tensors.items() for kind in "mv"}


@torch.no_grad()
def adam(
    tensors: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
    *,
    rate: float,
    step: int,
) -> None:
    """One step (arXiv 1412.6980, algorithm 1) in place, of tensors and moments.

    Args:
        tensors, gradients: by name; those without a gradient stay.
        moments: as :func:`new_moments` names them.
        rate: learning rate.
        step: steps done before this one.
    """
    for name, gradient in gradients.items():
        m, v = moments[f"{name}:m"], moments[f"{name}:v"]
        m.mul_(BETAS[0]).add_(gradient, alpha=1 - BETAS[0])
        v.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        first = m / (1 - BETAS[0] ** (step + 1))
        second = v / (1 - BETAS[1] ** (step + 1))
        tensors[name].sub_(rate * first / (second.sqrt() + EPS))
