"""What ``distill plugins new`` writes passes the conformance kit, for every kind with a suite, and one without."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from distill_core.cli.new_plugin import TEMPLATES, render_plugin
from distill_core.testing import check_plugin
from distill_core.testing.cases import SUITES

from .conftest import discover, plant_distribution


@pytest.mark.parametrize("kind", [*SUITES, "aligner"])
def test_rendered_packages_conform(kind: str, site: Path) -> None:
    """Put on the path as an editable install does: the sources, and metadata with the entry point."""
    name = f"sample-{kind}"
    written = render_plugin(name, kind, site / "tree")
    assert [str(path) for path in written][-1] == f"tests/test_sample_{kind}.py"
    project = tomllib.loads((site / "tree" / "pyproject.toml").read_text())["project"]
    entries = project["entry-points"]["distill_core"]
    (site / "tree" / f"distill_sample_{kind}").rename(site / f"distill_sample_{kind}")
    plant_distribution(site, project["name"], project["version"], entries, {})
    registry = discover(project["name"])
    results = check_plugin(project["name"], registry=registry)
    failed = [f"{r.check}: {r.detail}" for r in results if r.status == "failed"]
    assert not failed, "\n".join(failed)
    own_suite = (TEMPLATES / "implementation" / f"{kind}.py.j2").is_file()
    passed = sum(r.status == "passed" for r in results)
    assert passed >= (8 if own_suite else 6)
    (record,) = [record for record in registry.records if record.plugin == name]
    assert record.status == "ok"


def test_a_template_for_each_kind_with_a_suite() -> None:
    implemented = {path.name.removesuffix(".py.j2") for path in (TEMPLATES / "implementation").iterdir()}
    assert implemented == {*SUITES, "component"}
    assert implemented == {path.name.removesuffix(".py.j2") for path in (TEMPLATES / "options").iterdir()}
