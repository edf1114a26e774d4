"""Images learned as codes of a generator: the chain rule, the prior, the range of the generator, resumption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.errors import DataError
from distill_synthesis.matching.latent import FILE, Latent
from distill_synthesis.matching.state import STATE_FILE, State
from distill_synthesis.matching.synthesizer import CODES, IMAGES
from tests.matching.conftest import image_records, make
from tests.matching.test_synthesizers import NAMES, options_of, written

SPACE = {"width": 5, "hidden": 32, "epochs": 40, "batch": 8, "prior": 0.0}


def prepared(directory: Path, **options: Any) -> Any:
    made = make("distribution-matching", latent={**SPACE, **options.pop("space", {})}, **options)
    written(made, directory)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_every_method_learns_codes(name: str, tmp_path: Path) -> None:
    """Written are the generator's images of the codes that lie on disk; learning rates are found for them."""
    made = make(name, latent=SPACE, start="noise", **options_of(name))
    records = written(made, tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert state["variables"][CODES].shape == (6, 5) and IMAGES not in state["variables"]
    pixels = made.scale.write(made.latent.decode(state["variables"][CODES]).detach())
    for record, image in zip(records, pixels, strict=True):
        assert record["image"] == image[0].tolist()
    assert json.loads(json.dumps(records)) == records
    (tmp_path / "b").mkdir()
    still = make(name, latent=SPACE, start="noise", **{**options_of(name), "learning_rate": 1e-12})
    written(still, tmp_path / "b")
    moved = torch.load(tmp_path / "b" / STATE_FILE, weights_only=True)["variables"][CODES] - state["variables"][CODES]
    assert float(moved.abs().max()) > 1e-4, "nothing was learned"


def dense_decode(latent: Latent, codes_BZ: Tensor) -> Tensor:
    """Float64, layer by layer."""
    first, first_bias, second, second_bias = (tensor.double() for tensor in latent.decoder)
    codes = codes_BZ * latent.std_Z.double() + latent.mean_Z.double()
    hidden = torch.relu(codes @ first.T + first_bias)
    shares = 1 / (1 + torch.exp(-(hidden @ second.T + second_bias)))
    low, high = latent.low_C11.double(), latent.high_C11.double()
    return low + (high - low) * shares.view(-1, *latent.shape)


@pytest.mark.parametrize("prior", [0.0, 0.3])
def test_the_gradient_is_that_of_loss_and_prior(prior: float, tmp_path: Path) -> None:
    """Against finite differences of a float64 computation of its own, for a loss known in closed form."""
    made = prepared(tmp_path, space={"prior": prior}, iterations=1)
    goal = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    made.gradients = lambda variables, iteration: (
        float((variables[IMAGES] - goal).square().sum()),
        {IMAGES: 2 * (variables[IMAGES] - goal)},
    )
    codes = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))
    value, found = made._gradients(State("", 0, {CODES: codes}, {}))
    assert set(found) == {CODES}

    def loss(at: Tensor) -> Tensor:
        images = dense_decode(made.latent, at)
        return (images - goal.double()).square().sum() + 0.5 * prior * at.square().mean()

    exact = codes.double()
    assert value == pytest.approx(float(loss(exact)), rel=1e-5)
    for row, column in ((0, 0), (2, 3), (5, 4)):
        step = torch.zeros_like(exact)
        step[row, column] = 1e-5
        slope = float(loss(exact + step) - loss(exact - step)) / 2e-5
        assert float(found[CODES][row, column]) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_codes_are_standard_and_images_come_back(tmp_path: Path) -> None:
    made = prepared(tmp_path, space={"epochs": 300}, iterations=1)
    codes_NZ = made.latent.encode(made.images_NCHW)
    used = codes_NZ.std(0, correction=0) > 0.5
    torch.testing.assert_close(codes_NZ.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(codes_NZ.std(0, correction=0)[used], torch.ones(int(used.sum())), atol=1e-4, rtol=0)
    again = made.latent.decode(codes_NZ)
    assert float((again - made.images_NCHW).square().mean()) < 0.6  # one standard deviation of the pixels is 1
    far = made.latent.decode(torch.full((1, 5), 1e4))
    assert bool((far >= made.low_C11 - 1e-5).all()) and bool((far <= made.high_C11 + 1e-5).all())


def test_the_prior_keeps_codes_near(tmp_path: Path) -> None:
    far, near = (
        torch.load(written_state(tmp_path / str(prior), prior=prior), weights_only=True)["variables"][CODES]
        .square()
        .mean()
        for prior in (0.0, 50.0)
    )
    assert float(near) < 0.5 * float(far)


def written_state(directory: Path, *, prior: float) -> Path:
    prepared(directory, space={"prior": prior}, iterations=40, start="noise", learning_rate=0.3)
    return directory / STATE_FILE


def test_an_interrupted_run_goes_on_with_its_generator(tmp_path: Path) -> None:
    options = {"iterations": 6, "checkpoint_iterations": 2, "latent": SPACE}
    whole = written(make("gradient-matching", **options), tmp_path / "whole")
    cut = make("gradient-matching", **options)
    step, stopped = cut._step, []

    def stop(state: State) -> None:
        if state.iteration == 3 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        step(state)

    cut._step = stop
    with pytest.raises(KeyboardInterrupt):
        written(cut, tmp_path / "cut")
    before = (tmp_path / "cut" / FILE).read_bytes()
    assert written(make("gradient-matching", **options), tmp_path / "cut") == whole
    assert (tmp_path / "cut" / FILE).read_bytes() == before, "the generator was trained again"
    (tmp_path / "cut" / FILE).write_bytes(b"no file")
    with pytest.raises(DataError, match=r"latent\.pt: no latent space .* delete the directory"):
        written(make("gradient-matching", **options), tmp_path / "cut")


def test_without_the_option_pixels_are_learned_as_before(tmp_path: Path) -> None:
    written(make("distribution-matching"), tmp_path)
    assert not (tmp_path / FILE).exists()
    assert set(torch.load(tmp_path / STATE_FILE, weights_only=True)["variables"]) == {IMAGES}
    assert len(image_records()) == 24
