"""Which of many synthetic texts stay, class by class.

Legend: n candidates, P parameters, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Distance = Callable[[Sequence[Tensor]], float]
"""Of a gradient (P tensors) from the real one."""


def nearest(gradients: Sequence[Sequence[Tensor]], distance: Distance, wanted: int) -> list[int]:
    """Those whose own gradients are nearest, ties to the first.

    >>> nearest([[torch.tensor(3.0)], [torch.tensor(1.0)]], lambda g: float(g[0].abs()), 1)
    [1]
    """
    values = [distance(gradient) for gradient in gradients]
    return sorted(range(len(values)), key=lambda index: (values[index], index))[:wanted]


def greedy(gradients: Sequence[Sequence[Tensor]], distance: Distance, wanted: int) -> list[int]:
    """The set grown one by one, each time by the one that brings its mean gradient nearest.

    >>> g = [[torch.tensor([1.0, 0.0])], [torch.tensor([0.9, 0.2])], [torch.tensor([0.0, 1.0])]]
    >>> greedy(g, lambda mean: float((mean[0] - 0.5).norm()), 2)
    [1, 2]
    """
    chosen: list[int] = []
    total = [torch.zeros_like(g) for g in gradients[0]] if gradients else []
    while len(chosen) < min(wanted, len(gradients)):
        size = len(chosen) + 1
        left = [index for index in range(len(gradients)) if index not in chosen]
        values = [distance([(t + g) / size for t, g in zip(total, gradients[index], strict=True)]) for index in left]
        best = left[min(range(len(left)), key=lambda index: values[index])]
        chosen.append(best)
        total = [t + g for t, g in zip(total, gradients[best], strict=True)]
    return chosen
