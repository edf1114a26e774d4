"""Recipes, and complete run files shown in the documentation, are good run files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from distill_core.engine.validate import load_run_file
from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from tests.house.pages import REPOSITORY, Block, blocks, page_id, pages

RECIPES = sorted((REPOSITORY / "recipes").glob("*.yaml"))
SHOWN = [
    block
    for page in pages()
    for block in blocks(page)
    if block.language == "yaml" and isinstance(data := yaml.safe_load(block.code), dict) and "output_dir" in data
]
NOT_HERE = ("there is no directory", "there is no file", "no file matches", "no such file", "does not exist")
"""What is wrong with a shown file only because it is not run: its data is the reader's."""


@pytest.mark.assets
@pytest.mark.parametrize("recipe", RECIPES, ids=page_id)
def test_recipe_is_valid(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it learns from what another recipe leaves, that one is there too; its result is stood in for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    for made in re.findall(r"runs/([\w-]+)/train/student/model", recipe.read_text(encoding="utf-8")):
        assert REPOSITORY / "recipes" / f"{made}.yaml" in RECIPES
        model = tmp_path / "runs" / made / "train" / "student" / "model"
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}", encoding="utf-8")
    checked = load_run_file(recipe, registry=get_registry())
    assert checked.config.name == recipe.stem
    assert checked.config.output_dir == f"runs/{recipe.stem}"


def test_the_quickstart_has_a_baseline_of_equal_budget() -> None:
    checked = load_run_file(REPOSITORY / "recipes" / "quickstart.yaml", registry=get_registry())
    trainings = checked.config.trainings()
    student, baseline = trainings["student"], trainings["hard-labels"]
    assert baseline.teacher == "none" and [ref.use for ref in baseline.objectives] == ["cross-entropy"]
    same = ("epochs", "max_steps", "batch_sequences", "accumulation_steps", "lr_schedule", "warmup_steps")
    assert {name: getattr(student, name) for name in same} == {name: getattr(baseline, name) for name in same}


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.place)
def test_shown_run_file_is_valid(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(block.code, encoding="utf-8")
    try:
        load_run_file(path, registry=get_registry())
    except ConfigError as error:
        assert [problem for problem in error.problems if not any(text in problem for text in NOT_HERE)] == []


def test_complete_run_files_are_shown() -> None:
    assert {block.page.name for block in SHOWN} >= {"README.md", "run-file.md"}
