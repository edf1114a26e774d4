"""The plan as a whole: JSON, advice, run files, model files, wrong inputs, the command line."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

from distill_core.cli.application import exit_code
from distill_core.errors import DistillError
from distill_core.planning import Plan
from distill_core.planning.gguf_header import gguf_shape, read_gguf_header
from distill_core.planning.losses import expected_losses
from distill_core.planning.make import make_plan
from distill_core.planning.model_files import config_shape, model_shape
from distill_core.planning.request import Request
from distill_core.planning.scaling_law import BUSBRIDGE, DISTILLATION
from distill_core.planning.shape import ModelShape, shape_of_size
from tests.conftest import make_tiny_llama

SIZES = ["--teacher-parameters", "1.7e9", "--teacher-loss", "2.1", "--student-parameters", "0.3e9", "--tokens", "8e9"]


def request(**changes: Any) -> Request:
    student = shape_of_size(0.3e9, label="student", vocabulary=32_768)
    teacher = shape_of_size(1.7e9, label="teacher", vocabulary=32_768)
    return Request(**{"student": student, "teacher": teacher, "teacher_loss": 2.1, "tokens": 8e9, **changes})


def advice(plan: Plan) -> str:
    return "\n".join(f"{one.advice}: {one.why}" for one in plan.recommendations)


def test_json_is_what_the_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["plan", *SIZES, "--flops", "3e14", "--memory", "24e9", "--json"]) == 0
    text = capsys.readouterr().out
    plan = Plan.model_validate_json(text)
    assert json.loads(text)["schema_version"] == 1
    assert plan.inputs["teacher_loss"] == 2.1
    figures = (*plan.loss, *plan.compute, *plan.memory, *plan.storage)
    keys = [figure.key for figure in figures]
    assert len(keys) == len(set(keys))
    assert {figure.formula for figure in figures} == set(plan.formulas)
    assert all(formula.source and formula.domain for formula in plan.formulas.values())
    assert {figure.unit for figure in figures} == {"nat", "FLOP", "s", "B", "1", "passes"}
    assert plan.missing == ()
    student = plan.figure("student_loss")
    assert student.outside == ()
    assert student.value == DISTILLATION.loss(plan.inputs["student"]["body"], 8e9, 2.1)


def test_terminal_output_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["plan", *SIZES, "--formulas"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Expected loss",
        "Memory of a training step",
        "Advice",
        "equation 8",
        "Not computed",
        "threshold, k = 12",
    ):
        assert part in shown
    assert "outside the domain" not in shown
    assert exit_code(["plan", *SIZES[:-1], "1e8"]) == 0
    shown = capsys.readouterr().out
    assert "outside the domain" in shown
    assert "extrapolation" in shown
    assert "equation 8" not in shown


def test_a_too_strong_teacher_is_warned_of() -> None:
    small = shape_of_size(0.2e9, label="student", vocabulary=32_768)
    best = DISTILLATION.best_teacher_loss(small.body, 4e9)
    strong = make_plan(request(student=small, tokens=4e9, teacher_loss=1.6))
    assert any(warning.startswith("capacity gap") for warning in strong.warnings)
    slightly = make_plan(request(student=small, tokens=4e9, teacher_loss=best - 0.02))
    assert any("stronger teacher would not help" in warning for warning in slightly.warnings)
    good = make_plan(request(student=small, tokens=4e9, teacher_loss=best + 0.1))
    assert not any("capacity gap" in warning or "stronger teacher" in warning for warning in good.warnings)


def test_a_weak_teacher_is_warned_of() -> None:
    weak = make_plan(request(teacher_loss=3.5))
    assert any("no better than the student would be without it" in warning for warning in weak.warnings)
    assert "train without a teacher" in advice(weak)
    foreign = make_plan(request(teacher_loss=0.9))
    assert any("below the irreducible" in warning for warning in foreign.warnings)


def test_training_the_teacher_for_one_student_does_not_pay() -> None:
    """The paper's summary: with one student and a teacher to train, train without one; with many, distil."""
    plenty = {"teacher_loss": None, "teacher_tokens": 34e9, "train_teacher": True}
    assert "train without a teacher" in advice(make_plan(request(**plenty)))
    existing = make_plan(request(teacher_loss=None, teacher_tokens=34e9))
    assert "train without a teacher" not in advice(existing)
    assert existing.figure("teacher_loss").value == BUSBRIDGE.loss(request().teacher.body, 34e9)  # type: ignore[union-attr]


