"""One-file plugins: ``distill -p ./my_loss.py ...`` loads a Python file as a plugin.

The file either has hooks, like the entry module of an installed plugin, or simply defines ``@divergence`` functions,
each of which becomes an objective under its name in kebab-case.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from distill_core.registry.controls import normalized
from distill_core.registry.in_process import as_divergence, describe_object
from distill_core.registry.records import PluginRecord, Registered
from distill_core.registry.staging import (
    HOOK_NAMES,
    Stage,
    check_hooks,
    new_manager,
    output_kept_off_stdout,
    read_components,
)


def file_record(path: Path) -> PluginRecord:
    """The record of a plugin file; its version is a hash of its content."""
    identity = normalized(re.sub(r"[^A-Za-z0-9_.-]", "-", path.stem)).strip("-") or "file"
    version = "-"
    if path.is_file():
        version = "sha256-" + hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return PluginRecord(identity, str(path), version, location=str(path.resolve()))


def load_file_plugin(record: PluginRecord) -> tuple[ModuleType | None, list[Registered]]:
    """Import the file and collect what it offers; a failure is kept in ``record``.

    Returns:
        The module if it has hooks (to register with the host), else None, and the components found by their
        decorators.
    """
    stage = Stage()
    module_name = f"distill_plugin_file_{record.plugin.replace('-', '_')}"
    try:
        with output_kept_off_stdout():
            module = _import_file(Path(record.location), module_name)
            has_hooks = any(hasattr(module, name) for name in HOOK_NAMES) or _marked_names(module)
            if has_hooks:
                stage.name = "hooks"
                manager = new_manager()
                manager.register(module, name="staged")
                check_hooks(manager, module)
                stage.name = "components"
                record.components = read_components(manager)
            found: list[Registered] = []
            if not hasattr(module, "distill_components"):
                stage.name = "components"
                found = _divergences(module, record)
            if not has_hooks and not found:
                raise TypeError(f"{record.distribution} defines neither hooks (@hookimpl) nor @divergence functions")
    except (Exception, SystemExit) as error:
        sys.modules.pop(module_name, None)
        record.blame("failed", stage.name, error)
        return None, []
    record.components = record.components + tuple(entry.component for entry in found)
    return (module if has_hooks else None), found


def _import_file(path: Path, module_name: str) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"no plugin file at {path}")
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Registered under its name before it runs, so that dataclasses and `f"{__name__}:attribute"` targets work.
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def _marked_names(module: ModuleType) -> bool:
    return any(hasattr(value, "distill_core_impl") for value in vars(module).values())


def _divergences(module: ModuleType, record: PluginRecord) -> list[Registered]:
    """``@divergence`` functions defined (not imported) in the file, in the order of their definition."""
    found: list[Registered] = []
    for attribute, value in vars(module).items():
        divergence: Any = None if isinstance(value, ModuleType) else as_divergence(value)
        if divergence is None or attribute.startswith("_") or divergence.function.__module__ != module.__name__:
            continue
        found.append(describe_object("objective", divergence.name, value, plugin=record.plugin, version=record.version))
    return found
