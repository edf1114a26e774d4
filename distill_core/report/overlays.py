"""How each compared student was trained differently from the run's own, read from the manifests of the trainings.

What a stage depends on is recorded in its manifest (``parts``). What only one of two trainings has, or has otherwise,
is what sets them apart; a run file that says nothing different leaves nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HASHED = "output of "
"""Parts that name an earlier stage's output, whose value is a hash."""


def overlays(manifests: Mapping[str, Any], names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """By compared student: ``{"setting", "student", "other"}``, None where one has no such setting.

    Args:
        manifests: of the stages, by directory.
        names: of the compared trainings, in their order. One that was not trained yet is left out.

    >>> ours, other = {"train.learning_rate": 1.0, "seed": 0}, {"train.learning_rate": 2.0, "seed": 0}
    >>> overlays({"train/student": {"parts": ours}, "train/fast": {"parts": other}}, ["fast"])
    {'fast': [{'setting': 'learning_rate', 'student': 1.0, 'other': 2.0}]}
    """
    own = _parts(manifests, "student")
    if own is None:
        return {}
    found = {}
    for name in names:
        if (theirs := _parts(manifests, name)) is not None:
            settings = [key for key in dict.fromkeys([*own, *theirs]) if own.get(key) != theirs.get(key)]
            found[name] = [{"setting": key, "student": own.get(key), "other": theirs.get(key)} for key in settings]
    return found


def _parts(manifests: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Settings by their place in a training, wherever in the run file they stand; inputs as present or not."""
    manifest = manifests.get(f"train/{name}")
    if not isinstance(manifest, Mapping) or not isinstance(manifest.get("parts"), Mapping):
        return None
    settings: dict[str, Any] = {}
    for key, value in manifest["parts"].items():
        for prefix in ("train.", f"compare.{name}."):
            key = key.removeprefix(prefix)
        if key.endswith("(version)"):
            continue
        if key.startswith(HASHED):
            settings[f"reads {key.removeprefix(HASHED)}"] = True
        else:
            settings[key] = value
    return settings
