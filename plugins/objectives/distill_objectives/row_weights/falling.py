"""The one formula of both uncertainty weights."""

from __future__ import annotations

from torch import Tensor

from distill_objectives.row_weights.options import UncertaintyWeightOptions


def falling(uncertainty_N: Tensor, options: UncertaintyWeightOptions) -> Tensor:
    """[N] in [0, 1]: ``exp(-beta u)``, or ``1 - exp(-beta u)`` where uncertain rows are preferred.

    >>> import torch
    >>> falling(torch.tensor([0.0, 1.0]), UncertaintyWeightOptions(beta=2.0))
    tensor([1.0000, 0.1353])
    """
    scaled_N = -options.beta * uncertainty_N.clamp_min(0)
    return scaled_N.exp() if options.prefer == "certain" else -scaled_N.expm1()
