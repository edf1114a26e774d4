"""Few synthetic images against coresets and all images: accuracy of fresh networks trained on them.

The protocol is fixed, so that figures compare: ConvNet with instance norm, SGD with learning rate 0.01, momentum 0.9,
weight decay 5e-4, 300 epochs, a tenth of the rate after half, batch 256, no augmentation. Images are written as bytes
by the synthesizer and read back. Every network trained is one line of the result file: a run that finds lines of
the same settings goes on after them, and a synthetic set that was interrupted goes on from its state in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.dataset_baselines import BASELINES, DETERMINISTIC
from benchmarks.image_data import DATA, records
from benchmarks.result import command_line
from benchmarks.set_accuracy import measure
from distill_core.files import atomic_write_bytes
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry
from distill_synthesis.matching.images import LabelledImages, Scale, read_images
from distill_synthesis.matching.networks import ConvNet
from distill_synthesis.matching.options import ImageFields, NetworkOptions
from distill_synthesis.matching.randomness import generator
from distill_synthesis.matching.training import Recipe, accuracy, train_network

NETWORKS = {
    "digits": NetworkOptions(depth=2, width=32),
    "mnist": NetworkOptions(depth=3, width=128, first_padding=3),
}
REAL_BATCH = {"digits": 256, "mnist": 64}
DSA = ["brightness", "saturation", "contrast", "crop", "cutout", "scale", "rotate"]
"""The paper's kinds for digits: no flip."""

AVERAGED = {"start": "mean", "decay": "cosine"}
"""From class means, with a rate that falls to zero: chosen on a part of the digits' training images, as is the rest."""

SYNTHESIZERS: dict[str, dict[str, Any]] = {
    "gradient matching": {"use": "gradient-matching"},
    "gradient matching, classes together": {
        "use": "gradient-matching",
        **AVERAGED,
        "classes": "together",
        "distance": "l2",
        "step": "unit",
        "learning_rate": 0.3,
        "real_batch": 26,
        "network_steps": 10,
        "network_epochs": 3,
        "network_learning_rate": 0.03,
        "network_momentum": 0.9,
    },
    "gradient matching, augmented": {"use": "gradient-matching", "augmentations": DSA},
    "distribution matching": {"use": "distribution-matching", **AVERAGED, "real_batch": 64},
    "trajectory matching": {
        "use": "trajectory-matching",
        **AVERAGED,
        "step": "unit",
        "learning_rate": 0.3,
        "experts": 3,
        "expert_epochs": 10,
        "latest_start": 4,
    },
    "performance matching": {"use": "performance-matching", **AVERAGED, "real_batch": 26},
    "kernel regression": {
        "use": "kernel-regression",
        **AVERAGED,
        "learning_rate": 30,
        "real_batch": 64,
        "latest_training": 0,
    },
}
"""The components' defaults where nothing is said; real_batch is that of the data unless it stands here."""

