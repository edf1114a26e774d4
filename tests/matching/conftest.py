"""Few small images of three classes, and synthesizers on them."""

from __future__ import annotations

from typing import Any

import numpy as np

from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry

SIDE = 8
LABELS = ("top", "middle", "bottom")
NETWORK = {"depth": 2, "width": 6}


def image_records(count: int = 24, seed: int = 0, *, flat: bool = False) -> list[dict[str, Any]]:
    """A bright third for each class, on noise."""
    generator = np.random.default_rng(seed)
    records = []
    for index in range(count):
        image = generator.integers(0, 120, (SIDE, SIDE))
        image[index % 3 * 3 : index % 3 * 3 + 2] += 120
        pixels = image.reshape(-1) if flat else image
        records.append({"image": pixels.tolist(), "label": LABELS[index % 3], "document": f"d{index}"})
    return records


def make(name: str, seed: int = 0, **options: Any) -> Any:
    """A synthesizer, built."""
    given = {"images_per_class": 2, "iterations": 4, "network": NETWORK, "checkpoint_iterations": 2, **options}
    made = get_registry().build("synthesizer", {"use": name, **given})
    made.build(SynthesisContext(seed, get_registry().build, lambda name: None, lambda: None, lambda text: None))
    return made
