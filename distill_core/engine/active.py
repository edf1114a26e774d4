"""Active rounds: select, ask the teacher, train, judge; again with the student that came out, while it pays.

A round is a run like any other, in ``rounds/00``, ``rounds/01`` and so on of the run's directory: every stage of it
resumes and is reused. What differs from the run file is its student, which starts from the one of the round before,
and ``select.exclude``, which names the selections so far, so that no label is bought twice. ``active.json`` says what
each round brought.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill_core.engine.data import SUMMARY_FILE
from distill_core.engine.loading import RawRunFile
from distill_core.engine.run import run
from distill_core.engine.run_lock import run_lock
from distill_core.engine.validate import CheckedRun, check_run
from distill_core.errors import DistillError
from distill_core.files import write_json

if TYPE_CHECKING:
    from distill_core.config import BudgetConfig, RunConfig
    from distill_core.engine.progress import Progress
    from distill_core.registry import Registry

ACTIVE_FILE = "active.json"
ROUNDS = "rounds"


@dataclass(frozen=True)
class Round:
    """What one round brought.

    Args:
        round: from 0.
        directory: of its run.
        sequences: bought in this round.
        tokens: bought in this round.
        value: the metric of its student on the held-out data.
        gain: how much better than the round before; None for the first.
    """

    round: int
    directory: str
    sequences: int
    tokens: int
    value: float
    gain: float | None


@dataclass(frozen=True)
class ActiveResult:
    """All rounds, the metric that judged them, and why there are no more."""

    metric: str
    rounds: tuple[Round, ...]
    stopped: str


def run_active(checked: CheckedRun, *, registry: Registry, progress: Progress) -> ActiveResult:
    """Run rounds until one gains less than ``active.least_gain``, all are done, or the pool cannot fill another.

    Args:
        checked: a run file with an ``active`` section.
        registry: builds components.
        progress: shows progress and messages.

    Raises:
        DistillError: a stage of a round failed, the evaluation has no such metric, or another process runs here.
    """
    active = checked.config.active
    assert active is not None
    root = Path(checked.config.output_dir).expanduser()
    root.mkdir(parents=True, exist_ok=True)
    rounds: list[Round] = []
    with run_lock(root):
        stopped = None
        while stopped is None:
            number = len(rounds)
            progress.say(f"active: round {number} of at most {active.rounds}")
            this = check_run(round_file(checked, number, [one.directory for one in rounds]), registry=registry)
            run(this, registry=registry, progress=progress)
            rounds.append(_brought(this.config, number, active.metric, rounds))
            stopped = _reason_to_stop(checked.config, rounds)
            said = {"metric": active.metric, "rounds": [asdict(one) for one in rounds], "stopped": stopped}
            write_json(root / ACTIVE_FILE, said)
    progress.say(f"active: {stopped}")
    return ActiveResult(active.metric, tuple(rounds), stopped)


def round_file(checked: CheckedRun, number: int, before: Sequence[str]) -> RawRunFile:
    """The run file of a round.

    Args:
        checked: the run file with the ``active`` section.
        number: of the round.
        before: directories of the rounds so far.
    """
    raw, config = checked.raw, checked.config
    assert config.active is not None and config.select is not None
    data: dict[str, Any] = copy.deepcopy(raw.data)
    data.pop("active")
    data["output_dir"] = str(Path(config.output_dir).expanduser() / ROUNDS / f"{number:02d}")
    data["select"]["exclude"] = [*config.select.exclude, *(str(Path(one) / "select") for one in before)]
    if before:
        data["student"]["init"] = {"model": str(Path(before[-1]) / "train" / "student" / "model")}
    else:
        data["select"]["selector"] = config.active.first.model_dump(mode="json")
    return RawRunFile(data, f"{raw.source}, round {number}", raw.lines, raw.overridden)


def _brought(config: RunConfig, number: int, metric: str, before: Sequence[Round]) -> Round:
    directory = Path(config.output_dir)
    bought = json.loads((directory / "select" / SUMMARY_FILE).read_text(encoding="utf-8"))
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
    return Round(number, str(directory), bought["sequences"], bought["tokens"], value, gain)


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