METHODS = ("full", *BASELINES, *SYNTHESIZERS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Data, budgets and how often."""
    parser.add_argument("--data", choices=DATA, default="digits", help="default digits")
    parser.add_argument("--per-class", type=int, nargs="+", default=[1, 2, 5], help="images per class, default 1 2 5")
    parser.add_argument("--iterations", type=int, default=200, help="steps of the synthesizers, default 200")
    parser.add_argument("--sets", type=int, default=5, help="synthetic sets of each method, default 5")
    parser.add_argument("--networks", type=int, default=5, help="networks trained on each set, default 5")
    parser.add_argument("--draws", type=int, default=10, help="sets of the random baselines, default 10")
    parser.add_argument("--epochs", type=int, default=300, help="of these networks, default 300")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", default=None, help="default: all")
    parser.add_argument("--work", metavar="DIR", default="runs/dataset_distillation", help="states of unfinished sets")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for lines to stand in one table."""
    return {name: getattr(options, name) for name in ("data", "iterations", "epochs")}


class Unit(NamedTuple):
    """A network that is trained: on which set of which method; ``full`` has no budget."""

    per_class: int | None
    method: str
    set: int
    network: int


def units(options: argparse.Namespace) -> Iterator[Unit]:
    """Deterministic sets are made once, and judged by as many networks as the others."""
    chosen = options.only or METHODS
    for network in range(options.networks if "full" in chosen else 0):
        yield Unit(None, "full", 0, network)
    for per_class in options.per_class:
        for method in (one for one in chosen if one != "full"):
            sets, networks = options.sets, options.networks
            if method in DETERMINISTIC:
                sets, networks = 1, options.sets * options.networks
            elif method in BASELINES:
                sets = options.draws
            for number in range(sets):
                for network in range(networks):
                    yield Unit(per_class, method, number, network)


class Scene:
    """The data of a run, and what is made of them once."""

    def __init__(self, options: argparse.Namespace, train: list[dict[str, Any]], test: list[dict[str, Any]]) -> None:
        side = DATA[options.data].side
        self.options, self.records = options, train
        self.fields = ImageFields(height=side, width=side)
        self.real, self.held_out = read_images(train, self.fields), read_images(test, self.fields)
        self.scale = Scale.of(self.real.pixels_NCHW)
        channels = self.real.pixels_NCHW.shape[1]
        self.net = ConvNet(channels, side, side, len(self.real.labels), NETWORKS[options.data])
        self.recipe = Recipe(epochs=options.epochs)
        self.made: dict[tuple[int | None, str, int], tuple[Tensor, Tensor]] = {}

    def trained(self, images_NCHW: Tensor, targets: Tensor, *key: object) -> list[Tensor]:
        """A fresh network after training; the key gives its start and the order of the images."""
        start = self.net.initial(generator("evaluation", *key))
        return train_network(self.net, start, images_NCHW, targets, self.recipe, generator("order", *key))

    @cached_property
    def teacher(self) -> list[Tensor]:
        """The first network trained on all images, kept on disk: for soft labels and for the features of coresets."""
        digest = hashlib.sha256(json.dumps([settings(self.options), self.real.fingerprint()]).encode()).hexdigest()
        path = Path(self.options.work) / f"teacher-{digest[:12]}.pt"
        if not path.exists():
            buffer = io.BytesIO()
            images, classes = self.training_set(None, "full", 0)
            torch.save([p.detach() for p in self.trained(images, classes, "full", 0, 0)], buffer)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_bytes(path, buffer.getvalue())
        found: list[Tensor] = torch.load(path, weights_only=True)
        return found

    def training_set(self, per_class: int | None, method: str, number: int) -> tuple[Tensor, Tensor]:
        """Images as networks read them, and their targets."""
        key = (per_class, method, number)
        if key not in self.made:
            self.made = {key: self._training_set(per_class, method, number)}
        return self.made[key]

    def _training_set(self, per_class: int | None, method: str, number: int) -> tuple[Tensor, Tensor]:
        if per_class is None:
            return self.scale.read(self.real.pixels_NCHW), self.real.class_N
        if method in BASELINES:
            return BASELINES[method](self, per_class, number)
        made = self.synthesized(per_class, method, number)
        return self.scale.read(made.pixels_NCHW), made.class_N

    def synthesized(self, per_class: int, method: str, number: int) -> LabelledImages:
        """A set by the component, from its state if there is one."""
        options = self.options
        made = get_registry().build(
            "synthesizer",
            {
                "images_per_class": per_class,
                "iterations": options.iterations,
                "network": NETWORKS[options.data].model_dump(),
                "real_batch": REAL_BATCH[options.data],
                "height": self.fields.height,
                "width": self.fields.width,
                **SYNTHESIZERS[method],
            },
        )
        made.build(SynthesisContext(number, get_registry().build, lambda name: None, lambda: None, print))
        text = json.dumps([settings(options), per_class, SYNTHESIZERS[method]])
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        directory = Path(options.work) / f"{re.sub('[^a-z]+', '-', method)}-{per_class}-{digest}-{number}"
        return read_images(list(made.synthesize(self.records, directory)), self.fields)

    def measured(self, per_class: int | None, method: str, number: int, network: int) -> float:
        """Held-out accuracy of one fresh network."""
        if (per_class, method, number, network) == (None, "full", 0, 0):
            parameters = self.teacher
        else:
            images, targets = self.training_set(per_class, method, number)
            parameters = self.trained(images, targets, method, number, network)
        return accuracy(self.net, parameters, self.scale.read(self.held_out.pixels_NCHW), self.held_out.class_N)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks; the command in it is the whole's, whatever part is asked for now."""
    return measure(
        options,
        settings(options),
        list(units(options)),
        SYNTHESIZERS,
        lambda options: Scene(options, *records(options.data)),
        command=command_line(argparse.Namespace(**{**vars(options), "only": None})),
        names=Unit._fields,
    )
