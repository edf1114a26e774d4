"""Cheap checks of model directories: does it exist, is it one, how long may a sequence be. No transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill_core.config import RunConfig
from distill_core.engine.run_file.loading import Location
from distill_core.engine.run_file.schema import Problem

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
"""Names of the context length in Transformers configs, the usual one first."""


def looks_local(source: str) -> bool:
    """Whether a model source is meant as a path rather than a hub id such as ``org/name``."""
    return source.startswith((".", "/", "~")) or source.count("/") > 1 or Path(source).expanduser().exists()


def local_config(source: str) -> dict[str, Any] | None:
    """``config.json`` of a local model directory; None if it cannot be read."""
    try:
        text = (Path(source).expanduser() / "config.json").read_text(encoding="utf-8")
        config = json.loads(text)
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) else None


def context_length(config: Any) -> int | None:
    """Longest sequence a model takes by its config (a dict or a ``PretrainedConfig``); None: not said."""
    for field in CONTEXT_FIELDS:
        value = config.get(field) if isinstance(config, dict) else getattr(config, field, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def model_problems(config: RunConfig) -> Iterator[Problem]:
    """Model directories that are not there, and sequences longer than a model's context."""
    init = config.student.init
    if init.model is not None:
        yield from _directory_problems(("student", "init", "model"), init.model, needs="config.json")
        yield from context_problems(config, local_config(init.model), f"the student {init.model}")
    if init.config is not None:
        yield from context_problems(config, init.config, "student.init.config")
    if config.student.tokenizer is not None:
        yield from _directory_problems(("student", "tokenizer"), config.student.tokenizer, needs=None)
    for name, model in config.evaluate.models.items():
        at = ("evaluate", "models", name)
        if name in ("teacher", *config.trainings()):
            yield Problem(at, f"a model of this run is called {name!r} already: give it another name")
        yield from _directory_problems(at, model, needs="config.json")
    no_text = config.task is not None  # a task may read no text; the one that does says so when the student is made
    if init.config is not None and config.student.tokenizer is None and not config.all_teachers and not no_text:
        yield Problem(("student", "tokenizer"), "required: student.init.config brings none and there is no teacher")
    output = Path(config.output_dir).expanduser()
    if output.exists() and not output.is_dir():
        yield Problem(("output_dir",), f"{output} is a file: expected a directory, or a name that is free")


def _directory_problems(at: Location, source: str, *, needs: str | None) -> Iterator[Problem]:
    if not looks_local(source):
        return
    path = Path(source).expanduser()
    if not path.exists():
        yield Problem(at, f"{source} does not exist: expected a model directory, or a hub id such as org/name")
    elif not path.is_dir():
        yield Problem(at, f"{source} is a file: expected a directory that `save_pretrained` wrote")
    elif needs is not None and not (path / needs).is_file():
        yield Problem(at, f"{source} holds no {needs}: expected a directory that `save_pretrained` wrote")


def context_problems(config: RunConfig, model_config: Any, label: str) -> Iterator[Problem]:
    """A sequence longer than the context, naming both lengths."""
    longest = None if model_config is None else context_length(model_config)
    asked = config.data.sequence_length_tokens
    if longest is not None and asked > longest:
        yield Problem(
            ("data", "sequence_length_tokens"),
            f"is {asked} tokens, but {label} has a context of {longest}: use at most {longest}",
        )
