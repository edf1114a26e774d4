"""From the name in a run file to one component: no winner among equals, near misses, failed plugins named."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from distill_core.errors import AmbiguousComponent, UnknownComponent
from distill_core.registry.controls import normalized
from distill_core.registry.records import PluginRecord, Registered


def resolve(kind: str, name: str, registered: Iterable[Registered], records: Sequence[PluginRecord]) -> Registered:
    """The component of this kind called ``name``: bare (``forward-kl``) or full (``objectives:forward-kl``).

    Raises:
        AmbiguousComponent: several plugins offer the name; the message lists the full names.
        UnknownComponent: none does; the message lists near misses and plugins that failed to load.
    """
    everything = list(registered)
    same_kind = [entry for entry in everything if entry.component.kind == kind]
    plugin, _, bare = name.rpartition(":")
    matches = [entry for entry in same_kind if entry.component.name == bare]
    if plugin:
        # The identity wins over the other names of a plugin, so a full id always means one component.
        exact = [entry for entry in matches if entry.plugin == plugin]
        matches = exact or [entry for entry in matches if normalized(plugin) in _other_names(entry)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        full = ", ".join(sorted(entry.id for entry in matches))
        raise AmbiguousComponent(f"{kind} {name!r} is offered by {len(matches)} plugins; write one of: {full}")
    raise UnknownComponent(_unknown(kind, name, bare, everything, records))


def _other_names(entry: Registered) -> set[str]:
    return {normalized(entry.distribution), normalized(entry.entry_point)}


def _unknown(kind: str, name: str, bare: str, everything: Sequence[Registered], records: Sequence[PluginRecord]) -> str:
    same_kind = [entry for entry in everything if entry.component.kind == kind]
    sentences = [f"no plugin offers the {kind} {name!r}."]
    near = near_misses(name, bare, same_kind)
    if near:
        sentences.append(f"Did you mean {' or '.join(near)}?")
    elif same_kind:
        sentences.append(f"Known: {', '.join(sorted({entry.component.name for entry in same_kind}))}.")
    else:
        sentences.append(f"No {kind} is installed at all.")
    elsewhere = sorted({entry.component.kind for entry in everything if entry.component.name == bare})
    if elsewhere:
        sentences.append(f"There is a component of that name of kind {', '.join(elsewhere)}.")
    if "." in name:
        sentences.append("Components are named as `distill plugins list` shows them, never by an import path.")
    broken = [record.describe() for record in records if record.status in ("failed", "missing", "disabled")]
    if broken:
        sentences.append(f"Plugins that are not loaded: {'; '.join(broken)}. See `distill plugins doctor`.")
    return " ".join(sentences)


def near_misses(name: str, bare: str, same_kind: Sequence[Registered]) -> list[str]:
    """Up to three registered names close to ``name``; full where several plugins offer the bare one."""
    by_bare: dict[str, list[str]] = {}
    for entry in same_kind:
        by_bare.setdefault(entry.component.name, []).append(entry.id)
    if bare in by_bare:  # right name, wrong plugin
        return [repr(full) for full in sorted(by_bare[bare])]
    close = difflib.get_close_matches(bare, by_bare, 3)
    return [repr(known if len(by_bare[known]) == 1 else full) for known in close for full in sorted(by_bare[known])[:1]]
