"""pytest plugin: ``@pytest.mark.distill_plugin(NAME)`` and the fixture ``conformance_case``.

It comes with distill-core (entry point ``pytest11``); importing it costs nothing until a test asks for the fixture::

    @pytest.mark.distill_plugin("distill-hello")
    def test_conformance(conformance_case):
        conformance_case.run()

``kind=...`` and ``options={"component-name": {...}}`` may be given too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from distill_core.testing import Case

MARKER = "distill_plugin"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(name, kind=None, options=None): run a plugin's conformance checks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "conformance_case" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker(MARKER)
    if marker is None:
        raise pytest.UsageError(
            f"{metafunc.function.__name__} uses conformance_case without @pytest.mark.{MARKER}('name-of-the-plugin')"
        )
    from distill_core.testing import conformance_cases

    cases = conformance_cases(*marker.args, **marker.kwargs)
    metafunc.parametrize("conformance_case", cases, ids=[str(case).replace(" ", "-") for case in cases], indirect=True)


class BoundCase:
    """A case that runs in the test's own folder; a check that does not apply is a skip with its reason."""

    def __init__(self, case: Case, directory: Path) -> None:
        self.case = case
        self.directory = directory

    def run(self) -> None:
        from distill_core.testing import NotApplicable

        try:
            self.case.run(self.directory)
        except NotApplicable as reason:
            pytest.skip(f"does not apply: {reason}")


@pytest.fixture
def conformance_case(request: pytest.FixtureRequest, tmp_path: Path) -> BoundCase:
    """One conformance check of the plugin named by ``@pytest.mark.distill_plugin``."""
    return BoundCase(request.param, tmp_path)
