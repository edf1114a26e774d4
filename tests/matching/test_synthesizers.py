"""What the synthesizers of images write, that they learn, resume, follow their formulas, and refuse wrong input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distill_core.errors import DataError, TrainingError
from distill_core.files import atomic_file
from distill_synthesis.matching.augment import Augmentation
from distill_synthesis.matching.coresets import herding, k_center, part_means
from distill_synthesis.matching.images import Scale, read_images
from distill_synthesis.matching.options import GradientMatchingOptions, ImageFields, TrajectoryMatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import STATE_FILE
from distill_synthesis.matching.synthesizer import IMAGES
from tests.matching.conftest import LABELS, SIDE, image_records, make

NAMES = (
    "gradient-matching",
    "distribution-matching",
    "trajectory-matching",
    "performance-matching",
    "kernel-regression",
)
EXPERTS = {"experts": 2, "expert_epochs": 3, "expert_batch": 8, "latest_start": 1, "student_steps": 3}


def options_of(name: str) -> dict[str, Any]:
    more: dict[str, dict[str, Any]] = {"trajectory-matching": EXPERTS, "performance-matching": {"student_steps": 2}}
    return more.get(name, {})


def written(made: Any, directory: Path, records: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    return list(made.synthesize(iter(image_records() if records is None else records), directory))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])
def test_records_have_the_form_of_the_source(name: str, flat: bool, tmp_path: Path) -> None:
    made = make(name, **options_of(name), **({"height": SIDE, "width": SIDE} if flat else {}))
    records = written(made, tmp_path, image_records(flat=flat))
    assert [record["label"] for record in records] == ["top"] * 2 + ["bottom"] * 2 + ["middle"] * 2
    for record in records:
        image = np.asarray(record["image"])
        assert image.shape == ((SIDE * SIDE,) if flat else (SIDE, SIDE)) and image.dtype.kind == "i"
        assert image.min() >= 0 and image.max() <= 255
        assert record["provenance"]["synthesizer"] == name and record["provenance"]["iterations"] == 4
    assert len({record["document"] for record in records}) == 6
    assert json.loads(json.dumps(records)) == records
    assert made.summary()[name]["real_images"] == 24
    pictures = json.loads((tmp_path / "pictures.json").read_text())
    assert (pictures["size"], pictures["image"], pictures["label"]) == ([SIDE, SIDE, 1], "image", "label")
    assert len(pictures["loss"]) == 4 and np.isfinite(pictures["loss"]).all()


@pytest.mark.parametrize("name", ["gradient-matching", "distribution-matching", "kernel-regression"])
def test_the_loss_falls(name: str, tmp_path: Path) -> None:
    """On one network and one real batch of all images, so that steps compare."""
    made = make(name, iterations=60, start="noise")
    made.new_parameters = lambda *key: made.net.initial(torch.Generator().manual_seed(1))
    written(made, tmp_path)
    found = made.summary()[name]
    assert found["loss_last_tenth"] < 0.7 * found["loss_first_tenth"], found


@pytest.mark.parametrize("start", ["noise", "random", "herding", "mean"])
def test_seeds_make_sets(start: str, tmp_path: Path) -> None:
    one, again, other = (
        written(make("gradient-matching", seed, start=start, iterations=1), tmp_path / str(i))
        for i, seed in enumerate((0, 0, 1))
    )
    assert one == again and [r["image"] for r in one] != [r["image"] for r in other]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gradient-matching", {"network_steps": 3, "augmentations": ["crop", "rotate", "cutout"]}),
        ("distribution-matching", {"augmentations": ["brightness"]}),
        ("trajectory-matching", EXPERTS),
        ("performance-matching", {"student_steps": 2, "augmentations": ["contrast", "crop"]}),
        ("kernel-regression", {"latest_training": 3, "augmentations": ["scale"]}),
    ],
    ids=NAMES,
)
def test_killed_at_any_step_it_goes_on_bit_for_bit(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    words = json.dumps({"iterations": 7, "checkpoint_iterations": 2, **options})

    def run(directory: str, steps: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tests.matching.kill_harness", name, str(tmp_path / directory), str(steps)]
        return subprocess.run([*command, words], capture_output=True, text=True)

    whole = run("whole", -1)
    assert whole.returncode == 0, whole.stderr
    # 5 steps: in the third block, whose first step is lost.
    assert run("cut", 5).returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "cut" / STATE_FILE, weights_only=True)["iteration"] == 4
    resumed = run("cut", -1)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout and whole.stdout.count("\n") == 6
    states = [torch.load(tmp_path / d / STATE_FILE, weights_only=True) for d in ("whole", "cut")]
    assert torch.equal(states[0]["variables"][IMAGES], states[1]["variables"][IMAGES])
    assert states[0]["values"] == states[1]["values"]


def test_the_engines_unfinished_file_is_left_alone(tmp_path: Path) -> None:
    """The stage writes its records beside the state while they are made."""
    with atomic_file(tmp_path / "records.jsonl") as file:
        for record in make("trajectory-matching", **EXPERTS).synthesize(image_records(), tmp_path):
            file.write(json.dumps(record).encode() + b"\n")
    assert (tmp_path / "records.jsonl").read_bytes().count(b"\n") == 6


def test_the_rate_falls_with_a_cosine(tmp_path: Path) -> None:
    """Gradients of one and no momentum: the images move by the sum of the rates, shares 1, 0.75 and 0.25."""
    made = make("gradient-matching", iterations=3, decay="cosine", momentum=0.0, learning_rate=0.01, start="mean")
    made.gradients = lambda variables, iteration: (1.0, {IMAGES: torch.ones_like(variables[IMAGES])})
    written(made, tmp_path)
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    moved = made.starting_images() - state["variables"][IMAGES]
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01 * (1 + 0.75 + 0.25)))


def test_a_finished_state_is_not_computed_again(tmp_path: Path) -> None:
    first = written(make("gradient-matching"), tmp_path)
    made = make("gradient-matching")
    made.gradients = None
    assert written(made, tmp_path) == first


def test_distribution_matching_is_its_formula(tmp_path: Path) -> None:
    """Against the embedding in fp64, class by class."""
    made = make("distribution-matching", iterations=1)
    written(made, tmp_path)
    images = made.starting_images()
    value, found = made.gradients({IMAGES: images}, 0)
    parameters = [p.double() for p in made.new_parameters(0)]
    leaf = images.double().requires_grad_()
    wanted = torch.zeros((), dtype=torch.float64)
    for number in range(3):
        real = made.net.embed(parameters, made.images_NCHW[made.members[number]].double()).mean(0)
        wanted = wanted + ((made.net.embed(parameters, leaf[2 * number : 2 * number + 2]).mean(0) - real) ** 2).sum()
    (gradient,) = torch.autograd.grad(wanted, leaf)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-4)
    assert float((found[IMAGES] - gradient).norm() / gradient.norm()) < 1e-4


def test_kernel_regression_is_its_formula(tmp_path: Path) -> None:
    """Against ridge regression by its normal equations in fp64, in feature space: another way to the same numbers."""
    made = make("kernel-regression", iterations=1, latest_training=2)
    written(made, tmp_path)
    images = made.starting_images()
    value, found = made.gradients({IMAGES: images}, 1)
    parameters = [p.detach().double() for p in made._trained(images, 1)]
    leaf = images.double().requires_grad_()
    own = made.net.embed(parameters, leaf)
    order = torch.cat(made.members)
    real = made.net.embed(parameters, made.images_NCHW[order].double())
    one_hot = torch.eye(3, dtype=torch.float64) - 1 / 3
    targets, wanted = one_hot[made.synthetic_classes], one_hot[made.data.class_N[order]]
    lift = made.options.ridge * own.square().sum(1).mean()
    weights = torch.linalg.solve(own.T @ own + lift * torch.eye(own.shape[1], dtype=torch.float64), own.T @ targets)
    loss = 0.5 * (real @ weights - wanted).square().sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert value == pytest.approx(float(loss.detach()), rel=1e-4)
    # The kernel's condition is up to 1 / ridge = 1e3: fp32's unit times that, and a margin.
    assert float((found[IMAGES] - gradient).norm() / gradient.norm()) < 2e-3


def test_trajectory_matching_is_its_formula(tmp_path: Path) -> None:
    """Against central differences of its own loss in fp64, its steps those of torch.optim."""
    made = make("trajectory-matching", iterations=1, **EXPERTS)
    written(made, tmp_path)
    made.experts = [expert.double() for expert in made.experts]
    images, log_size = made.starting_images().double(), torch.tensor(-3.0, dtype=torch.float64)
    value, found = made.gradients({IMAGES: images, "log_step_size": log_size}, 0)
    drawing = generator(0, "start", 0)
    expert = made.experts[int(torch.randint(2, (), generator=drawing))]
    epoch = int(torch.randint(2, (), generator=drawing))
    goal = expert[epoch + 2]

    def loss(pixels: torch.Tensor, log_size: float) -> float:
        parameters = [p.clone().requires_grad_() for p in made._split(expert[epoch])]
        optimizer = torch.optim.SGD(parameters, lr=float(np.exp(log_size)))
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(made.net(parameters, pixels), made.synthetic_classes).backward()
            optimizer.step()
        reached = torch.cat([p.detach().flatten() for p in parameters])
        return float((reached - goal).square().sum() / (expert[epoch] - goal).square().sum())

    assert value == pytest.approx(loss(images, -3.0), rel=1e-9)
    slope = (loss(images, -3 + 1e-5) - loss(images, -3 - 1e-5)) / 2e-5
    assert float(found["log_step_size"]) == pytest.approx(slope, rel=1e-3)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).double()
    slope = (loss(images + 1e-6 * direction, -3.0) - loss(images - 1e-6 * direction, -3.0)) / 2e-6
    assert float((found[IMAGES] * direction).sum()) == pytest.approx(slope, rel=1e-3)


def test_experts_are_trained_once_and_only_their_own_are_used(tmp_path: Path) -> None:
    written(make("trajectory-matching", **EXPERTS), tmp_path)
    (tmp_path / STATE_FILE).unlink()
    (tmp_path / "experts" / "expert-001.pt").unlink()
    made, trained = make("trajectory-matching", **EXPERTS), []
    train = made._expert
    made._expert = lambda number: (trained.append(number), train(number))[1]
    written(made, tmp_path)
    assert trained == [1]
    assert made.experts[0].shape == (4, sum(p.numel() for p in made.new_parameters(0)))
    (tmp_path / STATE_FILE).unlink()
    with pytest.raises(DataError, match=r"expert-000\.pt belongs to other data, options or another seed"):
        written(make("trajectory-matching", seed=1, **EXPERTS), tmp_path)
    (tmp_path / "experts" / "expert-000.pt").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no expert .*damaged; delete it"):
        written(make("trajectory-matching", **EXPERTS), tmp_path)


def test_starts_beyond_the_experts_are_found_before_the_run() -> None:
    options = TrajectoryMatchingOptions(images_per_class=1, expert_epochs=5, latest_start=4)
    (problem,) = options.problems()
    assert "latest_start: epoch 4 and 2 matched_epochs end beyond the 5 expert_epochs" in problem


def change(records: list[dict[str, Any]], index: int, **fields: Any) -> list[dict[str, Any]]:
    return [{**record, **fields} if i == index else record for i, record in enumerate(records)]


WRONG = {
    "no label": (lambda r: [{"image": r[0]["image"], "document": "d0"}], {}, "document d0: no field 'label'.*`label`"),
    "no image": (lambda r: [{"text": "a", "label": "top"}], {}, "record 0: no field 'image', received.*`image`"),
    "two sizes": (lambda r: change(r, 3, image=[[1, 2], [3, 4]]), {}, r"document d3: the image is \[2, 2\].*\[8, 8\]"),
    "a class without record": (lambda r: r, {"labels": [*LABELS, "left"]}, "no record of the class left"),
    "an unlisted label": (lambda r: r, {"labels": ["top", "middle"]}, r"\['bottom'\].*not among the option `labels`"),
    "fractions": (lambda r: change(r, 0, image=[[0.5]]), {}, "document d0: .*float64; expected bytes"),
    "beyond bytes": (lambda r: change(r, 0, image=[[256]]), {}, "values from 256 to 256; expected 0 .. 255"),
    "ragged": (lambda r: change(r, 0, image=[[1], [1, 2]]), {}, "document d0: the image is a ragged list"),
    "more than there are": (lambda r: r, {"images_per_class": 9}, "class 'top' has 8 records, images_per_class asks"),
    "one class": (lambda r: r[::3], {}, "all records are of the class 'top'"),
    "nothing": (lambda r: [], {}, "the source has no record"),
    "flat without size": (lambda r: image_records(flat=True), {}, "flat lists of 64 values: say which size"),
    "flat of another size": (
        lambda r: image_records(flat=True),
        {"height": 7, "width": 7},
        "flat lists of 64 values, which is no multiple of height x width = 7 x 7",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_records(case: str, tmp_path: Path) -> None:
    alter, options, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        written(make("gradient-matching", **options), tmp_path, alter(image_records()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_class": 0}, "greater than 0"),
        ({}, "images_per_class"),
        ({"images_per_class": 1, "augmentations": ["blur"]}, "brightness"),
        ({"images_per_class": 1, "height": 8}, "height and width belong together"),
        ({"images_per_class": 1, "momentum": 1.0}, "less than 1"),
        ({"images_per_class": 1, "steps": 3}, "Extra inputs"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        GradientMatchingOptions(**options)


def test_a_state_of_other_options_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    written(make("gradient-matching"), tmp_path)
    with pytest.raises(DataError, match=r"belongs to other data, options or another seed"):
        written(make("gradient-matching", seed=1), tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the file is damaged; delete it"):
        written(make("gradient-matching"), tmp_path)


def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path) -> None:
    made = make("gradient-matching")
    made.gradients = lambda variables, iteration: (float("nan"), {IMAGES: variables[IMAGES]})
    with pytest.raises(TrainingError, match=r"step 0 has a loss of nan.*lower learning_rate"):
        written(made, tmp_path)


def test_bytes_survive_the_scale() -> None:
    data = read_images(image_records(), ImageFields())
    scale = Scale.of(data.pixels_NCHW)
    read = scale.read(data.pixels_NCHW)
    assert torch.equal(scale.write(read), data.pixels_NCHW)
    assert float(read.mean()) == pytest.approx(0, abs=1e-5) and float(read.std()) == pytest.approx(1, abs=1e-3)
    colour = [{"image": np.arange(12).reshape(2, 2, 3).tolist(), "label": n} for n in (0, 10, 9)]
    data = read_images(colour, ImageFields())
    assert data.labels == (0, 9, 10) and data.in_form(data.pixels_NCHW[0]) == colour[0]["image"]
    assert data.pixels_NCHW[0, :, 0, 1].tolist() == [3, 4, 5]


@pytest.mark.parametrize("kind", ["brightness", "saturation", "contrast", "crop", "cutout", "flip", "scale", "rotate"])
def test_augmentations_are_siamese_and_differentiable(kind: str) -> None:
    """The same for every image and call, another with another state; the gradient is that of differences."""
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = [Augmentation([kind], torch.Generator().manual_seed(seed)) for seed in range(12)]
    assert all(one(images).shape == images.shape for one in drawn)
    torch.testing.assert_close(drawn[0](images)[1:], drawn[0](images[1:]))
    assert len({tuple(one(images).flatten().tolist()) for one in drawn}) > 1
    torch.autograd.gradcheck(drawn[3], images[:, :, :4, :4].clone().requires_grad_())


def test_coresets() -> None:
    """Herding follows the mean of the chosen, k-center the farthest; parts have equal size, and their mean is all's."""
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [10.0, 10.0], [2.0, 2.0]])
    mean = points.mean(0)
    first, second = herding(points, 2).tolist()
    assert first == int((points - mean).norm(dim=1).argmin())
    pairs = [(float(((points[first] + points[i]) / 2 - mean).norm()), i) for i in range(5) if i != first]
    assert second == min(pairs)[1]
    assert k_center(points, 3).tolist() == [4, 3, 0]
    images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    parts = part_means(images, 3, torch.Generator().manual_seed(0))
    torch.testing.assert_close(parts.mean(0), images.mean(0))