def test_equal_compute_counts_the_teacher() -> None:
    one, many = expected_losses(request()), expected_losses(request(students=100, epochs=2))
    assert one is not None and many is not None
    assert one.alone_same_compute is not None and many.alone_same_compute is not None
    assert one.alone_same_compute < many.alone_same_compute < one.alone


def test_store_or_live_follows_the_passes() -> None:
    assert "let the teacher answer live, unless" in advice(make_plan(request(flops=3e14)))
    assert "capture the teacher once" in advice(make_plan(request(flops=3e14, epochs=2)))
    assert "capture the teacher once" in advice(make_plan(request(flops=3e14, students=2)))
    assert "reading a stored position takes longer" in advice(make_plan(request(flops=3e14, epochs=2, disk=1e3)))


def test_memory_advice() -> None:
    assert "micro-batches of 8 sequences fit" in advice(make_plan(request(memory=80e9)))
    assert "turn gradient checkpointing on" in advice(make_plan(request(memory=9e9)))
    assert "smaller micro-batches" in advice(make_plan(request(memory=5e9)))
    assert "use LoRA" in advice(make_plan(request(memory=2e9)))


def test_laws_fall_silent_where_they_say_nothing() -> None:
    tiny = make_plan(request(tokens=1e4))
    assert tiny.loss == ()
    assert any("more than the" in reason for reason in tiny.missing)
    assert all(math.isfinite(figure.value) for figure in tiny.compute)


