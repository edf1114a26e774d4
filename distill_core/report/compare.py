"""Runs side by side: one metric after the other, paired where the data are equal, refused where they are not.

A run is a directory with ``evaluate/results.json`` and ``evaluate/documents.jsonl``; its *student* is compared. Runs of
one run file that differ in the seed alone become one method with several seeds.

- One seed on either side: the paired difference by document, as in an evaluation.
- Two seeds or more in common: the paired difference by seed, so that a verdict is about the method.
- Holm's correction runs over the runs compared with the first one, for each metric.
- A metric is compared only where both runs measured the same documents with the same denominators (tokens, bytes):
  other data or another tokenizer gives *not comparable*, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from distill_core.engine import statistics
from distill_core.engine.flags import MARGIN, TrainingFacts, compare_facts, few_seeds, underpowered
from distill_core.engine.results import finite
from distill_core.errors import DistillError
from distill_core.flag import Flag
from distill_core.report.collect import CollectedRun, collect
from distill_core.report.content import content_of
from distill_core.report.flags import budget_of, picked_seeds
from distill_core.report.recorded import recipe, tokens_digest
from distill_core.report.sizes import by_size
from distill_core.report.text import in_sentence, listing, number

SCHEMA = 1

NOT_COMPARABLE = "not comparable"


@dataclass
class ComparedRun:
    """One run as it enters the comparison: the figures of one model, with their sums by document."""

    label: str
    directory: Path
    run: CollectedRun
    content: dict[str, Any]
    model: str
    metrics: dict[str, dict[str, Any]]
    sums: dict[str, dict[str, tuple[float, float]]]
    digest: str = ""

    @property
    def seed(self) -> Any:
        return self.run.config.get("seed")

    @property
    def tokenizer(self) -> str:
        return str(self.content["results"]["settings"]["vocabulary"]["fingerprint"])


@dataclass
class Method:
    """Runs that differ in nothing but the seed."""

    label: str
    runs: list[ComparedRun] = field(default_factory=list)

    @property
    def first(self) -> ComparedRun:
        return self.runs[0]

    @property
    def seeds(self) -> dict[Any, ComparedRun]:
        return {run.seed: run for run in self.runs}


def compare_runs(directories: Sequence[Path], *, model: str | None = None, confidence: float = 0.95) -> dict[str, Any]:
    """The comparison as plain data: methods, metrics with figures and verdicts against the first, flags.

    Args:
        directories: at least two runs (their ``output_dir``, or what ``distill evaluate --out`` wrote).
        model: which model of each run; default: its student.
        confidence: of intervals and verdicts.

    Raises:
        DistillError: fewer than two runs, one twice, one that was not evaluated, or one without that model.
    """
    resolved = [Path(directory).resolve() for directory in directories]
    if len(resolved) < 2 or len(set(resolved)) < len(resolved):
        raise DistillError(
            f"distill compare needs at least two different runs, got {listing([str(d) for d in directories]) or 'none'}"
        )
    runs = [_read(Path(directory), model, directories) for directory in directories]
    methods = _methods(runs)
    if len(methods) < 2:
        raise DistillError(
            f"{listing([run.label for run in runs])} are one run file with several seeds: give another method too"
        )
    names = list(dict.fromkeys(name for method in methods for name in method.first.metrics))
    metrics = [_metric(name, methods, confidence) for name in names]
    flags = _flags(methods, metrics)
    return finite(  # type: ignore[no-any-return]
        {
            "schema": SCHEMA,
            "confidence": confidence,
            "reference": methods[0].label,
            "methods": [_described(method) for method in methods],
            "metrics": metrics,
            "sizes": by_size(runs),
            "flags": [asdict(flag) for flag in sorted(flags, key=lambda flag: flag.severity != "error")],
        }
    )


_AGAIN = "delete the directory it is in and evaluate the run again (distill evaluate RUN.yaml)"


def _without_results(directory: Path) -> str:
    path = directory / "evaluate" / "results.json"
    if path.is_file():
        return f"{path} is damaged: it is not the JSON that an evaluation writes; {_AGAIN}"
    return f"{directory} holds no evaluate/results.json: evaluate it first (distill evaluate RUN.yaml)"


def _read(directory: Path, model: str | None, every: Sequence[Path]) -> ComparedRun:
    run = collect(directory)
    if run.results is None:
        raise DistillError(_without_results(directory))
    models = run.results.get("models")
    if not isinstance(models, dict):
        raise DistillError(_without_results(directory))
    name = model or next((n for n, m in models.items() if m["role"] != "teacher"), None)
    if name is None or name not in models:
        raise DistillError(f"{directory} has no model {name!r}: it has {listing(list(models))}; give another --model")
    path = directory / "evaluate" / "documents.jsonl"
    if not path.is_file():
        raise DistillError(f"{path} is missing: nothing can be paired without it; evaluate the run again")
    sums: dict[str, dict[str, tuple[float, float]]] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["model"] == name:
                sums.setdefault(row["metric"], {})[row["document"]] = (number(row["sum"]), number(row["denominator"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DistillError(f"{path} is damaged ({error}): {_AGAIN}") from error
    label = directory.name if [Path(d).name for d in every].count(directory.name) == 1 else str(directory)
    metrics = {metric: entry for metric, entry in models[name]["metrics"].items() if not entry["derived_from"]}
    digest = tokens_digest(directory / "data" / "eval")
    return ComparedRun(label, directory, run, content_of(run), name, metrics, sums, digest)


def _methods(runs: Sequence[ComparedRun]) -> list[Method]:
    found: dict[str, Method] = {}
    for run in runs:
        key = recipe(run.run.config) if run.run.config else str(run.directory.resolve())
        if key in found and run.seed in found[key].seeds:
            key = str(run.directory.resolve())
        found.setdefault(key, Method(run.label)).runs.append(run)
    for method in found.values():
        if len(method.runs) > 1:
            method.label = f"{method.first.label} ({len(method.runs)} seeds)"
    return list(found.values())


def _described(method: Method) -> dict[str, Any]:
    models = method.first.content["results"]["models"]
    return {
        "label": method.label,
        "model": method.first.model,
        "runs": [str(run.directory) for run in method.runs],
        "seeds": [run.seed for run in method.runs],
        "parameters": models[method.first.model]["parameters"],
        "documents": method.first.content["results"]["data"]["documents"],
        "rows": method.first.content["results"]["data"]["rows"],
        "tokenizer": method.first.tokenizer,
    }


def _metric(name: str, methods: Sequence[Method], confidence: float) -> dict[str, Any]:
    """Figures of every method, and its difference from the first."""
    described = next(method.first.metrics[name] for method in methods if name in method.first.metrics)
    reference, others = methods[0], methods[1:]
    pairs: dict[str, statistics.PairedDifference] = {}
    refused: dict[str, str] = {}
    paired_by: dict[str, str] = {}
    for method in others if described["higher_is_better"] is not None else []:
        reason = _not_comparable(name, reference, method)
        if reason:
            refused[method.label] = reason
        else:
            paired_by[method.label], pairs[method.label] = _pair(name, reference, method, confidence)
    adjusted = dict(zip(pairs, statistics.holm([pair.p_value for pair in pairs.values()]), strict=True))
    entries = []
    for method in methods:
        entry: dict[str, Any] = {"method": method.label, **_figure(name, method, confidence)}
        if method.label in refused:
            entry |= {"verdict": NOT_COMPARABLE, "reason": refused[method.label]}
        elif method.label in pairs:
            pair = pairs[method.label]
            verdict = statistics.verdict(
                pair,
                higher_is_better=described["higher_is_better"],
                p_adjusted=adjusted[method.label],
                confidence=confidence,
            )
            entry |= {**asdict(pair), "p_adjusted": adjusted[method.label], "verdict": verdict}
            entry["paired_by"] = paired_by[method.label]
        entries.append(entry)
    kept = ("label", "unit", "higher_is_better", "primary")
    return {"metric": name, **{key: described[key] for key in kept}, "entries": entries}


def _figure(name: str, method: Method, confidence: float) -> dict[str, Any]:
    """The value of a metric, its error by document (one seed) or by seed (several)."""
    found = {run.seed: number(run.metrics[name]["value"]) for run in method.runs if name in run.metrics}
    if not found:
        return {
            "value": math.nan,
            "standard_error_of_value": math.nan,
            "interval_of_value": [math.nan, math.nan],
            "n": 0,
        }
    if len(found) == 1:
        metric = next(run.metrics[name] for run in method.runs if name in run.metrics)
        return {
            "value": number(metric["value"]),
            "standard_error_of_value": number(metric["standard_error"]),
            "interval_of_value": [number(end) for end in metric["interval"]],
            "n": metric["n_documents"],
        }
    spread = statistics.estimate({str(seed): (value, 1.0) for seed, value in found.items()}, confidence=confidence)
    return {
        "value": spread.value,
        "standard_error_of_value": spread.standard_error,
        "interval_of_value": list(spread.interval),
        "n": len(found),
    }


def _not_comparable(name: str, reference: Method, method: Method) -> str:
    """Why a metric of two methods cannot be compared; empty if it can."""
    for one in (reference, method):
        missing = [run.label for run in one.runs if name not in run.metrics or name not in run.sums]
        if missing:
            return f"{listing(missing)} did not measure it"
    ours, theirs = reference.first.sums[name], method.first.sums[name]
    if ours.keys() != theirs.keys():
        common = len(ours.keys() & theirs.keys())
        return f"other documents ({len(ours)} and {len(theirs)}, {common} in common)"
    if any(not math.isclose(ours[key][1], theirs[key][1], rel_tol=1e-9) for key in ours):
        if reference.first.tokenizer != method.first.tokenizer:
            return "another tokenizer: the same documents have other tokens"
        return "the same documents were cut differently"
    same_tokenizer = reference.first.tokenizer == method.first.tokenizer
    if (
        same_tokenizer
        and reference.first.digest
        and method.first.digest
        and reference.first.digest != method.first.digest
    ):
        return "other text under the same document names"
    return ""


def _pair(name: str, reference: Method, method: Method, confidence: float) -> tuple[str, statistics.PairedDifference]:
    """``method - reference``: by seed where two or more are shared, else by document."""
    ours, theirs = method.seeds, reference.seeds
    common = [seed for seed in ours if seed in theirs]
    if len(common) > 1:
        values = [{s: number(runs[s].metrics[name]["value"]) for s in common} for runs in (ours, theirs)]
        return f"{len(common)} seeds", statistics.paired_seeds(values[0], values[1], confidence=confidence)
    pair = statistics.paired_difference(method.first.sums[name], reference.first.sums[name], confidence=confidence)
    return f"{pair.n_documents} documents", pair


def _flags(methods: Sequence[Method], metrics: Sequence[dict[str, Any]]) -> list[Flag]:
    """What forbids or weakens the comparison; the errors of each run's own report count too."""
    reference, flags = methods[0].first, list[Flag]()
    given = {run.directory.resolve() for method in methods for run in method.runs}
    for method in methods:
        for run in method.runs:
            flags += _own_flags(run)
        flags += [_of(method.label, flag) for flag in picked_seeds(_by_seed(method), _left_out(method, given))]
    facts = {run.label: _facts(run) for run in (method.first for method in methods)}
    for method in methods[1:]:
        other = method.first
        made = any(run.run.config.get("synthesize") for run in (reference, other))
        pair = {reference.label: facts[reference.label], other.label: facts[other.label]}
        flags += compare_facts(reference.label, pair, data_is_declared=made)
        seeds = (len(methods[0].runs), len(method.runs))
        if min(seeds) == 1 and max(seeds) > 1:
            flags.append(
                Flag(
                    "unequal-seeds",
                    "warning",
                    f"{methods[0].label} has {seeds[0]} seed(s), {method.label} {seeds[1]}: one of each is paired, "
                    "and nothing covers the choice of the seed.",
                    {methods[0].label: seeds[0], method.label: seeds[1]},
                )
            )
    if any(len(method.runs) > 1 for method in methods):
        flags += [_of(method.label, flag) for method in methods for flag in few_seeds(len(method.runs))]
    return flags + _power(methods[0].label, metrics)


