"""Checks that hold for every plugin and every component, whatever its kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from distill_core.registry import PluginRecord, Registered
from distill_core.registry.in_process import as_divergence
from distill_core.registry.option_values import import_attribute
from distill_core.testing.subject import Subject

ENTRY_IMPORT_LIMIT_S = 0.1
HEAVY = ("torch", "transformers", "datasets", "pandas", "matplotlib")

# Reports processor time beyond what `distill_core.plugin` costs, which the host has imported already.
_MEASURE = """
import importlib, json, sys, time
import distill_core.plugin, distill_core.options
start = time.process_time()
for module in json.loads(sys.argv[1]):
    importlib.import_module(module)
spent = time.process_time() - start
print(json.dumps([spent, [name for name in json.loads(sys.argv[2]) if name in sys.modules]]))
"""


def _import_in_fresh_process(modules: Sequence[str]) -> tuple[float, list[str]]:
    path = json.dumps([entry for entry in sys.path if entry])
    code = f"import sys; sys.path[:0] = [p for p in {path} if p not in sys.path]\n{_MEASURE}"
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(modules)), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"importing {', '.join(modules)} in a fresh process failed:\n{done.stderr}"
    spent_s, heavy = json.loads(done.stdout.splitlines()[-1])
    return float(spent_s), list(heavy)


def entry_module_imports_quickly_without_torch(record: PluginRecord, entries: Sequence[Registered]) -> None:
    """In under 100 ms of processor time, the best of three fresh processes (the first one may compile)."""
    module = record.entry.partition(":")[0]
    first_s, heavy = _import_in_fresh_process([module])
    assert not heavy, f"{module} imports {', '.join(heavy)}; move that into the modules of the components"
    best_s = min(first_s, *(_import_in_fresh_process([module])[0] for _ in range(2)))
    assert best_s < ENTRY_IMPORT_LIMIT_S, (
        f"importing {module} took {best_s:.3f} s; the limit is {ENTRY_IMPORT_LIMIT_S} s"
    )


def options_models_import_without_torch(record: PluginRecord, entries: Sequence[Registered]) -> None:
    """`distill validate` imports them, and it never imports torch."""
    modules = sorted({entry.component.options.partition(":")[0] for entry in entries})
    if modules:
        _, heavy = _import_in_fresh_process(modules)
        assert not heavy, (
            f"importing {', '.join(modules)} imports {', '.join(heavy)}; options live in a module of their own"
        )


def declares_a_summary_of_one_line(subject: Subject) -> None:
    summary = subject.entry.component.summary
    assert summary.strip(), f"{subject.entry.id} has no summary; `distill plugins list` shows it"
    assert "\n" not in summary and len(summary) <= 120, f"summary of {subject.entry.id} is longer than a line"


def options_model_refuses_unknown_options_and_describes_its_own(subject: Subject) -> None:
    model = subject.model
    assert model.model_config.get("extra") == "forbid", (
        f"{model.__name__} accepts unknown options, so that a slip in a run file goes unnoticed: subclass "
        "distill_core.options.Options"
    )
    for name, field in model.model_fields.items():
        assert field.description, f"option {name!r} of {model.__name__} has no description (pydantic.Field)"


def target_builds_from_its_options(subject: Subject) -> None:
    built = subject.build()
    assert built is not None, f"{subject.entry.component.target} returned None"


def declared_needs_agree_with_the_target(subject: Subject) -> None:
    """A divergence admits sampled targets exactly if it is linear in the teacher."""
    component = subject.entry.component
    target = subject.entry.value
    if target is None:
        target = import_attribute(component.target, owner=subject.entry.id, role="target")
    divergence = as_divergence(target)
    if divergence is None:
        return
    needs = component.needs
    assert "targets" in needs.signals, f"{subject.entry.id} is a divergence, so it needs the signal 'targets'"
    assert ("sampled" in needs.targets) == divergence.linear_in_teacher, (
        f"{subject.entry.id} declares targets {list(needs.targets)}, but its linear_in_teacher is "
        f"{divergence.linear_in_teacher}: sampled weights are unbiased only in losses linear in the teacher"
    )


PLUGIN_CHECKS = (entry_module_imports_quickly_without_torch, options_models_import_without_torch)

COMPONENT_CHECKS = (
    declares_a_summary_of_one_line,
    options_model_refuses_unknown_options_and_describes_its_own,
    target_builds_from_its_options,
    declared_needs_agree_with_the_target,
)
