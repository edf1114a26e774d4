"""Which checks apply to which component, and running them."""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from distill_core.errors import PluginError
from distill_core.registry import PluginRecord, Registered, Registry, get_registry
from distill_core.registry.controls import normalized
from distill_core.testing.subject import NotApplicable, Subject

Check = Callable[[Subject], None]

SUITES: dict[str, str] = {
    "objective": "distill_core.testing.objective",
    "teacher": "distill_core.testing.teacher",
    "source": "distill_core.testing.source",
    "filter": "distill_core.testing.record_filter",
    "schedule": "distill_core.testing.schedule",
    "evaluator": "distill_core.testing.evaluator",
    "selector": "distill_core.testing.selector",
    "synthesizer": "distill_core.testing.synthesizer",
}
"""Module with the checks of each kind that has a suite of its own: ``CHECKS``, or ``checks_for(entry)``.

Components of other kinds get the general checks.
"""


@dataclass(frozen=True)
class Case:
    """One check of one component (or of a whole plugin).

    Args:
        component: full name, with its kind; or the plugin's name.
        check: what is checked, in words.
    """

    component: str
    check: str
    function: Callable[[Path], None]

    def run(self, directory: Path | None = None) -> None:
        """Run it; raises ``AssertionError`` (or what the component raised) where it does not hold.

        Args:
            directory: folder for example data; default: a temporary one.

        Raises:
            NotApplicable: the check does not apply to this component.
        """
        if directory is not None:
            self.function(directory)
            return
        with tempfile.TemporaryDirectory(prefix="distill-check-") as made:
            self.function(Path(made))

    def __str__(self) -> str:
        return f"{self.component} {self.check}"


@dataclass(frozen=True)
class Result:
    """Outcome of a case; ``detail`` holds the traceback of a failure or the reason it was left out."""

    component: str
    check: str
    status: Literal["passed", "failed", "left out"]
    detail: str = ""


def conformance_cases(
    name: str,
    *,
    kind: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
) -> list[Case]:
    """All checks of an installed plugin.

    Args:
        name: a plugin's or a distribution's name (``session``: what :func:`distill_core.register` added).
        kind: only components of this kind.
        options: options to build components with, by component name; default: the example of the options model.
        registry: default: the process's.

    Raises:
        PluginError: no such plugin, or it failed to load; the message has its stage and traceback.
    """
    registry = registry or get_registry(strict=False)
    records = _records(registry, name)
    plugins = {record.plugin for record in records} or {name}
    entries = [e for e in registry.components(kind) if e.plugin in plugins]
    if not records and not entries:
        raise PluginError(_not_installed(registry, name))
    known = {entry.component.name for entry in entries}
    wrong = sorted(set(options or {}) - known)
    if wrong:
        raise PluginError(f"options were given for {wrong[0]!r}, which {name} does not offer; it has {sorted(known)}")
    cases = [case for record in records for case in _plugin_cases(record, entries)]
    for entry in entries:
        given = (options or {}).get(entry.component.name)
        cases += [_case(entry, check, registry, given) for check in _checks(entry)]
    return cases


def _records(registry: Registry, name: str) -> list[PluginRecord]:
    wanted = normalized(name)
    records = [
        record
        for record in registry.records
        if wanted in (normalized(record.plugin), normalized(record.distribution))
        and record.status not in ("duplicate", "missing")
    ]
    for record in records:
        if record.status in ("failed", "disabled"):
            raise PluginError(f"plugin {record.describe()} cannot be checked\n{record.traceback}".rstrip())
    return records


def _not_installed(registry: Registry, name: str) -> str:
    known = ", ".join(sorted({record.distribution for record in registry.records})) or "none"
    return f"no plugin or distribution called {name!r} is installed; plugins here: {known}"


def _checks(entry: Registered) -> list[Check]:
    general: list[Check] = list(import_module("distill_core.testing.declaration").COMPONENT_CHECKS)
    kind = entry.component.kind
    if kind not in SUITES:
        return general
    suite = import_module(SUITES[kind])
    choose = getattr(suite, "checks_for", None)
    return general + list(suite.CHECKS if choose is None else choose(entry))


def _plugin_cases(record: PluginRecord, entries: Sequence[Registered]) -> list[Case]:
    if not record.entry:
        return []  # a one-file plugin imports what it likes
    checks = import_module("distill_core.testing.declaration").PLUGIN_CHECKS
    own = [entry for entry in entries if entry.plugin == record.plugin]
    return [
        Case(record.plugin, _words(check), lambda directory, check=check: check(record, own))  # type: ignore[misc]
        for check in checks
    ]


def _case(entry: Registered, check: Check, registry: Registry, given: Mapping[str, Any] | None) -> Case:
    def run(directory: Path) -> None:
        check(Subject(entry, registry, directory, given))

    return Case(f"{entry.component.kind} {entry.id}", _words(check), run)


def _words(check: Callable[..., None]) -> str:
    return check.__name__.replace("_", " ")


def check_plugin(
    name: str,
    *,
    kind: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    registry: Registry | None = None,
) -> list[Result]:
    """Run every check of a plugin; arguments as for :func:`conformance_cases`."""
    results = []
    for case in conformance_cases(name, kind=kind, options=options, registry=registry):
        try:
            case.run()
        except NotApplicable as reason:
            results.append(Result(case.component, case.check, "left out", str(reason)))
        except (Exception, SystemExit) as error:
            first = f"{type(error).__name__}: {error}"
            results.append(Result(case.component, case.check, "failed", f"{first}\n{traceback.format_exc()}"))
        else:
            results.append(Result(case.component, case.check, "passed"))
    return results
