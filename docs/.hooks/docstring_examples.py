"""Examples in docstrings are doctests without a heading; the site shows them as code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^(?P<indent> *)>>> .*\n?(?:(?P=indent)(?! *$).*\n?)*", re.MULTILINE)


def fenced(text: str) -> str:
    """Put a `pycon` fence around each run of doctest lines."""

    def fence(match: re.Match[str]) -> str:
        indent, code = match["indent"], match[0].rstrip("\n")
        return f"{indent}```pycon\n{code}\n{indent}```\n"

    return EXAMPLE.sub(fence, text)


class DocstringExamples(griffe.Extension):
    """Applies `fenced` to every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = fenced(obj.docstring.value)
