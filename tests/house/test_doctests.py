"""The examples in docstrings run, module by module."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.house.source_tree import Source, core_sources, plugin_sources

EXAMPLES = [source for source in core_sources() + plugin_sources() if ">>> " in source.text]
FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda source: source.module)
def test_docstring_examples(source: Source, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(source.module)
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.attempted > 0, "the examples were not found: is the docstring the first statement?"
    assert result.failed == 0


def test_most_of_the_core_shows_examples() -> None:
    assert len(EXAMPLES) >= 20
