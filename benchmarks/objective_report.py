"""The tables of `objective_table`: figures of every arm, and what may be said of it against full KD and hard labels."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from benchmarks.objective_arms import FULL, HARD
from benchmarks.paired_seeds import (
    MARGIN_SHARE,
    MINIMUM_SEEDS,
    Comparison,
    comparisons,
    equivalent,
    figure,
    margin,
    seed_values,
)
from distill_core.engine.statistics import PairedDifference, estimate

KL = "forward_kl"

HEADS = {"forward_kl": "KL to the teacher", "cross_entropy": "CE", "top1_agreement": "agreement", "ece": "ECE"}


def table(result: dict[str, Any]) -> str:
    """Markdown: sizes, figures, comparisons in held-out KL, and what follows from them."""
    known = {unit["arm"] for unit in result["units"]}
    named = [arm for arm in result["arms"] if arm["name"] in known]
    parts = [sizes(result), *unfinished(result), figures(result, named)]
    if {HARD, FULL} <= known:
        names = [arm["name"] for arm in named]
        parts += [compared(result, named), verdicts(result, names)]
    return "\n\n".join(parts)


def sizes(result: dict[str, Any]) -> str:
    """What was trained and measured on."""
    size, data = result["settings"], result["data"]
    head = "head and embeddings frozen" if size["freeze_head"] else "head and embeddings (tied) trained along"
    layers = ", ".join(map(str, size["layers"]))
    seen = "once" if size["epochs"] == 1 else f"{size['epochs']} times"
    return (
        f"Student: the layers {layers} of 30, {head}; {size['steps']} steps of {size['batch']} sequences of "
        f"{size['window']} tokens ({data['train_rows']:,} predicted tokens of {data['train_documents']} speeches, "
        f"each seen {seen}), learning rate {size['learning_rate']:g} for all. Held out: {sum(data['rows']):,} tokens "
        f"of {len(data['documents'])} later speeches; {result['machine']}."
    )


def unfinished(result: dict[str, Any]) -> list[str]:
    """A sentence where arms or seeds are missing."""
    done = Counter(unit["seed"] for unit in result["units"])
    every = len(result["arms"])
    if len(done) >= MINIMUM_SEEDS and set(done.values()) == {every}:
        return []
    counts = ", ".join(f"seed {seed}: {count} of {every} arms" for seed, count in sorted(done.items()))
    return [f"**Unfinished** ({counts}); nothing is claimed of an arm that has fewer than {MINIMUM_SEEDS} seeds."]


def figures(result: dict[str, Any], named: list[dict[str, str]]) -> str:
    """Mean over the seeds ± standard error clustered by document."""
    lines = [
        "| arm | objective | target | seeds | " + " | ".join(HEADS.values()) + " |",
        "|---|---|---|---:|" + "---:|" * len(HEADS),
    ]
    for arm in named:
        cells = [f"`{arm['name']}`", arm["objective"], arm["target"]]
        cells.append(str(len(seed_values(result, arm["name"], KL))))
        for metric in HEADS:
            found = figure(result, arm["name"], metric)
            cells.append(f"{found.value:.3f} ± {found.standard_error:.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    rows = result["data"]["rows"]
    for name, sums in result["start"].items():
        own = []
        for metric in HEADS:
            pairs = zip(result["data"]["documents"], zip(sums.get(metric, ()), rows, strict=False), strict=False)
            found = estimate(dict(pairs))
            own.append("" if math.isnan(found.value) else f"{found.value:.3f} ± {found.standard_error:.3f}")
        lines.append(f"| *{name}* | | | | " + " | ".join(own) + " |")
    return "Mean over the seeds ± standard error clustered by document:\n\n" + "\n".join(lines)


def compared(result: dict[str, Any], named: list[dict[str, str]]) -> str:
    """Held-out KL against the two references."""
    names = [arm["name"] for arm in named]
    full, hard = (comparisons(result, names, reference, KL) for reference in (FULL, HARD))
    lines = [
        "| arm | KL - full KD, over seeds | over documents | Holm's p | against full KD | KL - hard labels, over seeds "
        "| against hard labels |",
        "|---|---:|---:|---:|---|---:|---|",
    ]
    for name in names:
        cells = [f"`{name}`"]
        cells += full_cells(full[name]) if name in full else ["", "", "", ""]
        cells += [interval(hard[name].over_seeds), hard[name].verdict] if name in hard else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return (
        "Paired differences in held-out KL, nat per token, with 90 % t intervals; `better` and `worse` need 5 % after "
        "Holm's correction both over seeds and over documents (p: the larger of the two):\n\n" + "\n".join(lines)
    )


def full_cells(found: Comparison) -> list[str]:
    larger = max(found.p_seeds, found.p_documents)
    p = "" if math.isnan(larger) else f"{larger:.3f}" if larger >= 0.001 else "< 0.001"
    return [interval(found.over_seeds), interval(found.over_documents), p, found.verdict]


def interval(found: PairedDifference) -> str:
    low, high = found.interval
    ends = "one seed" if math.isnan(low) else f"{low:+.3f} to {high:+.3f}"
    return f"{found.difference:+.3f} ({ends})"


def verdicts(result: dict[str, Any], names: list[str]) -> str:
    """Which arms are equivalent to full KD, and at which margin."""
    found = comparisons(result, names, FULL, KL)
    width = margin(result, hard=HARD, full=FULL)
    same = [f"`{name}`" for name, one in found.items() if equivalent(one, width)]
    gap, ce = (comparisons(result, names, FULL, metric)[HARD].over_seeds.difference for metric in (KL, "cross_entropy"))
    return (
        f"Hard labels minus full KD: {gap:+.3f} nat in KL, {ce:+.3f} in CE. Margin of equivalence, {MARGIN_SHARE:.0%} "
        f"of the first: {width:.4f} nat. Equivalent to full KD (both 90 % intervals within it): "
        f"{', '.join(same) or 'none'}."
    )
