"""Eight planted defects: the command line works, each is reported, and no plugin changes another's result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import entry_module, plant_distribution, run_python

MARKED = "from distill_core.plugin import PLUGIN_API, Component, component, hookimpl\n"

NEWER = MARKED + (
    "@hookimpl\ndef distill_components():\n    return [Component('schedule', 'future', 'm:A', api=PLUGIN_API + 1)]\n"
)
RAISING = MARKED + "@hookimpl\ndef distill_components():\n    raise RuntimeError('boom in the hook')\n"

# distribution -> (entry name, source, status, stage, part of the error)
DEFECTS = {
    "bad-import": ("bad-import", "import not_there", "failed", "import", "No module named 'not_there'"),
    "bad-exit": ("bad-exit", "import sys; sys.exit(3)", "failed", "import", "SystemExit: 3"),
    "bad-signature": (
        "bad-signature",
        MARKED + "@hookimpl\ndef distill_run_started(nonexistent): ...\n",
        "failed",
        "hooks",
        "nonexistent",
    ),
    "bad-raising": ("bad-raising", RAISING, "failed", "components", "boom in the hook"),
    "bad-misspelt": (
        "bad-misspelt",
        MARKED + "@hookimpl\ndef distill_component(): return []\n",
        "failed",
        "hooks",
        "did you mean 'distill_components'",
    ),
    "bad-clash-one": ("clash", entry_module("clash-one"), "clash", "discovery", "also used by bad-clash-two 1.0"),
    "bad-clash-two": ("clash", entry_module("clash-two"), "clash", "discovery", "also used by bad-clash-one 1.0"),
    "bad-newer": ("bad-newer", NEWER, "failed", "components", "plugin interface 2"),
}

LIST = ("-c", "from distill_core.cli.plugins import app; app(['list', '--json'])")
DOCTOR = ("-c", "from distill_core.cli.plugins import app; app(['doctor'])")
DOCTOR_JSON = ("-c", "from distill_core.cli.plugins import app; app(['doctor', '--json'])")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sound plugin."""
    directory = tmp_path_factory.mktemp("good")
    plant_distribution(directory, "acme-good", "1.0", {"good": "acme_good"}, {"acme_good": entry_module("steady")})
    return directory


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sound plugin, the eight defects, and a stale second copy of the sound one."""
    directory = tmp_path_factory.mktemp("planted")
    plant_distribution(directory, "acme-good", "1.0", {"good": "acme_good"}, {"acme_good": entry_module("steady")})
    plant_distribution(directory, "acme-good", "0.9", {"good": "acme_gone"}, {})
    for name, (entry, source, *_) in DEFECTS.items():
        module = name.replace("-", "_")
        plant_distribution(directory, name, "1.0", {entry: module}, {module: source})
    return directory


def test_each_is_reported_with_stage_and_traceback(planted: Path) -> None:
    done = run_python(*DOCTOR_JSON, path=planted)
    assert done.returncode == 1, done.stderr
    records = {(r["distribution"], r["version"]): r for r in json.loads(done.stdout)}
    for name, (_, _, status, stage, error) in DEFECTS.items():
        record = records[name, "1.0"]
        assert (record["status"], record["stage"]) == (status, stage), name
        assert error in record["error"], name
        assert record["error"].split(":")[0] in record["traceback"], name
    stale = records["acme-good", "0.9"]
    assert (stale["status"], stale["stage"]) == ("duplicate", "discovery")
    assert "hidden by acme-good 1.0" in stale["traceback"]
    assert records["acme-good", "1.0"]["status"] == "ok"
    text = run_python(*DOCTOR, path=planted)
    assert text.returncode == 1
    for name, (_, _, status, stage, error) in DEFECTS.items():
        assert f"({name} 1.0): {status} at {stage}" in text.stdout
        assert error in text.stdout
    assert "  | Traceback (most recent call last):" in text.stdout


def test_no_plugin_changes_anothers_result(good: Path, planted: Path) -> None:
    alone, beside = run_python(*LIST, path=good), run_python(*LIST, path=planted)
    assert alone.returncode == beside.returncode == 0, beside.stderr
    rows_alone, rows_beside = json.loads(alone.stdout), json.loads(beside.stdout)
    assert any(row["id"] == "good:steady" for row in rows_alone)
    added = [row for row in rows_beside if row not in rows_alone]
    assert [row for row in rows_beside if row in rows_alone] == rows_alone
    assert [row["id"] for row in added] == ["bad-clash-one:clash-one", "bad-clash-two:clash-two"]
    assert "see `distill plugins doctor`" in beside.stderr


def test_listing_imports_no_torch_and_is_quick(planted: Path) -> None:
    """Under 300 ms of processor time, the best of three, for the registry and every entry module."""
    code = (
        "import sys, time, io, contextlib\n"
        "from distill_core.registry import get_registry\n"
        "get_registry().components()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
        "print(time.process_time())\n"
    )
    spent = []
    for _ in range(3):
        done = run_python("-c", code, path=planted)
        assert done.returncode == 0, done.stderr
        spent.append(float(done.stdout))
    bare = float(run_python("-c", "import time; print(time.process_time())", path=planted).stdout)
    assert min(spent) - bare < 0.3


def test_the_environment_decides(planted: Path) -> None:
    only = run_python(*LIST, path=planted, DISTILL_PLUGINS="good")
    assert [row["id"] for row in json.loads(only.stdout)] == ["good:steady"]
    none = run_python(*LIST, path=planted, DISTILL_DISABLE_PLUGINS="*")
    assert json.loads(none.stdout) == []
    typo = run_python(*DOCTOR, path=planted, DISTILL_PLUGINS="good,goood")
    assert typo.returncode == 1
    assert "goood (goood -): missing at discovery" in typo.stdout


def test_unknown_names_point_at_the_broken_plugin(planted: Path) -> None:
    code = (
        "from distill_core.registry import get_registry\n"
        "from distill_core.errors import UnknownComponent\n"
        "try:\n    get_registry().find('schedule', 'future')\n"
        "except UnknownComponent as error:\n    print(error)\n"
    )
    done = run_python("-c", code, path=planted)
    assert "bad-newer 1.0 (failed at components" in done.stdout
    assert "bad-exit 1.0 (failed at import: SystemExit: 3)" in done.stdout
