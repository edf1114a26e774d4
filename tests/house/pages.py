"""The documentation's code blocks, as the tests read them.

A fence's info string is its language and, after it:

    run            a bash block: execute it (default: only check that its commands and options exist)
    help="CMD"     a text block: exactly what `CMD --help` prints
    title="PATH"   write the block to PATH instead of executing it; later blocks of the page can use the file
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LANGUAGES = {"bash", "python", "pycon", "yaml", "toml", "json", "text", "mermaid", "console"}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>.*)$")
_ATTRIBUTE = re.compile(r'(\w+)(?:="([^"]*)")?')


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the number of the fence's line, from 1."""

    page: Path
    line: int
    language: str
    words: dict[str, str]
    code: str

    @property
    def title(self) -> str | None:
        return self.words.get("title")

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


def pages() -> list[Path]:
    """README.md, CONTRIBUTING.md and every page below docs/."""
    return [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def page_id(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order; a block without language is an error."""
    found: list[Block] = []
    start: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        match = _FENCE.match(line)
        if match and start is None:
            start, lines = (number, match["indent"], match["info"].strip()), []
        elif match and start is not None and not match["info"].strip():
            language, _, rest = start[2].partition(" ")
            if language not in LANGUAGES:
                raise ValueError(
                    f"{page}:{start[0]}: fence of language {language!r}; expected one of {sorted(LANGUAGES)}"
                )
            words = {name: value for name, value in _ATTRIBUTE.findall(rest)}
            found.append(Block(page, start[0], language, words, "\n".join(lines) + "\n"))
            start = None
        elif start is not None:
            lines.append(line.removeprefix(start[1]))
    if start is not None:
        raise ValueError(f"{page}:{start[0]}: fence is never closed")
    return found
