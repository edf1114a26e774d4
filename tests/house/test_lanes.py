"""Every test runs in some lane of the Makefile, and in one only; markers are known; skips are failures."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
from _pytest.mark.expression import Expression

from tests.house.source_tree import REPOSITORY


def lanes() -> dict[str, str]:
    """Marker expressions of the Makefile's pytest lines, by target."""
    found: dict[str, str] = {}
    target = ""
    for line in (REPOSITORY / "Makefile").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z-]+):", line):
            target = match[1]
        elif "$(PYTEST)" in line and (match := re.search(r' -m (?:"([^"]+)"|(\w+))', line)):
            found[target] = match[1] or match[2]
    return found


def registered() -> set[str]:
    options = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    return {line.partition(":")[0] for line in options["markers"]}


def test_the_makefile_has_lanes() -> None:
    assert {"test", "verify-slow"} <= set(lanes())


def selects(expression: Expression, markers: tuple[str, ...]) -> bool:
    return expression.evaluate(lambda name, **_: name in markers)


OWN_LANE = {"aot", "browser", "interp", "nvcc", "server"}
"""Each of these markers names a lane, so a test has at most one of them."""


def test_every_combination_of_markers_runs_in_exactly_one_lane() -> None:
    """Except those marked `gpu`, which run where a GPU is."""
    expressions = {target: Expression.compile(text) for target, text in lanes().items()}
    names = sorted(registered() - {"gpu"})
    for size in range(len(names) + 1):
        for markers in itertools.combinations(names, size):
            if len(OWN_LANE.intersection(markers)) > 1:
                continue
            chosen = [target for target, e in expressions.items() if selects(e, markers)]
            assert len(chosen) == 1, f"a test marked {markers} runs in {chosen}"


def test_lanes_have_content() -> None:
    """No lane is empty: each marker that a lane asks for is used by some test."""
    others = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if path != Path(__file__)]
    text = "\n".join(path.read_text(encoding="utf-8") for path in others)
    assert "mark.slow" in text
    assert "mark.browser" in text


SKIPPING = """
import pytest

def test_skips():
    pytest.skip("no reason")

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("no GPU")
"""


def test_a_skip_counts_as_a_failure(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text((REPOSITORY / "tests" / "conftest.py").read_text())
    (tmp_path / "test_skipping.py").write_text(SKIPPING)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: needs a GPU\n")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "1 failed, 1 skipped" in result.stdout
    assert "skipped itself: no reason" in result.stdout


def test_collection_knows_every_marker() -> None:
    text = {path: path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("*.py")}
    builtin = {
        "expression",
        "parametrize",
        "filterwarnings",
        "skipif",
        "xfail",
        "usefixtures",
        "skip",
        "distill_plugin",
    }
    used = {name for content in text.values() for name in re.findall(r"pytest\.mark\.(\w+)", content)}
    assert used - builtin <= registered()


@pytest.mark.parametrize("target", ["setup", "demo", "test", "verify", "lint", "bench", "docs", "clean", "browser"])
def test_target_exists(target: str) -> None:
    result = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_ci_calls_what_it_must() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert re.search(r"for target in test verify lint docs;", script.read_text())
    assert script.stat().st_mode & 0o100
