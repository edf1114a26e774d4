"""Checks against misuse: each looks at what a run recorded and passes, raises a flag, or says why it cannot tell.

All are computed from ``report.json`` alone (manifests, counts, figures), so anybody who holds it can repeat them; the
rules are those of :mod:`distill_core.engine.flags`. What the evaluation flagged (``results["flags"]``) is joined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distill_core.engine.flags import TrainingFacts, compare_facts, few_documents, seed_flags
from distill_core.flag import Flag
from distill_core.report.text import fixed, in_sentence, listing, number, share

LEAK_SHARE = 0.01
"""From so large a share of leaked held-out sequences on, an overlap forbids a claim; below it, it is a warning."""

Content = Mapping[str, Any]


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
    """All checks and all flags, those of the evaluation included, errors first.

    A flag of the evaluation on a check's own subject counts for the check; where the check raised a flag of the same
    name that is no less severe, it is the same finding, told once.

    Args:
        content: of ``report.json``: config, results, data, overlap, trainings, stores, manifests, siblings.
    """
    recorded = [dict(flag) for flag in (content.get("results") or {}).get("flags", [])]
    checks, flags = [], []
    for name, title, subjects, judge in CHECKS:
        answer = judge(content)
        found = [] if isinstance(answer, str) else [asdict(flag) for flag in answer]
        joined = [flag for flag in recorded if flag["flag"] in subjects and not _told(flag, found)]
        if found or joined:
            checks.append(Check(name, title, "flagged", " ".join(flag["reason"] for flag in [*found, *joined])))
        else:
            said = str(answer)
            checks.append(Check(name, title, "unknown" if said.startswith("?") else "passed", said.removeprefix("?")))
        flags += found
    flags += [flag for flag in recorded if not _told(flag, flags)]
    return checks, sorted(flags, key=lambda flag: flag.get("severity") != "error")


def _told(flag: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> bool:
    """A flag of this name stands there already, and is no weaker."""
    return any(
        one["flag"] == flag["flag"] and (one["severity"] == "error" or flag.get("severity") != "error") for one in found
    )


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
    return few_documents(count) or f"{count:,} held-out documents carry the standard errors."


def budgets(content: Content) -> Answer:
    """Baselines were trained for as many steps and tokens as the student."""
    trainings = {name: budget_of(lines) for name, lines in content.get("trainings", {}).items() if lines}
    if "student" not in trainings or len(trainings) < 2:
        return "?Fewer than two trainings are recorded here, so their budgets cannot be compared."
    ours = trainings["student"]
    return (
        compare_facts("student", trainings)
        or f"Every baseline had the student's budget: {ours.steps:,.0f} steps, {ours.tokens:,.0f} tokens."
    )


def budget_of(lines: Sequence[Mapping[str, Any]]) -> TrainingFacts:
    """Steps and tokens that the log of a training says it took."""
    return TrainingFacts(
        steps=max(line["step"] for line in lines), tokens=math.fsum(number(line.get("tokens", 0)) for line in lines)
    )


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
    flags = picked_seeds({content["config"].get("seed"): _student(content)}, siblings) if siblings else []
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


def _student(content: Content) -> Mapping[str, Any]:
    """Metrics of the student; empty before the evaluation."""
    models = (content.get("results") or {"models": {}})["models"].values()
    return next((model["metrics"] for model in models if model["role"] != "teacher"), {})


def picked_seeds(reported: Mapping[Any, Mapping[str, Any]], siblings: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """The gravest of ``seed_flags`` over the primary metrics; without any figure, that seeds were left out.

    Args:
        reported: metrics (as in the results) of the student by seed.
        siblings: as :func:`distill_core.report.recorded.siblings` has them.
    """
    first = next(iter(reported.values()))
    primary = {name: metric for name, metric in first.items() if metric["primary"]} or {"": {}}
    found: list[Flag] = []
    for name, metric in primary.items():
        found += seed_flags(
            {seed: number((metrics.get(name) or {}).get("value")) for seed, metrics in reported.items()},
            {one["seed"]: number(one["figures"].get(name)) for one in siblings},
            metric=in_sentence(str(metric.get("label", name))),
            higher_is_better=bool(metric.get("higher_is_better")),
        )
    return sorted(found, key=lambda flag: flag.severity != "error")[:1]


CHECKS: tuple[tuple[str, str, tuple[str, ...], Callable[[Content], Answer]], ...] = (
    (
        "test-in-training",
        "Held-out text is not in the training data",
        ("test-in-training", "near-duplicate-of-test"),
        test_in_training,
    ),
    ("few-documents", "Enough held-out documents", ("few-documents", "underpowered"), documents),
    (
        "baseline-budget",
        "Baselines had the student's budget and data",
        ("baseline-budget", "student-budget", "different-data", "different-start", "different-seed"),
        budgets,
    ),
    ("tokenizers-differ", "One tokenizer throughout", ("shuffled-tokenizer", "different-tokenizer"), tokenizers),
    ("cherry-picked-seed", "No seed was picked", (), seeds),
)
"""Name, title, what else counts for it, and judge of every check."""
