"""What a run synthesised, as ``report.json`` has it: images by class, and the loss they were learned by.

A synthesizer that wants this writes ``pictures.json`` into its directory, beside the records that the engine writes:

    {"schema": 1, "image": "image", "label": "label", "size": [height, width, channels], "loss": [2.5, 2.1, ...]}

``image`` and ``label`` name fields of the records, ``loss`` has a number per step (it may be empty).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from distill_core.report.collect import CollectedRun
from distill_core.report.images import Bytes, data_uri, strip

PICTURES_FILE = "pictures.json"
SCHEMA = 1

PER_CLASS, CLASSES, BYTES = 10, 100, 600_000
"""Most images of a class, most classes, and most bytes of pixels on the page; the records have the rest."""

SHOWN_PX = 56
"""Height of an image on the page, unless it has more pixels than that."""


def synthesis_of(run: CollectedRun) -> dict[str, Any] | None:
    """Plain data, or None where nothing was synthesised that says how to be shown.

    What cannot be read is named among the run's problems.
    """
    directory = run.directory / "synthesize"
    if not (directory / PICTURES_FILE).is_file():
        return None
    try:
        described = json.loads((directory / PICTURES_FILE).read_text(encoding="utf-8"))
        if described.get("schema") != SCHEMA:
            raise ValueError(f"schema {described.get('schema')!r}, expected {SCHEMA}")
        size = tuple(int(side) for side in described["size"])
        images = _images(directory / "records.jsonl", described, size)
        losses = [float(value) for value in described["loss"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        run.problems.append(f"synthesize/{PICTURES_FILE} cannot be shown: {type(error).__name__}: {error}")
        return None
    return {
        "total": sum(len(found) for found in images.values()),
        "size": list(size),
        "rows": [_row(label, found) for label, found in _bounded(images, size).items()],
        "loss": [value for value in losses if math.isfinite(value)],
    }


def _images(path: Path, described: Mapping[str, Any], size: tuple[int, ...]) -> dict[str, list[Bytes]]:
    """By class, in the order of the records."""
    found: dict[str, list[Bytes]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            values = np.asarray(record[described["image"]])
            if values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
                raise ValueError(f"an image of {values.dtype}, expected whole numbers from 0 to 255")
            pixels_HWC = values.astype(np.uint8).reshape(size)
            found.setdefault(str(record[described["label"]]), []).append(pixels_HWC)
    return found


def _bounded(images: Mapping[str, list[Bytes]], size: tuple[int, ...]) -> dict[str, list[Bytes]]:
    """What the page has room for: the same number of every class."""
    classes = dict(list(images.items())[:CLASSES])
    room = BYTES // (int(np.prod(size)) * max(1, len(classes)))
    return {label: found[: max(1, min(PER_CLASS, room))] for label, found in classes.items()}


def _row(label: str, images: list[Bytes]) -> dict[str, Any]:
    pixels_HWC = strip(images)
    times = max(1, SHOWN_PX // pixels_HWC.shape[0])
    height, width = (times * side for side in pixels_HWC.shape[:2])
    return {"label": label, "count": len(images), "source": data_uri(pixels_HWC), "width": width, "height": height}
