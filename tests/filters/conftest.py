"""What filters are built with in these tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import DataError
from distill_core.filtering import build_filter
from distill_core.interfaces import FilterContext
from distill_core.registry import get_registry
from distill_core.testing.tiny_model import tiny_model, tiny_tokenizer

Make = Callable[..., Any]


@pytest.fixture
def said() -> list[str]:
    """What filters said."""
    return []


@pytest.fixture
def make(tmp_path: Path, said: list[str]) -> Make:
    """``make(name, teacher=..., **options)``: a filter, built as a run would."""

    def make_filter(name: str, *, teacher: Any = None, tokenizer: Any = tiny_tokenizer, **options: Any) -> Any:
        def teacher_of(wanted: str | None) -> Any:
            if teacher is None:
                raise DataError("the run file names no teacher")
            return teacher

        context = FilterContext(
            seed=0,
            build=get_registry().build,
            teacher=teacher_of,
            tokenizer=tokenizer,
            say=said.append,
            directory=tmp_path / "filters",
        )
        return build_filter({"use": name, **options}, context)

    return make_filter


@pytest.fixture(scope="session")
def causal_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random language model with its tokenizer on disk."""
    path = tmp_path_factory.mktemp("causal")
    tokenizer = tiny_tokenizer()
    tiny_model(len(tokenizer), seed=3).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


HOSTILE = (
    "",
    " \n\t ",
    "\0" * 50,
    "a\0b \u202ecod\u202c \u200f\u05e9\u05dc\u05d5\u05dd \ud800",
    "🙂👩‍👩‍👧" * 30,
    "x" * 200_000,
    "word " * 20_000,
    "\u0645\u0631\u062d\u0628\u0627 " * 50,
    "e\u0301" * 500,
)
"""Texts that a filter must get through."""
