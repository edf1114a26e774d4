"""Through the command line: synthesize, capture of what was made, training on it; and what validation says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill_core.errors import ConfigError
from distill_core.store import StoreReader
from tests.generation.scribe import adds_up
from tests.run.conftest import Workshop
from tests.run.test_end_to_end import inside, manifest


@pytest.fixture
def tiny(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    workshop.good["synthesize"] = {
        "use": "back-translation",
        "ask_as": "text",
        "max_new_tokens": 40,
        "stop": ["e", "a", "t", " "],
        "filters": [{"use": "exact-dedup"}],
        "templates": {"back_translation": str(tmp_path / "own.j2")},
        "budget": {"tokens": 5000},
    }
    (tmp_path / "own.j2").write_text("{{ text }} Why")
    workshop.good["data"]["sequence_length_tokens"] = 120
    return workshop


def test_made_data_is_captured_and_trained_on_in_one_run(tiny: Workshop) -> None:
    """The teacher writes; its sparse distribution over what it wrote is stored; the student learns from the store."""
    result = inside("train", tiny.write())
    assert result.returncode == 0, result.stderr
    lines = (tiny.output / "synthesize" / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    notes = manifest(tiny, "synthesize")["notes"]
    adds_up(notes["funnel"], len(records))
    assert 0 < notes["back-translation"]["spent"]["tokens"] <= 5000
    assert notes["records"] == len(records) > 1
    assert all(record["prompt"] and record["completion"].startswith("Record ") for record in records)
    sequences = manifest(tiny, "data:train")["notes"]["sequences"]
    assert sequences == len(records)
    capture = manifest(tiny, "capture:main")["notes"]
    store = StoreReader(tiny.output / "capture" / "main")
    assert len(store) == sequences, "a made sequence has no distribution of the teacher"
    assert capture["teacher"] == records[0]["provenance"]["teacher"]
    training = manifest(tiny, "train:student")
    assert training["status"] == "finished" and training["notes"]["steps"] == 3
    assert "synthesize: finished" in inside("train", tiny.write()).stderr
    (tiny.directory / "own.j2").write_text("{{ text }} How")
    again = inside("synthesize", tiny.write())
    assert "runs again" in again.stderr and "file" in again.stderr, "the template's content is no part of the run"


def test_validation(tiny: Workshop) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.filters\[0\]\.use .*exact-dedup"):
        tiny.check(lambda data: data["synthesize"].update(filters=[{"use": "exact-dedupe"}]))
    with pytest.raises(ConfigError, match=r"synthesize\.templates.*does not show text"):
        (tiny.directory / "own.j2").write_text("Why?")
        tiny.check()
    with pytest.raises(ConfigError, match=r"needs a teacher that writes text"):
        (tiny.directory / "s").mkdir()
        (tiny.directory / "own.j2").write_text("{{ text }}")
        tiny.check(lambda data: data.update(teacher={"use": "store", "path": str(tiny.directory / "s")}))
