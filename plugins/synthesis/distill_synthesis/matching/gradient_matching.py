"""The synthesizer ``gradient-matching``: images on which a network gets the gradient that real images give it.

Legend: B synthetic images of a class, N real ones, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.networks import descend
from distill_synthesis.matching.options import GradientMatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.second_order import Distance, matching_gradient
from distill_synthesis.matching.synthesizer import IMAGES, ImageSynthesizer, Variables


class GradientMatching(ImageSynthesizer):
    """Dataset Condensation with Gradient Matching (arXiv 2006.05929), and with ``augmentations`` DSA (2102.08259).

    A step: a new random network; for every class the distance between its gradient on real images of the class and on
    the synthetic ones, summed over classes, moves the synthetic pixels. With ``network_steps`` the network is trained
    on the synthetic images in between, and matched again. With ``classes: together`` (2202.02916) one gradient, over
    all classes, is matched: what all classes have in common cancels in it.
    """

    NAME = "gradient-matching"
    options: GradientMatchingOptions

    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        images = variables[IMAGES]
        # A step is one matching: `network_steps` of them share a network, which is trained again from its start on the
        # images of now, so that a step depends on the images and on its number alone.
        network, trained = divmod(iteration, self.options.network_steps)
        parameters = self._trained(self.new_parameters(network), images, trained, network)
        total, found = 0.0, torch.empty_like(images)
        for numbers in self._groups():
            place = slice(self.of_class(numbers[0]).start, self.of_class(numbers[-1]).stop)
            augmentation = Augmentation(
                self.options.augmentations, generator(self.seed, "augment", numbers[0], iteration)
            )
            value, found[place] = self._matched(parameters, images[place], numbers, iteration, augmentation)
            total += value
        return total, {IMAGES: found}

    def _groups(self) -> list[list[int]]:
        """Classes whose images give one gradient."""
        numbers = list(range(len(self.data.labels)))
        return [numbers] if self.options.classes == "together" else [[number] for number in numbers]

    def _matched(
        self,
        parameters: Sequence[Tensor],
        images: Tensor,
        numbers: Sequence[int],
        iteration: int,
        augmentation: Augmentation,
    ) -> tuple[float, Tensor]:
        """Distance over some classes, and its gradient by their images before augmentation."""
        theta = [p.requires_grad_() for p in parameters]
        parts = [self.real_batch(number, iteration) for number in numbers]
        real_loss = self._loss(numbers, [len(part) for part in parts])
        target = torch.autograd.grad(real_loss(theta, augmentation(torch.cat(parts))), theta)
        leaf = images.detach().requires_grad_()
        augmented = augmentation(leaf)
        loss = self._loss(numbers, [self.options.images_per_class] * len(numbers))
        value, gradient = matching_gradient(loss, theta, augmented, target, self.distance, self.options.second_order)
        (by_images,) = torch.autograd.grad(augmented, leaf, gradient) if augmented is not leaf else (gradient,)
        return float(value), by_images

    @property
    def distance(self) -> Distance:
        options = self.options
        return Distance(options.distance, options.group, options.eps, options.eps_mode)

    def _loss(self, numbers: Sequence[int], counts: Sequence[int]) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        """Mean cross-entropy of images that stand class by class, ``counts`` of each."""
        repeats = torch.tensor(list(counts), device=self.device)
        classes = torch.tensor(list(numbers), device=self.device).repeat_interleave(repeats)
        return lambda parameters, images: functional.cross_entropy(self.net(parameters, images), classes)

    def _trained(self, parameters: list[Tensor], images: Tensor, matchings: int, network: int) -> list[Tensor]:
        """The network after ``matchings`` times ``network_epochs`` steps on the synthetic images."""
        velocity = [torch.zeros_like(p) for p in parameters]
        classes = self.synthetic_classes
        for step in range(matchings * self.options.network_epochs):
            augmentation = Augmentation(self.options.augmentations, generator(self.seed, "train", network, step))
            theta = [p.requires_grad_() for p in parameters]
            loss = functional.cross_entropy(self.net(theta, augmentation(images.detach())), classes)
            gradients = torch.autograd.grad(loss, theta)
            rate = self.options.network_learning_rate
            parameters = descend(theta, gradients, velocity, rate=rate, momentum=self.options.network_momentum)
        return parameters
