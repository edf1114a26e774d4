"""Validation knows which teachers write, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_core.engine.run_file.loading import parse_run_text
from distill_core.engine.run_file.validate import check_run
from distill_core.errors import ConfigError
from distill_core.plugin import Needs
from distill_core.registry import Registry

RUN = """
name: x
output_dir: runs/x
{teacher}
student: {{tokenizer: org/name, init: {{model: org/student}}}}
data:
  train: {{source: {{use: text-files, paths: [README.md]}}}}
  eval: {{source: {{use: text-files, paths: [README.md]}}}}
synthesize: {{use: asks}}
train: {{objectives: [{{use: cross-entropy}}], max_steps: 1, teacher: none}}
"""


class Asks:
    """A synthesizer that has a teacher write."""

    def __init__(self, options: Any) -> None:
        self.options = options


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Registry:
    monkeypatch.chdir(repository)
    registry = Registry().discover()
    registry.register("synthesizer", "asks", Asks, needs=Needs(frozenset({"text"})))
    registry.register("teacher", "numbers", Asks)
    return registry


@pytest.mark.parametrize(
    ("teacher", "found"),
    [("teacher: {use: numbers}", "numbers gives "), ("", "the file has none")],
    ids=["numbers-alone", "no-teacher"],
)
def test_a_teacher_that_does_not_write_is_refused(teacher: str, found: str, registry: Registry) -> None:
    with pytest.raises(ConfigError, match=rf"synthesize.*asks needs a teacher that writes text \(text\): .*{found}"):
        check_run(parse_run_text(RUN.format(teacher=teacher)), registry=registry)


def test_a_teacher_that_writes_is_admitted(registry: Registry) -> None:
    for teacher in ("hf, model: org/name", "openai, model: m, api_key_env: null", "answers, path: README.md"):
        checked = check_run(parse_run_text(RUN.format(teacher=f"teacher: {{use: {teacher}}}")), registry=registry)
        assert checked.config.synthesize is not None
