"""Runs side by side: verdicts against scipy, refusals where data or tokenizers differ, seeds as one method."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from scipy import stats

from distill_core.cli.application import exit_code
from distill_core.errors import DistillError
from distill_core.report.compare import compare_runs
from distill_core.report.comparison_view import comparison_page, comparison_table, headline_of
from tests.report.fake_run import results, write_json, write_run


def shift(directory: Path, factor: float, *, noise: float = 0.0, seed: int = 0) -> None:
    """Multiply the student's cross-entropy, document by document, in results and sums alike."""
    rng = np.random.default_rng(seed)
    path = directory / "evaluate" / "documents.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    ours = [row for row in rows if (row["model"], row["metric"]) == ("student", "cross_entropy")]
    for row in ours:
        row["sum"] *= factor + noise * rng.normal()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = json.loads((directory / "evaluate" / "results.json").read_text(encoding="utf-8"))
    metric = found["models"]["student"]["metrics"]["cross_entropy"]
    metric["value"] = sum(row["sum"] for row in ours) / sum(row["denominator"] for row in ours)
    write_json(directory / "evaluate" / "results.json", found)


def make(parent: Path, name: str, *, seed: int = 0, recipe: str = "", documents: int = 14) -> Path:
    directory = write_run(parent / name, documents=documents)
    config = yaml.safe_load((directory / "run.yaml").read_text(encoding="utf-8"))
    config |= {"name": name, "seed": seed, "output_dir": str(directory)}
    config["train"]["objectives"][0]["use"] = recipe or "forward-kl"
    (directory / "run.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return directory


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A reference, one clearly better, one that differs by noise."""
    found = [make(tmp_path, name, recipe=name) for name in ("base", "better", "noise")]
    shift(found[1], 0.9, noise=0.01)
    shift(found[2], 1.0, noise=0.02, seed=3)
    return found


def entry(comparison: dict[str, Any], metric: str, method: str) -> dict[str, Any]:
    (found,) = [m for m in comparison["metrics"] if m["metric"] == metric]
    (one,) = [e for e in found["entries"] if e["method"] == method]
    return dict(one)


def sums(directory: Path) -> dict[str, tuple[float, float]]:
    rows = [json.loads(line) for line in (directory / "evaluate" / "documents.jsonl").read_text("utf-8").splitlines()]
    return {
        row["document"]: (row["sum"], row["denominator"])
        for row in rows
        if (row["model"], row["metric"]) == ("student", "cross_entropy")
    }


def test_verdicts_and_intervals_against_scipy(runs: list[Path]) -> None:
    comparison = compare_runs(runs)
    assert comparison["reference"] == "base" and comparison["flags"] == []
    p_values = {}
    for directory in runs[1:]:
        ours, base = sums(directory), sums(runs[0])
        total = sum(n for _, n in base.values())
        ratios = [sum(s for s, _ in one.values()) / total for one in (ours, base)]
        z = [(ours[d][0] - ratios[0] * ours[d][1] - base[d][0] + ratios[1] * base[d][1]) / total for d in base]
        count = len(z)
        error = float(np.sqrt(count / (count - 1) * np.sum(np.square(z))))
        found = entry(comparison, "cross_entropy", directory.name)
        assert found["difference"] == pytest.approx(ratios[0] - ratios[1], rel=1e-9)
        assert found["standard_error"] == pytest.approx(error, rel=1e-9)
        half = float(stats.t.ppf(0.975, count - 1)) * error
        assert found["interval"] == pytest.approx([found["difference"] - half, found["difference"] + half], rel=1e-6)
        p_values[directory.name] = 2 * float(stats.t.sf(abs(found["difference"]) / error, count - 1))
        assert found["p_value"] == pytest.approx(p_values[directory.name], rel=1e-6)
    assert entry(comparison, "cross_entropy", "better")["p_adjusted"] == pytest.approx(2 * p_values["better"], rel=1e-6)
    assert entry(comparison, "cross_entropy", "better")["verdict"] == "better"
    assert entry(comparison, "cross_entropy", "noise")["verdict"] == "no clear difference"
    same = entry(comparison, "forward_kl", "better")
    assert (same["difference"], same["verdict"]) == (0.0, "no clear difference")


def test_seeds_of_one_run_file_are_one_method(tmp_path: Path) -> None:
    directories, values = [], {"a": [], "b": []}
    for name, factor in (("a", 1.0), ("b", 0.97)):
        for seed in range(5):
            directory = make(tmp_path, f"{name}{seed}", seed=seed, recipe=name)
            shift(directory, factor + 0.004 * seed, noise=0.005, seed=10 * seed + ord(name))
            found = json.loads((directory / "evaluate" / "results.json").read_text(encoding="utf-8"))
            values[name].append(found["models"]["student"]["metrics"]["cross_entropy"]["value"])
            directories.append(directory)
    comparison = compare_runs(directories)
    assert [m["label"] for m in comparison["methods"]] == ["a0 (5 seeds)", "b0 (5 seeds)"]
    assert comparison["flags"] == [], "every seed is here"
    found = entry(comparison, "cross_entropy", "b0 (5 seeds)")
    test = stats.ttest_rel(values["b"], values["a"])
    assert found["p_value"] == pytest.approx(float(test.pvalue), rel=1e-6) and found["paired_by"] == "5 seeds"
    assert found["verdict"] == "better" and found["n"] == 5
    assert found["value"] == pytest.approx(float(np.mean(values["b"])))
    picked = compare_runs([directories[0], directories[7]])
    assert "cherry-picked-seed" in {flag["flag"] for flag in picked["flags"]}
    assert [flag["reason"][:4] for flag in picked["flags"] if flag["severity"] == "error"] == ["a0: "]
    uneven = compare_runs(directories[:6])
    assert "unequal-seeds" in {flag["flag"] for flag in uneven["flags"]}


def test_other_documents_are_refused(tmp_path: Path) -> None:
    comparison = compare_runs([make(tmp_path, "a", recipe="a"), make(tmp_path, "b", recipe="b", documents=10)])
    assert [flag["flag"] for flag in comparison["flags"]] == ["different-held-out-data"]
    found = entry(comparison, "cross_entropy", "b")
    assert found["verdict"] == "not comparable" and "10 in common" in found["reason"] and "p_value" not in found
    assert headline_of(comparison).tone == "alarm"


def test_another_tokenizer_leaves_only_what_has_equal_denominators(tmp_path: Path) -> None:
    """Cross-entropy per token is refused; a metric over bytes, which are the same, is compared."""
    a, b = make(tmp_path, "a", recipe="a"), make(tmp_path, "b", recipe="b")
    found = results()
    found["settings"]["vocabulary"] = {"size": 32000, "fingerprint": "0ther"}
    write_json(b / "evaluate" / "results.json", found)
    path = b / "evaluate" / "documents.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if row["metric"] == "cross_entropy":
            row["denominator"] *= 1.3
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    comparison = compare_runs([a, b])
    assert "different-tokenizer" in [flag["flag"] for flag in comparison["flags"]]
    assert "another tokenizer" in entry(comparison, "cross_entropy", "b")["reason"]
    assert entry(comparison, "accuracy", "b")["verdict"] == "no clear difference", "its denominators are equal"


def test_a_longer_training_is_flagged(runs: list[Path]) -> None:
    path = runs[1] / "train" / "student" / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:48]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    flags = {flag["flag"]: flag for flag in compare_runs(runs)["flags"]}
    assert "better was trained on less: 48 steps against base's 96 (50%)" in flags["baseline-budget"]["reason"]


def test_the_errors_of_a_run_are_carried_over(runs: list[Path]) -> None:
    found = json.loads((runs[2] / "evaluate" / "results.json").read_text(encoding="utf-8"))
    found["flags"] = [{"flag": "canary", "severity": "error", "reason": "It knows the canary."}]
    write_json(runs[2] / "evaluate" / "results.json", found)
    (flag,) = compare_runs(runs)["flags"]
    assert flag["reason"] == "noise: It knows the canary."


def test_table_page_and_json(runs: list[Path], tmp_path: Path, capsys: Any) -> None:
    comparison = compare_runs(runs)
    stream = io.StringIO()
    Console(file=stream, width=150).print(comparison_table(comparison))
    text = stream.getvalue()
    assert "better" in text and "no clear diff." in text and "Cross-entropy (nat/token)" in text
    page = comparison_page(comparison)
    assert "better against base: better in cross-entropy" in page and len(page) < 200_000
    target = tmp_path / "page.html"
    assert exit_code(["compare", *map(str, runs), "--html", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == comparison
    assert target.read_text(encoding="utf-8") == page
    assert exit_code(["compare", *map(str, runs[:2])]) == 0 and "base" in capsys.readouterr().out


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>"
    parent = tmp_path / "x"
    runs = [make(parent, name, recipe=name) for name in ("a", "b")]
    for run in runs:
        found = results()
        found["models"]["student"]["metrics"]["cross_entropy"]["label"] = bad
        write_json(run / "evaluate" / "results.json", found)
    page = comparison_page(compare_runs(runs))
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(1)" in page


def test_wrong_use(runs: list[Path], tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(DistillError, match="at least two different runs"):
        compare_runs([runs[0], runs[0]])
    with pytest.raises(DistillError, match="not a run directory"):
        compare_runs([runs[0], tmp_path / "absent"])
    with pytest.raises(DistillError, match="has no model 'x': it has teacher, student and hard-labels"):
        compare_runs(runs, model="x")
    bare = write_run(tmp_path / "bare", evaluated=False)
    with pytest.raises(DistillError, match=r"no evaluate/results\.json: evaluate it first"):
        compare_runs([runs[0], bare])
    evaluated = runs[1] / "evaluate"
    whole = {path.name: path.read_bytes() for path in evaluated.iterdir() if path.is_file()}
    for name in ("results.json", "documents.jsonl"):
        for content in (b"{}", b"[1]", whole[name][: len(whole[name]) // 2 - 3], b"\xff\xfe"):
            (evaluated / name).write_bytes(content)
            with pytest.raises(DistillError, match=rf"evaluate/{name} is damaged.*evaluate the run again"):
                compare_runs(runs)
        (evaluated / name).write_bytes(whole[name])
    (evaluated / "documents.jsonl").unlink()
    with pytest.raises(DistillError, match="nothing can be paired without it"):
        compare_runs(runs)
    twins = [make(tmp_path / "seeds", f"s{seed}", seed=seed, recipe="x") for seed in range(2)]
    with pytest.raises(DistillError, match="one run file with several seeds"):
        compare_runs(twins)
    assert exit_code(["compare", str(runs[0]), str(runs[2]), "--confidence", "95"]) == 2
    assert "between 0.5 and 1" in capsys.readouterr().err
    assert exit_code(["compare", str(runs[0]), str(runs[2]), "--html", str(tmp_path / "no" / "a.html")]) == 2


def test_a_baseline_can_be_compared_by_name(runs: list[Path]) -> None:
    comparison = compare_runs(runs, model="hard-labels")
    assert {m["model"] for m in comparison["methods"]} == {"hard-labels"}
    assert entry(comparison, "cross_entropy", "better")["difference"] == 0
