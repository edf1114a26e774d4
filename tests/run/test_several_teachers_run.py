"""A run file with two teachers: joint capture, aggregators, row weights, captures apart; killed; refused."""

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

from distill_core.errors import ConfigError
from tests.conftest import make_tiny_llama
from tests.run.conftest import ROWS, Workshop, distill
from tests.run.test_end_to_end import inside

KL = {"use": "forward-kl"}


@pytest.fixture(scope="session")
def other_model_dir(tiny_tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second random teacher, wider than the first, of the same tokenizer."""
    from transformers import AutoTokenizer

    directory = tmp_path_factory.mktemp("other-model")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    make_tiny_llama(vocab_size=len(tokenizer), seed=4, hidden_size=48).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def two_teachers(run: dict[str, Any], first: Path, second: Path) -> None:
    del run["teacher"]
    run["teachers"] = {"a": {"use": "hf", "model": str(first)}, "b": {"use": "hf", "model": str(second)}}
    run["student"] = {"init": {"from_teacher": {"teacher": "a", "layers": [0]}}}
    run["capture"] = {"teachers": ["a", "b"], "joint": True, "method": "topk", "k": 6, "shard_sequences": 2}
    run["train"].update(aggregate={"use": "fixed"}, max_steps=4, learning_rate=1e-2, save_steps=2)


@pytest.fixture
def both(tmp_path: Path, tiny_model_dir: Path, other_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    two_teachers(workshop.good, tiny_model_dir, other_model_dir)
    rows = [{"text": text, "domain": ("sums", "squares")[n % 2]} for n, text in enumerate(ROWS)]
    for name, chosen in (("train", rows[:8]), ("eval", rows[8:])):
        lines = "".join(json.dumps(row) + "\n" for row in chosen)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        workshop.good["data"][name]["source"]["domain"] = "domain"
    return workshop


@pytest.fixture
def on_paper(workshop: Workshop, plain_teacher: Path) -> Workshop:
    """Validates; nothing in it can be loaded."""
    two_teachers(workshop.good, plain_teacher, plain_teacher)
    return workshop


def metrics(workshop: Workshop, training: str) -> list[dict[str, Any]]:
    text = (workshop.output / "train" / training / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_way_of_learning_from_two_teachers(both: Workshop) -> None:
    def ways(run: dict[str, Any]) -> None:
        run["capture"] = [
            {**run["capture"], "name": "both"},
            {"name": "of-a", "teachers": ["a"], "method": "topk", "k": 6},
            {"name": "of-b", "teachers": ["b"], "method": "threshold", "k": 6},
        ]
        run["train"].update(
            store="both",
            aggregate={"use": "router"},
            max_steps=12,
            eval_steps=2,
            objectives=[{**KL, "row_weights": {"use": "ensemble-variance"}}],
        )
        run["compare"] = {
            "apart": {
                "aggregate": None,
                "objectives": [
                    {**KL, "source": "of-a", "name": "from-a", "row_weights": {"use": "teacher-entropy"}},
                    {**KL, "source": "of-b", "name": "from-b", "weight": 0.5},
                ],
            },
            "domains": {"aggregate": {"use": "domain", "routes": {"sums": "a", "squares": {"a": 1, "b": 3}}}},
            "best": {"aggregate": {"use": "minimum-ce"}, "objectives": [KL]},
            "posterior": {
                "aggregate": {"use": "entropy"},
                "objectives": [{"use": "label-posterior", "strength": "ensemble"}],
            },
            "spread": {
                "aggregate": {"use": "fixed", "mean": "geometric"},
                "objectives": [{"use": "ensemble-distribution", "shift": 3.0}],
            },
            "weighed": {
                "aggregate": {"use": "validation-loss", "losses": {"a": 5.0, "b": 6.0}},
                "objectives": [KL],
            },
        }

    result = inside("train", both.write(ways))
    assert result.returncode == 0, result.stderr
    for name in ("student", "domains", "best", "posterior", "spread", "weighed"):
        lines = metrics(both, name)
        assert len(lines) == 12 and lines[-1]["eval_loss"] < lines[1]["eval_loss"], name
    first = metrics(both, "apart")[0]
    assert set(first["objectives"]) == {"from-a", "from-b"}
    assert first["loss"] == pytest.approx(first["objectives"]["from-a"] + 0.5 * first["objectives"]["from-b"], rel=1e-5)


def test_an_ensemble_as_the_live_teacher(both: Workshop, tiny_model_dir: Path, other_model_dir: Path) -> None:
    """One teacher of two members: rows weighed by their disagreement, students judged against the mixture."""

    def live(run: dict[str, Any]) -> None:
        del run["teachers"], run["capture"]
        members = {"a": {"model": str(tiny_model_dir), "weight": 2}, "b": {"model": str(other_model_dir)}}
        run["teacher"] = {"use": "ensemble", "members": members}
        run["student"] = {"init": {"model": str(tiny_model_dir)}}
        run["train"] = {
            "teacher": "live",
            "max_steps": 3,
            "batch_sequences": 2,
            "learning_rate": 1e-2,
            "objectives": [{**KL, "row_weights": {"use": "ensemble-variance", "signal": "mutual_information"}}],
        }

    result = inside("evaluate", both.write(live))
    assert result.returncode == 0, result.stderr
    results = json.loads((both.output / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert "forward_kl" in json.dumps(results["models"]["student"])


@pytest.mark.slow
def test_killed_while_the_router_learns(both: Workshop, tmp_path: Path) -> None:
    """The gate and its optimizer come back from the checkpoint: losses are bit for bit those of a quiet run."""

    def routed(run: dict[str, Any]) -> None:
        run["train"].update(max_steps=60, aggregate={"use": "router", "learning_rate": 0.2})

    file = both.write(routed)
    quiet = distill("train", file, "--set", f"output_dir={tmp_path / 'quiet'}")
    assert quiet.returncode == 0, quiet.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "distill_core.cli", "train", str(file)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    written = both.output / "train" / "student" / "metrics.jsonl"
    ends_s = time.monotonic() + 120
    while time.monotonic() < ends_s and not (written.is_file() and written.read_text().count("\n") > 7):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(written.read_text().splitlines())
    assert 7 < before < 60, f"killed after {before} of 60 steps"
    resumed = distill("train", file)
    assert resumed.returncode == 0 and "resuming at step" in resumed.stderr, resumed.stderr
    expected = (tmp_path / "quiet" / "train" / "student" / "metrics.jsonl").read_text().splitlines()
    assert [line["loss"] for line in metrics(both, "student")] == [json.loads(line)["loss"] for line in expected]


def change(**sections: Any) -> Callable[[dict[str, Any]], None]:
    def apply(run: dict[str, Any]) -> None:
        for name, value in sections.items():
            run[name] = {**run[name], **value} if isinstance(run.get(name), dict) else value

    return apply


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            change(train={"aggregate": None}),
            r"holds several teachers \(a, b\): say how they are mixed, train.aggregate",
        ),
        (change(capture={"method": "threshold"}), r"capture.joint.*needs exact targets.*method: topk, not threshold"),
        (change(capture={"joint": False}), r"one capture of several teachers \(a, b\) mixes their distributions"),
        (
            change(train={"objectives": [{**KL, "source": "nobody"}]}),
            r"train.objectives\[0\].source.*no capture is called 'nobody'",
        ),
        (
            change(train={"teacher": "live", "objectives": [{**KL, "source": "c"}]}),
            r"train.objectives\[0\].source.*no teacher is called 'c'",
        ),
        (
            change(train={"objectives": [{"use": "ensemble-distribution"}]}),
            r"ensemble-distribution needs log_normalizer, but the capture 'main' \(method topk\) gives",
        ),
        (
            change(student={"init": {"from_teacher": {"layers": [0]}}}),
            r"the run file names 2 \(a, b\): say which, `teacher: NAME` beside layers",
        ),
        (
            change(student={"init": {"from_teacher": {"layers": [0], "teacher": "aa"}}}),
            r"student.init.from_teacher.teacher.*no teacher is called 'aa'",
        ),
    ],
    ids=[
        "no-aggregate",
        "sampled-joint",
        "not-joint",
        "source",
        "live-source",
        "arithmetic",
        "whose-layers",
        "layers-of",
    ],
)
def test_refused_before_anything_runs(on_paper: Workshop, changed: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)" + message):
        on_paper.check(changed)


def test_disagreement_of_one_teacher_is_refused(workshop: Workshop) -> None:
    def alone(run: dict[str, Any]) -> None:
        run["train"]["objectives"] = [{**KL, "row_weights": {"use": "ensemble-variance"}}]

    with pytest.raises(ConfigError, match=r"row_weights.*ensemble-variance needs ensemble_variance, but the capture"):
        workshop.check(alone)


def test_refused_while_running(both: Workshop, tiny_tokenizer_dir: Path, tmp_path: Path) -> None:
    routes = {"aggregate": {"use": "domain", "routes": {"sums": "a"}}}
    unrouted = inside("train", both.write(change(train=routes)))
    assert unrouted.returncode == 2 and "no route for the domain 'squares'; routes: sums" in unrouted.stderr
    misnamed = inside("train", both.write(change(train={"aggregate": {"use": "fixed", "weights": {"a": 1, "c": 1}}})))
    assert misnamed.returncode == 2 and "names c, which is no teacher here and says nothing of b" in misnamed.stderr

    from transformers import AutoTokenizer

    foreign = tmp_path / "foreign"
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.add_tokens(["<another>"])
    make_tiny_llama(vocab_size=len(tokenizer)).save_pretrained(foreign)
    tokenizer.save_pretrained(foreign)

    def unequal(run: dict[str, Any]) -> None:
        run["teachers"]["b"]["model"] = str(foreign)

    result = inside("capture", both.write(unequal))
    assert result.returncode == 2 and "different tokenizers" in result.stderr and "Traceback" not in result.stderr
