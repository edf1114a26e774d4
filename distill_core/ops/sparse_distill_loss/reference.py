"""The definition of `sparse_distill_loss`, by plain autograd over the support logits of all rows at once."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..support_logits import SupportLogits

LossFn = Callable[[SupportLogits, slice], Tensor]


def summed_loss(support: SupportLogits, loss_fn: LossFn) -> Tensor:
    """sum over rows of `loss_fn(support, all rows)`."""
    return loss_fn(support, slice(0, len(support))).sum()
