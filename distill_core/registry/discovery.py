"""Finds the plugins installed on ``sys.path`` without importing any of them.

Of two copies of one distribution the first on the path wins, as for imports; in one directory the higher version does
(a stale dist-info left by an interrupted upgrade).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, distributions

from packaging.version import InvalidVersion, Version

from distill_core.plugin import PROJECT
from distill_core.registry.controls import normalized


@dataclass(frozen=True)
class FoundPlugin:
    """An entry point of the group, not imported yet. ``hidden_by`` says which copy wins over this one."""

    entry_point: EntryPoint
    distribution: str
    version: str
    location: str
    hidden_by: str | None = None


@dataclass(frozen=True)
class _Copy:
    """One copy of a distribution that offers plugins."""

    name: str
    version: str
    location: str
    is_source_tree: bool
    entry_points: tuple[EntryPoint, ...]

    @property
    def signature(self) -> tuple[object, ...]:
        return self.version, tuple((entry.name, entry.value) for entry in self.entry_points)


def _copies() -> Iterator[_Copy]:
    for found in distributions():
        if f"[{PROJECT}]" not in (found.read_text("entry_points.txt") or ""):
            continue
        entries = tuple(sorted((e for e in found.entry_points if e.group == PROJECT), key=lambda e: e.name))
        name = found.metadata["Name"]
        if entries and name:
            yield _Copy(name, found.version or "0", _location(found), _is_source_tree(found), entries)


def _location(found: Distribution) -> str:
    return os.path.realpath(str(found.locate_file("")))


def _is_source_tree(found: Distribution) -> bool:
    """An egg-info directory beside the sources of an editable install, on the path because of the present directory."""
    return str(getattr(found, "_path", "")).endswith(".egg-info")


def _version_key(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        return Version("0")


def _winner(copies: list[_Copy]) -> _Copy:
    first = copies[0]
    beside = [copy for copy in copies if copy.location == first.location]
    return max(beside, key=lambda copy: _version_key(copy.version))


def _hidden_by_other(winner: _Copy) -> str | None:
    """A copy without plugins, earlier on the path, hides this one for imports too."""
    try:
        first = distribution(winner.name)
    except PackageNotFoundError:
        return None
    if _location(first) == winner.location or any(entry.group == PROJECT for entry in first.entry_points):
        return None
    return f"{winner.name} {first.version} in {_location(first)}, which offers no plugin"


def _resolve_copies() -> list[tuple[_Copy, str | None]]:
    """Every distinct copy, with what hides it (None: it is the one in use)."""
    by_name: dict[str, list[_Copy]] = {}
    for copy in _copies():
        by_name.setdefault(normalized(copy.name), []).append(copy)
    result: list[tuple[_Copy, str | None]] = []
    for name in sorted(by_name):
        copies = by_name[name]
        winner = _winner(copies)
        result.append((winner, _hidden_by_other(winner)))
        seen = {(winner.location, winner.version)}
        for copy in copies:
            same_install = copy.signature == winner.signature and (copy.is_source_tree or winner.is_source_tree)
            if (copy.location, copy.version) in seen or same_install:
                continue
            seen.add((copy.location, copy.version))
            result.append((copy, f"{winner.name} {winner.version} in {winner.location}"))
    return result


def find_plugins() -> list[FoundPlugin]:
    """All plugins on the path, sorted by distribution and name."""
    return [
        FoundPlugin(entry, copy.name, copy.version, copy.location, hidden)
        for copy, hidden in _resolve_copies()
        for entry in copy.entry_points
    ]


def identities(loaded: Sequence[FoundPlugin]) -> list[tuple[str, tuple[str, ...]]]:
    """Identity of each plugin, and the others that use the same entry-point name.

    It is the entry point's name; where two plugins share it, each one's distribution; where that is taken or offers
    several, both joined. Only plugins that loaded count, so that a broken one renames nobody.
    """
    name_count = Counter(found.entry_point.name for found in loaded)
    unique = {name for name, count in name_count.items() if count == 1}
    per_distribution = Counter(found.distribution for found in loaded if name_count[found.entry_point.name] > 1)
    result: list[tuple[str, tuple[str, ...]]] = []
    for found in loaded:
        name, owner = found.entry_point.name, found.distribution
        if name in unique:
            identity = name
        elif per_distribution[owner] == 1 and owner not in unique:
            identity = owner
        else:
            identity = f"{owner}/{name}"
        others = (other for other in loaded if other.entry_point.name == name and other is not found)
        result.append((identity, tuple(f"{other.distribution} {other.version}" for other in others)))
    return result
