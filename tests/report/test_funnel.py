"""The funnel on the page: every figure, every reason, hostile text as text, and nothing from a broken file."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from distill_core.files import write_json
from distill_core.funnel import Funnel
from distill_core.report import write_report
from tests.report.fake_run import write_run
from tests.report.test_report import HOSTILE, Registry, Structure


def add_funnel(directory: Path, funnel: Any, split: str = "train") -> None:
    path = directory / "data" / split / "data.json"
    write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "funnel": funnel})


def page_of(directory: Path) -> str:
    return write_report(directory, registry=Registry()).read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """The cells of the funnel tables as plain text."""
    found = []
    for table in re.findall(r'<table class="records">.*?</table>', page, re.DOTALL):
        for row in re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]:
            cells = re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
            found.append([html.unescape(" ".join(re.sub("<[^>]+>", " ", cell).split())) for cell in cells])
    return found


def test_the_table_has_every_figure(tmp_path: Path) -> None:
    write_run(tmp_path)
    funnel = Funnel()
    length, cut = funnel.step("length"), funnel.step("sequences")
    for index in range(1200):
        if index % 4 == 0:
            length.drop("too short: 2 words, at least 5", {"text": f"Oh {index}", "document": f"d{index}"})
        else:
            length.keep()
            cut.keep()
    add_funnel(tmp_path, funnel.plain())
    page = page_of(tmp_path)
    assert rows(page) == [
        ["length", "1,200", "900", "300 25.0%", "too short : 300"],
        ["sequences", "900", "900", "0", ""],
    ]
    assert "data/train: 1,200 records in, 900 out (75.0%)" in page
    assert "examples dropped by" in page and "Oh 0" in page and "document <bdi>d8</bdi>" in page and "Oh 12" not in page
    assert "dropped by exact-dedup" in page, "the split without a funnel keeps its own figures"
    assert page.count("dropped by exact-dedup") == 1


def test_a_synthesizer_has_its_own_table_first(tmp_path: Path) -> None:
    write_run(tmp_path)
    funnel = [{"step": "written", "in": 10, "out": 14, "made": 6, "reasons": {"empty": 2}}]
    notes = {"stage": "synthesize", "status": "finished", "notes": {"records": 14, "funnel": funnel}}
    (tmp_path / "synthesize").mkdir()
    write_json(tmp_path / "synthesize" / "manifest.json", notes)
    add_funnel(tmp_path, [{"step": "sequences", "in": 14, "out": 14, "reasons": {}}])
    page = page_of(tmp_path)
    assert rows(page) == [
        ["written", "10", "14 6 more made", "2 20.0%", "empty : 2"],
        ["sequences", "14", "14", "0", ""],
    ]
    assert page.index("synthesize: 10 records in, 14 out.") < page.index("data/train: 14 records in, 14 out (100.0%)")
    assert json.loads((tmp_path / "report" / "report.json").read_text())["data"]["train"]["funnel"][0]["in"] == 14


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    write_run(tmp_path)
    clean = Structure(page_of(tmp_path))
    funnel = Funnel()
    step = funnel.step(HOSTILE)
    step.drop(f"{HOSTILE}: {HOSTILE}", {"text": HOSTILE, "document": HOSTILE})
    step.drop("personal data: 1 email", {"text": "secret@example.org"}, private=True)
    add_funnel(tmp_path, funnel.plain())
    page = page_of(tmp_path)
    assert "secret@example.org" not in page and "text not shown" in page
    dirty = Structure(page)
    assert not dirty.open and {tag for tag, _ in dirty.tags} - {tag for tag, _ in clean.tags} <= {"dt", "dd", "dl", "q"}
    assert "\x00" not in page and "\u202e" not in page and "49" not in rows(page)[0][4]


def test_a_funnel_that_is_none_is_named_and_the_page_is_written(tmp_path: Path) -> None:
    for index, broken in enumerate(
        ([{"step": "a"}], "text", [3], [{"step": "a", "in": "x", "out": 1, "reasons": {}}], {"a": 1}, None)
    ):
        directory = tmp_path / str(index)
        write_run(directory)
        add_funnel(directory, broken)
        page = page_of(directory)
        assert "data/train: its funnel cannot be shown" in html.unescape(page), broken
        assert rows(page) == []
    empty = tmp_path / "empty"
    write_run(empty)
    add_funnel(empty, [])
    assert "0 records in, 0 out" in page_of(empty)