def _of(label: str, flag: Flag) -> Flag:
    return replace(flag, reason=f"{label}: {flag.reason}")


SEED_FLAGS = ("cherry-picked-seed", "seeds-left-out")


def _own_flags(run: ComparedRun) -> list[Flag]:
    """Flags of a run's own report but for the seeds left out: here other seeds of it may stand beside it."""
    return [
        Flag(flag["flag"], flag["severity"], f"{run.label}: {flag['reason']}", flag.get("evidence", {}))
        for flag in run.content["flags"]
        if flag["flag"] not in SEED_FLAGS
    ]


def _by_seed(method: Method) -> dict[Any, dict[str, Any]]:
    return {seed: run.metrics for seed, run in method.seeds.items()}


def _left_out(method: Method, given: set[Path]) -> list[dict[str, Any]]:
    """Runs beside those of a method that differ from them in the seed alone and were not given."""
    found = {}
    for run in method.runs:
        for one in run.content["siblings"]:
            if (run.directory.resolve().parent / one["run"]) not in given:
                found[one["seed"]] = one
    return list(found.values())


def _facts(run: ComparedRun) -> TrainingFacts:
    """What a run recorded of what has to be equal; None where it did not."""
    lines = run.run.trainings.get(run.model) or []
    names = frozenset(run.sums[next(iter(run.sums))]) if run.sums else frozenset()
    judged = run.digest or hashlib.sha256("\0".join(sorted(names)).encode(errors="surrogatepass")).hexdigest()
    return replace(
        budget_of(lines) if lines else TrainingFacts(),
        train_data=tokens_digest(run.directory / "data" / "train") or None,
        eval_data=judged,
        tokenizer=run.tokenizer,
    )


def _power(reference: str, metrics: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """``underpowered`` for primary metrics that tell no method from the first, though a twentieth would matter."""
    found = []
    for metric in metrics:
        base = metric["entries"][0]["value"]
        for entry in metric["entries"]:
            if metric["primary"] and entry.get("verdict") == "no clear difference":
                what = f"{entry['method']} and {reference} in {in_sentence(metric['label'])}"
                margin = MARGIN * abs(base)
                units = "seeds" if entry["paired_by"].endswith("seeds") else "documents"
                found += underpowered(what, entry["standard_error"], entry["n_documents"], margin=margin, units=units)
    return found
