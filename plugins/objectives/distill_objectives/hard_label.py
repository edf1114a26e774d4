"""Hard distillation: the teacher's most likely class or token as the label.

Legend: n rows of a chunk, K support size.
"""

from __future__ import annotations

from torch import Tensor

from distill_core.simplex import check_same_rows
from distill_core.types import RowInfo, RowTarget, SupportLogits
from distill_objectives.options import HardLabelOptions


class HardLabel:
    """``-log q(argmax_v p_v)`` in nat, at temperature 1: the second term of hard-label distillation (DeiT, Touvron et
    al., arXiv 2012.12877, equation 3, which adds the cross-entropy with the label, half each).

    The most likely entry of an exact target is the most likely of all; of two that are equally likely the first one in
    the support counts.

    >>> import torch
    >>> from distill_core import ops
    >>> ids = torch.tensor([[3, 1]])
    >>> target = RowTarget("exact", ids, (1.0,), logits_NK=torch.tensor([[0.0, 2.0]]), tail_NM=torch.zeros(1, 1))
    >>> support = ops.support_logits(torch.zeros(1, 4), ids, labels_N=torch.tensor([0]))
    >>> HardLabel(HardLabelOptions()).rows(support, target, RowInfo(ids[:, 0], ids[:, 0], ids[:, 0]))
    tensor([1.3863])
    """

    def __init__(self, options: HardLabelOptions) -> None:
        self.options = options

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat."""
        if target is None or target.logits_NK is None:
            raise ValueError("hard-label needs an exact target, whose likeliest entry is known: method: topk")
        check_same_rows(support, target)
        best_n1 = target.logits_NK.masked_fill(target.ids_NK < 0, float("-inf")).argmax(dim=1, keepdim=True)
        return -support.log_probs(1.0).gather(1, best_n1)[:, 0]
