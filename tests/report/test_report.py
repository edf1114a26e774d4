"""The page, report.json and the table: what they say, that foreign text stays text, that partial runs work."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from distill_core.errors import DistillError
from distill_core.report import render, schema, summary_table, write_report
from distill_core.report.page import LARGEST_BYTES
from distill_core.report.svg import Series, line_chart
from distill_core.report.text import visible
from tests.report.fake_run import SAMPLES, results, write_json, write_run

HOSTILE = (
    "<script>alert(1)</script>\x00 \u202egnp.exe \u05e9\u05dc\u05d5\u05dd 👩🏽‍🚀 "
    "\"'><svg onload=alert(2)> {{ 7 * 7 }} &amp; \x1b[31m"
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Registry:
    """Answers the report's hook with what the test gives it."""

    def __init__(self, *answers: tuple[str, Any]) -> None:
        self.answers = answers

    def call_hook_by_plugin(self, name: str, **arguments: Any) -> list[tuple[str, Any]]:
        assert name == "distill_report_sections" and list(arguments) == ["run"]
        return list(self.answers)


class Structure(HTMLParser):
    """Tags with their attributes, text, and whether every element is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(directory: Path, *answers: tuple[str, Any]) -> str:
    return write_report(directory, registry=Registry(*answers)).read_text(encoding="utf-8")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"))


def test_page_is_whole_small_and_self_contained(run: Path) -> None:
    page = page_of(run)
    structure = Structure(page)
    assert structure.open == [], "every element is closed"
    assert len(page.encode()) < 1_000_000
    assert not [tag for tag, _ in structure.tags if tag in ("iframe", "object", "embed", "base", "form", "img")]
    anchors = {f"#{attributes['id']}" for _, attributes in structure.tags if "id" in attributes}
    for tag, attributes in structure.tags:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert attributes.get(name, "data:,") in {"data:,", *anchors}, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
    assert "url(" not in page and "@import" not in page
    (policy,) = [a["content"] for _, a in structure.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'") and "unsafe" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy


def test_page_says_everything(run: Path) -> None:
    text = re.sub(r"[ \n]+", " ", " ".join(Structure(page_of(run, ("acme", [("My section", "42 is it")]))).text))
    found = results()
    assert "The student beats hard-labels on both cross-entropy and KL to the teacher." in text
    for expected in (
        "42\u202f% of the teacher's",
        "3.2\u00d7 as fast and writes 2.7\u00d7 as fast",
        "KL to the teacher by position",
        "Calibration at a glance",
        "Learning curve: student",
        "Learning curve: hard-labels",
        "The state of our union is",
        SAMPLES["The state of our union is"]["hard-labels"].strip()[:40],
        "Bytes per label",
        "dropped by exact-dedup",
        "3 (seen before: 3)",
        "name: quickstart",
        "transformers",
        "5.23.0",
        "Manifest: train/student",
        "My section",
        "42 is it",
        "clustered by document",
        "not the training seed",
        f"{found['data']['rows']:,} predicted tokens in 14 documents",
    ):
        assert expected in text, expected
    kl = found["models"]["student"]["metrics"]["forward_kl"]
    assert f"{kl['value']:.3f}" in text
    for question in ("Is the student good?", "Compared with what?", "At what cost?", "Can I trust it?"):
        assert text.count(question) == 1
    assert "What this page cannot show" in text and "no evaluator measured it" in text


def test_the_page_is_made_from_report_json_alone(run: Path, tmp_path: Path) -> None:
    page = page_of(run)
    copy = tmp_path / "elsewhere.json"
    shutil.copy(run / "report" / "report.json", copy)
    assert render(json.loads(copy.read_text(encoding="utf-8"))) == page


@pytest.mark.parametrize("missing", [None, "evaluate", "train", "data", "run.yaml"])
def test_report_json_keeps_to_the_published_schema(run: Path, tmp_path: Path, missing: str | None) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    if missing is not None:
        target = directory / missing
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    page_of(directory, ("acme", [("A", "b")]))
    content = json.loads((directory / "report" / "report.json").read_text(encoding="utf-8"))
    judge = jsonschema.Draft202012Validator(schema())
    judge.check_schema(schema())
    judge.validate(content)
    assert not judge.is_valid({**content, "flags": [{"flag": "x", "severity": "bad", "reason": ""}]})
    assert not judge.is_valid({key: value for key, value in content.items() if key != "checks"})
    assert not judge.is_valid({**content, "more": 1})


def test_the_published_schema_is_the_packaged_one(repository: Path) -> None:
    assert json.loads((repository / "docs" / "report.schema.json").read_text(encoding="utf-8")) == schema()


def test_a_large_run_stays_below_five_megabytes(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "large"
    shutil.copytree(run, directory)
    path = directory / "evaluate" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    outputs = dict.fromkeys(found["models"], "word " * 4000)
    found["generations"]["samples"] = [{"prompt": f"{i} " * 300, "outputs": outputs} for i in range(300)]
    path.write_text(json.dumps(found), encoding="utf-8")
    for index in range(80):
        write_json(
            directory / "train" / f"more-{index}" / "manifest.json", {"stage": "train", "parts": ["x" * 90] * 900}
        )
    lines = "".join(json.dumps({"step": s, "loss": 1 / s, "tokens": 8}) + "\n" for s in range(1, 20_001))
    (directory / "train" / "student" / "metrics.jsonl").write_text(lines, encoding="utf-8")
    page = page_of(directory)
    assert len(page.encode()) < LARGEST_BYTES and "The first 40 of 300" in page


def test_report_json_holds_what_the_page_shows(run: Path) -> None:
    page_of(run)
    content = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    assert content["headline"]["tone"] == "good"
    assert content["results"] == json.loads((run / "evaluate" / "results.json").read_text(encoding="utf-8"))
    assert len(content["trainings"]["student"]) == 96
    assert content["stores"]["topk"]["n_rows"] == 256
    assert content["config"]["name"] == "quickstart"


def test_foreign_text_stays_text(run: Path, tmp_path: Path) -> None:
    """Prompts, outputs, names, reasons, the config, manifests and plugin sections may hold anything."""
    directory = tmp_path / "hostile"
    shutil.copytree(run, directory)
    path = directory / "evaluate" / "results.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    found["generations"]["samples"] = [{"prompt": HOSTILE, "outputs": {"student": HOSTILE, HOSTILE: HOSTILE}}]
    found["models"][HOSTILE] = found["models"].pop("hard-labels")
    found["efficiency"]["models"].pop("hard-labels")
    for comparison in found["comparisons"]:
        comparison["baseline"] = comparison["baseline"].replace("hard-labels", HOSTILE)
    found["not_measured"] = [{"evaluator": HOSTILE, "models": HOSTILE, "reason": HOSTILE}]
    found["warnings"] = [HOSTILE]
    for model in found["models"].values():
        for metric in model["metrics"].values():
            metric["label"] = HOSTILE
    path.write_text(json.dumps(found), encoding="utf-8")
    (directory / "run.yaml").write_text(f"name: {json.dumps(HOSTILE)}\n", encoding="utf-8")
    (directory / "train" / "student" / "manifest.json").write_text(json.dumps({"stage": HOSTILE}), encoding="utf-8")
    lines = [{"step": 1, "loss": 1.0, "objectives": {HOSTILE: 1.0}}, {"step": 2, "loss": 0.5}]
    (directory / "train" / "student" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    page = page_of(directory, ("acme", [(HOSTILE, HOSTILE)]))
    structure = Structure(page)
    assert structure.open == []
    assert [tag for tag, _ in structure.tags].count("script") == 1, "our own"
    assert not [tag for tag, attributes in structure.tags if "onload" in attributes]
    page = page.replace("<script>\n// Tables sort", "").replace("<script>// Tables sort", "")
    for raw in ("<script", "\x00", "\u202e", "\x1b"):
        assert page.count(raw) == 0, (raw, page[max(0, page.find(raw) - 80) : page.find(raw) + 20])
    assert "49" not in re.findall(r"\{\{ (.*?) \}\}", page) and "{{ 7 * 7 }}" in page, "no template in data is run"
    text = "".join(structure.text)
    assert text.count("<script>alert(1)</script>\u2400 \u27e8U+202E\u27e9gnp.exe") >= 10
    assert "\u05e9\u05dc\u05d5\u05dd" in text and "👩🏽‍🚀" in text


def test_a_huge_line_is_cut_with_its_length(tmp_path: Path) -> None:
    samples = {"p": {"student": "x" * 3_000_000}}
    page = page_of(write_run(tmp_path / "run", samples=samples))
    assert len(page) < 1_000_000
    assert "(2,996,000 more characters)" in page


def test_a_chart_leaves_out_what_is_no_number() -> None:
    """JSON keeps NaN as null; a model that gives NaN has such points."""
    points: Any = [(1, 2.0), (2, None), (3, math.nan), (4, 3.0)]
    known: Any = [(1, 2.0), (4, 3.0)]
    charts = [line_chart([Series("a", "tone-0", given)], title="t", x_label="x") for given in (points, known)]
    assert charts[0] == charts[1]


def test_visible_keeps_ordinary_text() -> None:
    text = "naïve 日本語 🙂\n\ttab שלום"
    assert visible(text) == text
    assert visible("a\r\nb\rc") == "a\nb\u240dc"
    assert visible("\ud800\x85") == "\u27e8U+D800\u27e9\u27e8U+0085\u27e9"


@pytest.mark.parametrize("missing", ["evaluate", "train", "capture", "data", "run.yaml"])
def test_a_partial_run_says_what_is_missing(run: Path, tmp_path: Path, missing: str) -> None:
    directory = tmp_path / "partial"
    shutil.copytree(run, directory)
    target = directory / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    page = page_of(directory)
    assert Structure(page).open == []
    command = {"evaluate": "distill evaluate", "train": "distill train", "capture": "distill capture"}
    assert f"<code>{command.get(missing, 'distill run')} RUN.yaml</code> produces it" in page


def test_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DistillError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_and_the_rest_shown(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "damaged"
    shutil.copytree(run, directory)
    (directory / "evaluate" / "results.json").write_text('{"schema": 1, "mod', encoding="utf-8")
    with open(directory / "train" / "student" / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write('{"step": 97, "lo')
    page = page_of(directory)
    assert "evaluate/results.json cannot be read" in page
    assert "Learning curve: student" in page


def test_a_plugin_that_answers_nonsense_is_named(run: Path) -> None:
    page = page_of(run, ("acme", ["not a pair"]), ("other", [("Good", "one")]))
    assert "plugin acme: distill_report_sections must return (title, text) pairs" in page
    assert "<bdi>Good</bdi>" in page


def test_one_document_gives_a_page_without_intervals(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", documents=1))
    assert "Too few held-out documents" in page and "undecidable" in page
    assert "No claim can be made: One problem must be mended first." in page and 'class="error"' in page
    page = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.S)
    assert "nan" not in page.lower().replace("finance", "")


def test_summary_table(run: Path) -> None:
    stream = io.StringIO()
    found = results()
    found["not_measured"] = [{"evaluator": "judge", "models": "student", "reason": "[bold]no[/bold] key"}]
    found["warnings"] = ["few documents"]
    Console(file=stream, width=150).print(summary_table(found, report=Path("runs/a/report/index.html")))
    text = stream.getvalue()
    kl = found["models"]["student"]["metrics"]["forward_kl"]
    for expected in (
        "The student beats hard-labels",
        f"{kl['value']:.3f}",
        f"{kl['interval'][0]:.3f} to {kl['interval'][1]:.3f}",
        "hard-labels",
        "better",
        "few documents",
        "judge not measured for student: [bold]no[/bold] key",
        "report: runs/a/report/index.html",
    ):
        assert expected in text, expected


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert page_of(run) == page_of(run)


def test_what_is_kept_of_the_teacher_and_what_it_takes(run: Path, tmp_path: Path) -> None:
    """Retention, transfer, memory and metrics of the data, as the evaluation writes them."""
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    found = results()
    gap = {"value": 0.19, "standard_error": 0.02, "interval": [0.15, 0.23], "n_documents": 14, "reason": ""}
    none = {**gap, "value": None, "interval": [None, None], "reason": "the teacher is not told from the baseline"}
    found["retention"] = [
        {
            "metric": name,
            "model": "student",
            "teacher": "teacher",
            **gap,
            "value": 0.5,
            "gap_closed": {"hard-labels": one},
        }
        for name, one in (("cross_entropy", gap), ("accuracy", none))
    ]
    shape = ["A, 8 layers, 576 wide", "A, 4 layers, 576 wide"]
    found["transfer"] = [
        {"metric": "accuracy", "architectures": shape, "values": {}, "mean": 0.25, "spread": 0.01, "worst": 0.2}
    ]
    for one in found["efficiency"]["models"].values():
        one |= {"peak_bytes": 2_000_000_000, "weight_bytes": 226_000_000}
    found["data"]["metrics"] = {
        "distinct": {**found["models"]["student"]["metrics"]["accuracy"], "label": "Distinct-2"}
    }
    write_json(directory / "evaluate" / "results.json", found)
    text = re.sub(r"[ \n]+", " ", " ".join(Structure(page_of(directory)).text))
    for expected in (
        "Gap to the teacher closed from hard-labels",
        "19.0\u202f% 15.0 to 23.0",
        "\u2013 no clear gap",
        "A, 8 layers, 576 wide; A, 4 layers, 576 wide",
        "Peak memory 2 GB",
        "Distinct-2",
    ):
        assert expected in text, expected


def test_metrics_go_to_the_section_of_their_aspect(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    found = results()
    metric = {**found["models"]["student"]["metrics"]["accuracy"], "primary": False}
    groups = {"groups": [{"group": "a<b", "n": 4, "accuracy": 0.25}, {"group": "c", "n": 9, "accuracy": None}]}
    for name, aspect in (("gap", "fairness"), ("chain", "reasoning"), ("smell", "odour")):
        detail = groups if name == "gap" else {}
        found["models"]["student"]["metrics"][name] = {
            **metric,
            "label": f"The {name}",
            "aspect": aspect,
            "detail": detail,
        }
    write_json(directory / "evaluate" / "results.json", found)
    page = page_of(directory)
    for name, anchor in (("gap", "fairness"), ("chain", "reasoning"), ("smell", "aspect-")):
        section = page[page.index(f'id="{anchor}') :]
        assert f"The {name}" in section[: section.index("</section>")], name
    assert "<bdi>Odour</bdi></h2>" in page and "a&lt;b" in page and "The gap: groups, student" in page
    missing = page[page.index('id="missing"') :]
    assert "Fairness" not in missing and "Diversity" in missing


def test_many_flags_leave_the_first_screen_to_the_answers(run: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(run, directory)
    found = results()
    found["flags"] = [{"flag": f"low-{i}", "severity": "warning", "reason": f"Weak {i}."} for i in range(9)]
    found["flags"].append({"flag": "leak", "severity": "error", "reason": "It leaks."})
    write_json(directory / "evaluate" / "results.json", found)
    page = page_of(directory)
    head = page[: page.index("<h1")]
    assert "It leaks." in head and head.index("It leaks.") < head.index("Weak 0.") and "Weak 4." not in head
    assert "5 more warnings stand under" in head
    assert all(f"Weak {i}." in page[page.index('id="integrity"') :] for i in range(9))
