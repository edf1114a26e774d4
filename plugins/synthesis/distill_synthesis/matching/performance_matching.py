"""The synthesizer ``performance-matching``: images on which a network trained becomes good at the real ones.

Legend: B synthetic images, N real ones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.options import PerformanceMatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.synthesizer import IMAGES, ImageSynthesizer, Variables


class PerformanceMatching(ImageSynthesizer):
    """Dataset Distillation (arXiv 1811.10959), from random networks, all synthetic images in every step.

    A step: a new random network takes ``student_steps`` steps of gradient descent on the synthetic images; its
    cross-entropy on real images, differentiated through all of them, moves the pixels. That is what the images are
    for, up to the number of steps; the other methods match something that stands for it.
    """

    NAME = "performance-matching"
    options: PerformanceMatchingOptions

    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        images = variables[IMAGES].detach().requires_grad_()
        parameters = self._student(images, iteration)
        augmentation = Augmentation(self.options.augmentations, generator(self.seed, "augment", iteration))
        real = [self.real_batch(number, iteration) for number in range(len(self.data.labels))]
        classes_N = torch.cat([torch.full((len(part),), n, device=self.device) for n, part in enumerate(real)])
        loss = functional.cross_entropy(self.net(parameters, augmentation(torch.cat(real))), classes_N)
        (gradient,) = torch.autograd.grad(loss, images)
        return float(loss.detach()), {IMAGES: gradient}

    def _student(self, images: Tensor, iteration: int) -> list[Tensor]:
        """Parameters after the steps, differentiable by the images."""
        parameters = [p.to(images.dtype).requires_grad_() for p in self.new_parameters(iteration)]
        for step in range(self.options.student_steps):
            augmentation = Augmentation(self.options.augmentations, generator(self.seed, "student", iteration, step))
            loss = functional.cross_entropy(self.net(parameters, augmentation(images)), self.synthetic_classes)
            found = torch.autograd.grad(loss, parameters, create_graph=True)
            parameters = [p - self.options.step_size * g for p, g in zip(parameters, found, strict=True)]
        return parameters
