"""The headline follows the verdicts, and says what is missing."""

from __future__ import annotations

from typing import Any

import pytest

from distill_core.report.verdict import Headline, headline
from tests.report.fake_run import results


def said(found: dict[str, Any] | None) -> Headline:
    return headline({"results": found, "checks": [], "flags": []})


def changed(verdicts: dict[str, str], *, documents: int = 14) -> dict[str, Any]:
    """Results whose comparisons with the baseline have the verdicts given by metric."""
    found = results(documents=documents)
    for comparison in found["comparisons"]:
        if comparison["baseline"] == "hard-labels" and comparison["metric"] in verdicts:
            comparison["verdict"] = verdicts[comparison["metric"]]
    return found


@pytest.mark.parametrize(
    ("cross_entropy", "forward_kl", "tone", "title"),
    [
        ("better", "better", "good", "beats hard-labels on both cross-entropy and KL to the teacher."),
        ("better", "no clear difference", "mixed", "A mixed result"),
        ("better", "worse", "mixed", "A mixed result"),
        ("worse", "no clear difference", "bad", "is not better than hard-labels"),
        ("no clear difference", "no clear difference", "open", "No clear difference between the student and"),
        ("undecidable", "undecidable", "open", "Too few held-out documents"),
    ],
)
def test_headline_follows_the_verdicts(cross_entropy: str, forward_kl: str, tone: str, title: str) -> None:
    found = said(changed({"cross_entropy": cross_entropy, "forward_kl": forward_kl}))
    assert found.tone == tone
    assert title in found.title


def test_headline_without_baseline_student_or_results() -> None:
    found = results()
    found["models"].pop("hard-labels")
    found["comparisons"] = [c for c in found["comparisons"] if c["baseline"] != "hard-labels"]
    alone = said(found)
    assert (alone.tone, alone.caveat) == ("open", "")
    assert "no baseline" in alone.title and "`compare`" in alone.sentences[0]
    found["models"].pop("student")
    found["comparisons"] = []
    assert said(found).title == "Only the teacher was evaluated."
    assert said(None).title == "Not evaluated yet."
