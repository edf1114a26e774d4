"""The headline: is the student good, compared with what, at what cost, can it be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill_core.report.text import difference, figure, in_sentence, listing, number, share, short, times

ONE_SEED = (
    "Intervals cover the choice of held-out documents, not the training seed: the verdict is about these trained "
    "models. To judge a method, repeat the run with several seeds and give them all to distill compare."
)


@dataclass
class Headline:
    """What the first screen says.

    Args:
        tone: ``good``, ``mixed``, ``open`` (nothing can be claimed), ``bad`` or ``alarm`` (a check failed).
        title: the verdict in one sentence.
        sentences: is the student good.
        compared: with what, on what.
        cost: of the student, and of making it.
        trust: what was checked.
        caveat: what the figures do not cover.
    """

    tone: str
    title: str
    sentences: list[str] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)
    cost: list[str] = field(default_factory=list)
    trust: list[str] = field(default_factory=list)
    caveat: str = ""


def headline(content: Mapping[str, Any]) -> Headline:
    """The verdict over the student.

    Args:
        content: of ``report.json``: results (None: not evaluated yet), checks, flags, trainings.
    """
    results = content.get("results")
    checks, flags = content.get("checks", []), content.get("flags", [])
    if results is None:
        found = Headline("open", "Not evaluated yet.", ["distill evaluate RUN.yaml measures the models."])
        found.trust = _trust(checks, flags)
        return found
    models = results["models"]
    teacher = next((name for name, model in models.items() if model["role"] == "teacher"), None)
    students = [name for name in models if name != teacher]
    if not students:
        return Headline("open", "Only the teacher was evaluated.")
    student, baselines = students[0], students[1:]
    primary = [c for c in results["comparisons"] if c["baseline"] in baselines and _metric(results, c)["primary"]]
    found = _verdict(student, baselines, primary, results)
    found.compared = _compared(results, teacher, baselines)
    if teacher is not None:
        found.sentences += _given_up(results, student, teacher)
    found.cost = _cost(results, student, teacher) + _making(content, student)
    found.trust = _trust(checks, flags)
    found.caveat = ONE_SEED if primary else ""
    return _restrained(found, flags)


def _restrained(found: Headline, flags: Sequence[Mapping[str, Any]]) -> Headline:
    """Where a check failed, the figures claim nothing."""
    errors = [flag for flag in flags if flag["severity"] == "error"]
    if not errors:
        return found
    count = "One problem" if len(errors) == 1 else f"{len(errors)} problems"
    found.sentences.insert(0, f"Taken alone, the figures would say: {found.title}")
    found.tone = "alarm"
    found.title = f"No claim can be made: {count} must be mended first."
    return found


def _trust(checks: Sequence[Mapping[str, Any]], flags: Sequence[Mapping[str, Any]]) -> list[str]:
    passed = [c for c in checks if c["outcome"] == "passed"]
    unknown = [c for c in checks if c["outcome"] == "unknown"]
    errors = [f for f in flags if f["severity"] == "error"]
    warnings = [f for f in flags if f["severity"] != "error"]
    parts = [f"{len(passed)} of {len(checks)} checks passed"] if checks else []
    parts += [f"{len(errors)} found an error"] if errors else []
    parts += [f"{len(warnings)} gave a warning"] if warnings else []
    parts += [f"{len(unknown)} could not be made"] if unknown else []
    sentences = [f"{', '.join(parts)}."] if parts else []
    return sentences + [c["said"] for c in passed][:2]


def _metric(results: Mapping[str, Any], comparison: Mapping[str, Any]) -> Mapping[str, Any]:
    return results["models"][comparison["model"]]["metrics"][comparison["metric"]]  # type: ignore[no-any-return]


def _compared(results: Mapping[str, Any], teacher: str | None, baselines: Sequence[str]) -> list[str]:
    others = [f"{name} ({short(results['models'][name]['parameters'])} parameters)" for name in baselines]
    if teacher is not None:
        others.append(f"the teacher ({short(results['models'][teacher]['parameters'])} parameters)")
    data = results["data"]
    place = f"on {data['rows']:,} tokens of {data['documents']:,} held-out documents"
    with_whom = f"With {listing(others)}, {place}." if others else f"With nothing, {place}."
    paired = "Paired by document, two standard errors, Holm\u2019s correction over the baselines."
    return [with_whom] + ([paired] if baselines else [])


def _verdict(student: str, baselines: list[str], primary: list[Any], results: Mapping[str, Any]) -> Headline:
    if not baselines:
        why = "Without one, nothing shows what distillation added: name one under `compare`, or with --baseline."
        return Headline("open", f"{_name(student)} has no baseline to be compared with.", [why])
    if not primary:
        return Headline("open", f"No metric compares {_name(student, first=False)} with {listing(baselines)}.")
    kinds = {c["verdict"] for c in primary}
    details = [_detail(c, _metric(results, c)) for c in primary]
    against = listing(baselines)
    subject = _name(student)
    if kinds == {"better"}:
        labels = list(dict.fromkeys(in_sentence(_metric(results, c)["label"]) for c in primary))
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


def _detail(comparison: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """One comparison as a sentence: how far apart, how sure."""
    shown, baseline, label = (
        difference(comparison, metric["unit"]),
        comparison["baseline"],
        in_sentence(metric["label"]),
    )
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


def _cost(results: Mapping[str, Any], student: str, teacher: str | None) -> list[str]:
    ours = results["models"][student]
    if teacher is None:
        return [f"{_name(student)} has {short(ours['parameters'])} parameters."]
    theirs = results["models"][teacher]
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
    return [f"{_name(student)} has {', '.join(parts)}."]


def _making(content: Mapping[str, Any], student: str) -> list[str]:
    """What the training took, from its own record."""
    lines = content.get("trainings", {}).get(student) or []
    if not lines:
        return []
    tokens = math.fsum(number(line.get("tokens", 0)) for line in lines)
    seconds = (content.get("manifests", {}).get(f"train/{student}") or {}).get("seconds")
    took = f", {_duration(seconds)}" if isinstance(seconds, int | float) and seconds > 0 else ""
    return [f"Its training took {lines[-1]['step']:,} steps and {short(tokens)} tokens{took}."]


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    return (
        f"{hours:.1f} hours" if hours >= 2 else f"{minutes:.0f} minutes" if minutes >= 2 else f"{seconds:.0f} seconds"
    )


def _given_up(results: Mapping[str, Any], student: str, teacher: str) -> list[str]:
    ours, theirs = results["models"][student], results["models"][teacher]
    prices = [
        f"{in_sentence(metric['label'])} {figure(metric)['value']} where the teacher has "
        f"{figure(theirs['metrics'][name])['value']}"
        for name, metric in ours["metrics"].items()
        if metric["primary"] and name in theirs["metrics"]
    ]
    return [f"What it gives up: {listing(prices)}."] if prices else []
