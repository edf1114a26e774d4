"""The synthesizer ``distribution-matching``: images whose mean embedding is that of the real ones."""

from __future__ import annotations

import torch

from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.options import DistributionMatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.synthesizer import IMAGES, ImageSynthesizer, Variables


class DistributionMatching(ImageSynthesizer):
    """Dataset Condensation with Distribution Matching (arXiv 2110.04181).

    A step: a new random network; for every class the squared distance between the mean embedding of real and of
    synthetic images (what its linear layer would read), summed over classes, moves the synthetic pixels. No derivative
    of second order, no training of networks.
    """

    NAME = "distribution-matching"
    options: DistributionMatchingOptions

    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        parameters = self.new_parameters(iteration)
        images = variables[IMAGES].detach().requires_grad_()
        losses = []
        for number in range(len(self.data.labels)):
            augmentation = Augmentation(self.options.augmentations, generator(self.seed, "augment", number, iteration))
            with torch.no_grad():
                real_F = self.net.embed(parameters, augmentation(self.real_batch(number, iteration))).mean(0)
            synthetic_F = self.net.embed(parameters, augmentation(images[self.of_class(number)])).mean(0)
            losses.append((real_F - synthetic_F).square().sum())
        loss = torch.stack(losses).sum()
        (gradient,) = torch.autograd.grad(loss, images)
        return float(loss.detach()), {IMAGES: gradient}
