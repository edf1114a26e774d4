"""The kit finds what it is there to find in other kinds of components, and runs under pytest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill_core.errors import PluginError
from distill_core.interfaces import Ranking
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.registry import Registry
from distill_core.testing import check_plugin, conformance_cases
from tests.plugins.kit_verdicts import failed


def test_defects_of_sources_and_filters() -> None:
    class Unstable:
        """Counts passes."""

        passes = 0

        def __init__(self, options: Options) -> None: ...

        def records(self) -> Any:
            Unstable.passes += 1
            yield {"text": f"pass {Unstable.passes}", "document": "d"}

        def fingerprint(self) -> str:
            return "0123456789"

    assert failed("source", Unstable) == {"yields the same records again"}

    class Strips:
        """Edits."""

        def __init__(self, options: Options) -> None: ...

        def verdict(self, record: Any) -> None:
            record["text"] = record.get("text", "").upper()

    assert failed("filter", Strips) == {"leaves records as they are"}


def test_defects_of_selectors() -> None:
    class Sound:
        """By length; the defects below each spoil one thing."""

        def __init__(self, options: Options) -> None: ...

        def select(self, context: Any) -> Ranking:
            return Ranking(np.argsort(-context.lengths, kind="stable"), context.lengths.astype(float), "tokens")

    assert failed("selector", Sound) == set()

    class Twice(Sound):
        def select(self, context: Any) -> Ranking:
            return replace(super().select(context), order=np.array([1, 1, 2]))

    assert failed("selector", Twice) == {"ranks the pool"}

    class Short(Sound):
        def select(self, context: Any) -> Ranking:
            found = super().select(context)
            return replace(found, order=found.order[:2])

    assert failed("selector", Short) == {"fills a small budget"}

    class Chance(Sound):
        def select(self, context: Any) -> Ranking:
            return replace(super().select(context), order=np.random.default_rng().permutation(len(context.pool)))

    assert failed("selector", Chance) == {"ranks the same again"}

    class Edits(Sound):
        def select(self, context: Any) -> Ranking:
            context.pool[0].labels[:] = -100
            return super().select(context)

    assert failed("selector", Edits) == {"leaves the pool as it is"}

    class Undeclared(Sound):
        def select(self, context: Any) -> Ranking:
            context.features.losses(context.pool)
            return super().select(context)

    assert "ranks the pool" in failed("selector", Undeclared)
    assert failed("selector", Undeclared, needs=Needs(signals={"model"})) == set()


def test_defects_of_synthesizers() -> None:
    class Sound:
        """Copies."""

        passes = 0

        def __init__(self, options: Options) -> None: ...

        def synthesize(self, source: Any, directory: Path) -> Any:
            for record in source:
                yield {"text": record["text"], "document": record["document"]}

    assert failed("synthesizer", Sound) == set()

    class Counts(Sound):
        def synthesize(self, source: Any, directory: Path) -> Any:
            Counts.passes += 1
            for record in super().synthesize(source, directory):
                yield {**record, "pass": Counts.passes}

    assert failed("synthesizer", Counts) == {"makes the same again"}

    class Edits(Sound):
        def synthesize(self, source: Any, directory: Path) -> Any:
            for record in source:
                record["document"] = "mine"
                yield dict(record)

    assert failed("synthesizer", Edits) == {"leaves the source as it is"}

    class Paths(Sound):
        def synthesize(self, source: Any, directory: Path) -> Any:
            yield {"text": "one", "document": directory.name, "shape": (1, 2)}

    assert "makes records that survive json" in failed("synthesizer", Paths)


def test_options_have_to_be_closed_and_described() -> None:
    class Open(Options, extra="ignore"):
        pass

    class Half:
        """Half."""

        def __init__(self, options: Open) -> None: ...

        def __call__(self, step: int, total_steps: int) -> float:
            return 0.5

    assert failed("schedule", Half, options=Open) == {"options model refuses unknown options and describes its own"}


def test_cases_know_plugins_and_their_components() -> None:
    with pytest.raises(PluginError, match="'nobody' is installed"):
        conformance_cases("nobody", registry=Registry())
    registry = Registry()
    registry.register("schedule", "half", lambda options: lambda step, total: 0.5)
    with pytest.raises(PluginError, match="options were given for 'hlf'"):
        conformance_cases("session", registry=registry, options={"hlf": {}})


def test_an_entry_module_with_heavy_imports_is_found(plant: Any) -> None:
    from .conftest import discover, entry_module

    # A stand-in: importing the real pandas or torch would only make the test slow.
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry="import pandas\n" + entry_module("steady"), pandas="")
    results = check_plugin("acme", registry=discover("acme"))
    detail = {r.check: r.detail for r in results if r.status == "failed"}
    assert "imports pandas" in detail["entry module imports quickly without torch"]


def test_the_pytest_plugin_runs_the_cases(plant: Any, site: Path, tmp_path: Path) -> None:
    from .conftest import entry_module, run_python

    source = (
        "class Target:\n    def __init__(self, options): ...\n    def __call__(self, step, total): return {value}\n"
    )
    entry = entry_module("steady").replace('"steady_impl:Target"', '"steady_impl:Target", summary="steady"')
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry, steady_impl=source.format(value="0.5"))
    test = tmp_path / "test_acme.py"
    test.write_text(
        "import pytest\n\n\n@pytest.mark.distill_plugin('acme')\n"
        "def test_conformance(conformance_case):\n    conformance_case.run()\n"
    )
    arguments = (
        "-m",
        "pytest",
        "-q",
        "--rootdir",
        str(tmp_path),
        "-p",
        "distill_core.testing.pytest_plugin",
        str(test),
    )
    arguments += ("-p", "no:cacheprovider")
    good = run_python(*arguments, path=site, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert good.returncode == 0, good.stdout
    site.joinpath("steady_impl.py").write_text(source.format(value="'half'"))
    bad = run_python(*arguments, path=site, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert bad.returncode == 1
    assert "gives-a-finite-number-at-every-step" in bad.stdout
