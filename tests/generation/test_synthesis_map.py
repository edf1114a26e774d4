"""Real and synthetic sequences as points: what they are, and the map that a run leaves for its page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM

from distill_core.engine.data import TokenSequence
from distill_core.engine.synthesis_map import MOST, MOST_NUMBERS, points_of
from distill_core.report.data_map import principal_plane
from tests.generation.test_generation_run import tiny
from tests.run.conftest import Workshop
from tests.run.test_end_to_end import inside

__all__ = ["tiny"]


def text(ids: list[int]) -> TokenSequence:
    array = np.array(ids, dtype=np.int32)
    return TokenSequence(array, array, "d", bytes(16))


def image(values: np.ndarray) -> TokenSequence:
    ids = np.zeros(1, dtype=np.int32)
    return TokenSequence(ids, ids, "d", bytes(16), inputs={"pixel_values": values.astype(np.float32)})


def test_texts_are_means_of_the_students_embeddings(tiny_model_dir: Path) -> None:
    groups = {"real": [text([5, 6, 6]), text([])], "synthetic": [text([9])], "none": []}
    of, points = points_of(groups, student=tiny_model_dir, task=None)
    table = AutoModelForCausalLM.from_pretrained(tiny_model_dir).get_input_embeddings().weight.detach().numpy()
    assert of == "mean token embeddings of the initial student"
    np.testing.assert_allclose(points["real"][0], (table[5] + 2 * table[6]) / 3, rtol=1e-5)
    assert not points["real"][1].any() and points["none"].shape == (0, table.shape[1])
    np.testing.assert_array_equal(points["synthetic"][0], table[9])


def test_images_are_their_pixels_and_many_are_thinned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [image(rng.normal(size=(1, 3, 4))) for _ in range(MOST + 60)]
    of, points = points_of({"real": images, "made": images[:2]}, student=tmp_path, task=None)
    assert of == "what the model reads" and points["real"].shape == (MOST // 2 + 30, 12)
    np.testing.assert_array_equal(points["real"][1], images[2].inputs["pixel_values"].ravel())
    wide = [image(np.zeros((1, MOST_NUMBERS // 4, 1))) for _ in range(12)]
    assert points_of({"real": wide}, student=tmp_path, task=None)[1]["real"].shape[0] == 4


def test_a_run_that_synthesises_has_a_map(tiny: Workshop) -> None:
    done = inside("run", tiny.write())
    assert done.returncode == 0, done.stderr
    content = json.loads((tiny.output / "report" / "report.json").read_text())
    found = content["synthesis_map"]
    assert found["of"] == "mean token embeddings of the initial student"
    counts = {name: group["count"] for name, group in found["groups"].items()}
    assert (
        counts
        == found["sequences"]
        == {
            "real, held out": content["data"]["eval"]["sequences"],
            "synthetic": content["data"]["train"]["sequences"],
        }
    )
    points = np.array([point for group in found["groups"].values() for point in group["points"]])
    assert points.shape == (sum(counts.values()), 2) and np.isfinite(points).all()
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-3)
    again, _ = principal_plane(points)
    np.testing.assert_allclose(np.abs(again), np.abs(points), atol=1e-3)  # in their own plane they stay where they are
    page = (tiny.output / "report" / "index.html").read_text()
    assert "Real and synthetic data" in page and f"synthetic: {counts['synthetic']}" in page
    (tiny.output / "report" / "map.json").write_text('{"of": ')
    from distill_core.report import write_report

    broken = write_report(tiny.output, registry=None).read_text()
    assert "report/map.json cannot be shown" in broken and "Real and synthetic data" not in broken


def test_a_run_that_synthesises_nothing_has_none(tiny: Workshop) -> None:
    tiny.good.pop("synthesize")
    tiny.good["train"]["max_steps"] = 1
    done = inside("run", tiny.write())
    assert done.returncode == 0, done.stderr
    assert json.loads((tiny.output / "report" / "report.json").read_text())["synthesis_map"] is None
    assert not (tiny.output / "report" / "map.json").exists()
