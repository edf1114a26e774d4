"""What holds for every selector: options that cannot be are refused by name, and a seed gives the same set."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import ConfigError, DistillError
from distill_core.registry import get_registry
from tests.run.conftest import Workshop, write_rows
from tests.selection.test_select_run import done

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "random": ({"draw": -1}, "draw"),
    "stratified": ({"by": "colour"}, "by"),
    "herding": ({"normalize": "sometimes"}, "normalize"),
    "k-center": ({"start": "middle"}, "start"),
    "class-mean": ({"per_class": "all"}, "per_class"),
    "dsir": ({"smoothing": 0.0}, "smoothing"),
    "ifd": ({"drop_above": 0.0}, "drop_above"),
    "el2n": ({"networks": 0}, "networks"),
    "grand": ({"keep": "middle"}, "keep"),
    "less": ({"warm_up": {"share": 1.5}}, "warm_up.share"),
    "trak": ({"damping": -0.1}, "damping"),
    "uncertainty": ({"measure": "surprise"}, "measure"),
    "coverage-centric": ({"prune_hardest": 1.0}, "prune_hardest"),
    "semantic-dedup": ({"threshold": 3.0}, "threshold"),
}
"""Options that cannot be, and the name that the message says."""


def test_the_table_names_every_selector() -> None:
    registry = get_registry()
    known = {e.component.name for e in registry.components("selector") if e.id.startswith("synthesis:")}
    assert known == set(REFUSED)


@pytest.mark.parametrize("use", sorted(REFUSED))
def test_options_that_cannot_be_are_refused_by_name(use: str) -> None:
    options, named = REFUSED[use]
    registry = get_registry()
    with pytest.raises((ConfigError, DistillError), match=named):
        registry.build("selector", {"use": use, **options})
    with pytest.raises((ConfigError, DistillError), match="shre"):
        registry.build("selector", {"use": use, "shre": 1})


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("random", {}),
        ("stratified", {"by": "length"}),
        ("dsir", {}),
        ("less", {"dim": 8, "layers": "q_proj"}),
        ("trak", {"dim": 8, "layers": "q_proj", "networks": 2}),
    ],
    ids=["random", "stratified", "dsir", "less", "trak"],
)
def test_a_seed_gives_the_same_files_bit_for_bit(
    tmp_path: Path, tiny_model_dir: Path, use: str, options: dict[str, Any]
) -> None:
    found = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        workshop = Workshop(directory, tiny_model_dir)
        workshop.good["select"] = {"selector": {"use": use, **options}, "budget": {"sequences": 5}}
        if use in ("dsir", "less", "trak"):
            write_rows(directory / "target.jsonl", ["anyone can check 4 times 4", "5 times 5 is 25 as well"])
            source = {"use": "jsonl", "path": str(directory / "target.jsonl")}
            workshop.good["data"]["target"] = {"source": source}
        done(workshop)
        files = [workshop.output / "select" / file for file in ("tokens.arrow", "decisions.arrow", "data.json")]
        found.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert found[0] == found[1]
