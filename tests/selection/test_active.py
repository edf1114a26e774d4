"""Active rounds: nothing is bought twice, each round starts from the last, the stopping rule stops, and all resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill_core.cli.application import exit_code
from distill_core.engine.active import ActiveResult, run_active
from distill_core.engine.data import TokenDataset
from distill_core.engine.progress import Progress
from distill_core.errors import ConfigError, DistillError
from distill_core.registry import get_registry
from distill_core.store import store_info
from tests.run.conftest import ROWS, Workshop, write_rows


@pytest.fixture
def shop(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    write_rows(tmp_path / "train.jsonl", [f"{text} {n}" for n, text in enumerate(ROWS[:8])])
    workshop.good |= {
        "select": {"selector": {"use": "uncertainty"}, "budget": {"sequences": 3}},
        "active": {"rounds": 3},
        "train": {"max_steps": 2, "batch_sequences": 3, "learning_rate": 0.01},
    }
    return workshop


def rounds(workshop: Workshop, *overrides: str) -> ActiveResult:
    checked = workshop.check(None, *overrides)
    return run_active(checked, registry=get_registry(), progress=Progress(quiet=True))


def kept(directory: str) -> list[bytes]:
    return [one.key for one in TokenDataset.open(Path(directory) / "select")]


def manifest(directory: str, stage: str) -> Any:
    return json.loads((Path(directory) / stage / "manifest.json").read_text())


def test_rounds_buy_new_labels_and_go_on_from_the_student(shop: Workshop) -> None:
    shop.good["active"]["least_gain"] = 0.0
    found = rounds(shop, "train.learning_rate=0.001")
    assert len(found.rounds) >= 2 and found.metric == "cross_entropy"
    bought = [key for one in found.rounds for key in kept(one.directory)]
    assert len(bought) == len(set(bought)) == sum(one.sequences for one in found.rounds) == 3 * len(found.rounds)
    for one in found.rounds:
        assert store_info(Path(one.directory) / "capture" / "main").n_sequences == 3
        assert (Path(one.directory) / "report" / "index.html").is_file()
    first, second = found.rounds[:2]
    assert manifest(first.directory, "select")["parts"]["select.selector.use"] == "synthesis:random"
    assert manifest(second.directory, "select")["parts"]["select.selector.use"] == "synthesis:uncertainty"
    assert manifest(second.directory, "student")["notes"]["source"].endswith("rounds/00/train/student/model")
    assert manifest(second.directory, "select")["notes"]["reasons"]["kept by an earlier selection"] == 3
    assert first.gain is None and second.gain == pytest.approx(first.value - second.value)
    said = json.loads((shop.output / "active.json").read_text())
    assert said["stopped"] == found.stopped and [one["value"] for one in said["rounds"]] == [
        one.value for one in found.rounds
    ]


def test_the_stopping_rule(shop: Workshop) -> None:
    """A bound that no round reaches stops after the second; that one was needed to know."""
    found = rounds(shop, "active.least_gain=1000")
    assert len(found.rounds) == 2 and "less than active.least_gain (1000)" in found.stopped
    one = rounds(shop, "active.rounds=1")
    assert len(one.rounds) == 1 and one.stopped == "all 1 rounds are done"


def test_the_pool_is_exhausted(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = len(rounds_pool(shop))
    shop.good["select"]["budget"] = {"sequences": pool - 2}
    found = rounds(shop)
    assert len(found.rounds) == 1 and found.stopped.startswith("the pool is exhausted: 2 sequences")


def rounds_pool(workshop: Workshop) -> TokenDataset:
    rounds(workshop, "active.rounds=1")
    return TokenDataset.open(workshop.output / "rounds" / "00" / "data" / "train")


def test_what_was_done_is_reused_and_the_result_is_the_same(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rounds(shop, "active.rounds=2")
    stamps = {path: path.stat().st_mtime_ns for path in (shop.output / "rounds").rglob("manifest.json")}
    again = rounds(shop, "active.rounds=2")
    assert again == whole
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_wrong_use(shop: Workshop, capsys: Any) -> None:
    with pytest.raises(ConfigError, match="active rounds choose with `select`, and there is no such section"):
        shop.check(lambda run: run.pop("select"))
    with pytest.raises(ConfigError, match=r"active.first.*Did you mean .random."):
        shop.check(lambda run: run["active"].update(first={"use": "randon"}))
    with pytest.raises(DistillError, match=r"active.metric is 'bleu', which the evaluation has not; it has cross_ent"):
        rounds(shop, "active.metric=bleu", "active.rounds=1")
    assert exit_code(["train", str(shop.write())]) == 2
    assert "only `distill run` can run them" in capsys.readouterr().err


def test_the_command_runs_the_rounds(shop: Workshop, capsys: Any) -> None:
    shop.good["active"]["rounds"] = 1
    assert exit_code(["run", "--quiet", str(shop.write())]) == 0
    said = capsys.readouterr().out
    assert "round 0: 3 sequences" in said and "all 1 rounds are done" in said


def test_learning_from_the_whole_pool_beside_the_selection(shop: Workshop) -> None:
    from distill_core.engine.run import run

    def change(data: dict[str, Any]) -> None:
        data.pop("active")
        data["select"]["selector"] = {"use": "random"}
        hard = {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}
        data["compare"] = {"pool": {**hard, "learns_from": "all"}, "kept": hard}

    run(shop.check(change), registry=get_registry(), progress=Progress(quiet=True), upto="train")
    inputs = {name: manifest(str(shop.output), f"train/{name}")["parts"] for name in ("student", "pool", "kept")}
    assert "output of data:train" in inputs["pool"] and "output of select" not in inputs["pool"]
    assert "output of select" in inputs["kept"] and "output of select" in inputs["student"]


def test_learning_from_the_pool_is_refused_where_it_cannot_be(shop: Workshop) -> None:
    with pytest.raises(ConfigError, match="student learns from a store, which holds what `select` kept"):
        shop.check(lambda run: run["train"].update(learns_from="all"))
    with pytest.raises(ConfigError, match="there is no `select:` section, so every training learns from all"):
        shop.check(lambda run: (run.pop("select"), run.pop("active"), run["train"].update(learns_from="all")))


def test_excluding_everything_is_an_error(shop: Workshop) -> None:
    from distill_core.engine.run import run
    from distill_core.errors import DataError

    rounds(shop, "active.rounds=1", "select.budget={share: 1.0}")
    one = shop.output / "rounds" / "00" / "select"
    checked = shop.check(lambda data: (data.pop("active"), data["select"].update(exclude=[str(one)])))
    with pytest.raises(DataError, match=r"select.exclude: the selections in .* kept all"):
        run(checked, registry=get_registry(), progress=Progress(quiet=True), upto="select")
