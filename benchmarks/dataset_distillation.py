"""Few synthetic images against coresets and all images: accuracy of fresh networks trained on them.

The protocol is fixed, so that figures compare: ConvNet with instance norm, SGD with learning rate 0.01, momentum 0.9,
weight decay 5e-4, 300 epochs, a tenth of the rate after half, batch 256, no augmentation. Images are written as bytes
by the synthesizer and read back. Every network trained is one line of the result file: a run that finds lines of
the same settings goes on after them, and a synthetic set that was interrupted goes on from its state in `--work`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.dataset_baselines import BASELINES, DETERMINISTIC
from benchmarks.image_data import DATA, records
from benchmarks.set_accuracy import accuracy_table, measure
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

SYNTHESIZERS: dict[str, dict[str, Any]] = {
    "gradient matching": {"use": "gradient-matching"},
    "gradient matching, augmented": {"use": "gradient-matching", "augmentations": DSA},
    "distribution matching": {"use": "distribution-matching"},
    "trajectory matching": {"use": "trajectory-matching"},
    "kernel regression": {"use": "kernel-regression"},
}
METHODS = ("full", *BASELINES, *SYNTHESIZERS)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Data, budget and how often."""
    parser.add_argument("--data", choices=DATA, default="digits", help="default digits")
    parser.add_argument("--per-class", type=int, default=1, help="synthetic images per class, default 1")
    parser.add_argument("--iterations", type=int, default=200, help="steps of the synthesizers, default 200")
    parser.add_argument("--sets", type=int, default=5, help="synthetic sets of each method, default 5")
    parser.add_argument("--networks", type=int, default=5, help="networks trained on each set, default 5")
    parser.add_argument("--draws", type=int, default=10, help="sets of the random baselines, default 10")
    parser.add_argument("--epochs", type=int, default=300, help="of these networks, default 300")
    parser.add_argument("--only", nargs="+", choices=METHODS, metavar="METHOD", default=None, help="default: all")
    parser.add_argument("--work", metavar="DIR", default="runs/dataset_distillation", help="states of unfinished sets")


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What must be equal for lines to stand in one table."""
    return {name: getattr(options, name) for name in ("data", "per_class", "iterations", "epochs")}


def units(options: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """(method, set, network): deterministic sets are made once, and judged by as many networks as the others."""
    for method in options.only or METHODS:
        sets, networks = options.sets, options.networks
        if method == "full":
            sets = 1
        elif method in DETERMINISTIC:
            sets, networks = 1, options.sets * options.networks
        elif method in BASELINES:
            sets = options.draws
        for number in range(sets):
            for network in range(networks):
                yield method, number, network


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
        self.made: dict[tuple[str, int], tuple[Tensor, Tensor]] = {}

    def trained(self, images_NCHW: Tensor, targets: Tensor, *key: object) -> list[Tensor]:
        """A fresh network after training; the key gives its start and the order of the images."""
        start = self.net.initial(generator("evaluation", *key))
        return train_network(self.net, start, images_NCHW, targets, self.recipe, generator("order", *key))

    @cached_property
    def teacher(self) -> list[Tensor]:
        """A network trained on all images: for soft labels and for the features of coresets."""
        return self.trained(self.scale.read(self.real.pixels_NCHW), self.real.class_N, "teacher")

    def training_set(self, method: str, number: int) -> tuple[Tensor, Tensor]:
        """Images as networks read them, and their targets."""
        if (method, number) not in self.made:
            self.made = {(method, number): self._training_set(method, number)}
        return self.made[method, number]

    def _training_set(self, method: str, number: int) -> tuple[Tensor, Tensor]:
        if method == "full":
            return self.scale.read(self.real.pixels_NCHW), self.real.class_N
        if method in BASELINES:
            return BASELINES[method](self, self.options.per_class, number)
        made = self.synthesized(method, number)
        return self.scale.read(made.pixels_NCHW), made.class_N

    def synthesized(self, method: str, number: int) -> LabelledImages:
        """A set by the component, from its state if there is one."""
        options = self.options
        made = get_registry().build(
            "synthesizer",
            {
                **SYNTHESIZERS[method],
                "images_per_class": options.per_class,
                "iterations": options.iterations,
                "network": NETWORKS[options.data].model_dump(),
                "real_batch": REAL_BATCH[options.data],
                "height": self.fields.height,
                "width": self.fields.width,
            },
        )
        made.build(SynthesisContext(number, get_registry().build, lambda name: None, lambda: None, print))
        digest = hashlib.sha256(json.dumps([settings(options), SYNTHESIZERS[method]]).encode()).hexdigest()[:12]
        directory = Path(options.work) / f"{re.sub('[^a-z]+', '-', method)}-{digest}-{number}"
        return read_images(list(made.synthesize(self.records, directory)), self.fields)

    def measured(self, method: str, number: int, network: int) -> float:
        """Held-out accuracy of one fresh network."""
        images, targets = self.training_set(method, number)
        parameters = self.trained(images, targets, method, number, network)
        return accuracy(self.net, parameters, self.scale.read(self.held_out.pixels_NCHW), self.held_out.class_N)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the result file lacks."""
    return measure("dataset_distillation", options, settings(options), list(units(options)), SYNTHESIZERS, _scene)


def _scene(options: argparse.Namespace) -> Scene:
    return Scene(options, *records(options.data))


def table(result: dict[str, Any]) -> str:
    """Markdown: accuracy, share of the full accuracy, share of the gap from random to full that is closed."""
    size = result["settings"]
    return (
        f"{size['data']}, {size['per_class']} per class, {size['iterations']} steps, {size['epochs']} epochs; ± is the "
        "standard error over sets (over networks where there is one set); the gap's takes random and full as given; "
        f"{result['machine']}.\n\n" + accuracy_table(result["measurements"], METHODS)
    )
