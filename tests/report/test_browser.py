"""The report in headless Chromium: opens quietly, asks for nothing, fits, can be used by keyboard and read aloud.

A missing browser, or a missing axe-core, is a failure, not a skip.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.report import write_report
from distill_core.report.compare import compare_runs
from distill_core.report.comparison_view import comparison_page
from distill_core.report.data_map import data_map
from tests.report import browser as driver
from tests.report.fake_run import SAMPLES, results, write_json, write_run
from tests.report.test_active_rounds import write_rounds
from tests.report.test_overlays import HARD, OURS
from tests.report.test_sizes import make as sized_run
from tests.report.test_synthesis import records_of
from tests.report.test_synthesis import write_run as write_images

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = (
    "</p><script>document.title='owned'</script><img src=https://example.invalid/x.png onerror=alert(1)>\x00\u202e"
    "\u05e9\u05dc\u05d5\u05dd \U0001f9d1\U0001f3fd\u200d\U0001f680 {{ 7 * 7 }}"
)
SIZES = [pytest.param(1280, 900, id="desktop"), pytest.param(390, 844, id="phone")]
SCHEMES = pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Page]:
    with driver.browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def disagreements(text: str) -> dict[str, Any]:
    guesses = [[text, 0.5], [" the", 0.25], ["\n", 0.125], ["a", 0.06], ["b", 0.03]]
    example = {"document": text, "position": 7, "value": 0.9, "before": text * 3, "actual": text}
    mean = {"name": text, "mean": 0.5, "n": 12}
    return {
        "model": "student",
        "mean": 0.4,
        "n": 900,
        "documents": [mean],
        "tokens": [mean],
        "domains": [],
        "examples": [{**example, "top": {"teacher": guesses, "model": guesses[::-1]}}] * 4,
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with every kind of block on it, flags at the top, and hostile text in most places."""
    hostile = {HOSTILE: dict.fromkeys(("teacher", "student", "hard-labels"), HOSTILE + "w" * 5000)}
    run = write_run(tmp_path_factory.mktemp("run"), samples=SAMPLES | hostile)
    found = results(samples=SAMPLES | hostile)
    found["disagreements"] = disagreements(HOSTILE)
    found["flags"] = [{"flag": "canary", "severity": "error", "reason": f"It knows {HOSTILE}"}]
    found["flags"].append({"flag": "few", "severity": "warning", "reason": "Few seeds."})
    found["warnings"] = [HOSTILE]
    found["models"]["student"]["metrics"]["accuracy"]["detail"] = {"groups": {HOSTILE: 0.5, "b": 0.25}}
    write_json(run / "evaluate" / "results.json", found)
    return write_report(run)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compare")
    runs = [write_run(directory / name) for name in ("one", "two")]
    text = (runs[1] / "run.yaml").read_text(encoding="utf-8").replace("0.001", "0.002")
    (runs[1] / "run.yaml").write_text(text, encoding="utf-8")
    target = directory / "compare.html"
    target.write_text(comparison_page(compare_runs(runs)), encoding="utf-8")
    return target


@SCHEMES
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_opens_quietly_and_fits(page: driver.Page, report: Path, width: int, height: int, dark: bool) -> None:
    page.open(report, width=width, height=height, dark=dark)
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.title") == "quickstart · distillation report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
    assert page.evaluate("document.scripts.length") == 1 and page.evaluate("document.images.length") == 0
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(channels) < 200) == dark


def test_hostile_text_is_text(page: driver.Page, report: Path) -> None:
    page.open(report, width=1280, height=900)
    text = page.evaluate("document.body.innerText")
    assert text.count("<script>document.title='owned'</script>") >= 8 and "{{ 7 * 7 }}" in text
    assert "\x00" not in text and "\u202e" not in text and "\u2400" in text
    assert "\u05e9\u05dc\u05d5\u05dd" in text and "\U0001f9d1\U0001f3fd\u200d\U0001f680" in text


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_first_screen_answers(page: driver.Page, tmp_path: Path, width: int, height: int) -> None:
    """On a desktop all four questions with their answers, on a phone the verdict and its reasons."""
    page.open(write_report(write_run(tmp_path / "run")), width=width, height=height)
    bottoms: list[Any] = page.evaluate(
        "[...document.querySelectorAll('h1, .answer')].map(e => e.getBoundingClientRect().bottom)"
    )
    assert len(bottoms) == 5 and max(bottoms if width > 1000 else bottoms[:2]) <= height


