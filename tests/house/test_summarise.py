"""recipes/summarise.py on a made-up run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.house.test_recipes import script
from tests.report.fake_run import write_run
from tests.report.test_active_rounds import write_rounds

HEADER = "# Baseline: hard-labels; judged by forward_kl.\n"


@pytest.fixture
def summarise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script with recipes of its own; `check_same_run` needs real ones and is tested apart."""
    module = script()
    monkeypatch.setattr(module, "RECIPES", tmp_path / "recipes")
    monkeypatch.setattr(module, "check_same_run", lambda directory, recipe: None)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "quickstart.yaml").write_text(HEADER + "name: quickstart\n", encoding="utf-8")
    return module


def test_a_run_becomes_a_result_and_a_line(summarise: Any, tmp_path: Path) -> None:
    found = summarise.summary(write_run(tmp_path / "run"))
    results = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text(encoding="utf-8"))
    (pair,) = found["stated"]
    (same,) = [c for c in results["comparisons"] if (c["baseline"], c["metric"]) == ("hard-labels", "forward_kl")]
    assert pair["difference"] == same["difference"] and pair["standard_error"] == same["standard_error"]
    assert pair["improves"] == (-same["difference"] > 2 * same["standard_error"]) == (same["verdict"] == "better")
    assert found["cost"] == {"quickstart": {"wall_seconds": 4 * 131.0, "cpu_seconds": 4 * 120.0}}
    assert list(found["models"]) == ["teacher", "student", "hard-labels"]
    assert str(tmp_path) not in json.dumps(found)
    line = summarise.table({"quickstart": found}).splitlines()[-1]
    assert line.startswith("| `quickstart` | `hard-labels` | KL to the teacher (nat/token) | ")
    assert line.endswith(f"| {pair['difference']:+.3f} ± {pair['standard_error']:.3f} | yes | 8.0 min |")


