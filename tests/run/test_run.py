"""Orchestration, with stages that write a file and count their calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_core.engine.context import RunContext
from distill_core.engine.manifest import Manifest, changes, flat, read_manifest
from distill_core.engine.plan import KINDS, Stage, make_plan
from distill_core.engine.progress import Progress
from distill_core.engine.run import RunResult, run
from distill_core.engine.run_lock import run_lock
from distill_core.errors import DataError, DistillError
from distill_core.registry import Registry, get_registry
from tests.run.conftest import ROWS, Workshop, distill, write_rows

ALL = ["data:train", "data:eval", "student", "capture:main", "train:student", "evaluate", "report"]


class Recorder(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, text: str, *, always: bool = False) -> None:
        self.said.append(text)


class Fakes:
    """Stage functions: each writes what went in; `fail` makes one raise after half its work."""

    def __init__(self, workshop: Workshop, registry: Registry | None = None) -> None:
        self.workshop, self.registry = workshop, registry or get_registry()
        self.calls: list[str] = []
        self.fail: dict[str, BaseException] = {}
        self.found: dict[str, list[str]] = {}

    def function(self, context: RunContext, stage: Stage) -> dict[str, Any]:
        self.calls.append(stage.name)
        directory = context.path(stage.name)
        self.found[stage.name] = sorted(p.name for p in directory.iterdir())
        (directory / "half.txt").write_text(stage.name)
        if stage.name in self.fail:
            raise self.fail[stage.name]
        read = [context.path(name) / "out.json" for name in stage.inputs]
        content = {"parts": stage.parts(), "read": [json.loads(path.read_text()) for path in read]}
        (directory / "out.json").write_text(json.dumps(content, sort_keys=True))
        return {"called": len(self.calls)}

    def run(self, change: Callable[[dict[str, Any]], None] | None = None, upto: str | None = None) -> RunResult:
        self.calls.clear()
        self.progress = Recorder()
        checked = self.workshop.check(change)
        functions = dict.fromkeys(KINDS, self.function)
        return run(checked, registry=self.registry, progress=self.progress, upto=upto, stage_functions=functions)

    def said(self, stage: str) -> str:
        return "\n".join(line for line in self.progress.said if line.startswith(f"{stage}: "))


@pytest.fixture
def fakes(workshop: Workshop) -> Fakes:
    return Fakes(workshop)


def test_all_stages_in_order_then_nothing(fakes: Fakes) -> None:
    result = fakes.run()
    assert fakes.calls == ALL and not result.nothing_done
    again = fakes.run()
    assert fakes.calls == [] and again.nothing_done
    assert [line.partition(": finished")[0] for line in fakes.progress.said] == ALL


def lr(value: float) -> Callable[[dict[str, Any]], None]:
    return lambda run: run["train"].update(learning_rate=value)


def test_a_change_says_what_and_reruns_what_depends_on_it(fakes: Fakes, workshop: Workshop) -> None:
    fakes.run(lr(1e-3))
    fakes.run(lr(2e-3))
    assert fakes.calls == ["train:student", "evaluate", "report"]
    said = fakes.said("train:student")
    assert "train.learning_rate 0.001 -> 0.002" in said and str(workshop.output / "stale" / "train") in said
    assert "output of train:student" in fakes.said("evaluate")
    stale = json.loads((workshop.output / "stale" / "train" / "student" / "out.json").read_text())
    assert stale["parts"]["train.learning_rate"] == 1e-3


def test_changed_data_is_noticed_by_content(fakes: Fakes, workshop: Workshop) -> None:
    fakes.run()
    path = workshop.directory / "train.jsonl"
    os.utime(path, (1, 1))
    fakes.run()
    assert fakes.calls == []
    write_rows(path, ROWS[1:8])
    fakes.run()
    assert fakes.calls == ["data:train", "data:eval", "capture:main", "train:student", "evaluate", "report"]
    assert "data.train.source (content)" in fakes.said("data:train")


def test_changed_teacher_files_are_noticed(fakes: Fakes, plain_teacher: Path) -> None:
    fakes.run()
    (plain_teacher / "model.safetensors").write_bytes(b"weights")
    fakes.run()
    assert "capture:main" in fakes.calls and "student" in fakes.calls
    assert "teacher (content)" in fakes.said("capture:main")


def test_an_equal_output_stops_the_wave(fakes: Fakes, monkeypatch: Any) -> None:
    def constant(context: RunContext, stage: Stage) -> dict[str, Any]:
        fakes.calls.append(stage.name)
        (context.path(stage.name) / "out.json").write_text("{}")
        return {}

    monkeypatch.setattr(fakes, "function", constant)
    fakes.run(lr(1e-3))
    fakes.run(lr(2e-3))
    assert fakes.calls == ["train:student", "report"]  # the report shows the config, which changed


def test_settings_without_effect_rerun_nothing_but_the_report(fakes: Fakes) -> None:
    fakes.run()
    fakes.run(lambda run: run["train"].update(keep_checkpoints=9, trackers=["tensorboard"]))
    assert fakes.calls == ["report"]
    fakes.run(lambda run: run["train"].update(sparse={"method": "topk", "k": 3}))
    assert fakes.calls == ["report"]


def test_a_baseline_adds_its_own_training_alone(fakes: Fakes) -> None:
    fakes.run()
    fakes.run(lambda run: run.update(compare={"hot": {"learning_rate": 1.0}}))
    assert fakes.calls == ["train:hot", "evaluate", "report"]
    assert "output of train:hot is new" in fakes.said("evaluate")


def test_single_stages_run_what_they_need(fakes: Fakes) -> None:
    fakes.run(upto="capture")
    assert fakes.calls == ["data:train", "student", "capture:main"]
    fakes.run(upto="train")
    assert fakes.calls == ["train:student"]
    fakes.run()
    assert fakes.calls == ["data:eval", "evaluate", "report"]


def test_a_failure_keeps_what_can_be_resumed_and_nothing_else(fakes: Fakes, workshop: Workshop) -> None:
    for stage in ("data:train", "capture:main", "evaluate"):
        fakes.fail = {stage: DataError("no")}
        with pytest.raises(DataError):
            fakes.run()
        directory = workshop.output / stage.replace(":", "/")
        left = sorted(p.name for p in directory.iterdir())
        assert left == (["half.txt", "manifest.json"] if stage == "capture:main" else ["manifest.json"])
        manifest = read_manifest(directory)
        assert manifest is not None and manifest.status == "failed" and manifest.error == "DataError: no"
        fakes.fail = {}
    fakes.run()
    assert fakes.calls == ["evaluate", "report"]


def test_an_interrupted_stage_resumes_with_what_it_had(fakes: Fakes, workshop: Workshop) -> None:
    fakes.fail = {"capture:main": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        fakes.run()
    assert fakes.found["capture:main"] == ["manifest.json"]
    first = read_manifest(workshop.output / "capture" / "main")
    assert first is not None and first.cpu_seconds > 0 and first.seconds > 0
    fakes.fail = {}
    result = fakes.run()
    assert "resumes" in fakes.said("capture:main")
    assert fakes.found["capture:main"] == ["half.txt", "manifest.json"]
    assert {o.stage: o.action for o in result.outcomes}["capture:main"] == "resumed"
    manifest = read_manifest(workshop.output / "capture" / "main")
    assert manifest is not None and manifest.attempts == 2
    assert manifest.cpu_seconds > first.cpu_seconds and manifest.seconds > first.seconds


def test_an_interrupted_stage_with_other_options_starts_over(fakes: Fakes) -> None:
    fakes.fail = {"capture:main": KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        fakes.run()
    fakes.fail = {}
    fakes.run(lambda run: run["capture"].update(k=5))
    assert fakes.found["capture:main"] == ["manifest.json"]
    assert "capture.k 6 -> 5" in fakes.said("capture:main") and "removed" in fakes.said("capture:main")


@pytest.mark.parametrize("harm", ["delete", "edit", "manifest", "foreign"])
def test_damaged_outputs_are_made_again(fakes: Fakes, workshop: Workshop, harm: str) -> None:
    fakes.run()
    directory = workshop.output / "train" / "student"
    if harm == "delete":
        (directory / "out.json").unlink()
    elif harm == "edit":
        (directory / "out.json").write_text("{}")
    elif harm == "manifest":
        (directory / "manifest.json").write_text('{"stage": ')
    else:
        (directory / "manifest.json").unlink()
    fakes.run()
    assert fakes.calls == ["train:student"]
    expected = {"delete": "out.json is missing", "edit": "out.json was changed"}.get(harm, "no manifest speaks of")
    assert expected in fakes.said("train:student")
    assert (workshop.output / "stale" / "train" / "student").is_dir()


def test_temporary_files_of_a_killed_process_are_removed(fakes: Fakes, workshop: Workshop) -> None:
    directory = workshop.output / "data" / "train"
    directory.mkdir(parents=True)
    (directory / ".tmp-1-tokens.arrow").write_bytes(b"half")
    fakes.run()
    assert not list(workshop.output.rglob(".tmp-*"))


def test_two_processes_cannot_run_in_one_directory(workshop: Workshop) -> None:
    workshop.output.mkdir()
    with run_lock(workshop.output):
        result = distill("run", workshop.write())
        assert result.returncode == 2 and f"process {os.getpid()}" in result.stderr
        assert "Traceback" not in result.stderr
    with run_lock(workshop.output):
        pass


def test_observers_are_told_and_cannot_stop_a_run(workshop: Workshop, tmp_path: Path) -> None:
    plugin = tmp_path / "observer.py"
    plugin.write_text(
        "from distill_core.plugin import hookimpl\n"
        "seen = []\n"
        "@hookimpl\ndef distill_run_started(run):\n    seen.append(('started', run.name))\n"
        "@hookimpl\ndef distill_artifact_saved(run, stage, path):\n    seen.append((stage, path)); 1 / 0\n"
        "@hookimpl\ndef distill_run_ended(run, error):\n    seen.append(('ended', repr(error)))\n"
    )
    registry = Registry().discover()
    registry.load_file(plugin)
    seen = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == str(plugin)).seen
    fakes = Fakes(workshop, registry)
    fakes.run()
    assert seen[0] == ("started", "small") and seen[-1] == ("ended", "None")
    assert [stage for stage, _ in seen[1:-1]] == ALL
    seen.clear()
    fakes.run()
    assert seen == []
    fakes.fail = {"evaluate": DistillError("no")}
    with pytest.raises(DistillError):
        fakes.run(lr(5.0))
    assert seen[-1] == ("ended", "DistillError('no')")


def test_the_plan_reads_what_it_says(workshop: Workshop) -> None:
    def change(run: dict[str, Any]) -> None:
        run["train"]["eval_steps"] = 2
        run["compare"] = {"hard": {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}}

    plan = make_plan(workshop.check(change), registry=get_registry())
    assert set(plan["train:student"].inputs) == {"data:train", "data:eval", "student", "capture:main"}
    assert set(plan["train:hard"].inputs) == {"data:train", "data:eval", "student"}
    assert plan["data:eval"].inputs == ("data:train",), "it says which documents are in both"
    assert not any(key.startswith(("train.store", "train.sparse")) for key in plan["train:hard"].parts())
    assert plan["train:hard"].parts()["compare.hard.objectives[0].use"] == "objectives:cross-entropy"


def test_changes_are_phrases() -> None:
    old = dict(flat("a", {"x": 1, "y": [1, 2], "h": "0" * 64}))
    new = dict(flat("a", {"x": 1, "y": [1, 3], "h": "1" * 64, "z": None}))
    assert changes(old, new) == [
        "a.y[1] 2 -> 3",
        "a.h 000000000000 -> 111111111111",
        "a.z is new: null",
    ]
    assert changes({"b": "x"}, {}) == ["b is gone (was x)"]


def test_a_new_section_is_one_phrase() -> None:
    old = dict(flat("", {"train": {"k": 2, "order": None}, "compare": {"cold": {"k": 1, "steps": 3}}}))
    hot = {"k": 1, "objectives": [{"use": "a", "weight": 1}]}
    new = dict(flat("", {"train": {"k": 2, "order": {"use": "x"}}, "compare": {"hot": hot}}))
    assert changes(old, new) == [
        "train.order.use is new: x",
        "compare.hot is new",
        "train.order is gone (was null)",
        "compare.cold is gone",
    ]


def test_manifests_that_are_not_there() -> None:
    assert read_manifest(Path("/nonexistent")) is None
    assert Manifest("a", "running", "", {}).outputs == []


def test_kill_in_the_data_stage_and_resume(workshop: Workshop, tiny_model_dir: Path) -> None:
    workshop.good["teacher"]["model"] = str(tiny_model_dir)
    write_rows(workshop.directory / "train.jsonl", ROWS * 4000)
    file = workshop.write()
    directory = workshop.output / "data" / "train"
    process = subprocess.Popen(
        [sys.executable, "-m", "distill_core.cli", "capture", str(file)], stderr=subprocess.DEVNULL
    )
    deadline_s = time.monotonic() + 60
    while not list(directory.glob(".tmp-*tokens.arrow")):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (directory / "tokens.arrow").exists()
    manifest = read_manifest(directory)
    assert manifest is not None and manifest.status == "running"
    write_rows(workshop.directory / "train.jsonl", ROWS[:8])
    progress = Recorder()
    run(workshop.check(), registry=get_registry(), progress=progress, upto="capture")
    said = "\n".join(progress.said)
    assert "unfinished output is removed" in said and "data.train.source (content)" in said
    assert sorted(p.name for p in directory.iterdir()) == ["data.json", "manifest.json", "tokens.arrow"]
