"""Real images that stand for their class: starting points, and the baselines of every figure.

Legend: N images of one class, F features, M chosen ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def random_choice(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """[M] indices, none twice."""
    return torch.randperm(count, generator=generator)[:wanted]


def herding(features_NF: Tensor, wanted: int) -> Tensor:
    """[M] indices, each chosen so that the mean of the chosen comes nearest to the mean of all (Welling 2009).

    >>> herding(torch.tensor([[0.0], [4.0], [5.0]]), 2).tolist()
    [1, 0]
    """
    features = features_NF.double()
    mean_F, total_F = features.mean(0), torch.zeros_like(features[0])
    chosen: list[int] = []
    for size in range(1, wanted + 1):
        distance_N = (mean_F - (total_F + features) / size).norm(dim=1)
        distance_N[chosen] = torch.inf
        chosen.append(int(distance_N.argmin()))
        total_F = total_F + features[chosen[-1]]
    return torch.tensor(chosen)


def k_center(features_NF: Tensor, wanted: int) -> Tensor:
    """[M] indices: the one nearest to the mean, then always the one farthest from those chosen (1708.00489).

    >>> k_center(torch.tensor([[0.0], [4.0], [5.0]]), 2).tolist()
    [1, 0]
    """
    features = features_NF.double()
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    nearest_N = (features - features[chosen[0]]).norm(dim=1)
    while len(chosen) < wanted:
        chosen.append(int(nearest_N.argmax()))
        nearest_N = torch.minimum(nearest_N, (features - features[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)


def part_means(images_NCHW: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
    """[M, C, H, W]: the class dealt into M random parts of equal size (to one), the mean of each."""
    parts = torch.randperm(len(images_NCHW), generator=generator).tensor_split(wanted)
    return torch.stack([images_NCHW[part].mean(0) for part in parts])
