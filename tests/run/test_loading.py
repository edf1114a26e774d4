"""Reading run files: syntax, duplicate keys, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill_core.engine.run_file.loading import parse_path, parse_run_text, path_text, read_run_file
from distill_core.errors import ConfigError


def problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_run_text(text, overrides)
    return caught.value.problems


def test_numbers_are_numbers_and_dates_are_text() -> None:
    data = parse_run_text("a: 1e-4\nb: 3E5\nc: -.5e+2\nd: 2024-01-02\ne: 1e\nf: e5\n").data
    assert data == {"a": 1e-4, "b": 3e5, "c": -50.0, "d": "2024-01-02", "e": "1e", "f": "e5"}


def test_all_duplicate_keys_are_named_with_both_lines() -> None:
    text = "name: a\ntrain:\n  k: 1\n  k: 2\nname: b\nlist:\n- x: 1\n  x: 2\n"
    found = problems(text)
    assert [p.partition(":")[0] for p in found] == ["train.k (line 4)", "name (line 5)", "list[0].x (line 8)"]
    assert "line 3" in found[0] and "line 1" in found[1] and "line 7" in found[2]


def test_syntax_error_names_line_and_column() -> None:
    assert problems("name: a\ndata: [1, 2\nx: 3\n")[0].startswith("line 3, column ")
    assert "tab" in problems("a:\n\t- b\n")[0] or "\\t" in problems("a:\n\t- b\n")[0]


@pytest.mark.parametrize("text", ["", "- a\n", "just words", "!!python/object/apply:os.system ['true']"])
def test_not_a_run_file(text: str) -> None:
    assert len(problems(text)) == 1


def test_python_tags_are_refused_inside() -> None:
    assert "python" in problems("name: !!python/name:os.system\n")[0]


def test_aliases_that_contain_themselves_end() -> None:
    raw = parse_run_text("a: &x {b: 1}\nc: *x\n")
    assert raw.data == {"a": {"b": 1}, "c": {"b": 1}}
    parse_run_text("a: &x [*x]\n")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    cases = {"none.yaml": "does not exist", "latin.yaml": "not UTF-8 text: byte 9", ".": "cannot be read"}
    for name, said in cases.items():
        with pytest.raises(ConfigError, match=said):
            read_run_file(tmp_path / name)


def test_overrides_change_add_and_append() -> None:
    text = "train:\n  lr: 1\n  objectives:\n  - {use: a, w: 1}\n"
    set_ = ["train.lr=1e-3", "train.objectives[0].w=0.5", "train.objectives[1].use=b", "new.deep.x=[1, {y: null}]"]
    raw = parse_run_text(text, [*set_, "name=a=b"])
    assert raw.data == {
        "train": {"lr": 1e-3, "objectives": [{"use": "a", "w": 0.5}, {"use": "b"}]},
        "new": {"deep": {"x": [1, {"y": None}]}},
        "name": "a=b",
    }
    assert raw.where(("train", "lr")) == " (--set)"
    assert raw.where(("train", "objectives", 0, "use")) == " (line 4)"


def test_every_bad_override_is_named() -> None:
    found = problems("a: {b: [1]}\nc: 3\n", "a.b", "a.b[3]=1", "a.b.x=1", "c.d=1", "a[0]=1", "=1", "a.b[0]=[", "a..b=1")
    assert len(found) == 8
    said = ["PATH=VALUE", "1 entries", "is a list", "value 3", "is a mapping", "empty", "no YAML", "is not a path"]
    assert [word in problem for word, problem in zip(said, found, strict=True)] == [True] * 8


def test_paths_round_trip() -> None:
    for location in (("a",), ("a", 0, "b"), ("train", "objectives", 1, "temperature", "values", 2)):
        assert parse_path(path_text(location)) == location
