"""What a run synthesised, as its page shows it: images by class, and the loss they were learned by.

A synthesizer that wants this writes ``pictures.json`` into its directory, beside the records that the engine writes:

    {"schema": 1, "image": "image", "label": "label", "size": [height, width, channels], "loss": [2.5, 2.1, ...]}

``image`` and ``label`` name fields of the records, ``loss`` has a number per step (it may be empty).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill_core.report.charts import Figure, smoothed
from distill_core.report.collect import CollectedRun
from distill_core.report.images import Bytes, data_uri, strip
from distill_core.report.svg import Series, line_chart

PICTURES_FILE = "pictures.json"
SCHEMA = 1

PER_CLASS, CLASSES, BYTES = 10, 100, 600_000
"""Most images of a class, most classes, and most bytes of pixels on the page; the records have the rest."""

SHOWN_PX = 56
"""Height of an image on the page, unless it has more pixels than that."""


@dataclass(frozen=True)
class ImageRow:
    """The images of a class: ``source`` is a data URI, ``width`` and ``height`` are those on the page."""

    label: str
    count: int
    source: str
    width: int
    height: int


@dataclass(frozen=True)
class Pictures:
    """Everything of the section: ``total`` images in the records, ``shown`` of them on the page."""

    rows: list[ImageRow]
    total: int
    shown: int
    size: str
    figures: list[Figure]


def pictures(run: CollectedRun) -> Pictures | None:
    """The section of a run, or None where nothing was synthesised that says how to be shown.

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
    rows = [_row(label, found) for label, found in _bounded(images, size).items()]
    total = sum(len(found) for found in images.values())
    shown = f"{size[0]} \u00d7 {size[1]}" + (f" \u00d7 {size[2]}" if size[2] > 1 else "")
    return Pictures(rows, total, sum(row.count for row in rows), shown, _loss_figures(losses))


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


def _row(label: str, images: list[Bytes]) -> ImageRow:
    pixels_HWC = strip(images)
    times = max(1, SHOWN_PX // pixels_HWC.shape[0])
    height, width = (times * side for side in pixels_HWC.shape[:2])
    return ImageRow(label, len(images), data_uri(pixels_HWC), width, height)


def _loss_figures(losses: list[float]) -> list[Figure]:
    points = [(float(step), value) for step, value in enumerate(losses, start=1)]
    series = [
        Series("each step", "tone-0", points, (), "faint"),
        Series("smoothed", "tone-0", smoothed(points)),
    ]
    chart = line_chart(series, title="Loss of the synthesis", x_label="step of the images")
    if not chart:
        return []
    return [Figure("What the images were learned by", "the synthesizer\u2019s own loss, each step and smoothed", chart)]
