"""A whole run through the command line on a tiny random teacher: twice, changed, killed, and refused."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from distill_core.cli.application import exit_code
from tests.run.conftest import Workshop, distill

STAGES = [
    "data:train",
    "data:eval",
    "student",
    "capture:main",
    "train:student",
    "train:hard-labels",
    "evaluate",
    "report",
]


@pytest.fixture
def tiny(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    workshop.good["capture"]["shard_sequences"] = 2
    workshop.good["train"].update(max_steps=6, learning_rate=1e-2, eval_steps=3, save_steps=2)
    workshop.good["compare"] = {"hard-labels": {"teacher": "none", "objectives": [{"use": "cross-entropy"}]}}
    workshop.good["report"] = {"prompts": ["The state"], "max_new_tokens": 4}
    return workshop


def lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    return result.stderr.splitlines()


def manifest(workshop: Workshop, stage: str) -> dict[str, Any]:
    path = workshop.output / stage.replace(":", "/") / "manifest.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def inside(*words: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process, where torch is imported already."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = exit_code([str(word) for word in words])
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def test_run_again_change_and_single_stages(tiny: Workshop, monkeypatch: Any) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
    file = tiny.write()
    first = inside("run", file)
    assert first.returncode == 0, first.stderr
    assert [line.partition(": starts")[0] for line in lines(first) if line.endswith(": starts")] == STAGES
    assert str(tiny.output / "report" / "index.html") in first.stdout
    check_outputs(tiny)

    before = {path: path.stat().st_mtime_ns for path in tiny.output.rglob("*") if path.is_file()}
    started_s = time.monotonic()
    again = distill("run", file)
    assert again.returncode == 0 and time.monotonic() - started_s < 10
    assert [line.split(": finished")[0] for line in lines(again)] == STAGES
    assert "nothing was done" in again.stdout
    after = {path: path.stat().st_mtime_ns for path in tiny.output.rglob("*") if path.is_file()}
    changed = {path for path in after if after[path] != before.get(path)}
    assert changed <= {tiny.output / ".run.lock"} and before.keys() == after.keys()

    rate = inside("train", file, "--set", "train.learning_rate=0.02")
    assert rate.returncode == 0, rate.stderr
    said = [line for line in lines(rate) if "runs again" in line]
    assert len(said) == 2 and all("train.learning_rate 0.01 -> 0.02" in line for line in said)
    assert not any(line.startswith(("evaluate", "report")) for line in lines(rate))
    assert (tiny.output / "stale" / "train" / "student" / "model" / "config.json").is_file()


def check_outputs(tiny: Workshop) -> None:
    results = json.loads((tiny.output / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert set(results["models"]) == {"teacher", "student", "hard-labels"}
    student = (tiny.output / "train" / "student" / "metrics.jsonl").read_text().splitlines()
    assert len(student) == 6
    for stage in STAGES:
        found = manifest(tiny, stage)
        assert found["status"] == "finished" and found["output_digest"] and found["outputs"], stage
    assert manifest(tiny, "data:train")["notes"]["tokenizer"]["fingerprint"]
    assert manifest(tiny, "train:student")["notes"]["kernels"]
    assert manifest(tiny, "data:train")["parts"]["data.train.source.use"] == "synthesis:jsonl"


def test_nothing_is_done_without_torch(tiny: Workshop) -> None:
    file = tiny.write()
    assert inside("capture", file).returncode == 0
    code = (
        "import sys; from distill_core.cli.application import exit_code\n"
        f"assert exit_code(['capture', {str(file)!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "capture:main: finished" in result.stderr


def test_damaged_shards_are_made_again_and_no_others(tiny: Workshop) -> None:
    file = tiny.write()
    assert inside("capture", file).returncode == 0
    whole = store_files(tiny.output)
    first, second, *_ = sorted((tiny.output / "capture" / "main").glob("*.arrow"))
    untouched = second.stat().st_mtime_ns
    content = bytearray(first.read_bytes())
    content[len(content) // 2] ^= 0xFF
    first.write_bytes(content)
    mended = inside("capture", file)
    assert mended.returncode == 0, mended.stderr
    assert f"{first.name} was changed" in mended.stderr and "checksum" in mended.stderr
    assert store_files(tiny.output) == whole and second.stat().st_mtime_ns == untouched
    (tiny.output / "capture" / "main" / "store.json").write_text("{")
    again = inside("capture", file)
    assert again.returncode == 0 and "starts over" in again.stderr
    assert store_files(tiny.output) == whole


@pytest.mark.slow
def test_killed_at_random_moments_and_run_again(tiny: Workshop, tmp_path: Path) -> None:
    """The store is byte for byte, the losses bit for bit, those of a run that nobody disturbed."""
    file = tiny.write()
    undisturbed = distill("train", file, "--set", f"output_dir={tmp_path / 'whole'}")
    assert undisturbed.returncode == 0, undisturbed.stderr
    moments = random.Random(0)
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-m", "distill_core.cli", "train", str(file)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        time.sleep(moments.uniform(0.5, 9.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
    resumed = distill("train", file)
    assert resumed.returncode == 0, resumed.stderr
    assert store_files(tiny.output) == store_files(tmp_path / "whole")
    assert losses(tiny.output) == losses(tmp_path / "whole")


def store_files(output: Path) -> dict[str, bytes]:
    directory = output / "capture" / "main"
    return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and p.name != "manifest.json"}


def losses(output: Path) -> list[tuple[int, float]]:
    text = (output / "train" / "student" / "metrics.jsonl").read_text(encoding="utf-8")
    return [(line["step"], line["loss"]) for line in map(json.loads, text.splitlines())]


def test_another_tokenizer_is_refused(tiny: Workshop, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    """Same size, other meaning: two tokens of the vocabulary are exchanged."""
    other = tmp_path / "other-tokenizer"
    other.mkdir()
    for path in tiny_tokenizer_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    result = inside("capture", tiny.write(lambda run: run["student"].update(tokenizer=str(other))))
    assert result.returncode == 2, result.stderr
    assert "different tokenizers" in result.stderr and "Traceback" not in result.stderr
    assert manifest(tiny, "capture:main")["status"] == "failed"


def test_context_is_checked_when_the_student_is_made(tiny: Workshop) -> None:
    result = inside("train", tiny.write(lambda run: run["data"].update(sequence_length_tokens=300)))
    assert result.returncode == 2 and "300" in result.stderr and "256" in result.stderr
    assert "Traceback" not in result.stderr


def torchrun(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, "-m", "distill_core.cli", *words, str(file)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_two_processes_share_a_training(tiny: Workshop, tmp_path: Path) -> None:
    file = tiny.write()
    early = torchrun(file, "train")
    assert early.returncode != 0 and "run `distill run FILE` in one process first" in early.stderr
    assert distill("capture", file).returncode == 0
    assert distill("train", file, "--set", "compare={}").returncode == 0
    one = losses(tiny.output)

    def halved(run: dict[str, Any]) -> None:
        run["train"]["batch_sequences"] = 1
        run["compare"] = {}

    shared = torchrun(tiny.write(halved), "train")
    assert shared.returncode == 0, shared.stderr
    assert "train.batch_sequences 2 -> 1" in shared.stderr
    two = losses(tiny.output)
    assert [step for step, _ in two] == [step for step, _ in one]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    assert "nothing was done" in torchrun(tiny.write(halved), "train").stdout