def test_active_rounds_are_judged_by_the_last_and_cost_all(summarise: Any, tmp_path: Path) -> None:
    root = write_rounds(tmp_path / "runs" / "quickstart")
    for place in ("rounds/01", "baselines/random/01"):
        write_run(root / place)
    (root / "run.yaml").write_text("name: quickstart\n", encoding="utf-8")
    (tmp_path / "recipes" / "quickstart.yaml").write_text("# Baseline: random; judged by forward_kl.\n", "utf-8")
    found = summarise.summary(root)
    assert list(found["models"]) == ["teacher", "student", "random"]
    (pair,) = found["stated"]
    results = json.loads((root / "rounds" / "02" / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert pair["difference"] in [c["difference"] for c in results["comparisons"] if c["baseline"] == "random"]
    assert found["cost"]["quickstart"]["cpu_seconds"] == 3 * 480.0, "three runs were made"
    assert [one["round"] for one in found["active"]["rounds"]] == [0, 1, 2]
    assert str(tmp_path) not in json.dumps(found) and "directory" not in found["active"]["rounds"][0]
    write_rounds(root, stopped=None)
    with pytest.raises(SystemExit, match="its active rounds are not done"):
        summarise.summary(root)


@pytest.mark.parametrize(
    ("difference", "error", "improves"),
    [(-0.21, 0.1, True), (-0.19, 0.1, False), (0.5, 0.1, False), (-1.0, None, False)],
)
def test_improves_means_more_than_two_standard_errors_the_right_way(
    summarise: Any, difference: float, error: float | None, improves: bool
) -> None:
    pair = dict.fromkeys(summarise.PAIRED) | {"metric": "m", "baseline": "b"}
    pair |= {"difference": difference, "standard_error": error, "model": "student"}
    models = {"student": {"metrics": {"m": {"higher_is_better": False}}}}
    assert summarise.judged({"models": models, "comparisons": [pair]}, "b", "m")["improves"] is improves
    models["student"]["metrics"]["m"]["higher_is_better"] = True
    turned = {"models": models, "comparisons": [pair | {"difference": -difference}]}
    assert summarise.judged(turned, "b", "m")["improves"] is improves


def test_runs_that_come_first_are_counted(summarise: Any, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes"
    (recipes / "quickstart.yaml").write_text(HEADER + "model: runs/second/train/student/model\n", encoding="utf-8")
    (recipes / "second.yaml").write_text("base: runs/first/capture/main\n", encoding="utf-8")
    (recipes / "first.yaml").write_text("output_dir: runs/first\nnothing: runs/unknown/\n", encoding="utf-8")
    for other in ("first", "second"):
        write_run(tmp_path / "runs" / other)
    found = summarise.summary(write_run(tmp_path / "runs" / "quickstart"))
    assert found["commands"] == [f"distill run recipes/{name}.yaml" for name in ("first", "second", "quickstart")]
    assert {name: spent["cpu_seconds"] for name, spent in found["cost"].items()} == dict.fromkeys(
        ("first", "second", "quickstart"), 480.0
    )


def test_recipes_in_the_order_they_run(
    summarise: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in {
        "a": "model: runs/second/train/student/model\n",
        "second": "base: runs/z/\n",
        "z": "",
    }.items():
        (tmp_path / "recipes" / f"{name}.yaml").write_text(content, encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["summarise.py", "--order"])
    summarise.main()
    assert capsys.readouterr().out.split() == ["z", "second", "a", "quickstart"]
    assert summarise.order(["second", "quickstart", "z"]) == ["z", "second", "quickstart"]
    with pytest.raises(SystemExit, match="there is no recipe nope; there are a, quickstart, second, z"):
        summarise.order(["nope"])


def test_a_table_of_another_directory(
    summarise: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quickstart.json").write_text(
        json.dumps(summarise.summary(write_run(tmp_path / "run"))), encoding="utf-8"
    )
    monkeypatch.setattr("sys.argv", ["summarise.py", "--table", str(tmp_path)])
    summarise.main()
    assert capsys.readouterr().out.splitlines()[2].startswith("| `quickstart` | `hard-labels` |")
    monkeypatch.setattr("sys.argv", ["summarise.py", "--table", "--order"])
    with pytest.raises(SystemExit):
        summarise.main()
    assert "give one of" in capsys.readouterr().err


def test_what_it_refuses(summarise: Any, tmp_path: Path) -> None:
    run, recipe = write_run(tmp_path / "run"), tmp_path / "recipes" / "quickstart.yaml"
    recipe.write_text("name: quickstart\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="states no baseline: give it a comment"):
        summarise.summary(run)
    recipe.write_text(HEADER.replace("hard-labels", "nobody"), encoding="utf-8")
    with pytest.raises(SystemExit, match="no comparison with 'nobody' by 'forward_kl'"):
        summarise.summary(run)
    manifest = run / "train" / "student" / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace("finished", "failed"), encoding="utf-8")
    with pytest.raises(SystemExit, match="stage train:student is failed"):
        summarise.summary(run)


@pytest.mark.assets
def test_a_run_of_other_values_is_refused(tmp_path: Path) -> None:
    import yaml

    from distill_core.engine.run_file.validate import load_run_file
    from distill_core.registry import get_registry

    module = script()
    recipe = module.RECIPES / "quickstart.yaml"
    values = load_run_file(recipe, registry=get_registry()).config.model_dump(mode="json", exclude_none=True)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values | {"output_dir": "elsewhere"}), encoding="utf-8")
    module.check_same_run(tmp_path, recipe)
    values["train"]["learning_rate"] = 0.5
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(SystemExit, match=r"not run with quickstart\.yaml as it is now: train differ"):
        module.check_same_run(tmp_path, recipe)


def test_layout_and_comments_do_not_make_another_recipe(summarise: Any, tmp_path: Path) -> None:
    one, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    one.write_text("# c\na: 1\nb: [1, 2]\n", encoding="utf-8")
    other.write_text("b:\n  - 1\n  - 2\na: 1   # said otherwise\n", encoding="utf-8")
    assert summarise.recipe_digest(one) == summarise.recipe_digest(other)
    other.write_text("a: 2\nb: [1, 2]\n", encoding="utf-8")
    assert summarise.recipe_digest(one) != summarise.recipe_digest(other)