def test_flags_stand_above_everything_in_red(page: driver.Page, report: Path) -> None:
    page.open(report, width=1280, height=900)
    assert page.evaluate("document.querySelector('.alarms').getBoundingClientRect().bottom") < page.evaluate(
        "document.querySelector('h1').getBoundingClientRect().top"
    )
    red, green, blue = page.evaluate("getComputedStyle(document.querySelector('.error strong')).color.match(/\\d+/g)")
    assert int(red) > 2 * int(green) and int(red) > 2 * int(blue)
    assert page.evaluate("document.querySelector('h1').innerText").startswith("No claim can be made")


@pytest.fixture(scope="module")
def active(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of active rounds, with a map of synthetic data and what a baseline had otherwise."""
    root = write_rounds(tmp_path_factory.mktemp("active") / "a")
    last, rng = root / "rounds" / "02", np.random.default_rng(0)
    for name, parts in (("student", OURS), ("hard-labels", HARD)):
        write_json(last / "train" / name / "manifest.json", {"parts": parts})
    groups = {"real, held out": rng.normal(size=(300, 5)), "synthetic": rng.normal(size=(40, 5)) + 1}
    said = {"of": "pixels", "sequences": {"real, held out": 300, "synthetic": 40}}
    write_json(last / "report" / "map.json", {**said, **data_map(groups)})
    return write_report(root)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sizes")
    runs = [sized_run(directory, f"{way}-{size}", size, way=way) for way in ("herding", "dsir") for size in (10, 50)]
    target = directory / "compare.html"
    target.write_text(comparison_page(compare_runs(runs)), encoding="utf-8")
    return target


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("which", ["active", "sizes"])
def test_pages_of_rounds_and_sizes_fit(
    page: driver.Page, request: pytest.FixtureRequest, which: str, width: int, height: int
) -> None:
    page.open(request.getfixturevalue(which), width=width, height=height)
    assert page.messages == [] and page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        "[...document.querySelectorAll('svg text')].filter(t => t.getBoundingClientRect().right > innerWidth).length"
    )
    assert outside == 0


@SCHEMES
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("which", ["report", "comparison", "active", "sizes"])
def test_axe_core_finds_nothing(
    page: driver.Page, request: pytest.FixtureRequest, which: str, width: int, height: int, dark: bool
) -> None:
    """axe-core from the wheel axe-playwright-python (``make verify-browser`` installs it), all of its rules."""
    page.open(request.getfixturevalue(which), width=width, height=height, dark=dark)
    page.evaluate(axe_core() + "; 'there'")
    found = json.loads(page.wait_for("axe.run(document).then(r => JSON.stringify(r.violations))"))
    assert [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found] == []


def axe_core() -> str:
    """Source of axe-core; the package's own code, which needs playwright, is not imported."""
    try:
        distribution = metadata.distribution("axe-playwright-python")
    except metadata.PackageNotFoundError:
        raise AssertionError("axe-core is not installed: make verify-browser installs it") from None
    return Path(str(distribution.locate_file("axe_playwright_python/axe.min.js"))).read_text(encoding="utf-8")


def test_axe_core_notices_what_it_must(page: driver.Page, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<p style='color: #ccc'>pale<img src='data:,'>", encoding="utf-8")
    page.open(bad, width=800, height=600)
    page.evaluate(axe_core() + "; 'there'")
    found = json.loads(page.wait_for("axe.run(document).then(r => JSON.stringify(r.violations.map(v => v.id)))"))
    assert {"image-alt", "color-contrast", "html-has-lang"} <= set(found)


def test_tables_sort_by_every_column(page: driver.Page, report: Path) -> None:
    page.open(report, width=1280, height=900)
    table = "document.querySelector('#results').parentElement.querySelector('table')"
    labels = f"[...{table}.tBodies[0].rows].map(r => r.cells[0].innerText.split('\\n')[0])"
    student = f"[...{table}.tBodies[0].rows].map(r => r.cells[2].innerText.split('\\n')[0])"
    page.evaluate(f"{table}.rows[0].cells[2].querySelector('button').click()")
    ascending = [float(text.rstrip("\u202f%").replace(",", "")) for text in page.evaluate(student)]
    assert page.evaluate(f"{table}.rows[0].cells[2].getAttribute('aria-sort')") == "ascending"
    raw = [float(text) for text in page.evaluate(f"[...{table}.tBodies[0].rows].map(r => r.cells[2].dataset.sort)")]
    assert raw == sorted(raw) and len(raw) == len(ascending) >= 4
    page.evaluate(f"{table}.rows[0].cells[2].querySelector('button').click()")
    falling = page.evaluate(f"[...{table}.tBodies[0].rows].map(r => +r.cells[2].dataset.sort)")
    assert falling == sorted(raw, reverse=True)
    page.evaluate(f"{table}.rows[0].cells[0].querySelector('button').click()")
    names = page.evaluate(labels)
    assert names == sorted(names, key=str.lower)
    assert page.evaluate(f"{table}.rows[0].cells[2].hasAttribute('aria-sort')") is False


@pytest.mark.parametrize("name", ["Markdown", "LaTeX"])
def test_tables_copy(page: driver.Page, report: Path, name: str) -> None:
    page.open(report, width=1280, height=900)
    page.evaluate("navigator.clipboard.writeText = async text => { window.copied = text }")
    button = f"document.querySelector('#results').parentElement.querySelector('.tools button[aria-label$={name}]')"
    page.wait_for(f"(async () => {{ {button}.click(); await null; return 'x' }})()")
    text = page.evaluate("window.copied")
    lines = text.strip().splitlines()
    if name == "Markdown":
        assert lines[0] == "| Metric | teacher | student | hard-labels | Student against baseline |"
        assert lines[1] == "| --- | ---: | ---: | ---: | --- |"
        assert lines[2].startswith("| Cross-entropy nat/token, lower is better | 3.5")
        assert {line.count("|") for line in lines} == {6}
    else:
        assert lines[0] == "\\begin{tabular}{lrrrl}" and lines[-1] == "\\end{tabular}"
        assert "\\midrule" in lines and "~\\%" in text and "%" not in text.replace("\\%", "")
        assert "$-$" in text and "\u2212" not in text
        assert {line.count("&") for line in lines if line.endswith("\\\\")} == {4}
    assert page.evaluate("document.querySelector('.told').textContent") == f"Copied as {name}."


def test_the_page_says_the_same_without_its_script(page: driver.Page, report: Path, tmp_path: Path) -> None:
    text = report.read_text(encoding="utf-8")
    bare = tmp_path / "bare.html"
    bare.write_text(text[: text.index("<script>\n") if "<script>\n" in text else text.index("<script>//")], "utf-8")
    page.open(report, width=1280, height=900)
    whole = page.evaluate("[...document.querySelectorAll('td')].map(e => e.innerText)")
    page.open(bare, width=1280, height=900)
    assert page.evaluate("[...document.querySelectorAll('td')].map(e => e.innerText)") == whole


def test_everything_can_be_reached_by_keyboard(page: driver.Page, report: Path) -> None:
    """Tab goes to the skip link first, then through links, buttons, scrolling regions and details; each shows it."""
    page.open(report, width=1280, height=900)
    seen = []
    for _ in range(40):
        page.key("Tab")
        seen.append(
            page.evaluate(
                "(() => { const e = document.activeElement; const s = getComputedStyle(e);"
                " return [e.tagName, e.className, s.outlineStyle !== 'none' || e.className === 'skip'] })()"
            )
        )
    assert seen[0][1] == "skip"
    assert {"A", "BUTTON", "DIV"} <= {tag for tag, _, _ in seen}
    assert [entry for entry in seen if not entry[2]] == [], "focus must be visible"


def test_it_prints(page: driver.Page, report: Path) -> None:
    page.open(report, width=1280, height=900)
    pdf = page.pdf()
    assert pdf.startswith(b"%PDF") and len(pdf) > 20_000
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert page.evaluate("getComputedStyle(document.querySelector('.tools')).display") == "none"
    page.call("Emulation.setEmulatedMedia", media="")


def test_a_partial_run_opens_quietly(page: driver.Page, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.yaml").write_text("name: half\n", encoding="utf-8")
    page.open(write_report(tmp_path / "run"), width=390, height=844)
    assert page.messages == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert "distill evaluate" in page.evaluate("document.body.innerText")


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_synthetic_images_load_and_fit(page: driver.Page, tmp_path: Path, width: int, height: int) -> None:
    """Ten images of 28 x 28 side by side are wider than a phone; the policy lets them in."""
    records = records_of(["zero", HOSTILE], 10, (28, 28))
    page.open(write_report(write_images(tmp_path, records, size=[28, 28, 1])), width=width, height=height)
    assert page.messages == [] and page.evaluate("document.title") == "few · distillation report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].map(one => one.naturalWidth)") == [289, 289]
    shown = page.evaluate("[...document.images].map(one => one.getBoundingClientRect().width)")
    assert all(0 < one <= width for one in shown)


def test_the_driver_notices_what_it_must(page: driver.Page, tmp_path: Path) -> None:
    """A page that logs an error and asks for an image is caught, so the tests above can fail."""
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='missing.png'><script>console.error('boom')</script>", encoding="utf-8")
    page.open(bad, width=800, height=600)
    assert any("boom" in message for message in page.messages)
    assert any(url.endswith("missing.png") for url in page.requests)
    policy = bad.with_name("policy.html")
    policy.write_text(
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\"><p style='color: red'>x</p>",
        encoding="utf-8",
    )
    page.open(policy, width=800, height=600)
    assert any("Content Security Policy" in message for message in page.messages)
