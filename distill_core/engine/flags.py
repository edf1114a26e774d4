"""Checks that catch an evaluation which looks better than it is; each returns flags, none where all is well.

They take plain facts (steps, digests, fingerprints, figures by seed), so that a run's stage, the report,
``distill compare`` and a script all judge by the same rules. Nothing here needs torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_core.engine import statistics
from distill_core.flag import Flag

EQUAL_BUDGET = 0.95
"""Two budgets are equal where the smaller is at least this share of the larger: epochs end at whole batches, and
trainings that drop other tokens see a few less."""

FEWEST_SEEDS = 5
"""A method is judged on at least so many seeds."""


@dataclass(frozen=True)
class TrainingFacts:
    """What has to be equal for two trainings to be compared; None where it is not known.

    Args:
        steps: optimizer steps taken.
        sequences: training sequences gone through (steps x sequences per step).
        tokens: training tokens gone through.
        train_data: digest of the training data.
        eval_data: digest of the held-out data.
        tokenizer: fingerprint of the tokenizer.
        student: digest of the initial student.
        seed: of the training.
    """

    steps: int | None = None
    sequences: int | None = None
    tokens: float | None = None
    train_data: str | None = None
    eval_data: str | None = None
    tokenizer: str | None = None
    student: str | None = None
    seed: int | None = None


def compare_facts(student: str, facts: Mapping[str, TrainingFacts], *, data_is_declared: bool = False) -> list[Flag]:
    """Flags of every other training against ``student``.

    - ``baseline-budget`` (error): fewer steps, sequences or tokens than the student had.
    - ``student-budget`` (warning): more of them: the student is judged at a disadvantage.
    - ``different-data``, ``different-held-out-data``, ``different-tokenizer`` (error); ``different-start``,
      ``different-seed`` (warning).

    Args:
        student: whose claim is judged.
        facts: of the student and of what it is compared with.
        data_is_declared: the run file itself says that they learn from other data (``learns_from: all``, a
            synthesizer), so ``different-data`` is what is studied, and a warning.

    >>> half = compare_facts("ours", {"ours": TrainingFacts(steps=100), "base": TrainingFacts(steps=50)})
    >>> half[0].flag, half[0].severity
    ('baseline-budget', 'error')
    """
    ours, found = facts[student], []
    for name, theirs in facts.items():
        if name == student:
            continue
        found += _budget(student, ours, name, theirs)
        for flag, severity, field, why in _EQUAL:
            mine, other = getattr(ours, field), getattr(theirs, field)
            if mine is not None and other is not None and mine != other:
                if flag == "different-data" and data_is_declared:
                    severity = "warning"
                evidence = {"models": [student, name], field: [mine, other]}
                found.append(Flag(flag, severity, f"{student} and {name} {why}", evidence))  # type: ignore[arg-type]
    return found


_EQUAL = (
    (
        "different-data",
        "error",
        "train_data",
        "were trained on different data, so their difference is not the method's",
    ),
    ("different-held-out-data", "error", "eval_data", "were judged on different texts: their figures do not compare"),
    (
        "different-tokenizer",
        "error",
        "tokenizer",
        "have different tokenizers: figures per token do not compare (bits per byte do)",
    ),
    ("different-start", "warning", "student", "started from different weights"),
    ("different-seed", "warning", "seed", "have different seeds, so they are not paired"),
)


def _budget(student: str, ours: TrainingFacts, name: str, theirs: TrainingFacts) -> list[Flag]:
    for field, unit in (("steps", "steps"), ("sequences", "training sequences"), ("tokens", "tokens")):
        mine, other = getattr(ours, field), getattr(theirs, field)
        if not mine or other is None or mine == other:
            continue
        evidence = {"models": [student, name], field: [mine, other], "share": other / mine}
        if other < EQUAL_BUDGET * mine:
            reason = (
                f"The baseline {name} was trained on less: {other:,.0f} {unit} against {student}'s {mine:,.0f} "
                f"({other / mine:.0%}). What {student} gained may be the longer training; train the baseline as long."
            )
            return [Flag("baseline-budget", "error", reason, evidence)]
        if mine < EQUAL_BUDGET * other:
            reason = (
                f"{student} was trained on less than the baseline {name}: {mine:,.0f} {unit} against {other:,.0f}. "
                "It is judged at a disadvantage."
            )
            return [Flag("student-budget", "warning", reason, evidence)]
    return []


def run_flags(manifests: Mapping[str, Any]) -> list[Flag]:
    """Flags of one run's trainings, from the manifests of its stages ``train:*``; the first is the student's.

    They share the run's data; which of it each learns from stands in the run file.
    """
    facts = {name: facts_of(manifest) for name, manifest in manifests.items() if manifest is not None}
    return compare_facts(next(iter(facts)), facts, data_is_declared=True) if facts else []


def facts_of(manifest: Any) -> TrainingFacts:
    """What the manifest of a training says (``distill_core.engine.manifest.Manifest``)."""
    parts, steps = manifest.parts, manifest.notes.get("steps")
    per_step = [parts.get(f"train.{name}") for name in ("batch_sequences", "accumulation_steps")]
    known = isinstance(steps, int) and all(isinstance(value, int) for value in per_step)
    return TrainingFacts(
        steps=steps,
        sequences=steps * per_step[0] * per_step[1] if known else None,
        train_data=parts.get("output of select") or parts.get("output of data:train"),
        student=parts.get("output of student"),
        seed=parts.get("seed"),
    )


def tokenizer_changed(name: str, trained_with: Any, found: Any) -> list[Flag]:
    """``shuffled-tokenizer`` (error): the tokenizer beside a model gives the data's tokens other ids, or has others.

    Args:
        name: the model's.
        trained_with, found: tokenizers, anything with ``get_vocab()``.
    """
    before, now = trained_with.get_vocab(), found.get_vocab()
    moved = [token for token, index in before.items() if now.get(token, index) != index]
    if not moved and before.keys() == now.keys():
        return []
    same = before.keys() == now.keys()
    what = "the same tokens under other ids" if same else "other tokens"
    return [
        Flag(
            "shuffled-tokenizer",
            "error",
            f"The tokenizer beside {name} has {what} than the one that made the data: whoever uses the two together "
            "gives the model other text than it learned. Save the tokenizer of the training beside it.",
            {"model": name, "moved": len(moved), "tokens": [len(before), len(now)], "examples": sorted(moved)[:5]},
        )
    ]


def seed_flags(
    reported: Mapping[int, float], found: Mapping[int, float], *, metric: str, higher_is_better: bool
) -> list[Flag]:
    """Flags of which seeds were reported.

    - ``cherry-picked-seed`` (error): trainings with other seeds exist, were left out, and every one of them is worse
      than every one reported.
    - ``seeds-left-out`` (warning): left out, but not the worst of them.

    Args:
        reported: figure by seed, of the trainings that are shown.
        found: figure by seed, of all finished trainings that differ in nothing but the seed; NaN: not measured.
        metric: what the figures are.
        higher_is_better: direction.

    >>> [f.flag for f in seed_flags({3: 2.0}, {1: 2.4, 2: 2.3, 3: 2.0}, metric="loss", higher_is_better=False)]
    ['cherry-picked-seed']
    """
    left_out = {seed: value for seed, value in found.items() if seed not in reported}
    if not left_out or not reported:
        return []
    sign = 1 if higher_is_better else -1
    ours, theirs = ([sign * v for v in one.values() if math.isfinite(v)] for one in (reported, left_out))
    picked = bool(ours and theirs) and min(ours) > max(theirs)
    every = ", ".join(str(seed) for seed in sorted({*found, *reported}, key=str))
    shown = ", ".join(str(seed) for seed in reported)
    reason = (
        f"The same run file was run with the seeds {every}, and only {shown} "
        f"{'is' if len(reported) == 1 else 'are'} shown"
        + (f", the best in {metric}" if picked else "")
        + ". Report all of them: `distill compare` takes the directories."
    )
    evidence = {
        "metric": metric,
        "reported": {str(s): v for s, v in reported.items()},
        "left_out": {str(s): v for s, v in left_out.items()},
    }
    return [
        Flag("cherry-picked-seed" if picked else "seeds-left-out", "error" if picked else "warning", reason, evidence)
    ]


def few_seeds(seeds: int) -> list[Flag]:
    """``few-seeds`` (warning): fewer than five trainings of a method that is compared as one."""
    if seeds >= FEWEST_SEEDS:
        return []
    count = f"{seeds} seed{'' if seeds == 1 else 's'}"
    reason = (
        f"{count}: what a training's seed changes is not covered below {FEWEST_SEEDS}, so the figures are of these "
        "trained models, not of the method."
    )
    return [Flag("few-seeds", "warning", reason, {"seeds": seeds, "wanted": FEWEST_SEEDS})]


def few_documents(documents: int) -> list[Flag]:
    """``few-documents``: an error below two, where no standard error exists; a warning below eight."""
    sentence = statistics.few_documents_warning(documents)
    if sentence is None:
        return []
    evidence = {"documents": documents, "wanted": statistics.FEW_DOCUMENTS}
    return [Flag("few-documents", "error" if documents < 2 else "warning", sentence, evidence)]


POWER = 0.8
"""The chance at which a difference counts as one that would have been found."""

MARGIN = 0.05
"""Share of the distance from the teacher (without one: of the figure) from which on a difference matters."""


def detectable(standard_error: float, documents: int, *, power: float = POWER) -> float:
    """The smallest difference found with chance ``power`` at a two-sided 5 % test.

    ``(t_{0.975} + t_{power}) SE`` with D - 1 degrees of freedom; NaN where there is no standard error.

    >>> round(detectable(1.0, 1000), 2)
    2.8
    """
    if documents < 2 or not math.isfinite(standard_error):
        return math.nan
    return math.fsum(statistics.t_quantile(p, documents - 1) for p in (0.975, power)) * standard_error


def underpowered(
    what: str, standard_error: float, documents: int, *, margin: float, units: str = "documents"
) -> list[Flag]:
    """``underpowered`` (warning): no difference was found, and one that matters would have been missed too.

    Args:
        what: the comparison, for the sentence: ``student and hard-labels in cross-entropy``.
        standard_error: of the paired difference.
        documents: number of what they are paired by.
        margin: the smallest difference that matters, in the metric's unit.
        units: what they are paired by: ``documents``, or ``seeds``.
    """
    smallest = detectable(standard_error, documents)
    if not smallest > margin:
        return []
    reason = (
        f"No clear difference between {what}, but {documents} {units} find only one of {smallest:.3g} or more four "
        f"times in five, and from {margin:.3g} on it would matter: nothing seen is no evidence that there is nothing. "
        f"{'Hold out more documents' if units == 'documents' else 'Train more seeds'}."
    )
    evidence = {"detectable": smallest, "margin": margin, "power": POWER, units: documents}
    return [Flag("underpowered", "warning", reason, evidence)]
