"""What became of the samples of one question: read, voted on, judged, chosen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill_core.completions import Completion
from distill_synthesis.rationales.options import RationalesOptions


@dataclass(frozen=True)
class Sample:
    """A rationale and its answer as written, by which teacher; ``rejected`` says why it is not used, empty while it is.

    ``teacher`` is its name in the run file; empty where there is one.
    """

    id: str
    rationale: str
    answer: str
    canonical: str = ""
    score: float | None = None
    rejected: str = ""
    hinted: bool = False
    teacher: str = ""


def read_sample(completion: Completion, pattern: re.Pattern[str], *, hinted: bool = False, teacher: str = "") -> Sample:
    """Rationale and answer of a completion; rejected where one is missing or the text was cut off before its answer.

    >>> answer = re.compile(r"\\n\\s*Answer:\\s*(?P<answer>[^\\n]+)")
    >>> sample = read_sample(Completion("q#0", " 1 + 1 = 2.\\nAnswer: 2"), answer)
    >>> sample.rationale, sample.answer, sample.rejected
    ('1 + 1 = 2.', '2', '')
    """
    found = pattern.search(completion.text)
    if found is None:
        reason = "cut off before the answer" if completion.finish_reason == "length" else "no answer in the text"
        return Sample(completion.id, completion.text.strip(), "", rejected=reason, hinted=hinted, teacher=teacher)
    rationale, answer = completion.text[: found.start()].strip(), found["answer"].strip()
    rejected = "" if rationale and answer else ("no rationale" if answer else "no answer in the text")
    return Sample(completion.id, rationale, answer, rejected=rejected, hinted=hinted, teacher=teacher)


def judged(
    samples: Sequence[Sample], record: Mapping[str, Any], checker: Any, options: RationalesOptions
) -> tuple[list[Sample], dict[str, int]]:
    """Samples with canonical answer, score and reason of rejection; and the votes, most first.

    The vote counts samples with an answer; of answers with as many votes, the one written first wins.
    """
    canonical: Callable[[str], str] = getattr(checker, "canonical", str.strip)
    held = [replace(sample, canonical=canonical(sample.answer)) if sample.answer else sample for sample in samples]
    votes = Counter(sample.canonical for sample in held if not sample.rejected)
    ranked = dict(votes.most_common())
    winner = next(iter(ranked), None)
    result = []
    for sample in held:
        if not sample.rejected and checker is not None:
            verdict = checker.check(record, sample.answer)
            sample = replace(sample, score=verdict.score)
            if options.select in ("answer", "answer-and-vote") and verdict.score < options.accept:
                sample = replace(sample, rejected=f"checker: {verdict.reason or 'score below accept'}")
        if not sample.rejected and options.select in ("vote", "answer-and-vote"):
            if sample.canonical != winner:
                sample = replace(sample, rejected="outvoted")
            elif ranked[winner] < options.min_votes:
                sample = replace(sample, rejected="too few votes")
        result.append(sample)
    return result, ranked


def chosen(samples: Sequence[Sample], keep: int) -> list[Sample]:
    """Up to ``keep`` different rationales, shortest first; ties keep the order of the samples."""
    different: dict[str, Sample] = {}
    for sample in samples:
        if not sample.rejected:
            different.setdefault(re.sub(r"\s+", " ", sample.rationale), sample)
    return sorted(different.values(), key=lambda sample: len(sample.rationale))[:keep]