def test_a_run_file_needs_no_sizes(repository: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = repository / "recipes" / "quickstart.yaml"
    set_ = ["--set", f"output_dir={tmp_path / 'run'}"]
    assert exit_code(["plan", str(run), *set_, "--json"]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert plan.inputs["teacher"]["parameters"] == 134_515_008
    assert plan.inputs["student"]["parameters"] == 134_515_008 - 22 * 3_540_096  # eight layers of thirty
    assert plan.inputs["tokens"] == 192 * 128 * 2
    assert plan.inputs["captures"] == [{"method": "threshold", "k": 12}, {"method": "topk", "k": 64}]
    assert exit_code(["plan", str(run), *set_, "--tokens", "1e9", "--batch", "2", "--json"]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert (plan.inputs["tokens"], plan.inputs["batch"]) == (1e9, 2)


def test_sizes_come_from_headers(tmp_path: Path) -> None:
    model = make_tiny_llama()
    model.save_pretrained(tmp_path / "model")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    found = model_shape(str(tmp_path / "model"), label="student")
    assert found.parameters == parameters
    assert found == config_shape(model.config.to_dict(), label="student")
    assert (found.layers, found.hidden, found.key_value, found.tied) == (2, 32, 16, False)
    half = found.with_layers(1)
    assert half.parameters == make_tiny_llama(num_hidden_layers=1).num_parameters()


def gguf(path: Path, *, tensors: int = 2, text: bytes = b"llama") -> Path:
    def string(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    values = string(b"general.architecture") + struct.pack("<I", 8) + string(text)
    for name, number in ((b"block_count", 1), (b"attention.head_count", 2), (b"feed_forward_length", 8)):
        values += string(b"llama." + name) + struct.pack("<II", 4, number)
    values += string(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + string(b"a") + string(b"b")
    shapes = [(b"token_embd.weight", (4, 10)), (b"blk.0.ffn_up.weight", (4, 8))][:tensors]
    body = b"".join(
        string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<IQ", 0, 0)
        for name, shape in shapes
    )
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, len(shapes), 5) + values + body)
    return path


def test_a_gguf_header(tmp_path: Path) -> None:
    path = gguf(tmp_path / "model.gguf")
    values, tensors = read_gguf_header(path)
    assert values["tokenizer.ggml.tokens"] == 2
    assert tensors["token_embd.weight"] == (4, 10)
    shape = gguf_shape(path, label="teacher")
    assert shape == ModelShape(32, 4, 1, 4, 4, 8, 10, tied=True)
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(DistillError, match="GGUF"):
            gguf_shape(path, label="teacher")
    with pytest.raises(DistillError, match=r"lacks 'token_embd.weight'"):
        gguf_shape(gguf(path, tensors=0), label="teacher")


WRONG = {
    "nothing": ([], "a plan needs --student-parameters (or --student) and --tokens"),
    "no tokens": (["--student-parameters", "1e9"], "a plan needs --tokens"),
    "negative": (["--student-parameters", "-1", "--tokens", "1e9"], "--student-parameters must be positive, got -1"),
    "embedding": (["--student-parameters", "1e6", "--tokens", "1e9"], "that number counts the embeddings"),
    "no vocabulary": ([*SIZES, "--vocabulary", "0"], "--vocabulary must be positive, got 0"),
    "negative vocabulary": ([*SIZES, "--vocabulary", "-5"], "--vocabulary must be positive, got -5"),
    "no width": ([*SIZES, "--hidden", "0"], "--hidden must be positive, got 0"),
    "no layers": ([*SIZES, "--layers", "0"], "--layers must be positive, got 0"),
    "twice": (
        ["--student", "x", "--student-parameters", "1e9", "--tokens", "1"],
        "say the same thing",
    ),
    "no file": (["--student", "./none", "--tokens", "1e9"], "there is no file or directory none"),
    "half a store": ([*SIZES, "--k", "3"], "--method and --k belong together"),
    "method": ([*SIZES, "--method", "top", "--k", "3"], "--method must be one of topk, threshold, multinomial"),
    "dtype": ([*SIZES, "--dtype", "int8"], "--dtype must be float32, bfloat16 or float16, got 'int8'"),
    "utilisation": (
        [*SIZES, "--utilisation", "40"],
        "is a share of the hardware's FLOP/s in (0, 1], got 40",
    ),
    "perplexity": ([*SIZES, "--teacher-loss", "25"], "--teacher-loss is a cross-entropy in nat per token"),
    "teacher": ([*SIZES, "--train-teacher"], "--train-teacher needs --teacher-tokens"),
    "set": ([*SIZES, "--set", "seed=1"], "--set changes a run file, but none was given"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs_say_what_to_do(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, expected = WRONG[case]
    assert exit_code(["plan", *arguments]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_all_problems_at_once() -> None:
    with pytest.raises(DistillError) as caught:
        request(tokens=-1, utilisation=0.0, epochs=0.5)
    assert [line.split()[1] for line in str(caught.value).splitlines()[1:]] == ["--tokens", "--utilisation", "--epochs"]


def test_a_run_file_without_a_length_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"text": "one two three"}\n')
    make_tiny_llama().save_pretrained(tmp_path / "model")
    run = tmp_path / "run.yaml"
    source = f"{{source: {{use: jsonl, path: {data}}}}}"
    run.write_text(
        f"name: x\noutput_dir: {tmp_path / 'out'}\ndata:\n  train: {source}\n  eval: {source}\n"
        f"teacher: {{use: hf, model: {tmp_path / 'model'}}}\nstudent:\n  init: {{model: {tmp_path / 'model'}}}\n"
        "train: {teacher: live}\n"
    )
    assert exit_code(["plan", str(run)]) == 2
    assert "give --tokens, or set train.max_steps" in " ".join(capsys.readouterr().err.split())
    assert exit_code(["plan", str(run), "--tokens", "1e4", "--json"]) == 0
    plan = Plan.model_validate_json(capsys.readouterr().out)
    assert plan.inputs["live"] is True
    assert plan.figure("memory_teacher").value == 4 * plan.inputs["teacher"]["parameters"]
