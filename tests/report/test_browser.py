"""The report in headless Chromium: opens without a message, asks for nothing, fits the screen.

A missing browser is a failure, not a skip.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill_core.report import write_report
from tests.report import browser as driver
from tests.report.fake_run import SAMPLES, write_run
from tests.report.test_synthesis import records_of
from tests.report.test_synthesis import write_run as write_images

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = (
    "</p><script>document.title='owned'</script><img src=https://example.invalid/x.png onerror=alert(1)>\x00\u202e"
)
SIZES = [pytest.param(1280, 900, id="desktop"), pytest.param(390, 844, id="phone")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[driver.Page]:
    with driver.browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = {HOSTILE: dict.fromkeys(("teacher", "student", "hard-labels"), HOSTILE + "w" * 5000)}
    return write_report(write_run(tmp_path_factory.mktemp("run"), samples=SAMPLES | hostile))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_opens_quietly_and_fits(page: driver.Page, report: Path, width: int, height: int, dark: bool) -> None:
    page.open(report, width=width, height=height, dark=dark)
    assert page.messages == []
    assert [url for url in page.requests if not url.startswith("data:")] == [report.as_uri()]
    assert page.evaluate("document.title") == "quickstart · distillation report"
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page must not scroll sideways"
    assert page.evaluate("document.scripts.length + document.images.length") == 0
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (sum(channels) < 200) == dark


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_first_screen_answers(page: driver.Page, report: Path, width: int, height: int) -> None:
    page.open(report, width=width, height=height)
    bottoms: list[Any] = page.evaluate(
        "[...document.querySelectorAll('h1, .findings li')].map(e => e.getBoundingClientRect().bottom)"
    )
    assert len(bottoms) >= 4 and max(bottoms) <= height


def test_text_has_contrast_in_both_schemes(page: driver.Page, report: Path) -> None:
    """At least 4.5 : 1 (WCAG 2.1, 1.4.3) of every text element against the page or its card."""
    script = """(() => {
      const lum = c => { const [r, g, b] = c.match(/\\d+/g).map(v => v / 255)
        .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
      const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
        if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
      let worst = 99;
      for (const e of document.querySelectorAll('h1, h2, p, li, th, td, small, caption, dt, dd, figcaption span, '
          + '.verdict, svg text')) {
        if (!e.textContent.trim()) continue;
        const style = getComputedStyle(e), a = lum(e.closest('svg') ? style.fill : style.color), b = lum(ground(e));
        worst = Math.min(worst, (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
      }
      return worst; })()"""
    for dark in (False, True):
        page.open(report, width=1280, height=900, dark=dark)
        assert page.evaluate(script) >= 4.5


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
