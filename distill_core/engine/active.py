"""Active rounds: select, ask the teacher, train, judge; again with the student that came out, while it pays.

A round is a run like any other, in ``rounds/00``, ``rounds/01`` and so on of the run's directory: every stage of it
resumes and is reused. What differs from the run file is its student, which starts from the one of the round before,
and what was bought before: those labels are learned from again or left out, and never bought twice.

A baseline (``active.compare``) has rounds of its own in ``baselines/NAME/01`` and so on, from the same first round,
with another selector and the same budget; in every round its student is judged beside the run's. ``active.json`` says
what each round brought.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core.engine.data import SUMMARY_FILE
from distill_core.engine.run import run, write_run_file
from distill_core.engine.run_file.loading import RawRunFile
from distill_core.engine.run_file.validate import CheckedRun, check_run
from distill_core.engine.run_lock import run_lock
from distill_core.errors import DistillError
from distill_core.files import write_json

if TYPE_CHECKING:
    from distill_core.config import BudgetConfig, ComponentRef, RunConfig
    from distill_core.engine.progress import Progress
    from distill_core.registry import Registry

ACTIVE_FILE = "active.json"
ROUNDS, BASELINES = "rounds", "baselines"
STUDENT = Path("train") / "student" / "model"


@dataclass(frozen=True)
class Rival:
    """A baseline's student in one round, judged beside the run's.

    Args:
        sequences: bought in this round.
        tokens: bought in this round.
        value: the metric of its student on the held-out data.
        standard_error: of that value; None where there are too few documents.
        difference: the run's value minus this one, paired by document.
        difference_standard_error: of the difference; None where there are too few documents.
    """

    sequences: int
    tokens: int
    value: float
    standard_error: float | None
    difference: float
    difference_standard_error: float | None


@dataclass(frozen=True)
class Round:
    """What one round brought.

    Args:
        round: from 0.
        directory: of its run.
        sequences: bought in this round.
        tokens: bought in this round.
        value: the metric of its student on the held-out data.
        standard_error: of that value; None where there are too few documents.
        gain: how much better than the round before; None for the first.
        compare: the baselines by name; empty in the first round, which they share.
    """

    round: int
    directory: str
    sequences: int
    tokens: int
    value: float
    standard_error: float | None
    gain: float | None
    compare: Mapping[str, Rival] = field(default_factory=dict)


@dataclass(frozen=True)
class ActiveResult:
    """All rounds, the metric that judged them, and why there are no more."""

    metric: str
    rounds: tuple[Round, ...]
    stopped: str

    @property
    def better(self) -> Round | None:
        """The best earlier round, if it beats the last: by the held-out data that choose it, which flatter it."""
        change, best, value_at_best = 0.0, None, 0.0
        for one in self.rounds:
            change += one.gain or 0.0
            if best is None or change > value_at_best:
                best, value_at_best = one, change
        return None if best is self.rounds[-1] else best


def run_active(checked: CheckedRun, *, registry: Registry, progress: Progress) -> ActiveResult:
    """Run rounds until one gains less than ``active.least_gain``, all are done, or the pool cannot fill another.

    The page of the whole, ``report/index.html``, is that of the last round with the rounds in it.

    Args:
        checked: a run file with an ``active`` section.
        registry: builds components.
        progress: shows progress and messages.

    Raises:
        DistillError: a stage of a round failed, the evaluation has no such metric, or another process runs here.
    """
    from distill_core.report import write_report

    active = checked.config.active
    assert active is not None
    root = Path(checked.config.output_dir).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    rounds: list[Round] = []
    arms: dict[str, list[str]] = {name: [] for name in active.compare}
    with run_lock(root):
        write_run_file(checked.config, root)
        stopped = None
        while stopped is None:
            number, before = len(rounds), [one.directory for one in rounds]
            progress.say(f"active: round {number} of at most {active.rounds}")
            rivals: dict[str, str] = {}
            for name, chooser in active.compare.items() if before else ():
                progress.say(f"active: round {number}, baseline {name}")
                own = [before[0], *arms[name]]
                this = check_run(round_file(checked, number, own, baseline=(name, chooser)), registry=registry)
                run(this, registry=registry, progress=progress, upto="train")
                rivals[name] = this.config.output_dir
                arms[name].append(this.config.output_dir)
            this = check_run(round_file(checked, number, before, rivals=rivals), registry=registry)
            run(this, registry=registry, progress=progress)
            rounds.append(_brought(this.config, number, active.metric, rounds, rivals))
            stopped = _reason_to_stop(checked.config, rounds)
            _record(root, this.config, active.metric, rounds, stopped)
        write_report(root, registry=registry)
    progress.say(f"active: {stopped}")
    return ActiveResult(active.metric, tuple(rounds), stopped)


def round_file(
    checked: CheckedRun,
    number: int,
    before: Sequence[str],
    *,
    baseline: tuple[str, ComponentRef] | None = None,
    rivals: Mapping[str, str] | None = None,
) -> RawRunFile:
    """The run file of a round.

    Args:
        checked: the run file with the ``active`` section.
        number: of the round.
        before: directories of the rounds so far.
        baseline: the baseline whose round it is, and its selector; default: the run's own round.
        rivals: directories of the baselines' rounds whose students are judged beside this one's.
    """
    raw, config = checked.raw, checked.config
    assert config.active is not None and config.select is not None
    data: dict[str, Any] = copy.deepcopy(raw.data)
    data.pop("active")
    place = ROUNDS if baseline is None else f"{BASELINES}/{baseline[0]}"
    data["output_dir"] = str(Path(config.output_dir).expanduser() / place / f"{number:02d}")
    again = config.active.learns_from == "all"
    said, given = ("keep", config.select.keep) if again else ("exclude", config.select.exclude)
    data["select"][said] = [*given, *(str(Path(one) / "select") for one in before)]
    if before:
        data["student"]["init"] = {"model": str(Path(before[-1]) / STUDENT)}
        if again and config.captures:
            data["capture"] = [_with_known(one, before[-1:]) for one in _listed(data["capture"])]
    else:
        data["select"]["selector"] = config.active.first.model_dump(mode="json")
    if baseline is not None:
        data["select"]["selector"] = baseline[1].model_dump(mode="json")
        data.pop("compare", None)
    if rivals:
        judged = data.setdefault("evaluate", {}) or {}
        beside = {name: str(Path(directory) / STUDENT) for name, directory in rivals.items()}
        data["evaluate"] = {**judged, "models": {**(judged.get("models") or {}), **beside}}
    return RawRunFile(data, f"{raw.source}, round {number}", raw.lines, raw.overridden)


def _listed(captures: Any) -> list[dict[str, Any]]:
    return list(captures) if isinstance(captures, list) else [captures or {}]


def _with_known(capture: Mapping[str, Any], before: Sequence[str]) -> dict[str, Any]:
    """A capture that copies what the last round's store holds, which has all labels so far."""
    stores = [str(Path(one) / "capture" / capture.get("name", "main")) for one in before]
    return {**capture, "known": [*capture.get("known", ()), *stores]}


