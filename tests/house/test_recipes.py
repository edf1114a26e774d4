"""Recipes, and complete run files shown in the documentation, are good run files."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill_core.engine.run_file.validate import load_run_file
from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from distill_core.store import StoreMeta, StoreWriter
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


PAGE = REPOSITORY / "docs" / "recipes.md"
TABLE = re.compile(r"(<!-- recipe results -->\n)(.*?)(<!-- end -->)", re.DOTALL)
INPUTS = {"bioinformatics_teacher", "classification_teacher", "evolving-teacher_revision", "rationale_teacher"}
INPUTS |= {"vision_teacher"}
"""Recipes that only make what others start from: nothing is claimed for them."""


def script() -> Any:
    """recipes/summarise.py as a module."""
    spec = importlib.util.spec_from_file_location("summarise", REPOSITORY / "recipes" / "summarise.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SUMMARISE = script()
RESULTS = SUMMARISE.committed()


def stand_in_store(recipe: Path, name: str, directory: Path) -> None:
    """An empty store of the form that `recipe` captures."""
    (captured,) = [one for one in load_run_file(recipe, registry=get_registry()).config.captures if one.name == name]
    meta = StoreMeta(
        vocabulary_size=captured.k + 1,
        tokenizer_fingerprint="none",
        teacher="none",
        method=captured.method,
        k=captured.k,
        temperatures=tuple(captured.temperatures),
    )
    with StoreWriter(directory, meta):
        pass


NOT_INSTALLED = re.compile(r"the Python package ([\w.-]+) is not installed")


def installed_for_recipes_only() -> set[str]:
    """Packages that `make recipes-setup` installs and `make setup` does not: a recipe may lack them here."""
    found = re.search(r"^RECIPE_ASSETS \?= (.+)$", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return {pin.partition("==")[0] for pin in found[1].split()}


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
    for made, store in set(re.findall(r"runs/([\w-]+)/capture/([\w-]+)", recipe.read_text(encoding="utf-8"))):
        stand_in_store(REPOSITORY / "recipes" / f"{made}.yaml", store, tmp_path / "runs" / made / "capture" / store)
    try:
        load_run_file(recipe, registry=get_registry())
    except ConfigError as error:
        missing = {found[1] if (found := NOT_INSTALLED.search(text)) else text for text in error.problems}
        assert missing <= installed_for_recipes_only(), error
    config = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert config["name"] == recipe.stem
    assert config["output_dir"] == f"runs/{recipe.stem}"


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


def test_every_recipe_has_a_result_or_is_an_input() -> None:
    names = {recipe.stem for recipe in RECIPES}
    assert set(RESULTS) | INPUTS == names
    assert not set(RESULTS) & INPUTS
    read = {other for recipe in RECIPES for other in SUMMARISE.needed(recipe)}
    assert read >= INPUTS, "an input that no recipe reads"


def test_results_are_those_of_the_recipes_as_they_are() -> None:
    for name, result in RESULTS.items():
        recipe = REPOSITORY / "recipes" / f"{name}.yaml"
        assert result["recipe_sha256"] == SUMMARISE.recipe_digest(recipe), f"{name} says something else now: run it"
        baselines, metric = SUMMARISE.stated(recipe)
        assert [(pair["baseline"], pair["metric"]) for pair in result["stated"]] == [(one, metric) for one in baselines]
        assert result["commands"][-1] == f"distill run recipes/{name}.yaml"
        for pair in result["stated"]:
            values = [result["models"][one]["metrics"][metric]["value"] for one in ("student", pair["baseline"])]
            assert pair["difference"] == pytest.approx(values[0] - values[1], abs=1e-6), name
        spent = sum(one["cpu_seconds"] for one in result["cost"].values())
        assert 0 < spent <= 1200, f"{name}: ten minutes of two cores"


def test_the_table_of_recipes_is_made_from_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    match = TABLE.search(text)
    assert match is not None
    expected = "\n" + SUMMARISE.table(RESULTS) + "\n\n"
    if os.environ.get("DISTILL_UPDATE_DOCS") == "1" and match[2] != expected:
        PAGE.write_text(text[: match.start(2)] + expected + text[match.end(2) :], encoding="utf-8")
    else:
        assert match[2] == expected, "run DISTILL_UPDATE_DOCS=1 pytest tests/house/test_recipes.py"


def test_every_recipe_with_a_result_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    prose = TABLE.sub("", text)
    assert [name for name in RESULTS if f"`{name}`" not in prose] == []
