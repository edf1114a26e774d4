"""Active rounds: nothing is bought twice, each round starts from the last, the stopping rule stops, and all resumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
import yaml

from distill_core.cli.application import exit_code
from distill_core.engine.active import ActiveResult, run_active
from distill_core.engine.data import TokenDataset
from distill_core.engine.progress import Progress
from distill_core.errors import ConfigError, DistillError, StoreError
from distill_core.registry import get_registry
from distill_core.report import schema
from distill_core.store import StoreReader, store_info
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


def learned(directory: str) -> list[bytes]:
    return [one.key for one in TokenDataset.open(Path(directory) / "select")]


def bought(directory: str) -> list[bytes]:
    """Keys of what a round chose itself."""
    with pa.ipc.open_file(pa.memory_map(str(Path(directory) / "select" / "decisions.arrow"))) as file:
        table = file.read_all()
    return table.filter(table.column("kept")).column("key").to_pylist()


def manifest(directory: str, stage: str) -> Any:
    return json.loads((Path(directory) / stage / "manifest.json").read_text())


@pytest.mark.parametrize("learns_from", ["all", "round"])
def test_rounds_buy_new_labels_and_go_on_from_the_student(shop: Workshop, learns_from: str) -> None:
    found = rounds(shop, "train.learning_rate=0.001", f"active.learns_from={learns_from}")
    assert len(found.rounds) >= 2 and found.metric == "cross_entropy"
    keys = [key for one in found.rounds for key in bought(one.directory)]
    assert len(keys) == len(set(keys)) == sum(one.sequences for one in found.rounds) == 3 * len(found.rounds)
    for number, one in enumerate(found.rounds):
        held = 3 * (number + 1) if learns_from == "all" else 3
        assert store_info(Path(one.directory) / "capture" / "main").n_sequences == held == len(learned(one.directory))
        assert set(learned(one.directory)) == set(keys[: 3 * (number + 1)][-held:])
        assert (Path(one.directory) / "report" / "index.html").is_file()
    first, second = found.rounds[:2]
    assert manifest(first.directory, "select")["parts"]["select.selector.use"] == "synthesis:random"
    assert manifest(second.directory, "select")["parts"]["select.selector.use"] == "synthesis:uncertainty"
    assert manifest(second.directory, "student")["notes"]["source"].endswith("rounds/00/train/student/model")
    again = " and learned from again" if learns_from == "all" else ""
    assert manifest(second.directory, "select")["notes"]["reasons"][f"kept by an earlier selection{again}"] == 3
    copied = manifest(second.directory, "capture/main")["notes"].get("copied_sequences")
    assert copied == (3 if learns_from == "all" else None)
    assert first.gain is None and second.gain == pytest.approx(first.value - second.value)
    said = json.loads((shop.output / "active.json").read_text())
    assert said["stopped"] == found.stopped and [one["value"] for one in said["rounds"]] == [
        one.value for one in found.rounds
    ]


def test_labels_are_copied_not_asked_for_again(shop: Workshop) -> None:
    """Row for row what the first round stored, of a teacher that is asked about the new sequences alone."""
    found = rounds(shop, "active.rounds=2", "train.learning_rate=0.001")
    first, second = (StoreReader(Path(one.directory) / "capture" / "main") for one in found.rounds)
    assert len(first) == 3 and len(second) == 6
    held = {second.key(index): index for index in range(len(second))}
    for index in range(len(first)):
        assert second.encoded(held[first.key(index)]) == first.encoded(index)


def test_a_baseline_of_equal_budget_runs_beside(shop: Workshop) -> None:
    shop.good["active"]["compare"] = {"random": {"use": "random"}}
    found = rounds(shop, "active.rounds=3", "train.learning_rate=0.001")
    assert found.rounds[0].compare == {} and len(found.rounds) >= 2
    own, theirs = [bought(found.rounds[0].directory)], [bought(found.rounds[0].directory)]
    for number, one in enumerate(found.rounds[1:], start=1):
        rival, place = one.compare["random"], shop.output / "baselines" / "random" / f"{number:02d}"
        assert rival.sequences == one.sequences == 3 and rival.tokens > 0
        assert manifest(str(place), "select")["parts"]["select.selector.use"] == "synthesis:random"
        assert not (place / "evaluate").exists()
        own.append(bought(one.directory))
        theirs.append(bought(str(place)))
        results = json.loads((Path(one.directory) / "evaluate" / "results.json").read_text())
        assert list(results["models"]) == ["teacher", "student", "random"]
        assert results["models"]["random"]["source"] == str(place / "train" / "student" / "model")
        value = results["models"]["random"]["metrics"]["cross_entropy"]["value"]
        assert rival.value == value and rival.difference == pytest.approx(one.value - value)
        assert rival.difference_standard_error is not None and rival.standard_error is not None
    for chosen in (own, theirs):
        flat = [key for keys in chosen for key in keys]
        assert len(flat) == len(set(flat))
    steps = [manifest(str(place), "train/student")["notes"]["steps"] for place in (one.directory, place)]
    assert steps[0] == steps[1]
    again = rounds(shop, "active.rounds=3", "train.learning_rate=0.001")
    assert again == found


def test_the_page_of_all_rounds(shop: Workshop) -> None:
    shop.good["active"]["compare"] = {"random": {"use": "random"}}
    found = rounds(shop, "active.rounds=2", "train.learning_rate=0.001")
    content = json.loads((shop.output / "report" / "report.json").read_text())
    jsonschema.validate(content, schema())
    assert [one["value"] for one in content["active"]["rounds"]] == [one.value for one in found.rounds]
    page = (shop.output / "report" / "index.html").read_text()
    assert "Active rounds" in page and found.stopped in page
    assert content["results"]["models"]["random"]["role"] == "student"
    assert yaml.safe_load((shop.output / "run.yaml").read_text())["active"]["compare"]["random"]["use"] == "random"


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
    with pytest.raises(ConfigError, match=r"active.compare.student.*is called 'student' already"):
        shop.check(lambda run: run["active"].update(compare={"student": {"use": "random"}}))
    with pytest.raises(ConfigError, match=r"active.compare.far.*needs target, which the file has not"):
        shop.check(lambda run: run["active"].update(compare={"far": {"use": "dsir"}}))
    with pytest.raises(DistillError, match=r"active.metric is 'bleu', which the evaluation has not; it has cross_ent"):
        rounds(shop, "active.metric=bleu", "active.rounds=1")
    assert exit_code(["train", str(shop.write())]) == 2
    assert "only `distill run` can run them" in capsys.readouterr().err


def test_wrong_use_of_what_rounds_are_made_of(shop: Workshop) -> None:
    """`capture.known`, `evaluate.models` and `active.learns_from`, which any run file may use."""

    def change(**sections: Any) -> Any:
        return lambda run: [run[name].update(fields) for name, fields in sections.items()]

    with pytest.raises(ConfigError, match=r"capture.known\[0\].*there is no store in nowhere"):
        shop.check(change(capture={"known": ["nowhere"]}))
    with pytest.raises(ConfigError, match=r"active.learns_from.*copied from round to round.*learns_from: round"):
        shop.check(change(capture={"update": {"base": "nowhere"}}))
    shop.good["evaluate"] = {}
    with pytest.raises(ConfigError, match=r"evaluate.models.student.*is called 'student' already"):
        shop.check(change(evaluate={"models": {"student": str(shop.directory)}}))
    with pytest.raises(ConfigError, match=r"evaluate.models.other.*holds no config.json"):
        shop.check(change(evaluate={"models": {"other": str(shop.directory)}}))


def test_a_store_of_another_form_is_not_copied_from(shop: Workshop) -> None:
    from distill_core.engine.run import run

    rounds(shop, "active.rounds=1")
    store = str(shop.output / "rounds" / "00" / "capture" / "main")
    other = shop.check(lambda data: (data.pop("active"), data["capture"].update(k=5, known=[store])))
    with pytest.raises(StoreError, match=r"capture.known: .*holds other labels than this capture makes: .*k"):
        run(other, registry=get_registry(), progress=Progress(quiet=True), upto="capture")


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
