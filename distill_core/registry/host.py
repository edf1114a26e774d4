"""The registry: discovers plugins, keeps what happened to each, resolves names, builds components, calls hooks."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from distill_core.errors import PluginError
from distill_core.plugin import Component, Needs, Provides
from distill_core.registry.controls import ALLOW, Controls, normalized
from distill_core.registry.discovery import FoundPlugin, find_plugins, identities
from distill_core.registry.in_process import describe_object
from distill_core.registry.names import resolve
from distill_core.registry.option_values import (
    Reference,
    build_component,
    options_model,
    parse_reference,
    validated_options,
)
from distill_core.registry.plugin_file import file_record, load_file_plugin
from distill_core.registry.records import PluginRecord, Registered
from distill_core.registry.staging import HOOK_NAMES, load_plugin, new_manager

logger = logging.getLogger("distill_core.registry")


class Registry:
    """All plugins of a process. Use :func:`distill_core.registry.get_registry`; tests make their own.

    >>> registry = Registry()
    >>> registry.components()
    []
    """

    def __init__(self) -> None:
        self.records: list[PluginRecord] = []
        self._manager = new_manager()
        self._entries: dict[tuple[str, str], Registered] = {}
        self._record_of: dict[str, PluginRecord] = {}
        self._hook_failures: set[tuple[str, str]] = set()

    # Discovery ----------------------------------------------------------------------------------------------------

    def discover(self, controls: Controls | None = None) -> Registry:
        """Load every installed plugin that the environment admits; failures are kept in :attr:`records`."""
        controls = controls or Controls.from_environment()
        found = find_plugins()
        loaded: list[tuple[FoundPlugin, PluginRecord, Any]] = []
        for item in found:
            entry = item.entry_point
            record = PluginRecord(
                entry.name, item.distribution, item.version, location=item.location, entry=entry.value
            )
            self.records.append(record)
            plugin = self._load(item, record, controls)
            if plugin is not None:
                loaded.append((item, record, plugin))
        for (item, record, plugin), (identity, others) in zip(
            loaded, identities([item for item, _, _ in loaded]), strict=True
        ):
            record.plugin = identity
            self._commit(record, plugin, record.components, entry_point=item.entry_point.name)
            if others:
                record.blame("clash", "discovery", PluginError(_clash(item, identity, others)))
        self._report_missing(found, controls)
        return self

    def _load(self, found: FoundPlugin, record: PluginRecord, controls: Controls) -> Any | None:
        refusal = controls.refusal(found.entry_point.name, found.distribution)
        if refusal is not None:
            record.status, record.error = "disabled", refusal
            return None
        if found.hidden_by is not None:
            message = f"this copy of {found.distribution} is hidden by {found.hidden_by}; uninstall one of them"
            record.blame("duplicate", "discovery", PluginError(message))
            return None
        return load_plugin(record, found.entry_point.load)

    def _report_missing(self, found: list[FoundPlugin], controls: Controls) -> None:
        installed = {normalized(name) for item in found for name in (item.entry_point.name, item.distribution)}
        for name in controls.allow or ():
            if normalized(name) not in installed:
                record = PluginRecord(name, name, "-")
                message = f"named in {ALLOW} but not installed; check the spelling or `pip install` it"
                record.blame("missing", "discovery", PluginError(message))
                self.records.append(record)

    def _commit(
        self, record: PluginRecord, plugin: Any | None, declared: tuple[Component, ...], *, entry_point: str
    ) -> None:
        """Everything passed: let the host see the plugin."""
        if plugin is not None:
            self._manager.register(plugin, name=record.plugin)
            self._record_of[record.plugin] = record
        for component in declared:
            self._add_entry(
                Registered(
                    component=component,
                    plugin=record.plugin,
                    version=record.version,
                    distribution=record.distribution,
                    entry_point=entry_point,
                )
            )

    def _add_entry(self, entry: Registered) -> None:
        self._entries[entry.component.kind, entry.id] = entry

    def load_file(self, path: str | Path) -> PluginRecord:
        """Load a one-file plugin (``distill -p FILE``).

        Raises:
            PluginError: the file was asked for by name, so a failure is an error; the record keeps its traceback.
        """
        if not Path(path).is_file():
            raise PluginError(f"plugin file {path}: no such file; -p takes the path of a Python file")
        if Path(path).suffix != ".py":
            raise PluginError(f"plugin file {path}: its name must end in .py; -p takes the path of a Python file")
        record = file_record(Path(path))
        known = next((other for other in self.records if other.location == record.location), None)
        if known is not None and known.status == "ok":
            return known
        if record.plugin in {other.plugin for other in self.records if other.status in ("ok", "clash")}:
            record.plugin = f"{record.plugin}-file"
        self.records.append(record)
        module, found = load_file_plugin(record)
        if record.status == "failed":
            raise PluginError(f"plugin file {path} failed at {record.stage}: {record.error}\n{record.traceback}")
        declared = record.components[: len(record.components) - len(found)]
        self._commit(record, module, declared, entry_point=record.plugin)
        for entry in found:
            self._add_entry(replace(entry, plugin=record.plugin))
        return record

    def register(
        self,
        kind: str,
        name: str,
        obj: Any,
        *,
        summary: str = "",
        options: type[BaseModel] | None = None,
        needs: Needs | None = None,
        provides: Provides | None = None,
    ) -> Registered:
        """Register an object of this process; the same kind and name again replaces it (a notebook cell run twice)."""
        entry = describe_object(kind, name, obj, summary=summary, options=options, needs=needs, provides=provides)
        self._add_entry(entry)
        return entry

    # Components ---------------------------------------------------------------------------------------------------

    def components(self, kind: str | None = None) -> list[Registered]:
        """All usable components (of one kind), sorted by kind, name and plugin."""
        entries = (entry for entry in self._entries.values() if kind is None or entry.component.kind == kind)
        return sorted(entries, key=lambda entry: (entry.component.kind, entry.component.name, entry.plugin))

    def find(self, kind: str, name: str) -> Registered:
        """The component called ``name``, bare or ``plugin:name``.

        Raises:
            UnknownComponent: none; lists near misses and plugins that failed to load.
            AmbiguousComponent: a bare name that several plugins offer; lists the full names.
        """
        return resolve(kind, name, self._entries.values(), self.records)

    def options_model(self, kind: str, name: str) -> type[BaseModel]:
        """The pydantic model of a component's options."""
        return options_model(self.find(kind, name))

    def options(self, kind: str, ref: Reference) -> BaseModel:
        """Validated options of a reference such as ``{"use": "forward-kl", "temperature": 2.0}``.

        Raises:
            ConfigError: lists every wrong option; ``problems`` start with the option's path.
        """
        reference = parse_reference(kind, ref)
        return validated_options(self.find(kind, reference.use), reference.options)

    def build(self, kind: str, ref: Reference) -> Any:
        """Import the target of a reference and build it with its validated options."""
        reference = parse_reference(kind, ref)
        entry = self.find(kind, reference.use)
        return build_component(entry, validated_options(entry, reference.options))

    def needs(self, kind: str, ref: Reference) -> Needs:
        """What a reference asks of teacher signals, without importing its target."""
        reference = parse_reference(kind, ref)
        entry = self.find(kind, reference.use)
        return entry.needs(validated_options(entry, reference.options))

    def provides(self, kind: str, ref: Reference) -> Provides:
        """What a reference to a teacher can give, without importing its target."""
        reference = parse_reference(kind, ref)
        entry = self.find(kind, reference.use)
        return entry.provides(validated_options(entry, reference.options))

    # Hooks --------------------------------------------------------------------------------------------------------

    def call_hook(self, name: str, **arguments: Any) -> list[Any]:
        """Answers of every plugin that implements a hook; a raising one is recorded and left out."""
        return [answer for _, answer in self.call_hook_by_plugin(name, **arguments)]

    def call_hook_by_plugin(self, name: str, **arguments: Any) -> list[tuple[str, Any]]:
        """As :meth:`call_hook`, each answer with the plugin it came from. ``None`` answers are left out."""
        if name not in HOOK_NAMES:
            raise ValueError(f"unknown hook {name!r}; hooks: {', '.join(HOOK_NAMES)}")
        answers: list[tuple[str, Any]] = []
        for impl in reversed(getattr(self._manager.hook, name).get_hookimpls()):
            missing = [argument for argument in impl.argnames if argument not in arguments]
            if missing:
                raise TypeError(f"hook {name} was called without {missing[0]!r}, which its specification names")
            try:
                answer = impl.function(*(arguments[argument] for argument in impl.argnames))
            except (Exception, SystemExit) as error:
                self._hook_failed(impl.plugin_name, name, error)
                continue
            if answer is not None:
                answers.append((impl.plugin_name, answer))
        return answers

    def _hook_failed(self, plugin: str, hook: str, error: BaseException) -> None:
        """Keep the failure; its components stay usable, since they were sound when they were taken."""
        record = self._record_of[plugin]
        record.blame("failed", f"hook:{hook}", error)
        if (plugin, hook) not in self._hook_failures:
            self._hook_failures.add((plugin, hook))
            logger.warning("plugin %s failed in hook %s: %s (left out)", plugin, hook, record.error)

    # Problems -----------------------------------------------------------------------------------------------------

    def problems(self) -> list[PluginRecord]:
        """Plugins that `distill plugins doctor` reports."""
        return [record for record in self.records if record.is_problem]

    def require_sound(self) -> None:
        """Raise if a plugin failed or is missing (``DISTILL_PLUGINS_STRICT=1``)."""
        broken = [record.describe() for record in self.records if record.status in ("failed", "missing")]
        if broken:
            raise PluginError(
                "DISTILL_PLUGINS_STRICT is set and not every plugin is sound: "
                f"{'; '.join(broken)}. See `distill plugins doctor`."
            )


def _clash(found: FoundPlugin, identity: str, others: tuple[str, ...]) -> str:
    return (
        f"the plugin name {found.entry_point.name!r} is also used by {', '.join(others)}; full names of this one's "
        f"components start with {identity!r}"
    )
