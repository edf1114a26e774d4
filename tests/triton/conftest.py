"""The two Triton lanes run when their marker is asked for, each in a process of its own.

`pytest -m interp` needs TRITON_INTERPRET=1 before triton is imported; `pytest -m aot` needs it unset. In any other run
the files of a lane are not collected, so that no process mixes the two.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LANES = {"test_interp": "interp", "test_aot": "aot"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A lane's file is collected when the marker expression is the lane's."""
    for prefix, marker in LANES.items():
        if collection_path.name.startswith(prefix):
            return True if config.getoption("markexpr") != marker else None
    return None


def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Says what is missing before anything runs with the wrong Triton."""
    marker, interpreted = config.getoption("markexpr"), os.environ.get("TRITON_INTERPRET", "0") == "1"
    if marker in ("interp", "aot") and interpreted != (marker == "interp"):
        needed = "TRITON_INTERPRET=1" if marker == "interp" else "no TRITON_INTERPRET"
        raise pytest.UsageError(f"-m {marker} needs {needed} in the environment")
