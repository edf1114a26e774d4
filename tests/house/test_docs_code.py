"""Every code block of README.md, CONTRIBUTING.md and docs/ runs, or is checked against what it names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

from tests.house.pages import REPOSITORY, Block, blocks, page_id, pages

RUNS = [page for page in pages() if any(b.language in ("python", "pycon") or "run" in b.words for b in blocks(page))]
DATA = [block for page in pages() for block in blocks(page) if block.language in ("yaml", "toml", "json")]


@pytest.mark.parametrize("page", RUNS, ids=page_id)
def test_page_runs(page: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DISTILL_PLUGINS", "PYTEST_"))}
    environment = {**kept, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.house.run_page", str(page)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, f"{page_id(page)} failed\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}"


def test_the_readme_has_code_that_runs() -> None:
    assert REPOSITORY / "README.md" in RUNS


@pytest.mark.parametrize("block", DATA, ids=lambda block: block.place)
def test_data_block_parses(block: Block) -> None:
    parse = {"yaml": yaml.safe_load, "toml": tomllib.loads, "json": json.loads}[block.language]
    assert parse(block.code) is not None


def test_a_failing_block_fails_its_page(tmp_path: Path) -> None:
    """The runner reports an error with the page's own line, and a failing shell line as well."""
    for text, expected in (
        ("# T\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "line 8"),
        ("```bash run\ntrue\nfalse\ntrue\n```\n", "exit code 1"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "1 of 1 examples failed"),
    ):
        page = tmp_path / "page.md"
        page.write_text(text)
        code = f"""
from pathlib import Path
from tests.house import pages, run_page
pages.REPOSITORY = Path({str(tmp_path)!r})
run_page.main(Path({str(page)!r}))
"""
        where = tmp_path / str(abs(hash(text)))
        where.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=where,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
        )
        assert result.returncode != 0
        assert expected in result.stdout + result.stderr
