"""The synthesizer ``kernel-regression``: images from which ridge regression on features predicts the real ones.

Legend: B synthetic images, N real ones, F features, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.networks import descend
from distill_synthesis.matching.options import KernelRegressionOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.synthesizer import IMAGES, ImageSynthesizer, Variables

NETWORK_MOMENTUM = 0.9


class KernelRegression(ImageSynthesizer):
    """Dataset Distillation using Neural Feature Regression (FRePo, arXiv 2206.00719), with fixed labels.

    A step: a network trained on the synthetic images for a drawn number of steps gives features; ridge regression
    from the synthetic features to their classes predicts real images; the squared error moves the pixels:
    ``K_NB (K_BB + ridge * mean diag(K_BB) I)^-1 Y_BK`` against ``Y_NK``, one-hot minus 1 / K. The derivative is of
    first order: the network's training is not differentiated.
    """

    NAME = "kernel-regression"
    options: KernelRegressionOptions

    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        images = variables[IMAGES].detach().requires_grad_()
        parameters = self._trained(images.detach(), iteration)
        augmentation = Augmentation(self.options.augmentations, generator(self.seed, "augment", iteration))
        real = [self.real_batch(number, iteration) for number in range(len(self.data.labels))]
        classes_N = torch.cat([torch.full((len(x),), n, device=self.device) for n, x in enumerate(real)])
        with torch.no_grad():
            real_NF = self.net.embed(parameters, augmentation(torch.cat(real)))
        synthetic_BF = self.net.embed(parameters, augmentation(images))
        predicted_NK = regression(real_NF, synthetic_BF, self._targets(self.synthetic_classes), self.options.ridge)
        loss = 0.5 * (predicted_NK - self._targets(classes_N)).square().sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, images)
        return float(loss.detach()), {IMAGES: gradient}

    def _targets(self, classes: Tensor) -> Tensor:
        count = len(self.data.labels)
        return functional.one_hot(classes, count).float() - 1 / count

    def _trained(self, images: Tensor, iteration: int) -> list[Tensor]:
        """A network that has had 0 to ``latest_training`` steps on the synthetic images."""
        drawing = generator(self.seed, "training", iteration)
        parameters = self.new_parameters(iteration)
        velocity = [torch.zeros_like(p) for p in parameters]
        for _ in range(int(torch.randint(self.options.latest_training + 1, (), generator=drawing))):
            theta = [p.requires_grad_() for p in parameters]
            loss = functional.cross_entropy(self.net(theta, images), self.synthetic_classes)
            found = torch.autograd.grad(loss, theta)
            rate = self.options.network_learning_rate
            parameters = descend(theta, found, velocity, rate=rate, momentum=NETWORK_MOMENTUM)
        return parameters


def regression(real_NF: Tensor, synthetic_BF: Tensor, targets_BK: Tensor, ridge: float) -> Tensor:
    """[N, K], what ridge regression from the synthetic features predicts for the real ones."""
    kernel_BB = synthetic_BF @ synthetic_BF.T
    lift = ridge * kernel_BB.diagonal().mean() + torch.finfo(kernel_BB.dtype).tiny
    lifted_BB = kernel_BB + lift * torch.eye(len(kernel_BB), dtype=kernel_BB.dtype, device=kernel_BB.device)
    return real_NF @ synthetic_BF.T @ torch.linalg.solve(lifted_BB, targets_BK)
