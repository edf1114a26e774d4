"""Environment variables that say which plugins may load.

============================ ==========================================================================
variable                     meaning
============================ ==========================================================================
``DISTILL_PLUGINS``          allow-list, names separated by commas; set but empty: none is loaded
``DISTILL_DISABLE_PLUGINS``  names not to load; ``*``: none is loaded
``DISTILL_PLUGINS_STRICT``   ``1``: a plugin that failed or is missing is an error (exit code 2)
============================ ==========================================================================

A name is an entry point's or a distribution's; case, ``-`` and ``_`` do not matter.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from distill_core.errors import PluginError

ALLOW = "DISTILL_PLUGINS"
DISABLE = "DISTILL_DISABLE_PLUGINS"
STRICT = "DISTILL_PLUGINS_STRICT"

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")


def normalized(name: str) -> str:
    """A distribution or plugin name in the form that PEP 503 compares.

    >>> normalized("Distill_Acme")
    'distill-acme'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


@dataclass(frozen=True)
class Controls:
    """The environment's say. ``allow=None``: every installed plugin."""

    allow: tuple[str, ...] | None = None
    disable: tuple[str, ...] = ()
    strict: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Controls:
        strict = environment.get(STRICT, "").strip().lower()
        if strict not in _TRUE + _FALSE:
            raise PluginError(f"{STRICT} is {strict!r}; expected 1 or 0: a failed plugin is an error, or is reported")
        allow = environment.get(ALLOW)
        return cls(
            allow=None if allow is None else _names(allow),
            disable=_names(environment.get(DISABLE, "")),
            strict=strict in _TRUE,
        )

    def refusal(self, *names: str) -> str | None:
        """Why a plugin with these names is not loaded, or None if it may be."""
        own = {normalized(name) for name in names}
        if "*" in self.disable or own & {normalized(name) for name in self.disable}:
            return f"switched off by {DISABLE}"
        if self.allow is not None and not own & {normalized(name) for name in self.allow}:
            return f"not on the allow-list {ALLOW}"
        return None
