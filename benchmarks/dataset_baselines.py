"""What synthetic images have to beat: real images chosen at random or by a rule, and means of a class.

Legend: N images, C channels, H height, W width, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distill_synthesis.matching.coresets import herding, k_center, part_means, random_choice
from distill_synthesis.matching.randomness import generator

Pair = tuple[Tensor, Tensor]
"""Images [N, C, H, W] as networks read them; classes [N] or probabilities [N, K]."""


def _by_class(scene: Any, choose: Callable[[Tensor, int], Tensor]) -> Pair:
    """Images of `choose(indices, class)`, for every class."""
    chosen = [choose(scene.real.of_class(number), number) for number in range(len(scene.real.labels))]
    indices = torch.cat(chosen)
    return scene.scale.read(scene.real.pixels_NCHW[indices]), scene.real.class_N[indices]


def _random(scene: Any, wanted: int, number: int) -> Pair:
    return _by_class(scene, lambda own, label: own[random_choice(len(own), wanted, generator("random", number, label))])


def _soft_random(scene: Any, wanted: int, number: int) -> Pair:
    """The same images as `random`, with the probabilities of a network trained on all images."""
    images, _ = _random(scene, wanted, number)
    with torch.no_grad():
        return images, scene.net(scene.teacher, images).softmax(1)


def _features(scene: Any, indices: Tensor, embed: bool) -> Tensor:
    images = scene.scale.read(scene.real.pixels_NCHW[indices])
    if not embed:
        return images.flatten(1)
    with torch.no_grad():
        features: Tensor = scene.net.embed(scene.teacher, images)
    return features


def _chosen(rule: Callable[[Tensor, int], Tensor], *, embed: bool) -> Callable[[Any, int, int], Pair]:
    def make(scene: Any, wanted: int, number: int) -> Pair:
        return _by_class(scene, lambda own, label: own[rule(_features(scene, own, embed), wanted)])

    return make


def _means(scene: Any, wanted: int, number: int) -> Pair:
    images, classes = [], []
    for label in range(len(scene.real.labels)):
        own = scene.scale.read(scene.real.pixels_NCHW[scene.real.of_class(label)])
        images.append(part_means(own, wanted, generator("means", number, label)))
        classes += [label] * wanted
    return torch.cat(images), torch.tensor(classes)


BASELINES: dict[str, Callable[[Any, int, int], Pair]] = {
    "random": _random,
    "random, soft labels": _soft_random,
    "herding, pixels": _chosen(herding, embed=False),
    "herding, features": _chosen(herding, embed=True),
    "k-center, pixels": _chosen(k_center, embed=False),
    "k-center, features": _chosen(k_center, embed=True),
    "class mean": _means,
}
DETERMINISTIC = ("herding, pixels", "herding, features", "k-center, pixels", "k-center, features")
"""One set each."""
