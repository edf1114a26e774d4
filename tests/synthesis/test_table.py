"""Tables: columns by name, number and range; classes by pattern; documents dealt to the parts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import DataError
from distill_core.registry import get_registry


def records(**options: Any) -> list[dict[str, Any]]:
    return list(get_registry().build("source", {"use": "table", **options}).records())


def test_columns_by_name_number_and_range(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,label\n"one, two",x\nthree,y\n')
    found = records(path=str(tmp_path / "a.csv"), fields={"text": "text", "label": 1})
    assert found == [
        {"text": "one, two", "label": "x", "document": "a.csv:1"},
        {"text": "three", "label": "y", "document": "a.csv:2"},
    ]
    with gzip.open(tmp_path / "b.tsv.gz", "wt") as file:
        file.write("1\t2\t3\tcat\n")
    found = records(path=str(tmp_path / "b.tsv.gz"), header=False, fields={"image": "0:3", "label": 3}, document=3)
    assert found == [{"image": [1, 2, 3], "label": "cat", "document": "cat"}]


def test_json_mapping_with_classes(tmp_path: Path) -> None:
    table = {"A001": [True, "cholera"], "A00": [False, "heading"], "D501": [True, "anaemia"], "D001": [True, "growth"]}
    (tmp_path / "codes.json").write_text(json.dumps(table))
    options: dict[str, Any] = {
        "path": str(tmp_path / "codes.json"),
        "fields": {"text": 2},
        "only": {1: "True"},
        "document": 0,
        "document_characters": 3,
        "classes": {"column": 0, "patterns": {"infections": "[AB]", "neoplasms": "C|D[0-4]", "blood": "D[5-8]"}},
    }
    found = records(**options)
    assert [(r["text"], r["label"], r["document"]) for r in found] == [
        ("cholera", "infections", "A00"),
        ("anaemia", "blood", "D50"),
        ("growth", "neoplasms", "D00"),
    ]
    options["classes"]["patterns"].pop("blood")
    with pytest.raises(DataError, match=r"row 3: 'D501' matches none of classes.patterns"):
        records(**options)


def test_documents_land_in_one_part(tmp_path: Path) -> None:
    rows = [f"{document},{row}\n" for document in range(200) for row in range(2)]
    (tmp_path / "a.csv").write_text("".join(rows))
    base: dict[str, Any] = {"path": str(tmp_path / "a.csv"), "header": False, "fields": {"text": 1}, "document": 0}
    train, held_out = records(**base, part="train"), records(**base, part="eval")
    assert len(train) + len(held_out) == len(records(**base)) == 400
    assert not {r["document"] for r in train} & {r["document"] for r in held_out}
    assert 40 <= len(held_out) <= 120  # a fifth of 200 documents, two rows each: 80 expected, sd 11


def test_what_a_user_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    with pytest.raises(DataError, match=r"there is no column 'labels'; the table has text, label"):
        records(path=str(tmp_path / "a.csv"), fields={"label": "labels"})
    with pytest.raises(DataError, match=r"the row has 2 columns, 0:3 was asked for"):
        records(path=str(tmp_path / "a.csv"), fields={"image": "0:3"})
    with pytest.raises(DataError, match=r"package: the Python package no-such-package"):
        records(path="a.csv", package="no-such-package", fields={"text": 0})
    (tmp_path / "a.json").write_text('"text"')
    with pytest.raises(DataError, match="expected a list of rows"):
        records(path=str(tmp_path / "a.json"), fields={"text": 0})


def test_jsonl_keeps_further_fields(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"tokens": ["a"], "labels": ["x"]}\n')
    source = get_registry().build(
        "source", {"use": "jsonl", "path": str(tmp_path / "a.jsonl"), "fields": ["tokens", "labels"]}
    )
    assert list(source.records()) == [{"tokens": ["a"], "labels": ["x"], "document": "a.jsonl:1"}]
