"""Synthetic images on the page: the pixels of the records, by class, escaped, bounded; damage is named, not hidden."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from distill_core.report import schema, synthesis, write_report
from distill_core.report.images import png, strip


class NoPlugins:
    def call_hook_by_plugin(self, name: str, **arguments: Any) -> list[tuple[str, Any]]:
        return []


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    """[H, W, C] of a PNG without filters: chunks, their checksums and the rows, read by the format's own words."""
    assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
    at, header, body, kinds = 8, b"", b"", []
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + content)
        kinds.append(kind)
        header, body = (content, body) if kind == b"IHDR" else (header, body + content if kind == b"IDAT" else body)
        at += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", header)
    channels = {0: 1, 2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(body), dtype=np.uint8).reshape(height, 1 + width * channels)
    assert depth == 8 and rest == [0, 0, 0] and not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, channels)


def write_run(directory: Path, records: list[dict[str, Any]], **changed: Any) -> Path:
    (directory / "synthesize").mkdir(parents=True)
    (directory / "run.yaml").write_text("name: few\n")
    described = {"schema": 1, "image": "image", "label": "label", "size": [4, 3, 1], "loss": [3.0, 2.0, 1.5]}
    (directory / "synthesize" / "pictures.json").write_text(json.dumps(described | changed))
    (directory / "synthesize" / "records.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return directory


def records_of(labels: list[str], each: int, shape: tuple[int, ...] = (4, 3)) -> list[dict[str, Any]]:
    drawn = np.random.default_rng(0).integers(0, 256, (len(labels), each, *shape))
    return [
        {"image": drawn[c, i].tolist(), "label": label, "provenance": {}}
        for c, label in enumerate(labels)
        for i in range(each)
    ]


def page_of(directory: Path) -> str:
    return write_report(directory, registry=NoPlugins()).read_text(encoding="utf-8")  # type: ignore[arg-type]


def shown(page: str) -> list[np.ndarray[Any, Any]]:
    return [decoded(base64.b64decode(data)) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_holds_its_pixels(channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    assert np.array_equal(decoded(png(pixels)), pixels)


@pytest.mark.parametrize(
    ("pixels", "received"),
    [
        (np.zeros((2, 2, 1)), "float64"),
        (np.zeros((2, 2), dtype=np.uint8), r"\[2, 2\]"),
        (np.zeros((2, 2, 2), dtype=np.uint8), r"\[2, 2, 2\]"),
        (np.zeros((0, 2, 1), dtype=np.uint8), "needs a pixel"),
    ],
    ids=["floats", "no-channels", "two-channels", "empty"],
)
def test_png_says_what_it_wants(pixels: Any, received: str) -> None:
    with pytest.raises(ValueError, match=received):
        png(pixels)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_strip_keeps_images_apart(channels: int) -> None:
    images = list(np.random.default_rng(2).integers(0, 256, (3, 4, 5, channels)).astype(np.uint8))
    found = strip(images)
    assert found.shape == (4, 17, 4)
    for index, image in enumerate(images):
        part = found[:, 6 * index : 6 * index + 5]
        assert np.array_equal(part[..., : 3 if channels < 4 else 4], np.broadcast_to(image, (4, 5, max(3, channels))))
        assert channels == 4 or (part[..., 3] == 255).all()
    assert not found[:, 5].any() and not found[:, 11].any(), "the columns between them are clear"


@pytest.mark.parametrize(
    ("size", "shape"), [([4, 3, 1], (4, 3)), ([4, 3, 1], (12,)), ([4, 3, 3], (4, 3, 3))], ids=["grey", "flat", "rgb"]
)
def test_the_page_shows_the_records(size: list[int], shape: tuple[int, ...], tmp_path: Path) -> None:
    records = records_of(["seven", "two"], 2, shape)
    page = page_of(write_run(tmp_path, records, size=size))
    rows = shown(page)
    assert len(rows) == 2
    for index, record in enumerate(records):
        strip_of_class, left = rows[index // 2], index % 2 * 4
        wanted = np.asarray(record["image"], dtype=np.uint8).reshape(size)
        assert np.array_equal(strip_of_class[:, left : left + 3, :3], np.broadcast_to(wanted, (4, 3, 3)))
    assert "Synthetic images" in page and "4 images of 4 \u00d7 3" in page and "Loss of the synthesis" in page
    assert 'alt="2 synthetic images of the class seven"' in page


def test_a_hostile_label_stays_text(tmp_path: Path) -> None:
    label = '"><script>alert(1)</script>\u202e\x00'
    page = page_of(write_run(tmp_path, records_of([label], 1), loss=[]))
    assert "<script>alert" not in page and "\u202e" not in page and "\x00" not in page and "&lt;script&gt;" in page
    assert "Loss of the synthesis" not in page, "without a loss there is no chart"


def test_report_json_keeps_to_the_schema(tmp_path: Path) -> None:
    page_of(write_run(tmp_path, records_of(["a", "b"], 2)))
    content = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert content["synthesis"]["total"] == 4 and content["synthesis"]["loss"] == [3.0, 2.0, 1.5]
    judge = jsonschema.Draft202012Validator(schema())
    judge.validate(content)
    content["synthesis"]["rows"][0]["source"] = "https://example.invalid/x.png"
    assert not judge.is_valid(content)


def test_the_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, records_of([f"class {i}" for i in range(6)], 14))
    rows = shown(page_of(run))
    assert len(rows) == 6 and {row.shape[1] for row in rows} == {4 * synthesis.PER_CLASS - 1}
    monkeypatch.setattr(synthesis, "BYTES", 12 * 6 * 2)
    page = page_of(run)
    assert {row.shape[1] for row in shown(page)} == {7} and "12 of them here" in page
    monkeypatch.setattr(synthesis, "CLASSES", 2)
    assert len(shown(page_of(run))) == 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"schema": 2}, "schema 2, expected 1"),
        ({"size": [9, 9, 1]}, "reshape"),
        ({"image": "picture"}, "picture"),
        ({"loss": ["low"]}, "low"),
        ({"size": None}, "TypeError"),
    ],
    ids=["schema", "size", "field", "loss", "no-size"],
)
def test_what_cannot_be_shown_is_named(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, records_of(["a"], 1), **changed))
    assert "synthesize/pictures.json cannot be shown" in page and says in page and not shown(page)


@pytest.mark.parametrize("image", [[[0.5] * 3] * 4, [[256] * 3] * 4, [[-1] * 3] * 4], ids=["float", "256", "-1"])
def test_values_that_are_no_bytes_are_named(image: list[list[float]], tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path, [{"image": image, "label": "a"}]))
    assert "expected whole numbers from 0 to 255" in page and not shown(page)


def test_without_pictures_there_is_no_section(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: few\n")
    assert "Synthetic images" not in page_of(tmp_path)
