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

NETWORK_MOMENTUM = 0.5


class GradientMatching(ImageSynthesizer):
    """Dataset Condensation with Gradient Matching (arXiv 2006.05929), and with ``augmentations`` DSA (2102.08259).

    A step: a new random network; for every class the distance between its gradient on real images of the class and on
    the synthetic ones, summed over classes, moves the synthetic pixels. With ``network_steps`` the network is trained
    on the synthetic images in between, and matched again.
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
        for number in range(len(self.data.labels)):
            place = self.of_class(number)
            augmentation = Augmentation(self.options.augmentations, generator(self.seed, "augment", number, iteration))
            value, found[place] = self._matched(parameters, images[place], number, iteration, augmentation)
            total += value
        return total, {IMAGES: found}

    def _matched(
        self, parameters: Sequence[Tensor], images: Tensor, number: int, iteration: int, augmentation: Augmentation
    ) -> tuple[float, Tensor]:
        """Distance of one class, and its gradient by the images before augmentation."""
        theta = [p.requires_grad_() for p in parameters]
        real = augmentation(self.real_batch(number, iteration))
        target = torch.autograd.grad(self._loss(number, len(real))(theta, real), theta)
        leaf = images.detach().requires_grad_()
        augmented = augmentation(leaf)
        value, gradient = matching_gradient(
            self._loss(number, len(images)), theta, augmented, target, self.distance, self.options.second_order
        )
        (by_images,) = torch.autograd.grad(augmented, leaf, gradient) if augmented is not leaf else (gradient,)
        return float(value), by_images

    @property
    def distance(self) -> Distance:
        options = self.options
        return Distance(options.distance, options.group, options.eps, options.eps_mode)

    def _loss(self, number: int, count: int) -> Callable[[Sequence[Tensor], Tensor], Tensor]:
        classes = torch.full((count,), number, device=self.device)
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
            parameters = descend(theta, gradients, velocity, rate=rate, momentum=NETWORK_MOMENTUM)
        return parameters
