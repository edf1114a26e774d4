"""What a section of the page is made of. Sections return these; the template alone knows HTML.

All texts are plain: the template escapes them and makes control characters visible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Figure:
    """A chart with its caption; ``legend``: (label, tone) pairs, empty where the chart labels itself."""

    title: str
    note: str
    svg: Markup
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Figures:
    """Charts side by side."""

    kind: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Prose:
    """Sentences, a paragraph each; ``tone``: ``lead``, ``notice`` or ``alarm``."""

    kind: ClassVar[str] = "prose"
    sentences: Sequence[str]
    tone: str = "lead"


@dataclass(frozen=True)
class Column:
    """A column of a table: ``model`` names the model it is of, for its colour."""

    label: str
    number: bool = False
    model: str | None = None


@dataclass(frozen=True)
class Cell:
    """A cell: ``sub`` stands below in small type, ``sort`` orders the column, ``verdict`` colours the text."""

    text: str
    sub: str = ""
    sort: float | str | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, and copied as Markdown and LaTeX; the first cell of a row is its header."""

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    primary: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Pairs:
    """Names with their values, under a heading; of ``total`` many the values are set in bold."""

    title: str
    items: Sequence[tuple[str, str]]
    total: int = 0


@dataclass(frozen=True)
class PairLists:
    """Lists of names and values side by side."""

    kind: ClassVar[str] = "pairs"
    lists: Sequence[Pairs]


@dataclass(frozen=True)
class Sample:
    """A prompt and what each model made of it: (model, text)."""

    prompt: str
    outputs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Samples:
    """Texts of several models under their prompts."""

    kind: ClassVar[str] = "samples"
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Guess:
    """What one model expects next: token texts with their probabilities, and those as text."""

    model: str
    tokens: Sequence[tuple[str, float, str]]


@dataclass(frozen=True)
class Position:
    """A place in a text where two models differ."""

    title: str
    before: str
    actual: str
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Positions:
    """Places to browse, the first ones open."""

    kind: ClassVar[str] = "positions"
    positions: Sequence[Position]


@dataclass(frozen=True)
class Detail:
    """Long text that opens on demand."""

    kind: ClassVar[str] = "detail"
    summary: str
    note: str
    text: str


@dataclass(frozen=True)
class Absent:
    """What is not there yet, and the command that produces it."""

    kind: ClassVar[str] = "absent"
    what: str
    command: str = ""


@dataclass(frozen=True)
class Picture:
    """An image under its label: a data URI, its size on the page, and what it shows in words."""

    label: str
    source: str
    width: int
    height: int
    words: str


@dataclass(frozen=True)
class Pictures:
    """Images side by side, pixels kept sharp."""

    kind: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]


Block = Figures | Pictures | Prose | Table | PairLists | Samples | Positions | Detail | Absent


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        name: its anchor, unique on the page.
        title: heading.
        blocks: what it shows, in order.
    """

    name: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
