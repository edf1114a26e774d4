"""What the synthesizers of images have in common: reading, the loop with its state on disk, writing.

Legend: B synthetic images, N real images, C channels, H height, W width, M images per class, K classes.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from distill_core.errors import DataError, TrainingError
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import SynthesisContext
from distill_synthesis.matching.coresets import herding, part_means, random_choice
from distill_synthesis.matching.images import LabelledImages, Scale, read_images
from distill_synthesis.matching.latent import Latent, learned_latent
from distill_synthesis.matching.networks import ConvNet
from distill_synthesis.matching.options import LatentOptions, MatchingOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.state import State, load_state

PICTURES_FILE = "pictures.json"
"""Read by the report; its form is described in docs/report.md."""

IMAGES = "images"
"""The variable that every method learns."""

CODES = "codes"
"""What is learned in its place with the option ``latent``."""

Variables = dict[str, Tensor]


class ImageSynthesizer(ABC):
    """Learns M images of every class by gradient descent on what a method compares.

    Every step draws its network, real images and augmentation from (seed, step), and the state is on disk every
    ``checkpoint_iterations`` steps: a run that was killed makes what an uninterrupted one makes, bit for bit, on one
    machine with one number of threads. Pixels stay within the range of bytes during the descent, and are rounded at
    its end.
    """

    NAME: ClassVar[str]

    def __init__(self, options: MatchingOptions) -> None:
        self.options = options
        self.seed = 0
        self._summary: dict[str, Any] = {}

    def build(self, ctx: SynthesisContext) -> None:
        """Takes the run's seed.

        Raises:
            TrainingError: the device is not there.
        """
        self.seed = ctx.seed
        if self.options.device == "cuda" and not torch.cuda.is_available():
            raise TrainingError(f"{self.NAME}: device is cuda, but torch sees no GPU: use auto or cpu")

    @abstractmethod
    def gradients(self, variables: Variables, iteration: int) -> tuple[float, Variables]:
        """The loss of a step, and its gradient by every variable; all randomness from (seed, iteration)."""

    def prepare(self, directory: Path) -> None:  # noqa: B027, most methods need nothing
        """What is made once, before the first step, and kept in ``directory``."""

    def first_variables(self) -> Variables:
        """What is learned, as it starts."""
        return {IMAGES: self.starting_images()}

    def learning_rates(self) -> dict[str, float]:
        """Of each variable."""
        return {IMAGES: self.options.learning_rate}

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        """Synthetic images in the form of the source's records, class by class.

        Raises:
            DataError: records that are no labelled images of one size (see ``read_images``), fewer images of a class
                than asked for, or a state of another run in ``directory``.
            TrainingError: the loss is no longer finite.
        """
        data = read_images(source, self.options)
        self._check_counts(data)
        self._place(data)
        state = load_state(directory, self.key())
        self.prepare(directory)
        if self.options.latent is not None:
            self.latent = self._learned_latent(directory, self.options.latent)
        if state is None:
            variables = {name: tensor.to(self.device) for name, tensor in self.first_variables().items()}
            if self.options.latent is not None:
                variables[CODES] = self._starting_codes(variables.pop(IMAGES))
            state = State(self.key(), 0, variables, {name: torch.zeros_like(x) for name, x in variables.items()})
        else:
            for tensors in (state.variables, state.velocity):
                tensors.update({name: tensor.to(self.device) for name, tensor in tensors.items()})
        while state.iteration < self.options.iterations:
            for _ in range(min(self.options.checkpoint_iterations, self.options.iterations - state.iteration)):
                self._step(state)
            state.save(directory)
        self._summary = self._described(state)
        self._write_pictures(state, directory)
        yield from self._records(state)

    def summary(self) -> dict[str, Any]:
        """Counts, and the loss at the start and at the end."""
        return {self.NAME: self._summary}

    def key(self) -> str:
        """Hash of everything that the result depends on, besides the code."""
        options = self.options.model_dump(mode="json", exclude={"checkpoint_iterations"})
        text = json.dumps([self.NAME, self.seed, self.data.fingerprint(), options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def network(self) -> ConvNet:
        """The network for these images."""
        channels, height, width = self.images_NCHW.shape[1:]
        return ConvNet(channels, height, width, len(self.data.labels), self.options.network)

    def new_parameters(self, *key: object) -> list[Tensor]:
        """Random parameters of the network, by a key."""
        drawn = self.net.initial(generator(self.seed, "network", *key))
        return [tensor.to(self.device) for tensor in drawn]

    def real_batch(self, number: int, *key: object) -> Tensor:
        """[n, C, H, W], real images of a class, drawn by a key."""
        members = self.members[number]
        drawn = random_choice(len(members), self.options.real_batch, generator(self.seed, "real", number, *key))
        return self.images_NCHW[members[drawn]]

    def of_class(self, number: int) -> slice:
        """Where the synthetic images of a class stand."""
        wanted = self.options.images_per_class
        return slice(number * wanted, (number + 1) * wanted)

    @property
    def synthetic_classes(self) -> Tensor:
        """[B] int64."""
        count = len(self.data.labels)
        return torch.arange(count, device=self.device).repeat_interleave(self.options.images_per_class)

    def starting_images(self) -> Tensor:
        """[B, C, H, W] by the option ``start``."""
        wanted, parts = self.options.images_per_class, []
        low, high = self.scale.bounds()
        for number, members in enumerate(self.members):
            own, drawing = self.images_NCHW[members], generator(self.seed, "start", number)
            if self.options.start == "noise":
                noise = torch.randn((wanted, *own.shape[1:]), generator=drawing)
                parts.append(noise.to(self.device).clamp(low.to(self.device), high.to(self.device)))
            elif self.options.start == "mean":
                parts.append(part_means(own, wanted, drawing))
            else:
                herd = self.options.start == "herding"
                chosen = herding(own.flatten(1), wanted) if herd else random_choice(len(own), wanted, drawing)
                parts.append(own[chosen])
        return torch.cat(parts).clone()

    def _check_counts(self, data: LabelledImages) -> None:
        wanted = self.options.images_per_class
        for number, label in enumerate(data.labels):
            if (found := len(data.of_class(number))) < wanted:
                raise DataError(
                    f"class {label!r} has {found} records, images_per_class asks for {wanted} synthetic images of "
                    "each: ask for fewer, or give more records"
                )
        if len(data.labels) < 2:
            raise DataError(f"all records are of the class {data.labels[0]!r}; expected two classes or more")

    def _place(self, data: LabelledImages) -> None:
        """Everything derived from the data that the steps read."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if self.options.device == "auto" else self.options.device)
        self.data, self.scale = data, Scale.of(data.pixels_NCHW)
        self.images_NCHW = self.scale.read(data.pixels_NCHW).to(self.device)
        self.members = [data.of_class(number) for number in range(len(data.labels))]
        self.net = self.network()
        self.low_C11, self.high_C11 = (bound.to(self.device) for bound in self.scale.bounds())

    def _step(self, state: State) -> None:
        learned = IMAGES if self.options.latent is None else CODES
        value, gradients = self._gradients(state)
        finite = value == value and abs(value) != float("inf")
        if not finite or not all(bool(g.isfinite().all()) for g in gradients.values()):
            raise TrainingError(
                f"{self.NAME}: step {state.iteration} has a loss of {value} or a gradient that is not finite: lower "
                "learning_rate"
            )
        if self.options.step == "unit":
            gradients[learned] = functional.normalize(gradients[learned], dim=tuple(range(gradients[learned].dim())))
        share = 1.0
        if self.options.decay == "cosine":
            share = 0.5 * (1 + math.cos(math.pi * state.iteration / self.options.iterations))
        for name, rate in self.learning_rates().items():
            name = learned if name == IMAGES else name
            moved = state.velocity[name].mul_(self.options.momentum).add_(gradients[name])
            state.variables[name] = state.variables[name] - share * rate * moved
        if learned == IMAGES:
            state.variables[IMAGES] = state.variables[IMAGES].clamp(self.low_C11, self.high_C11)
        state.iteration += 1
        state.values.append(value)

    def _gradients(self, state: State) -> tuple[float, Variables]:
        """The loss and its gradient by what is learned: by codes through the generator, with their prior."""
        if self.options.latent is None:
            return self.gradients(state.variables, state.iteration)
        codes = state.variables[CODES].detach().requires_grad_()
        images = self.latent.decode(codes)
        others = {name: tensor for name, tensor in state.variables.items() if name != CODES}
        value, found = self.gradients({**others, IMAGES: images.detach()}, state.iteration)
        prior = 0.5 * self.options.latent.prior * codes.square().mean()
        (by_codes,) = torch.autograd.grad([images, prior], codes, [found.pop(IMAGES), torch.ones_like(prior)])
        return value + float(prior.detach()), {**found, CODES: by_codes}

    def _learned_latent(self, directory: Path, options: LatentOptions) -> Latent:
        bounds = (self.low_C11, self.high_C11)
        return learned_latent(self.images_NCHW, bounds, options, seed=self.seed, key=self.key(), directory=directory)

    def _starting_codes(self, images: Tensor) -> Tensor:
        """Of the first images; noise is noise of the codes."""
        if self.options.start == "noise":
            width = self.latent.mean_Z.shape[0]
            drawn = torch.randn((len(images), width), generator=generator(self.seed, "start codes"))
            return drawn.to(self.device)
        return self.latent.encode(images)

    @torch.no_grad()
    def images_of(self, state: State) -> Tensor:
        """[B, C, H, W], what has been learned so far."""
        return state.variables[IMAGES] if self.options.latent is None else self.latent.decode(state.variables[CODES])

    def _described(self, state: State) -> dict[str, Any]:
        tenth = max(1, len(state.values) // 10)
        return {
            "images": len(self.images_of(state)),
            "classes": len(self.data.labels),
            "real_images": len(self.data.documents),
            "iterations": state.iteration,
            "loss_first_tenth": sum(state.values[:tenth]) / tenth,
            "loss_last_tenth": sum(state.values[-tenth:]) / tenth,
        }

    def _write_pictures(self, state: State, directory: Path) -> None:
        """For the run's report: where the images are in the records, and the loss of every step."""
        _, channels, height, width = self.data.pixels_NCHW.shape
        described = {
            "schema": 1,
            "image": self.options.image,
            "label": self.options.label,
            "size": [height, width, channels],
            "loss": [float(f"{value:.6g}") for value in state.values],
        }
        atomic_write_bytes(directory / PICTURES_FILE, json.dumps(described).encode())

    def _records(self, state: State) -> Iterator[dict[str, Any]]:
        pixels = self.scale.write(self.images_of(state).cpu())
        origin = {
            "synthesizer": self.NAME,
            "iterations": state.iteration,
            "seed": self.seed,
            "start": self.options.start,
            "real_images": len(self.data.documents),
            "real_sha256": self.data.fingerprint(),
        }
        for index, image in enumerate(pixels):
            number, place = divmod(index, self.options.images_per_class)
            label = self.data.labels[number]
            yield {
                self.options.image: self.data.in_form(image),
                self.options.label: label,
                "document": f"{self.NAME}:{label}:{place}",
                "provenance": origin,
            }
