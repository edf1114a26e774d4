"""sequence-kd: what a record becomes, kill -9, a real model through the command line, and what a user is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.errors import ConfigError, DataError, SignalError
from distill_synthesis.sequence_kd import SequenceKD
from distill_synthesis.sequence_kd_options import SequenceKDOptions
from tests.run.conftest import Workshop
from tests.run.test_end_to_end import inside, manifest
from tests.synthesis.sequence_kd_harness import RECORDS, Teacher, context


def made(
    records: Iterable[Mapping[str, Any]], directory: Path, teacher: Any = None, **options: Any
) -> tuple[list[dict[str, Any]], SequenceKD]:
    synthesizer = SequenceKD(SequenceKDOptions(**options))
    synthesizer.build(context(teacher or Teacher()))
    return list(synthesizer.synthesize(iter(records), directory)), synthesizer


class Scripted(Teacher):
    """Gives the answers it was told to, with their reasons."""

    def __init__(self, *answers: tuple[str, str]) -> None:
        super().__init__()
        self.answers = iter(answers)

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            text, reason = next(self.answers)
            yield Completion(request.id, text, reason)


def test_the_teachers_answer_takes_the_place_of_the_records(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"prompt": "One?", "completion": "old", "document": "a", "domain": "x"},
        {"text": "some  plain text here", "document": "b"},
        {"messages": [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "old"}], "document": "c"},
        {"messages": [{"role": "user", "content": "Three?"}], "document": "d"},
    ]
    teacher = Scripted((" 1", "stop"), (" and", "stop"), ("2", "stop"), ("3", "stop"))
    found, synthesizer = made(records, tmp_path, teacher, prefix_words=2, temperature=0.5, max_new_tokens=9)
    provenance = [record.pop("provenance") for record in found]
    assert found == [
        {"prompt": "One?", "completion": " 1", "document": "a", "domain": "x"},
        {"prompt": "some  plain", "completion": " and", "document": "b"},
        {"messages": [{"role": "user", "content": "Two?"}, {"role": "assistant", "content": "2"}], "document": "c"},
        {"messages": [{"role": "user", "content": "Three?"}, {"role": "assistant", "content": "3"}], "document": "d"},
    ]
    assert provenance[1] == {
        "synthesizer": "sequence-kd",
        "teacher": "echo@1",
        "request": "1#0",
        "finish_reason": "stop",
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "stop": [],
        "seed": 0,
    }
    assert synthesizer.summary() == {"sequence-kd": {"teacher": "echo@1", "kept": 4}}


def test_what_was_cut_gets_no_end_token_and_what_is_empty_is_counted(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    from transformers import AutoTokenizer

    from distill_core.config import DataConfig
    from distill_core.engine.records import cut_record

    records = [
        {"prompt": "Who?"},
        {"prompt": "What?"},
        {"prompt": "When?"},
        {"messages": [{"role": "user", "content": "Why?"}]},
    ]
    answers = ((" never ends", "length"), ("", "stop"), (" Now.", "stop"), ("because", "length"))
    found, synthesizer = made(records, tmp_path / "keep", Scripted(*answers))
    assert synthesizer.summary()["sequence-kd"] == {
        "teacher": "echo@1",
        "dropped: cut": 1,
        "dropped: empty": 1,
        "kept": 1,
        "kept, cut": 1,
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    source = {"source": {"use": "rows"}}
    data = DataConfig.model_validate({"train": source, "eval": source, "sequence_length_tokens": 64})
    pieces = [cut_record(record, tokenizer=tokenizer, data=data, document="d").pieces[0] for record in found]
    texts = [tokenizer.decode(piece.input_ids) for piece in pieces]
    assert texts == ["Who? never ends", "When? Now.<eos>"]
    for piece, answer in zip(pieces, (" never ends", " Now.<eos>"), strict=True):
        assert piece.predict is not None
        predicted = [index for index, told in zip(piece.input_ids, piece.predict, strict=True) if told]
        assert tokenizer.decode(predicted) == answer
    dropped, _ = made(records, tmp_path / "drop", Scripted(*answers), unfinished="drop")
    assert [record["prompt"] for record in dropped] == ["When?"]


def test_several_samples_are_several_requests(tmp_path: Path) -> None:
    found, _ = made(RECORDS[:2], tmp_path, samples=2, temperature=1.0)
    assert [record["provenance"]["request"] for record in found] == ["0#0", "0#1", "1#0", "1#1"]
    assert [record["document"] for record in found] == ["d0", "d0", "d1", "d1"]


def harness(directory: Path, fatal: int) -> subprocess.CompletedProcess[str]:
    directory.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.synthesis.sequence_kd_harness", str(directory), str(fatal)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_killed_run_goes_on_behind_the_last_whole_shard(tmp_path: Path) -> None:
    whole = harness(tmp_path / "whole", -1)
    assert whole.returncode == 0, whole.stderr
    killed = harness(tmp_path / "killed", 2)
    assert killed.returncode == -signal.SIGKILL
    path = tmp_path / "killed" / "completions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "torn')
    resumed = harness(tmp_path / "killed", -1)
    *records, asked = resumed.stdout.splitlines()
    *expected, everything = whole.stdout.splitlines()
    assert records == expected and len(records) == 10
    assert json.loads(everything) == [f"{n}#0" for n in range(10)]
    assert json.loads(asked) == [f"{n}#0" for n in range(6, 10)]  # two shards of three were whole


def test_other_parameters_are_other_completions(tmp_path: Path) -> None:
    for options in ({}, {"temperature": 0.5}, {"max_new_tokens": 3}):
        teacher = Teacher()
        made(RECORDS[:2], tmp_path, teacher, **options)
        assert len(teacher.asked) == 2
    again = Teacher()
    made(RECORDS[:2], tmp_path, again)
    assert again.asked == []


@pytest.fixture
def tiny(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    workshop.good["synthesize"] = {"use": "sequence-kd", "prefix_words": 3, "max_new_tokens": 6, "temperature": 1.0}
    workshop.good["data"]["sequence_length_tokens"] = 48
    return workshop


def test_a_model_writes_what_the_student_is_trained_on(tiny: Workshop) -> None:
    """Through the command line: synthesize, then data, capture and training; a second run reuses, another seed not."""
    file = tiny.write()
    result = inside("train", file)
    assert result.returncode == 0, result.stderr
    records = [json.loads(text) for text in (tiny.output / "synthesize" / "records.jsonl").read_text().splitlines()]
    assert len(records) == 8 and {record["provenance"]["finish_reason"] for record in records} <= {"stop", "length"}
    notes = manifest(tiny, "synthesize")["notes"]
    assert notes["records"] == 8 and sum(notes["sequence-kd"].get(k, 0) for k in ("kept", "kept, cut")) == 8
    assert manifest(tiny, "data:train")["notes"]["sequences"] == 8
    assert "synthesize: finished" in inside("train", file).stderr
    assert any("teacher" in part for part in manifest(tiny, "synthesize")["parts"])
    changed = inside("synthesize", tiny.write(lambda data: data.update(seed=1)))
    assert "runs again" in changed.stderr and "seed" in changed.stderr


# What a user is told ----------------------------------------------------------------------------------------------


def test_wrong_use(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"document b: no prompt .*received the fields .*for plain text set prefix_words"
    ):
        made([{"text": "only text", "document": "b"}], tmp_path)
    with pytest.raises(SignalError, match=r"sequence-kd asks a teacher for text, but object does not write"):
        SequenceKD(SequenceKDOptions()).build(context(object()))
    with pytest.raises(RuntimeError, match=r"call build\(ctx\) first"):
        list(SequenceKD(SequenceKDOptions()).synthesize([], tmp_path))

    class Lazy(Teacher):
        def generate(
            self, requests: Iterable[GenerationRequest], parameters: GenerationParameters
        ) -> Iterator[Completion]:
            return iter(())

    with pytest.raises(SignalError, match=r"gave 0 answers to 2 requests"):
        made(RECORDS[:2], tmp_path, Lazy())
    (tmp_path / "completions.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(DataError, match=r"line 1: no completions \(KeyError\).*delete it"):
        made(RECORDS[:2], tmp_path)


def test_validation(tiny: Workshop) -> None:
    with pytest.raises(ConfigError, match=r"synthesize.samples.*2 completions at temperature 0 are one and the same"):
        tiny.check(lambda data: data["synthesize"].update(samples=2, temperature=0.0))
