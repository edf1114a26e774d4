"""Checks against misuse: each looks at what a run recorded and passes, raises a flag, or says why it cannot tell.

All are computed from ``report.json`` alone (manifests, counts, figures), so anybody who holds it can repeat them. What
evaluators flagged themselves (``results["flags"]``) is joined to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from distill_core.report.text import fixed, listing, number, share

FEW_DOCUMENTS = 8
"""As :data:`distill_core.engine.statistics.FEW_DOCUMENTS`."""

LEAK_SHARE = 0.01
"""From so large a share of leaked held-out sequences on, an overlap forbids a claim; below it, it is a warning."""

EQUAL_BUDGET = 0.95
"""A baseline with less than this share of the student's steps or tokens had less budget."""

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Flag:
    """A reason not to trust a figure or a comparison.

    Args:
        flag: which one; a name for files.
        severity: ``error`` where no claim may be made, ``warning`` where it needs care.
        reason: for people: what was found and why it matters.
        evidence: the figures behind it.
    """

    flag: str
    severity: Literal["error", "warning"]
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check: ``outcome`` is ``passed``, ``flagged`` or ``unknown``; ``said`` is a sentence."""

    check: str
    title: str
    outcome: Literal["passed", "flagged", "unknown"]
    said: str


Answer = list[Flag] | str
"""Flags, or (a check that passed) what was found to be in order; ``"?..."`` says why a check could not be made."""


def run_checks(content: Content) -> tuple[list[Check], list[dict[str, Any]]]:
    """All checks and all flags, those of evaluators included, errors first.

    Args:
        content: of ``report.json``: config, results, data, overlap, trainings, stores, manifests, siblings.
    """
    checks, flags = [], []
    for name, title, judge in CHECKS:
        answer = judge(content)
        if isinstance(answer, str):
            unknown = answer.startswith("?")
            checks.append(Check(name, title, "unknown" if unknown else "passed", answer.removeprefix("?")))
        else:
            checks.append(Check(name, title, "flagged", " ".join(flag.reason for flag in answer)))
            flags += [asdict(flag) for flag in answer]
    known = {flag["flag"] for flag in flags}
    flags += [dict(flag) for flag in (content.get("results") or {}).get("flags", []) if flag.get("flag") not in known]
    return checks, sorted(flags, key=lambda flag: flag.get("severity") != "error")


def test_in_training(content: Content) -> Answer:
    """Held-out sequences, token for token, or documents that students were trained on."""
    overlap = content.get("overlap")
    if overlap is None:
        return "?The training data lie not here, so nothing says that the held-out text was not trained on."
    flags = []
    shared, total = overlap["sequences"], overlap["held_out_sequences"]
    if shared:
        part = shared / max(total, 1)
        flags.append(
            Flag(
                "test-in-training",
                "error" if part >= LEAK_SHARE else "warning",
                f"{shared:,} of {total:,} held-out sequences ({share(part)}) are, token for token, among the training "
                "sequences: the figures show what was learned by heart. Drop them (filter the training data against "
                "the held-out set) and run again.",
                {"sequences": shared, "held_out_sequences": total, "examples": overlap.get("examples", [])},
            )
        )
    if overlap["documents"]:
        flags.append(
            Flag(
                "document-in-both-splits",
                "error" if shared else "warning",
                f"{overlap['documents']:,} held-out documents were trained on too (for instance "
                f"{listing([str(name) for name in overlap['document_examples'][:3]])}): parts of one document resemble "
                "each other, so held-out figures look better than they are. Split by document.",
                {"documents": overlap["documents"], "examples": overlap["document_examples"]},
            )
        )
    return flags or f"No held-out sequence of {total:,} and no held-out document is in the training data."


def documents(content: Content) -> Answer:
    """Enough documents for a standard error."""
    results = content.get("results")
    if results is None:
        return "?Nothing was evaluated yet."
    count = results["data"]["documents"]
    if count >= FEW_DOCUMENTS:
        return f"{count:,} held-out documents carry the standard errors."
    reason = f"Only {count} held-out document{'' if count == 1 else 's'}: " + (
        "no standard error exists, so nothing can be called better."
        if count < 2
        else f"with fewer than {FEW_DOCUMENTS}, standard errors and intervals are rough guides."
    )
    severity: Literal["error", "warning"] = "error" if count < 2 else "warning"
    return [Flag("few-documents", severity, f"{reason} Hold out more documents.", {"documents": count})]


def budgets(content: Content) -> Answer:
    """Baselines were trained for as many steps and tokens as the student."""
    trainings = {name: _budget(lines) for name, lines in content.get("trainings", {}).items() if lines}
    if "student" not in trainings or len(trainings) < 2:
        return "?Fewer than two trainings are recorded here, so their budgets cannot be compared."
    ours, flags = trainings.pop("student"), []
    for name, theirs in trainings.items():
        short = {
            unit: theirs[unit] / ours[unit]
            for unit in ("steps", "tokens")
            if ours[unit] > 0 and theirs[unit] < EQUAL_BUDGET * ours[unit]
        }
        if short:
            figures = listing([f"{theirs[unit]:,.0f} {unit} against the student's {ours[unit]:,.0f}" for unit in short])
            flags.append(
                Flag(
                    "baseline-budget",
                    "error",
                    f"The baseline {name} was trained on less: {figures}. What the student gained may be the longer "
                    "training; train the baseline as long.",
                    {"baseline": name, "student": ours, "budget": theirs},
                )
            )
    return (
        flags or f"Every baseline had the student's budget: {ours['steps']:,.0f} steps, {ours['tokens']:,.0f} tokens."
    )


def _budget(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {
        "steps": float(max(line["step"] for line in lines)),
        "tokens": math.fsum(number(line.get("tokens", 0)) for line in lines),
    }


def tokenizers(content: Content) -> Answer:
    """One tokenizer made the data, the labels and the figures, and models read it better than chance."""
    found = dict(_fingerprints(content))
    config = content.get("config") or {}
    trainings = [config.get("train") or {}, *(config.get("compare") or {}).values()]
    policies = {str(training.get("vocabulary", "error")) for training in trainings}
    flags = []
    if len(set(found.values())) > 1 and policies == {"error"}:
        parts = listing([f"{place}: {print_}" for place, print_ in found.items()])
        flags.append(
            Flag(
                "tokenizers-differ",
                "error",
                f"Parts of this run were made with different tokenizers ({parts}): token ids mean different things, so "
                "labels and figures do not belong together.",
                found,
            )
        )
    flags += _worse_than_guessing(content)
    if flags:
        return flags
    if not found:
        return "?No tokenizer is recorded."
    return (
        f"One tokenizer throughout ({next(iter(found.values()))[:12]}), and every model reads it better than guessing."
    )


def _fingerprints(content: Content) -> Iterator[tuple[str, str]]:
    for stage, manifest in content.get("manifests", {}).items():
        tokenizer = (manifest.get("notes") or {}).get("tokenizer") or {}
        if stage.startswith("data/") and tokenizer.get("fingerprint"):
            yield f"data {stage.removeprefix('data/')}", str(tokenizer["fingerprint"])
    for name, store in content.get("stores", {}).items():
        if (meta := store.get("meta") or {}).get("tokenizer_fingerprint"):
            yield f"store {name}", str(meta["tokenizer_fingerprint"])
    vocabulary = ((content.get("results") or {}).get("settings") or {}).get("vocabulary") or {}
    if vocabulary.get("fingerprint"):
        yield "evaluation", str(vocabulary["fingerprint"])


def _worse_than_guessing(content: Content) -> list[Flag]:
    """A model whose loss per token exceeds ln V knows another tokenizer than the one that made the text."""
    results = content.get("results")
    if results is None:
        return []
    size = ((results.get("settings") or {}).get("vocabulary") or {}).get("size") or 0
    teacher = next((model for model in results["models"].values() if model["role"] == "teacher"), None)
    if size < 2 or teacher is None:
        return []
    flags = []
    for name, model in results["models"].items():
        for metric, entry in model["metrics"].items():
            own = metric in teacher["metrics"] and entry["primary"] and not entry["higher_is_better"]
            value = number(entry["value"])
            if own and entry["unit"] == "nat/token" and value > math.log(size):
                flags.append(
                    Flag(
                        "worse-than-guessing",
                        "error",
                        f"{name} has {entry['label'].lower()} {fixed(value, 2)} nat/token, above "
                        f"{fixed(math.log(size), 2)} (guessing among {size:,} tokens): its weights do not belong to "
                        "this tokenizer, or it is untrained.",
                        {"model": name, "value": value, "guessing": math.log(size)},
                    )
                )
    return flags


def seeds(content: Content) -> Answer:
    """One seed of several is no result; the best of several even less."""
    siblings, replaced = content.get("siblings") or [], content.get("replaced") or []
    flags = []
    if siblings:
        own = content["config"].get("seed")
        every = sorted({own, *(one["seed"] for one in siblings)}, key=str)
        best = _best_on(content, siblings)
        flags.append(
            Flag(
                "one-seed-of-several",
                "error" if best else "warning",
                f"The same run file was run with the seeds {listing([str(seed) for seed in every])}, and this page "
                f"shows seed {own} alone"
                + (f", the best of them in {best}" if best else "")
                + ". Report all of them: `distill compare` takes the directories.",
                {"seed": own, "siblings": [dict(one) for one in siblings]},
            )
        )
    if replaced:
        flags.append(
            Flag(
                "replaced-seed",
                "warning",
                f"This directory held the same training with another seed ({listing([str(r) for r in replaced])}), and "
                "it was replaced: report every seed that was tried.",
                {"seeds": replaced},
            )
        )
    if flags:
        return flags
    if not content.get("config"):
        return "?There is no run file here, so the training seeds are not known."
    own = content["config"].get("seed")
    return f"No other seed of this run file lies beside it; one seed ({own}) says nothing of the others."


def _best_on(content: Content, siblings: Sequence[Mapping[str, Any]]) -> str:
    """Label of the first primary metric on which this run beats all its siblings; empty if there is none."""
    results = content.get("results")
    student = next((m for m in results["models"].values() if m["role"] != "teacher"), None) if results else None
    for name, metric in (student or {"metrics": {}})["metrics"].items():
        others = [number(one["figures"].get(name)) for one in siblings]
        others = [value for value in others if math.isfinite(value)]
        if not metric["primary"] or not others:
            continue
        ours = number(metric["value"])
        if all(ours > value if metric["higher_is_better"] else ours < value for value in others):
            return str(metric["label"]).lower()
    return ""


CHECKS: tuple[tuple[str, str, Callable[[Content], Answer]], ...] = (
    ("test-in-training", "Held-out text is not in the training data", test_in_training),
    ("few-documents", "Enough held-out documents", documents),
    ("baseline-budget", "Baselines had the student's budget", budgets),
    ("tokenizers-differ", "One tokenizer throughout", tokenizers),
    ("one-seed-of-several", "No seed was picked", seeds),
)
"""Name, title and judge of every check."""
