"""What may be said of an arm against another: over seeds, and over held-out documents.

Both arms of a pair saw the same data in the same order under each seed. Two things can deceive: the seed (order and
sample) and the choice of held-out documents. Each has its own paired t interval here; neither contains the other, so a
claim is made only where it holds in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_core.engine.statistics import (
    DocumentSums,
    Estimate,
    PairedDifference,
    Verdict,
    estimate,
    holm,
    paired_difference,
    verdict,
)

HIGHER_IS_BETTER = {"forward_kl": False, "cross_entropy": False, "top1_agreement": True, "ece": False}
"""The metrics that are kept, by the evaluators' names."""

EQUIVALENCE = 0.90
"""Level of the interval that must lie within the margin: two one-sided tests at 5 %."""

MINIMUM_SEEDS = 5
"""Of fewer, figures are shown and nothing is claimed."""

MARGIN_SHARE = 0.05
"""The margin, as a share of the gap between hard labels and full KD."""


@dataclass(frozen=True)
class Comparison:
    """An arm minus its reference.

    Args:
        seeds: how many both have.
        over_seeds: paired by seed, each seed's value being that over all documents.
        over_documents: paired by document, each document's sum being the mean over the seeds.
        p_seeds, p_documents: p values after Holm's correction over the arms.
        verdict: at 5 %; ``better`` or ``worse`` only where both views say so, ``undecidable`` for too few seeds.
    """

    seeds: int
    over_seeds: PairedDifference
    over_documents: PairedDifference
    p_seeds: float
    p_documents: float
    verdict: Verdict


def seed_values(result: dict[str, Any], arm: str, metric: str) -> dict[int, float]:
    """The metric over all held-out rows, by seed."""
    rows = sum(result["data"]["rows"])
    return {
        unit["seed"]: sum(unit["sums"][metric]) / rows
        for unit in sorted(result["units"], key=lambda unit: unit["seed"])
        if unit["arm"] == arm
    }


def document_sums(result: dict[str, Any], arm: str, metric: str, seeds: set[int]) -> DocumentSums:
    """Per document: mean over the seeds of the metric's sum, and its rows."""
    found = [unit["sums"][metric] for unit in result["units"] if unit["arm"] == arm and unit["seed"] in seeds]
    data = result["data"]
    return {
        document: (sum(sums[index] for sums in found) / len(found), data["rows"][index])
        for index, document in enumerate(data["documents"])
    }


def figure(result: dict[str, Any], arm: str, metric: str) -> Estimate:
    """Mean over the seeds, with its standard error clustered by document."""
    return estimate(document_sums(result, arm, metric, set(seed_values(result, arm, metric))))


def pair(
    result: dict[str, Any], arm: str, reference: str, metric: str
) -> tuple[int, PairedDifference, PairedDifference]:
    """An arm minus another, with intervals at :data:`EQUIVALENCE`.

    Raises:
        ValueError: no seed in which both were measured.
    """
    own, other = seed_values(result, arm, metric), seed_values(result, reference, metric)
    common = own.keys() & other.keys()
    if not common:
        raise ValueError(f"{arm} and {reference} have no seed in common: {sorted(own)} and {sorted(other)}")
    over_seeds = paired_difference(
        {str(seed): (own[seed], 1.0) for seed in common},
        {str(seed): (other[seed], 1.0) for seed in common},
        confidence=EQUIVALENCE,
    )
    over_documents = paired_difference(
        document_sums(result, arm, metric, common),
        document_sums(result, reference, metric, common),
        confidence=EQUIVALENCE,
    )
    return len(common), over_seeds, over_documents


def comparisons(result: dict[str, Any], arms: list[str], reference: str, metric: str) -> dict[str, Comparison]:
    """Every other arm against one, p values adjusted over them."""
    others = [arm for arm in arms if arm != reference]
    pairs = {arm: pair(result, arm, reference, metric) for arm in others}
    p_seeds = holm([over_seeds.p_value for _, over_seeds, _ in pairs.values()])
    p_documents = holm([over_documents.p_value for _, _, over_documents in pairs.values()])
    found = {}
    for arm, p_seed, p_document in zip(others, p_seeds, p_documents, strict=True):
        seeds, over_seeds, over_documents = pairs[arm]
        up = HIGHER_IS_BETTER[metric]
        said = agreed(
            verdict(over_seeds, higher_is_better=up, p_adjusted=p_seed),
            verdict(over_documents, higher_is_better=up, p_adjusted=p_document),
        )
        said = said if seeds >= MINIMUM_SEEDS else "undecidable"
        found[arm] = Comparison(seeds, over_seeds, over_documents, p_seed, p_document, said)
    return found


def agreed(one: Verdict, other: Verdict) -> Verdict:
    """What both say; nothing can be said where one cannot."""
    if "undecidable" in (one, other):
        return "undecidable"
    return one if one == other else "no clear difference"


def margin(result: dict[str, Any], *, hard: str, full: str, metric: str = "forward_kl") -> float:
    """:data:`MARGIN_SHARE` of the gap between hard labels and full KD."""
    _, gap, _ = pair(result, hard, full, metric)
    return MARGIN_SHARE * abs(gap.difference)


def equivalent(comparison: Comparison, margin: float) -> bool:
    """Whether both intervals lie within the margin on either side of 0; too few seeds or documents show nothing."""
    ends = [*comparison.over_seeds.interval, *comparison.over_documents.interval]
    return comparison.seeds >= MINIMUM_SEEDS and all(abs(end) < margin for end in ends)  # False for NaN
