"""Where the student and its teacher disagree most: by document, by token or class, and place by place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_core.report.blocks import Block, Cell, Column, Guess, Position, Positions, Prose, Section, Table
from distill_core.report.sections.view import Missing, View
from distill_core.report.text import fixed, number, share

TITLE = "Where they disagree"


def section(view: View) -> Section | Missing:
    found = (view.results or {}).get("disagreements")
    if not found:
        return Missing(TITLE, "this needs an evaluation in which the teacher's own model takes part")
    mean = share(number(found["mean"]))
    classes = bool(found.get("classes"))
    place, listed = ("a prediction", "classes") if classes else ("a token", "tokens")
    said = (
        f"Disagreement at {place} is the share of probability that {found['model']} puts elsewhere than the teacher "
        f"(total variation distance, 0 to 100 %). Its mean is {mean}. Below stand the documents and {listed} with the "
        "largest means, and single places to look at."
    )
    blocks: list[Block] = [Prose([said])]
    for key, heading in (
        ("documents", "Document"),
        ("tokens", "Token to predict"),
        ("classes", "Class to predict"),
        ("domains", "Domain"),
    ):
        if found.get(key):
            blocks.append(_table(heading, found[key], "Predictions" if classes else "Tokens"))
    if found.get("pairs"):
        blocks.append(_pairs(found))
    return Section("disagreements", TITLE, [*blocks, Positions([_position(one, found) for one in found["examples"]])])


def _pairs(found: Mapping[str, Any]) -> Table:
    """What the teacher says where the student says something else."""
    columns = [Column("Teacher says"), Column(f"{found['model']} says"), Column("Predictions", number=True)]
    rows = [[Cell(one["teacher"]), Cell(one["model"]), Cell(f"{one['n']:,}", sort=one["n"])] for one in found["pairs"]]
    return Table("Where their likeliest classes differ, most often first.", columns, rows)


def _table(heading: str, rows: Sequence[Mapping[str, Any]], counted: str) -> Table:
    cells = [
        [
            Cell(shown_token(row["name"]) if heading.startswith("Token") else row["name"]),
            Cell(f"{fixed(100 * number(row['mean']), 1)}\u202f%", sort=number(row["mean"])),
            Cell(f"{row['n']:,}", sort=row["n"]),
        ]
        for row in rows
    ]
    columns = [Column(heading), Column("Mean disagreement", number=True), Column(counted, number=True)]
    return Table(f"Largest mean disagreement, by {heading.lower()}.", columns, cells)


def _position(one: Mapping[str, Any], found: Mapping[str, Any]) -> Position:
    classes = bool(found.get("classes"))
    place = one["document"] if classes else f"{one['document']}, position {one['position']:,}"
    title = f"{place}: {fixed(100 * number(one['value']), 1)}\u202f%"
    guesses = [
        Guess(
            name,
            [(text if classes else shown_token(text), number(p), share(number(p))) for text, p in one["top"][role]],
        )
        for role, name in (("teacher", "teacher"), ("model", found["model"]))
    ]
    before = f"{one['before']} \u2192 " if classes else one["before"]
    return Position(title, before, one["actual"], guesses)


def shown_token(text: str) -> str:
    """A token's text with blanks and line ends that can be seen.

    >>> shown_token(" the"), shown_token("a\\n")
    ('\u2423the', 'a\u21b5')
    """
    return text.replace(" ", "\u2423").replace("\n", "\u21b5")
