"""The headline: is the student good, compared with what, at what cost. Sentences, each backed by a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_core.report.text import difference, figure, listing, number, share, short, times

ONE_SEED = (
    "Intervals cover the choice of held-out documents, not the training seed: the verdict is about these trained "
    "models. To judge a method, repeat the run with several seeds."
)


@dataclass
class Headline:
    """What the first screen says.

    Args:
        tone: ``good``, ``mixed``, ``open`` (nothing can be claimed) or ``bad``.
        title: the verdict in one sentence.
        sentences: what it rests on, and what it costs.
        caveat: what the figures do not cover.
    """

    tone: str
    title: str
    sentences: list[str] = field(default_factory=list)
    caveat: str = ""


def headline(results: Mapping[str, Any] | None) -> Headline:
    """The verdict over the student, from ``results.json`` (None: not evaluated yet)."""
    if results is None:
        return Headline("open", "Not evaluated yet.", ["distill evaluate RUN.yaml measures the models."])
    models = results["models"]
    teacher = next((name for name, model in models.items() if model["role"] == "teacher"), None)
    students = [name for name in models if name != teacher]
    if not students:
        return Headline("open", "Only the teacher was evaluated.")
    student, baselines = students[0], students[1:]
    primary = [c for c in results["comparisons"] if c["baseline"] in baselines and _metric(results, c)["primary"]]
    found = _verdict(student, baselines, primary, results)
    if teacher is not None:
        found.sentences += _cost(results, student, teacher)
    found.caveat = ONE_SEED if primary else ""
    return found


def _metric(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    return results["models"][comparison["model"]]["metrics"][comparison["metric"]]  # type: ignore[no-any-return]


def _verdict(student: str, baselines: list[str], primary: list[Any], results: Mapping[str, Any]) -> Headline:
    if not baselines:
        why = "Without one, nothing shows what distillation added: name one under `compare` in the run file."
        return Headline("open", f"{_name(student)} has no baseline to be compared with.", [why])
    if not primary:
        return Headline("open", f"No metric compares {_name(student, first=False)} with {listing(baselines)}.")
    kinds = {c["verdict"] for c in primary}
    details = [_detail(c, _metric(results, c)) for c in primary]
    against = listing(baselines)
    subject = _name(student)
    if kinds == {"better"}:
        labels = list(dict.fromkeys(_lower(_metric(results, c)["label"]) for c in primary))
        both = "on both " if len(labels) == 2 else "on "
        return Headline("good", f"{subject} beats {against} {both}{listing(labels)}.", details)
    if kinds == {"undecidable"}:
        return Headline("open", "Too few held-out documents to tell the models apart.", details)
    if kinds <= {"no clear difference", "undecidable"}:
        return Headline("open", f"No clear difference between {_name(student, first=False)} and {against}.", details)
    if "better" not in kinds:
        return Headline("bad", f"{subject} is not better than {against}.", details)
    return Headline("mixed", f"A mixed result: {_name(student, first=False)} beats {against} in part.", details)


def _name(name: str, *, first: bool = True) -> str:
    return ("The " if first else "the ") + name if name == "student" else name


def _lower(label: str) -> str:
    """A label inside a sentence: lower case, but not an abbreviation."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def _detail(comparison: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """One comparison as a sentence: how far apart, how sure."""
    shown, baseline, label = difference(comparison, metric["unit"]), comparison["baseline"], _lower(metric["label"])
    unit = f" {metric['unit']}" if metric["unit"] not in ("", "fraction") else ""
    figures = [f"{shown['value']}{unit}"]
    figures += [f"interval {shown['interval']}"] if shown["interval"] else []
    figures += [shown["p"]] if shown["p"] else []
    evidence = f"({'; '.join(figures)})"
    relative, kind = number(comparison["relative"]), comparison["verdict"]
    if kind in ("no clear difference", "undecidable"):
        said = "No clear difference in" if kind == "no clear difference" else "Nothing can be said of"
        return f"{said} {label} against {baseline} {evidence}."
    size = f"{share(abs(relative))} " if math.isfinite(relative) else ""
    word = "lower" if comparison["difference"] < 0 else "higher"
    worse = ", which is worse" if kind == "worse" else ""
    sentence = f"{size}{word} {label} than {baseline}{worse} {evidence}."
    return sentence[:1].upper() + sentence[1:]


def _cost(results: Mapping[str, Any], student: str, teacher: str) -> list[str]:
    ours, theirs = results["models"][student], results["models"][teacher]
    parts = [
        f"{short(ours['parameters'])} parameters, {share(ours['parameters'] / theirs['parameters'])} of the teacher's"
    ]
    speed = (results.get("efficiency") or {}).get("models", {})
    if student in speed and teacher in speed:
        ratios = [
            f"{verb} {times(speed[student][key] / speed[teacher][key])} as fast"
            for verb, key in (("reads", "prefill_tokens_per_s"), ("writes", "decode_tokens_per_s"))
        ]
        parts.append(listing(ratios))
    sentence = f"{_name(student)} has {', '.join(parts)}."
    prices = [
        f"{_lower(metric['label'])} {figure(metric)['value']} where the teacher has "
        f"{figure(theirs['metrics'][name])['value']}"
        for name, metric in ours["metrics"].items()
        if metric["primary"] and name in theirs["metrics"]
    ]
    return [sentence] + ([f"What it gives up: {listing(prices)}."] if prices else [])
