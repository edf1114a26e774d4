"""The page of known mistakes names tests that exist, at least one in every row."""

from __future__ import annotations

import re
from pathlib import Path

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(repository: Path) -> list[str]:
    page = (repository / "docs" / "known-mistakes.md").read_text(encoding="utf-8")
    return [line for line in page.splitlines() if line.startswith("| ") and not line.startswith("| mistake")]


def test_every_row_names_tests_that_exist(repository: Path) -> None:
    found = rows(repository)
    assert len(found) >= 25
    for line in found:
        named = NAMED.findall(line)
        assert named, f"no test: {line}"
        for path, name in named:
            text = (repository / path).read_text(encoding="utf-8")
            assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{path} has no {name}"


def test_the_methods_of_dataset_benchmarks_hold_the_controls() -> None:
    """What a synthetic set has to beat stands beside it: the table of a benchmark cannot be made without."""
    from benchmarks import dataset_distillation, text_distillation

    controls = {"full", "random", "random, soft labels", "class mean"}
    coresets = {"herding", "k-center"}
    on = [f"{name}, {space}" for name in coresets for space in ("pixels", "features")]
    assert controls | {*on} <= set(dataset_distillation.METHODS)
    assert controls | coresets <= set(text_distillation.METHODS)
