"""Conformance of objectives: of the properties declared, each is tested; the rest holds for every objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill_core.errors import PluginError
from distill_core.registry import Registered
from distill_core.registry.in_process import as_divergence
from distill_core.registry.option_values import import_attribute
from distill_core.testing import free_form_objective, row_objective
from distill_core.testing.subject import Subject


def is_a_row_or_a_free_form_objective(subject: Subject) -> None:
    objective: Any = subject.build()
    assert hasattr(objective, "rows") or callable(objective), (
        f"{subject.entry.id} is a {type(objective).__name__}: expected rows(support, target, rows) or "
        "(student, teacher, batch) -> LossTerm"
    )


def checks_for(entry: Registered) -> tuple[Callable[[Subject], None], ...]:
    """The checks of its form; of both where only an instance can tell (a factory function)."""
    target = entry.value
    if target is None:
        try:
            target = import_attribute(entry.component.target, owner=entry.id, role="target")
        except PluginError:
            return (is_a_row_or_a_free_form_objective,)
    if as_divergence(target) is not None or hasattr(target, "rows"):
        return (is_a_row_or_a_free_form_objective, *row_objective.CHECKS)
    if isinstance(target, type):
        return (is_a_row_or_a_free_form_objective, *free_form_objective.CHECKS)
    return (is_a_row_or_a_free_form_objective, *row_objective.CHECKS, *free_form_objective.CHECKS)
