"""The entry module: light, and every target importable by what it declares."""

from __future__ import annotations

import subprocess
import sys

from distill_core.registry import get_registry


def test_entry_module_and_options_do_not_import_torch() -> None:
    code = (
        "import sys, importlib, distill_objectives.plugin as p;"
        "[importlib.import_module(c.options.split(':')[0]) for c in p.distill_components()];"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_divergences_are_marked_linear_only_where_samples_are_declared() -> None:
    from importlib import import_module

    from distill_core.registry.in_process import as_divergence

    for entry in get_registry().components("objective"):
        if entry.plugin != "objectives" or "targets" not in entry.component.needs.signals:
            continue
        module, attribute = entry.component.target.split(":")
        divergence = getattr(import_module(module), attribute)
        if as_divergence(divergence) is None:  # tests/objectives/test_uncertainty.py: linear in the sampled weights
            sampled = "sampled" in entry.component.needs.targets
            assert not sampled or entry.component.name == "label-posterior", entry.component.name
            continue
        assert divergence.linear_in_teacher == ("sampled" in entry.component.needs.targets), entry.component.name
        assert divergence.name == entry.component.name