def _bought(directory: str) -> dict[str, int]:
    summary = json.loads((Path(directory) / "select" / SUMMARY_FILE).read_text(encoding="utf-8"))
    return dict(summary["bought"])


def _brought(config: RunConfig, number: int, metric: str, before: Sequence[Round], rivals: Mapping[str, str]) -> Round:
    directory = Path(config.output_dir)
    results = json.loads((directory / "evaluate" / "results.json").read_text(encoding="utf-8"))
    measured = results["models"]["student"]["metrics"]
    if metric not in measured:
        raise DistillError(f"active.metric is {metric!r}, which the evaluation has not; it has {', '.join(measured)}")
    value, higher = measured[metric]["value"], measured[metric]["higher_is_better"]
    if higher is None:
        raise DistillError(f"active.metric is {metric!r}, of which neither more nor less is better: name another one")
    gain = None
    if before:
        gain = value - before[-1].value if higher else before[-1].value - value
    pairs = {one["baseline"]: one for one in results["comparisons"] if one["metric"] == metric}
    compare = {}
    for name, rival in rivals.items():
        theirs = results["models"][name]["metrics"][metric]
        difference, error = value - theirs["value"], None
        if name in pairs:  # metrics that restate another are not paired
            difference, error = pairs[name]["difference"], pairs[name]["standard_error"]
        compare[name] = Rival(**_bought(rival), value=theirs["value"], standard_error=theirs["standard_error"],
                              difference=difference, difference_standard_error=error)  # fmt: skip
    error = measured[metric]["standard_error"]
    return Round(number, str(directory), **_bought(str(directory)), value=value, standard_error=error, gain=gain,
                 compare=compare)  # fmt: skip


def _record(root: Path, config: RunConfig, metric: str, rounds: Sequence[Round], stopped: str | None) -> None:
    results = json.loads((Path(config.output_dir) / "evaluate" / "results.json").read_text(encoding="utf-8"))
    described = results["models"]["student"]["metrics"][metric]
    said = {
        "metric": metric,
        **{key: described[key] for key in ("label", "unit", "higher_is_better")},
        "rounds": [asdict(one) for one in rounds],
        "stopped": stopped,
    }
    write_json(root / ACTIVE_FILE, said)


def _reason_to_stop(config: RunConfig, rounds: Sequence[Round]) -> str | None:
    """Why there is no further round; None: there is one."""
    assert config.active is not None and config.select is not None
    last = rounds[-1]
    # A round that gains exactly nothing buys labels for nothing.
    if last.gain is not None and (last.gain < config.active.least_gain or last.gain <= 0):
        bound = f"less than active.least_gain ({config.active.least_gain:g}) or nothing"
        return f"round {last.round} gained {last.gain:.4f}, {bound}"
    if len(rounds) == config.active.rounds:
        return f"all {len(rounds)} rounds are done"
    pool = json.loads((Path(last.directory) / "data" / "train" / SUMMARY_FILE).read_text(encoding="utf-8"))
    left = {
        "sequences": pool["sequences"] - sum(one.sequences for one in rounds),
        "tokens": pool["tokens"] - sum(one.tokens for one in rounds),
    }
    if _cannot_fill(config.select.budget, left):
        return f"the pool is exhausted: {left['sequences']} sequences ({left['tokens']} tokens) are left"
    return None


def _cannot_fill(budget: BudgetConfig, left: dict[str, int]) -> bool:
    needs = {"sequences": budget.sequences or 1, "tokens": budget.tokens or 1}
    return any(left[unit] < needs[unit] for unit in needs)
