"""The synthesizer ``trajectory-matching``: images on which a network goes the way that real images lead it.

Legend: B synthetic images, E epochs, P parameters.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distill_core.errors import DataError
from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.expert_buffer import ExpertBuffer
from distill_synthesis.matching.options import TrajectoryMatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State
from distill_synthesis.matching.synthesizer import IMAGES, ImageSynthesizer, Variables
from distill_synthesis.matching.training import Recipe, train_network

LOG_STEP_SIZE = "log_step_size"


class TrajectoryMatching(ImageSynthesizer):
    """Dataset Distillation by Matching Training Trajectories (arXiv 2203.11932).

    Experts are trained on the real images once. A step: an expert at a drawn epoch; a student starts there, takes
    ``student_steps`` steps on the synthetic images, and its distance to the expert ``matched_epochs`` later, over the
    distance that the expert went, moves the pixels and the size of the student's steps.
    """

    NAME = "trajectory-matching"
    options: TrajectoryMatchingOptions

    def prepare(self, directory: Path) -> None:
        """Experts that are not on disk yet are trained."""
        names = ("network", "expert_epochs", "expert_learning_rate", "expert_batch")
        options = {name: self.options.model_dump(mode="json")[name] for name in names}
        text = json.dumps([self.seed, self.data.fingerprint(), options], sort_keys=True)
        buffer = ExpertBuffer(directory / "experts", hashlib.sha256(text.encode()).hexdigest(), self._expert)
        self.experts = [buffer.expert(number) for number in range(self.options.experts)]
        self.shapes = [p.shape for p in self.new_parameters("shapes")]
        wanted = sum(math.prod(shape) for shape in self.shapes)
        if any(expert.shape != (self.options.expert_epochs + 1, wanted) for expert in self.experts):
            raise DataError(f"{directory / 'experts'}: experts of another size: delete them, they are trained again")

    def first_variables(self) -> Variables:
        return {**super().first_variables(), LOG_STEP_SIZE: torch.tensor(math.log(self.options.step_size))}

    def learning_rates(self) -> dict[str, float]:
        return {**super().learning_rates(), LOG_STEP_SIZE: self.options.step_size_rate}

    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        images = variables[IMAGES].detach().requires_grad_()
        log_size = variables[LOG_STEP_SIZE].detach().requires_grad_()
        drawing = generator(self.seed, "start", iteration)
        expert = self.experts[int(torch.randint(len(self.experts), (), generator=drawing))]
        epoch = int(torch.randint(self.options.latest_start + 1, (), generator=drawing))
        start_P, goal_P = (expert[e].to(self.device) for e in (epoch, epoch + self.options.matched_epochs))
        reached_P = self._student(start_P, images, log_size.exp(), iteration)
        loss = (reached_P - goal_P).square().sum() / (start_P - goal_P).square().sum()
        by_images, by_size = torch.autograd.grad(loss, (images, log_size))
        return float(loss.detach()), {IMAGES: by_images, LOG_STEP_SIZE: by_size}

    def _student(self, start_P: Tensor, images: Tensor, size: Tensor, iteration: int) -> Tensor:
        """[P], parameters after the unrolled steps, differentiable by images and step size."""
        theta_P, classes = start_P.clone().requires_grad_(), self.synthetic_classes
        for step in range(self.options.student_steps):
            augmentation = Augmentation(self.options.augmentations, generator(self.seed, "augment", iteration, step))
            loss = functional.cross_entropy(self.net(self._split(theta_P), augmentation(images)), classes)
            (found_P,) = torch.autograd.grad(loss, theta_P, create_graph=True)
            theta_P = theta_P - size * found_P
        return theta_P

    def _split(self, theta_P: Tensor) -> list[Tensor]:
        parts = theta_P.split([math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _expert(self, number: int) -> Tensor:
        start = self.new_parameters("expert", number)
        rows = [_flat(start)]
        options = self.options
        recipe = Recipe(2 * options.expert_epochs, options.expert_learning_rate, 0.0, 0.0, options.expert_batch)
        # Twice the epochs, stopped half-way: the rate does not fall.
        drawing = generator(self.seed, "expert", number)
        classes = self.data.class_N.to(self.device)
        train_network(
            self.net,
            start,
            self.images_NCHW,
            classes,
            recipe,
            drawing,
            on_epoch=lambda epoch, parameters: rows.append(_flat(parameters)),
            stop_after=options.expert_epochs,
        )
        return torch.stack(rows)

    def _records(self, state: State) -> Iterator[dict[str, Any]]:
        size = math.exp(float(state.variables[LOG_STEP_SIZE]))
        for record in super()._records(state):
            yield {**record, "provenance": {**record["provenance"], "step_size": size}}


def _flat(parameters: list[Tensor]) -> Tensor:
    return torch.cat([p.detach().flatten() for p in parameters]).cpu()
