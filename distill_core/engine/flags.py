"""Checks that catch an evaluation which looks better than it is; each returns flags, none where all is well.

They take plain facts (steps, digests, fingerprints, figures by seed), so that a run's stage, ``distill compare`` and
a script can all call them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill_core.engine import statistics
from distill_core.interfaces import Flag

LESS_BUDGET = 0.99
"""A baseline with less than this share of the student's budget is flagged."""

FEWEST_SEEDS = 5
"""A method is judged on at least so many seeds."""


@dataclass(frozen=True)
class TrainingFacts:
    """What has to be equal for two trainings to be compared; None where it is not known.

    Args:
        steps: optimizer steps taken.
        sequences: training sequences gone through (steps x sequences per step).
        train_data: digest of the training data.
        eval_data: digest of the held-out data.
        tokenizer: fingerprint of the tokenizer.
        student: digest of the initial student.
        seed: of the training.
        best_of: trainings of which this one was picked; 1 where it is the only one.
    """

    steps: int | None = None
    sequences: int | None = None
    train_data: str | None = None
    eval_data: str | None = None
    tokenizer: str | None = None
    student: str | None = None
    seed: int | None = None
    best_of: int = 1


def compare_facts(student: str, facts: Mapping[str, TrainingFacts]) -> list[Flag]:
    """Flags of every other training against ``student``.

    - ``baseline-budget`` (error): fewer steps or sequences than the student had.
    - ``student-budget`` (warning): more of them: the student is judged at a disadvantage.
    - ``different-data``, ``different-held-out-data``, ``different-tokenizer`` (error); ``different-start``,
      ``different-seed`` (warning).

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
    for field, unit in (("steps", "optimizer steps"), ("sequences", "training sequences")):
        mine, other = getattr(ours, field), getattr(theirs, field)
        if not mine or other is None or mine == other:
            continue
        evidence = {"models": [student, name], field: [mine, other], "share": other / mine}
        if other < LESS_BUDGET * mine:
            reason = (
                f"the baseline {name} had {other} {unit}, {student} had {mine}: at {other / mine:.0%} of the budget it "
                "shows what less training does, not what the method does; train it as long"
            )
            return [Flag("baseline-budget", "error", reason, evidence)]
        if mine < LESS_BUDGET * other:
            reason = f"{student} had {mine} {unit}, the baseline {name} had {other}"
            return [Flag("student-budget", "warning", reason, evidence)]
    return []


def run_flags(manifests: Mapping[str, Any]) -> list[Flag]:
    """Flags of one run's trainings, from the manifests of its stages ``train:*``; the first is the student's."""
    facts = {name: facts_of(manifest) for name, manifest in manifests.items() if manifest is not None}
    return compare_facts(next(iter(facts)), facts) if facts else []


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
    """``shuffled-tokenizer`` (error): the tokenizer beside a model is not the one its data was made with.

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
            f"the tokenizer beside {name} has {what} than the one its training data was made with: what it reads "
            "is not what it learned",
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
    - ``few-seeds`` (warning): fewer than five were reported.

    Args:
        reported: figure by seed, of the trainings that are shown.
        found: figure by seed, of all finished trainings that differ in nothing but the seed.
        metric: what the figures are.
        higher_is_better: direction.

    >>> [f.flag for f in seed_flags({3: 2.0}, {1: 2.4, 2: 2.3, 3: 2.0}, metric="loss", higher_is_better=False)]
    ['cherry-picked-seed', 'few-seeds']
    """
    left_out = {seed: value for seed, value in found.items() if seed not in reported}
    flags = []
    if left_out and reported:
        sign = 1 if higher_is_better else -1
        picked = min(sign * v for v in reported.values()) > max(sign * v for v in left_out.values())
        reason = (
            f"{len(left_out)} of {len({*found, *reported})} seeds that were trained are not reported"
            + (f", and all of them are worse in {metric} than those that are" if picked else "")
            + ": report all, or say beforehand which"
        )
        evidence = {
            "metric": metric,
            "reported": {str(s): v for s, v in reported.items()},
            "left_out": {str(s): v for s, v in left_out.items()},
        }
        flag = "cherry-picked-seed" if picked else "seeds-left-out"
        flags.append(Flag(flag, "error" if picked else "warning", reason, evidence))
    if len(reported) < FEWEST_SEEDS:
        count = f"{len(reported)} seed{'' if len(reported) == 1 else 's'}"
        reason = (
            f"{count} reported; what a training's seed changes is not covered below {FEWEST_SEEDS}: the figures are of "
            "these trained models, not of the method"
        )
        flags.append(Flag("few-seeds", "warning", reason, {"seeds": len(reported), "wanted": FEWEST_SEEDS}))
    return flags


def few_documents(documents: int) -> list[Flag]:
    """``few-documents``: an error below two, where no standard error exists; a warning below eight."""
    sentence = statistics.few_documents_warning(documents)
    if sentence is None:
        return []
    evidence = {"documents": documents, "wanted": statistics.FEW_DOCUMENTS}
    return [Flag("few-documents", "error" if documents < 2 else "warning", sentence, evidence)]


def underpowered(difference: float, standard_error: float, documents: int, *, power: float = 0.8) -> Flag | None:
    """``underpowered`` (warning): no difference was found, and only one larger than this could have been.

    The smallest difference found with chance ``power`` at a two-sided 5 % test is
    ``(t_{0.975} + t_{power}) SE`` with D - 1 degrees of freedom; the flag is raised where it is more than twice the
    difference that was seen.
    """
    if documents < 2 or not math.isfinite(standard_error) or standard_error == 0:
        return None
    quantiles = [statistics.t_quantile(p, documents - 1) for p in (0.975, power)]
    detectable = sum(quantiles) * standard_error
    if abs(difference) >= detectable / 2:
        return None
    reason = (
        f"a difference below {detectable:.3g} would not have been found on {documents} documents: no difference seen "
        "is no evidence that there is none"
    )
    return Flag("underpowered", "warning", reason, {"detectable": detectable, "power": power, "documents": documents})
