"""What a step of gradient matching compares and how far it goes: classes apart or together, unit steps, the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import STATE_FILE
from distill_synthesis.matching.synthesizer import IMAGES
from tests.matching.conftest import image_records, make


def ready(directory: Path, name: str = "gradient-matching", **options: Any) -> Any:
    """A synthesizer whose data are in place."""
    made = make(name, iterations=1, **options)
    list(made.synthesize(iter(image_records()), directory))
    return made


def module_of(made: Any, parameters: list[Tensor]) -> nn.Module:
    """The network in fp64, of torch's own layers."""
    blocks: list[nn.Module] = []
    read = 1
    for _ in range(2):
        blocks += [nn.Conv2d(read, 6, 3, padding=1), nn.GroupNorm(6, 6), nn.ReLU(), nn.AvgPool2d(2)]
        read = 6
    module = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(24, 3)).double()
    for own, given in zip(module.parameters(), parameters, strict=True):
        own.data.copy_(given)
    return module


def squared_distance(made: Any, module: nn.Module, images: Tensor, groups: list[list[int]]) -> Tensor:
    """Sum over groups of classes of ``|g - r|^2`` over weights; vectors are left out of rows."""
    total = torch.zeros((), dtype=torch.float64)
    weights = [p for p in module.parameters() if p.dim() > 1]
    for numbers in groups:
        real = torch.cat([made.images_NCHW[made.members[n]] for n in numbers]).double()
        labels = torch.cat([torch.full((len(made.members[n]),), n) for n in numbers])
        goal = torch.autograd.grad(functional.cross_entropy(module(real), labels), weights)
        own = torch.cat([images[2 * n : 2 * n + 2] for n in numbers])
        loss = functional.cross_entropy(module(own), torch.tensor(numbers).repeat_interleave(2))
        found = torch.autograd.grad(loss, weights, create_graph=True)
        total = total + torch.stack([(a - b).square().sum() for a, b in zip(found, goal, strict=True)]).sum()
    return total


@pytest.mark.parametrize(("classes", "groups"), [("apart", [[0], [1], [2]]), ("together", [[0, 1, 2]])])
def test_classes_apart_or_together(classes: str, groups: list[list[int]], tmp_path: Path) -> None:
    made = ready(tmp_path, classes=classes, distance="l2")
    images = made.starting_images()
    value, found = made.gradients({IMAGES: images}, 0)
    leaf = images.double().requires_grad_()
    wanted = squared_distance(made, module_of(made, made.new_parameters(0)), leaf, groups)
    (gradient,) = torch.autograd.grad(wanted, leaf)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert float((found[IMAGES] - gradient).norm() / gradient.norm()) < 1e-4
    assert gradient.flatten(1).norm(dim=1).min() > 0, "every image has its part"


@pytest.mark.parametrize("rate", [0.25, 0.01])
def test_a_unit_step_is_as_long_as_the_rate(rate: float, tmp_path: Path) -> None:
    """Whatever the size of the gradient; no pixel of a mean is at the edge of bytes."""
    made = make("gradient-matching", iterations=1, step="unit", learning_rate=rate, start="mean")
    gradient = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made.gradients = lambda variables, iteration: (1.0, {IMAGES: 1e-3 * gradient})
    list(made.synthesize(iter(image_records()), tmp_path))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    moved = made.starting_images() - state["variables"][IMAGES]
    torch.testing.assert_close(moved, rate * gradient / gradient.norm(), rtol=1e-4, atol=1e-6)


def test_a_gradient_of_zero_moves_nothing(tmp_path: Path) -> None:
    made = make("gradient-matching", iterations=1, step="unit", start="mean")
    made.gradients = lambda variables, iteration: (0.0, {IMAGES: torch.zeros_like(variables[IMAGES])})
    list(made.synthesize(iter(image_records()), tmp_path))
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert torch.equal(made.starting_images(), state["variables"][IMAGES])


def test_the_network_is_trained_as_torch_does(tmp_path: Path) -> None:
    """Two matchings in, with three steps between two: six steps of SGD with the momentum given."""
    options = {"network_steps": 3, "network_epochs": 3, "network_learning_rate": 0.05, "network_momentum": 0.8}
    made = ready(tmp_path, **options)
    images, start = made.starting_images(), made.new_parameters(0)
    found = made._trained([p.double() for p in start], images.double(), 2, 0)
    module = module_of(made, start)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.8)
    for _ in range(6):
        optimizer.zero_grad()
        functional.cross_entropy(module(images.double()), made.synthetic_classes).backward()
        optimizer.step()
    for own, other in zip(found, module.parameters(), strict=True):
        torch.testing.assert_close(own, other.detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("augmentations", [[], ["contrast"]], ids=["plain", "augmented"])
def test_performance_matching_is_its_formula(augmentations: list[str], tmp_path: Path) -> None:
    """Against the loss after three steps of torch.optim in fp64, and its differences along random directions."""
    made = ready(tmp_path, "performance-matching", student_steps=3, step_size=0.2, augmentations=augmentations)
    made.images_NCHW = made.images_NCHW.double()
    images = made.starting_images()
    real, labels = torch.cat([made.images_NCHW[m] for m in made.members]), torch.arange(3).repeat_interleave(8)
    # The network of the formula reads the parameters in fp64, as the component does.
    start = [p.double() for p in made.new_parameters(0)]

    def loss(pixels: Tensor) -> float:
        module = module_of(made, start)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.2)
        for step in range(3):
            same = Augmentation(augmentations, generator(0, "student", 0, step))
            optimizer.zero_grad()
            functional.cross_entropy(module(same(pixels)), made.synthetic_classes).backward()
            optimizer.step()
        same = Augmentation(augmentations, generator(0, "augment", 0))
        return float(functional.cross_entropy(module(same(real)), labels).detach())

    value, found = made.gradients({IMAGES: images}, 0)
    assert value == pytest.approx(loss(images), rel=1e-9)
    for seed in range(3):
        direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)).double()
        slope = (loss(images + 1e-6 * direction) - loss(images - 1e-6 * direction)) / 2e-6
        assert float((found[IMAGES] * direction).sum()) == pytest.approx(slope, rel=1e-3)
