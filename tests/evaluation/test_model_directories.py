"""`distill evaluate --teacher DIR --student DIR --text FILE`: no run file, whole results, clear errors."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.cli.application import exit_code
from distill_core.cli.evaluate import named_baselines
from distill_core.engine.model_directories import read_records
from distill_core.errors import DataError, DistillError
from distill_core.registry import reset_registry
from tests.conftest import SENTENCES


@pytest.fixture(autouse=True)
def fresh_registry() -> Any:
    yield
    reset_registry()


@pytest.fixture(scope="module")
def directories(models: dict[str, Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Teacher, student and a random baseline as directories."""
    found = {}
    for name, model in models.items():
        found[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    return found


@pytest.fixture
def texts(tmp_path: Path) -> list[Path]:
    """A file of JSON lines with four documents, and a plain text file."""
    lines = [{"text": " ".join([sentence] * 3), "document": f"d{i % 4}"} for i, sentence in enumerate(SENTENCES[:6])]
    (tmp_path / "held.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    (tmp_path / "more.txt").write_text(" ".join(SENTENCES), encoding="utf-8")
    return [tmp_path / "held.jsonl", tmp_path / "more.txt"]


def command(directories: dict[str, Path], texts: list[Path], out: Path, *more: object) -> list[str]:
    words: list[object] = ["evaluate", "--teacher", directories["teacher"], "--student", directories["student"]]
    for path in texts:
        words += ["--text", path]
    return [str(word) for word in [*words, "--out", out, "--length", "64", "-q", *more]]


def test_two_directories_and_two_files(
    directories: dict[str, Path], texts: list[Path], tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    words = command(directories, texts, out, "--baseline", directories["random"], "--prompt", "The state")
    assert exit_code(words) == 0
    shown = capsys.readouterr().out
    assert "report.html" in shown and "random" in shown
    results = json.loads((out / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert list(results["models"]) == ["teacher", "student", "random"]
    assert results["models"]["teacher"]["role"] == "teacher"
    assert results["data"]["documents"] == 5
    assert {"cross_entropy", "forward_kl", "ece"} <= results["models"]["student"]["metrics"].keys()
    verdicts = {c["metric"]: c["verdict"] for c in results["comparisons"] if c["baseline"] == "random"}
    assert verdicts["forward_kl"] == "better"
    assert "The student beats random" in (out / "report.html").read_text(encoding="utf-8")
    manifest = json.loads((out / "evaluate" / "manifest.json").read_text(encoding="utf-8"))
    assert f"text {texts[0]}" in manifest["parts"] and manifest["status"] == "finished"


def test_the_cross_entropy_is_the_models_own(
    directories: dict[str, Path], models: dict[str, Any], tokenizer: Any, texts: list[Path], tmp_path: Path
) -> None:
    """Against Transformers' own loss, sequence by sequence, in float64."""
    assert exit_code(command(directories, texts[1:], tmp_path / "out")) == 0
    results = json.loads((tmp_path / "out" / "evaluate" / "results.json").read_text(encoding="utf-8"))
    ids = tokenizer(texts[1].read_text(encoding="utf-8"))["input_ids"]
    nats, rows = 0.0, 0
    for start in range(0, len(ids), 64):
        piece = torch.tensor([ids[start : start + 64]])
        if piece.shape[1] < 16:
            continue
        with torch.no_grad():
            logits_TV = models["student"](piece).logits[0].double()
        logp_TV = logits_TV.log_softmax(-1)[:-1]
        nats -= float(logp_TV.gather(1, piece[0, 1:, None]).sum())
        rows += piece.shape[1] - 1
    found = results["models"]["student"]["metrics"]["cross_entropy"]
    assert found["n"] == rows and math.isclose(found["value"], nats / rows, rel_tol=1e-5)


def test_without_a_teacher_fidelity_is_named_as_missing(
    directories: dict[str, Path], texts: list[Path], tmp_path: Path
) -> None:
    words = ["evaluate", "--student", directories["student"], "--text", texts[0], "--out", tmp_path / "out", "-q"]
    assert exit_code([str(word) for word in words]) == 0
    results = json.loads((tmp_path / "out" / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert list(results["models"]) == ["student"]
    assert results["not_measured"][0]["evaluator"] == "fidelity"


def test_wrong_use_is_explained(
    directories: dict[str, Path], texts: list[Path], tmp_path: Path, tiny_tokenizer_dir: Path, capsys: Any
) -> None:
    def error(words: list[str]) -> str:
        assert exit_code(words) == 2
        return str(capsys.readouterr().err)

    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    assert "the file is empty" in error(command(directories, [empty], tmp_path / "a"))
    assert "no such file" in error(command(directories, [tmp_path / "absent.txt"], tmp_path / "a"))
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"te', encoding="utf-8")
    assert "line 2: no JSON" in error(command(directories, [tmp_path / "bad.jsonl"], tmp_path / "a"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "0xe9 at offset 3" in error(command(directories, [tmp_path / "latin.txt"], tmp_path / "a"))
    no_model = {**directories, "student": tmp_path}
    message = error(command(no_model, texts, tmp_path / "a"))
    assert "--student" in message and "no config.json" in message and "held.jsonl" in message
    assert "nothing there" in error(command({**directories, "student": tmp_path / "x"}, texts, tmp_path / "a"))
    assert "--student and --text missing" in error(["evaluate"])
    assert "leave out the run file" in error(["evaluate", "run.yaml", "--student", "x"])
    assert "no run file was given" in error(["evaluate", "--set", "a=1"])
    assert "is taken" in error(command(directories, texts, tmp_path / "a", "--baseline", "student=x"))
    assert "--documents page" in error(command(directories, texts, tmp_path / "a", "--documents", "page"))
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == [], "no half of a result is left"


def test_a_damaged_model_is_named(
    directories: dict[str, Path], models: dict[str, Any], tokenizer: Any, texts: list[Path], tmp_path: Path, capsys: Any
) -> None:
    """NaN in the weights ended in the traceback of a chart, a short embedding in torch's IndexError."""
    broken, short = copy.deepcopy(models["student"]), copy.deepcopy(models["student"])
    with torch.no_grad():
        broken.get_output_embeddings().weight[3, 0] = math.nan
    short.resize_token_embeddings(len(tokenizer) - 1)
    for name, model, said in (
        ("broken", broken, "holds NaN. The weights are damaged"),
        ("short", short, f"its embedding has {len(tokenizer) - 1:,} rows, but the tokenizer of"),
    ):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        assert exit_code(command({**directories, "student": tmp_path / name}, texts, tmp_path / "out")) == 2
        message = capsys.readouterr().err
        assert "student cannot be measured" in message and said in message and str(tmp_path / name) in message


def test_different_tokenizers_are_refused(
    directories: dict[str, Path], models: dict[str, Any], tokenizer: Any, texts: list[Path], tmp_path: Path, capsys: Any
) -> None:
    import shutil

    other = tmp_path / "other"
    shutil.copytree(directories["student"], other)
    tokenizer_file = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = tokenizer_file["model"]["vocab"]
    names = [token for token, index in vocabulary.items() if 100 <= index < 102]
    vocabulary[names[0]], vocabulary[names[1]] = vocabulary[names[1]], vocabulary[names[0]]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer_file), encoding="utf-8")
    assert exit_code(command({**directories, "student": other}, texts, tmp_path / "a")) == 2
    message = capsys.readouterr().err
    assert "different tokenizers" in message and "distill compare" in message


def test_what_a_document_is(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    assert [name for name, _ in read_records([path], "file")] == ["a.txt"]
    assert [record["text"] for _, record in read_records([path], "paragraph")] == ["one\ntwo", "three\n"]
    assert [name for name, _ in read_records([path], "line")] == ["a.txt:1", "a.txt:2", "a.txt:4"]
    (tmp_path / "b.jsonl").write_text("[1]\n", encoding="utf-8")
    with pytest.raises(DataError, match="a list, expected an object"):
        list(read_records([tmp_path / "b.jsonl"], "file"))


def test_names_of_baselines() -> None:
    assert list(named_baselines(["runs/q/train/hard-labels/model", "b=x"])) == ["hard-labels", "b"]
    with pytest.raises(DistillError, match="is taken"):
        named_baselines(["a/x", "b/x"])
