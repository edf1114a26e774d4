"""Samples of synthetic text and the map of a selection on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_core.engine.features import FeatureStore
from distill_core.engine.selection import DECISIONS
from distill_core.files import write_json
from distill_core.report import write_report
from distill_core.report.data_map import MOST_POINTS, data_map, map_svg, principal_plane
from distill_core.report.made_data import SAMPLES, selection_map, synthetic_samples
from tests.report.fake_run import write_run
from tests.report.test_report import HOSTILE, Registry, Structure


def write_records(directory: Path, records: list[Any], tail: str = "") -> None:
    path = directory / "synthesize" / "records.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records) + tail, encoding="utf-8")


def page_of(directory: Path) -> str:
    return write_report(directory, registry=Registry()).read_text(encoding="utf-8")


def test_samples_are_spread_over_the_file(tmp_path: Path) -> None:
    write_records(tmp_path, [{"prompt": f"q{i}", "completion": f"a{i}", "document": i} for i in range(101)])
    samples = synthetic_samples(tmp_path)
    assert [one["number"] for one in samples] == [1, 15, 30, 44, 58, 72, 87, 101]
    assert samples[1]["texts"] == [["q14", False], ["a14", True]] and samples == synthetic_samples(tmp_path)
    write_records(tmp_path, [{"text": "one"}, {"pixels": [1, 2]}, "no record"], tail='{"text": "half')
    assert [one["texts"] for one in synthetic_samples(tmp_path)] == [[["one", True]]]
    assert synthetic_samples(tmp_path / "nowhere") == [] and len(samples) == SAMPLES


def test_hostile_samples_stay_text(tmp_path: Path) -> None:
    write_run(tmp_path)
    clean = {tag for tag, _ in Structure(page_of(tmp_path)).tags}
    write_records(tmp_path, [{"text": HOSTILE, "document": HOSTILE, "provenance": {"teacher": HOSTILE}}])
    page = page_of(tmp_path)
    dirty = Structure(page)
    assert not dirty.open and {tag for tag, _ in dirty.tags} <= clean | {"article", "blockquote"}
    assert "Synthetic texts" in page and "\x00" not in page and "\u202e" not in page
    assert "&lt;script&gt;alert(1)" in page and "Where it comes from" in page


def test_the_plane_is_that_of_greatest_variance() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 6)) * [1, 5, 0.5, 3, 0.1, 0.2] + 7
    plane, share = principal_plane(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))  # another way to the same axes
    expected = (features - features.mean(0)) @ vectors[:, [-1, -2]]
    for axis in range(2):
        sign = np.sign(expected[:, axis] @ plane[:, axis])
        np.testing.assert_allclose(plane[:, axis], sign * expected[:, axis], atol=1e-9)
    np.testing.assert_allclose(share, values[[-1, -2]] / values.sum(), atol=1e-12)
    again, _ = principal_plane(features.copy())
    assert (again == plane).all()
    flipped, _ = principal_plane(features[::-1])
    np.testing.assert_allclose(flipped[::-1], plane, atol=1e-9)


def test_the_plane_of_odd_features() -> None:
    for features in (np.ones((4, 3)), np.ones((1, 5)), np.arange(3.0)[:, None]):
        plane, share = principal_plane(features)
        assert plane.shape == (len(features), 2) and np.isfinite(plane).all() and np.isfinite(share).all()
    for bad in (np.ones(3), np.ones((0, 2)), np.array([[np.nan, 1.0]])):
        with pytest.raises(ValueError, match="finite numbers"):
            principal_plane(bad)


def test_the_map_names_its_groups_and_thins_them() -> None:
    rng = np.random.default_rng(1)
    content = data_map(
        {"<real>": rng.normal(size=(1000, 4)), "made": rng.normal(size=(3, 4)) + 9, "none": np.zeros((0, 4))}
    )
    counts = {label: (group["count"], len(group["points"])) for label, group in content["groups"].items()}
    assert counts["made"] == (3, 3) and counts["none"] == (0, 0)
    assert counts["<real>"][0] == 1000 and MOST_POINTS / 2 < counts["<real>"][1] <= MOST_POINTS
    json.dumps(content)
    svg = str(map_svg(content, {"<real>": "tone-0", "made": "tone-1", "none": "tone-2"}))
    assert svg.count('class="dot tone-1"') == 3 and "<real>" not in svg and "&lt;real&gt;" in svg


def add_selection(directory: Path, *, key: str = "pool", rows: int = 40) -> np.ndarray[Any, Any]:
    features = np.random.default_rng(2).normal(size=(rows, 5)).astype(np.float32)
    store = FeatureStore(directory / "features")
    store.table({"what": "loss", "model": "m", "data": key}, rows, 1, lambda a, b: np.zeros((b - a, 1)))
    store.table({"what": "hidden, mean", "model": "m", "data": key}, rows, 5, lambda a, b: features[a:b])
    kept = np.arange(rows) % 4 == 0
    columns = {
        "index": np.arange(rows),
        "key": [bytes(16)] * rows,
        "document": ["d"] * rows,
        "tokens": np.full(rows, 9),
        "kept": kept,
        "rank": [None] * rows,
        "score": [None] * rows,
        "reason": [""] * rows,
    }
    (directory / "select").mkdir()
    with pa.ipc.new_file(directory / "select" / "decisions.arrow", DECISIONS) as writer:
        writer.write_table(pa.table([pa.array(v) for v in columns.values()], names=list(columns)).cast(DECISIONS))
    notes = {"stage": "select", "status": "finished", "notes": {"pool_key": "pool"}}
    write_json(directory / "select" / "manifest.json", notes)
    return features


def test_a_selection_is_drawn_from_the_features_on_disk(tmp_path: Path) -> None:
    write_run(tmp_path)
    features = add_selection(tmp_path)
    manifests = {"select": {"notes": {"pool_key": "pool"}}}
    found = selection_map(tmp_path, manifests, {})
    assert found is not None
    assert {label: group["count"] for label, group in found["groups"].items()} == {"not kept": 30, "kept": 10}
    kept = np.arange(40) % 4 == 0
    expected = data_map({"not kept": features[~kept], "kept": features[kept]})
    assert found == expected
    page = page_of(tmp_path)
    assert "Map of the selection" in page and "kept: 10" in page
    assert len(re.findall(r'<circle class="dot tone-teacher"[^>]*r="3"><title>not kept', page)) == 30


def test_there_is_no_map_of_what_is_not_there(tmp_path: Path) -> None:
    write_run(tmp_path / "other")
    add_selection(tmp_path / "other", key="another pool")
    assert "Map of the selection" not in page_of(tmp_path / "other")
    assert selection_map(tmp_path, {}, {}) is None and selection_map(tmp_path, {"select": {}}, {"select": None}) is None
    broken = tmp_path / "features" / "x"
    broken.mkdir(parents=True)
    (broken / "table.json").write_text("{")
    assert selection_map(tmp_path, {"select": {"notes": {"pool_key": "pool"}}}, {}) is None
