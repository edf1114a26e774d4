"""Executes a plan: finished stages are reused, an interrupted one resumes, a changed one says what changed and reruns.

torch is imported only when a stage has to run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from distill_core.engine.context import RunContext
from distill_core.engine.manifest import (
    Manifest,
    changes,
    clear,
    damaged_outputs,
    environment,
    fingerprint,
    list_outputs,
    now,
    output_digest,
    read_manifest,
)
from distill_core.engine.plan import Plan, Stage, make_plan
from distill_core.engine.processes import STOP, Processes
from distill_core.engine.progress import Progress, duration
from distill_core.engine.run_lock import run_lock
from distill_core.files import remove_temporaries, write_text

if TYPE_CHECKING:
    from distill_core.config import RunConfig
    from distill_core.engine.run_file.validate import CheckedRun
    from distill_core.registry import Registry

RUN_FILE = "run.yaml"
STALE = "stale"
"""Directory of a run that keeps the last replaced output of each stage."""

Action = Literal["reused", "ran", "resumed"]


@dataclass(frozen=True)
class Outcome:
    """What happened to one stage, and why it had to run (empty: reused, or the first time)."""

    stage: str
    action: Action
    reasons: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class RunResult:
    """A run that ended well."""

    directory: Path
    outcomes: tuple[Outcome, ...]

    @property
    def nothing_done(self) -> bool:
        return all(outcome.action == "reused" for outcome in self.outcomes)

    @property
    def report(self) -> Path | None:
        """The report page, if there is one."""
        page = self.directory / "report" / "index.html"
        return page if page.is_file() else None


def run(
    checked: CheckedRun,
    *,
    registry: Registry,
    progress: Progress,
    upto: str | None = None,
    stage_functions: dict[str, Callable[[RunContext, Stage], dict[str, Any]]] | None = None,
) -> RunResult:
    """Run the stages of a checked run file, reusing what is finished.

    Args:
        checked: what :func:`distill_core.engine.run_file.validate.load_run_file` returned.
        registry: builds components and calls observer hooks.
        progress: shows progress and messages.
        upto: a kind of stage (``capture``): only those and what they need; default: all.
        stage_functions: what to call for each kind; default: :data:`distill_core.engine.stages.STAGES`.

    Raises:
        DistillError: a stage failed because of its input, or another process runs there.
    """
    plan = make_plan(checked, registry=registry)
    processes = Processes.from_environment()
    processes.join()
    if not processes.leads:
        follower = RunContext(plan, registry=registry, progress=Progress(quiet=True))
        return _follow(processes, follower, stage_functions)
    plan.directory.mkdir(parents=True, exist_ok=True)
    with run_lock(plan.directory):
        remove_temporaries(plan.directory)
        stages = plan.stages if upto is None else plan.needed_for(upto)
        context = RunContext(plan, registry=registry, progress=progress)
        return _Runner(plan, stages, context, stage_functions, processes).run()


def _follow(processes: Processes, context: RunContext, functions: Any) -> RunResult:
    """What every process but the first does: the stages that the leader announces."""
    outcomes = []
    while (name := processes.heard()) != STOP:
        _stage_functions(functions)[context.plan[name].kind](context, context.plan[name])
        outcomes.append(Outcome(name, "ran"))
    return RunResult(context.directory, tuple(outcomes))


def _stage_functions(given: Any) -> dict[str, Any]:
    if given is not None:
        return dict(given)
    from distill_core.engine.stages import STAGES

    return dict(STAGES)


def write_run_file(config: RunConfig, directory: Path) -> None:
    """The resolved config, defaults included; written only if it differs."""
    values = config.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    path = directory / RUN_FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


class _Runner:
    """Goes through the stages of one run, under its lock."""

    def __init__(
        self, plan: Plan, stages: Iterable[Stage], context: RunContext, functions: Any, processes: Processes
    ) -> None:
        self.plan, self.stages, self.context, self.functions = plan, tuple(stages), context, functions
        self.processes = processes
        self.say = context.progress.say
        self.digests: dict[str, str] = {}
        self.started = False

    def run(self) -> RunResult:
        error: BaseException | None = None
        try:
            write_run_file(self.plan.config, self.plan.directory)
            outcomes = tuple(self._stage(stage) for stage in self.stages)
            return RunResult(self.plan.directory, outcomes)
        except BaseException as failure:
            error = failure
            raise
        finally:
            self.processes.announce(STOP)
            if self.started:
                self.context.registry.call_hook("distill_run_ended", run=self.context, error=error)

    def _stage(self, stage: Stage) -> Outcome:
        directory = self.plan.directory / stage.directory
        remove_temporaries(directory)
        parts = {**stage.parts(), **{f"output of {name}": self.digests[name] for name in stage.inputs}}
        old = read_manifest(directory)
        if old is None or old.status != "finished" or old.fingerprint != fingerprint(parts):
            self.processes.check(stage)
        reasons: list[str] = []
        if old is not None and old.fingerprint == fingerprint(parts):
            if old.status == "finished":
                reasons = damaged_outputs(directory, old)
                if not reasons:
                    return self._reuse(stage, old)
                if stage.kind == "capture":
                    self.say(f"{stage.name}: {'; '.join(reasons)}: its store is checked and damaged shards made again")
                    self.context.damaged.add(stage.name)
                    return self._execute(stage, directory, parts, old, reasons, "resumed")
            elif stage.resumable:
                return self._execute(stage, directory, parts, old, reasons, "resumed")
        elif old is not None:
            reasons = changes(old.parts, parts) or ["its manifest was written by another version"]
        elif directory.is_dir() and any(directory.iterdir()):
            reasons = [f"{directory} holds files that no manifest speaks of"]
        self._clear(stage, directory, old, reasons)
        return self._execute(stage, directory, parts, None, reasons, "ran")

    def _reuse(self, stage: Stage, manifest: Manifest) -> Outcome:
        self.digests[stage.name] = manifest.output_digest
        self.say(f"{stage.name}: finished {manifest.finished} in {duration(manifest.seconds)}, reused")
        return Outcome(stage.name, "reused")

    def _clear(self, stage: Stage, directory: Path, old: Manifest | None, reasons: list[str]) -> None:
        """Make room for a new output: finished work is moved aside, an unfinished start is removed; both are said."""
        if not directory.exists():
            return
        if not reasons:
            self.say(f"{stage.name}: was interrupted, starting over")
            shutil.rmtree(directory)
            return
        kept = self.plan.directory / STALE / stage.directory
        shown = "; ".join(reasons[:6]) + (f"; and {len(reasons) - 6} more" if len(reasons) > 6 else "")
        if old is not None and old.status != "finished":
            self.say(f"{stage.name}: {shown}: its unfinished output is removed")
            shutil.rmtree(directory)
            return
        replaced = " (replacing the one there)" if kept.exists() else ""
        self.say(f"{stage.name}: {shown}: runs again; the old output is kept in {kept}{replaced}")
        if kept.exists():
            shutil.rmtree(kept)
        kept.parent.mkdir(parents=True, exist_ok=True)
        directory.rename(kept)

    def _execute(
        self,
        stage: Stage,
        directory: Path,
        parts: dict[str, Any],
        old: Manifest | None,
        reasons: list[str],
        action: Action,
    ) -> Outcome:
        if not self.started:
            self.started = True
            self.context.registry.call_hook("distill_run_started", run=self.context)
        directory.mkdir(parents=True, exist_ok=True)
        manifest = Manifest(stage.name, "running", fingerprint(parts), parts, environment=environment(), started=now())
        if old is not None:
            manifest.attempts, manifest.started = old.attempts + 1, old.started
            manifest.seconds, manifest.cpu_seconds = old.seconds, old.cpu_seconds
            self.say(f"{stage.name}: {'resumes' if old.status == 'finished' else 'was interrupted, resumes'}")
        else:
            self.say(f"{stage.name}: starts")
        manifest.write(directory)
        clock = _Clock()
        try:
            self.processes.announce(stage.name)
            manifest.notes = _stage_functions(self.functions)[stage.kind](self.context, stage)
        except BaseException as error:
            clock.add_to(manifest)
            self._failed(stage, directory, manifest, error)
            raise
        seconds = clock.add_to(manifest)
        manifest.outputs = list_outputs(directory)
        manifest.output_digest = output_digest(manifest.outputs)
        manifest.status, manifest.finished = "finished", now()
        manifest.write(directory)
        self.digests[stage.name] = manifest.output_digest
        self.context.registry.call_hook(
            "distill_artifact_saved", run=self.context, stage=stage.name, path=str(directory)
        )
        self.say(f"{stage.name}: done in {duration(seconds)}")
        return Outcome(stage.name, action, tuple(reasons), seconds)

    def _failed(self, stage: Stage, directory: Path, manifest: Manifest, error: BaseException) -> None:
        """Keep what can be resumed; of any other stage only its manifest stays, with the error."""
        directory.mkdir(parents=True, exist_ok=True)
        if not stage.resumable:
            clear(directory)
        manifest.status, manifest.error = "failed", f"{type(error).__name__}: {error}"
        manifest.write(directory)


class _Clock:
    """The time that one attempt at a stage takes."""

    def __init__(self) -> None:
        self.start_s, self.start_cpu_s = time.monotonic(), time.process_time()

    def add_to(self, manifest: Manifest) -> float:
        """Wall-clock seconds since the start, added to the manifest together with the processor's."""
        seconds = time.monotonic() - self.start_s
        manifest.seconds += seconds
        manifest.cpu_seconds += time.process_time() - self.start_cpu_s
        return seconds
