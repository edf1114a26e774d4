"""Value and gradient of gradient matching, against autograd through torch.nn in fp64; the three modes against it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill_core.errors import DataError
from distill_synthesis.matching.networks import ConvNet
from distill_synthesis.matching.options import NetworkOptions
from distill_synthesis.matching.second_order import Distance, matching_gradient

MODES = ("double-backward", "central-difference", "forward-over-reverse")


class Plain(nn.Module):
    """The same network, of torch's own modules."""

    def __init__(self, depth: int, width: int, channels: int, features: int, classes: int, first_padding: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(depth):
            layers.append(nn.Conv2d(width if block else channels, width, 3, padding=1 if block else first_padding))
            layers += [nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


def cosine_by_row(synthetic: list[Tensor], real: list[Tensor]) -> Tensor:
    """DC's distance, written from its equation."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() > 1:
            for x, y in zip(a.flatten(1), b.flatten(1), strict=True):
                total = total + 1 - (x * y).sum() / (x.norm() * y.norm() + 1e-6)
    return total


def squares(synthetic: list[Tensor], real: list[Tensor]) -> Tensor:
    """Of weights alone: rows leave out vectors."""
    return sum(((a - b) ** 2).sum() for a, b in zip(synthetic, real, strict=True) if a.dim() > 1)  # type: ignore[return-value]


def scene(dtype: torch.dtype, first_padding: int = 1):
    """Network, parameters of both forms, synthetic and real images of class 1."""
    generator = torch.Generator().manual_seed(3)
    net = ConvNet(2, 9, 8, 4, NetworkOptions(depth=2, width=5, first_padding=first_padding))
    parameters = [p.double() + 0.1 * torch.randn(p.shape, generator=generator).double() for p in net.initial(generator)]
    plain = Plain(2, 5, 2, net.features, 4, first_padding).double()
    plain.load_state_dict(dict(zip(plain.state_dict(), parameters, strict=True)))
    images = torch.randn(3, 2, 9, 8, generator=generator, dtype=torch.float64)
    real = torch.randn(7, 2, 9, 8, generator=generator, dtype=torch.float64)
    return net, [p.to(dtype) for p in parameters], plain, images.to(dtype), real.to(dtype)


def loss_of(net: ConvNet):
    return lambda parameters, images: functional.cross_entropy(
        net(parameters, images), torch.ones(len(images), dtype=torch.long)
    )


def measured(dtype: torch.dtype, mode: str, distance: Distance) -> tuple[Tensor, Tensor]:
    net, parameters, _, images, real = scene(dtype)
    theta = [p.requires_grad_() for p in parameters]
    target = torch.autograd.grad(loss_of(net)(theta, real), theta)
    return matching_gradient(loss_of(net), theta, images, target, distance, mode)  # type: ignore[arg-type]


def truth(distance) -> tuple[Tensor, Tensor]:
    _, _, plain, images, real = scene(torch.float64)
    weights, ones = list(plain.parameters()), lambda x: torch.ones(len(x), dtype=torch.long)
    target = torch.autograd.grad(functional.cross_entropy(plain(real), ones(real)), weights)
    leaf = images.requires_grad_()
    own = torch.autograd.grad(functional.cross_entropy(plain(leaf), ones(leaf)), weights, create_graph=True)
    value = distance(list(own), list(target))
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("first_padding", [1, 3])
def test_network_is_the_one_of_torch_nn(first_padding: int) -> None:
    net, parameters, plain, images, _ = scene(torch.float64, first_padding)
    torch.testing.assert_close(net(parameters, images), plain(images), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("ours", "formula"), [(Distance(), cosine_by_row), (Distance("l2"), squares)], ids=["cosine", "l2"]
)
def test_value_and_gradient_in_fp64(mode: str, ours: Distance, formula) -> None:
    value, gradient = measured(torch.float64, mode, ours)
    wanted, wanted_gradient = truth(formula)
    torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)
    # A central difference of step 1e-5 is off by its square times the third derivative, and by rounding over the step.
    error = float((gradient - wanted_gradient).norm() / wanted_gradient.norm())
    assert error < (1e-5 if mode == "central-difference" else 1e-9), error


@pytest.mark.parametrize("mode", MODES)
def test_fp32_is_within_its_rounding(mode: str) -> None:
    """Rows of small norm make the cosine ill-conditioned: 1e-3 relative, thousands of times fp32's unit."""
    value, gradient = measured(torch.float32, mode, Distance())
    wanted, wanted_gradient = truth(cosine_by_row)
    torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
    assert float((gradient.double() - wanted_gradient).norm() / wanted_gradient.norm()) < 1e-3


@pytest.mark.parametrize("distance", [Distance(group="tensor"), Distance(group="global"), Distance("l2+l1")], ids=str)
def test_modes_agree_for_every_distance(distance: Distance) -> None:
    (value, exact), *others = (measured(torch.float64, mode, distance) for mode in MODES)
    for other_value, other in others:
        torch.testing.assert_close(other_value, value)
        assert float((other - exact).norm() / exact.norm()) < 1e-5


def test_a_gradient_that_fits_has_no_direction() -> None:
    """D = 0 at equality for l2: its gradient is zero in every mode, not NaN."""
    net, parameters, _, images, _ = scene(torch.float64)
    theta = [p.requires_grad_() for p in parameters]
    target = torch.autograd.grad(loss_of(net)(theta, images), theta)
    for mode in MODES:
        value, gradient = matching_gradient(loss_of(net), theta, images, target, Distance("l2"), mode)  # type: ignore[arg-type]
        assert float(value) == 0 and not gradient.any()


def test_images_too_small_for_the_network() -> None:
    with pytest.raises(DataError, match=r"8 x 8 are too small for 4 blocks.*network\.depth"):
        ConvNet(1, 8, 8, 10, NetworkOptions(depth=4))
