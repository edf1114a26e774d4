"""``distill plugins``: list, show, doctor, new, check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from distill_core.cli.plugins import app
from distill_core.errors import PluginError, UnknownComponent
from distill_core.options import Options
from distill_core.registry import register

from .conftest import Plant, entry_module

pytestmark = pytest.mark.usefixtures("fresh_registry")

OPTIONS = """
from pydantic import Field
from distill_core.options import Options
class SteadyOptions(Options):
    value: float = Field(default=0.5, ge=0, description="what it always says")
    words: list[str] | None = Field(default=None, description="words")
"""
ENTRY = """
from distill_core.plugin import component, hookimpl
@hookimpl
def distill_components():
    return [component("schedule", "steady", "m:A", summary="always the same", options="steady_options:SteadyOptions")]
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def steady(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("acme", "1.2", {"acme": "acme_entry"}, acme_entry=ENTRY, steady_options=OPTIONS)
    monkeypatch.setenv("DISTILL_PLUGINS", "acme")


def test_list_json_has_exactly_the_documented_keys(steady: None) -> None:
    done = run("list", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == [
        {
            "id": "acme:steady",
            "name": "steady",
            "kind": "schedule",
            "summary": "always the same",
            "plugin": "acme",
            "version": "1.2",
            "status": "ok",
        }
    ]


def test_list_as_text_and_by_kind(steady: None) -> None:
    assert run("list").stdout.splitlines() == [
        "KIND      NAME    PLUGIN  VERSION  SUMMARY",
        "schedule  steady  acme    1.2      always the same",
    ]
    assert json.loads(run("list", "--kind", "filter", "--json").stdout) == []
    assert "kinds: aggregator, aligner" in run("list", "--kind", "filtr").stderr


def test_show_prints_types_defaults_and_descriptions(steady: None) -> None:
    for name in ("steady", "acme:steady"):
        lines = run("show", name).stdout.splitlines()
        assert lines[0] == "acme:steady (schedule)"
        assert [line.split() for line in lines if "value" in line] == [
            ["value", "float", "0.5", "what", "it", "always", "says"]
        ]
        assert any(line.split() == ["words", "list[str]", "|", "None", "None", "words"] for line in lines)


def test_show_says_what_is_near(steady: None) -> None:
    with pytest.raises(UnknownComponent, match="Did you mean 'steady'"):
        CliRunner().invoke(app, ["show", "stedy"], catch_exceptions=False)


def test_show_prints_all_kinds_that_share_a_name(steady: None) -> None:
    register("filter", "steady", lambda options: options)
    assert [line for line in run("show", "steady").stdout.splitlines() if line.endswith(")")] == [
        "session:steady (filter)",
        "acme:steady (schedule)",
    ]
    assert "session:steady" not in run("show", "steady", "--kind", "schedule").stdout


def test_doctor_calls_the_commands_hook(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    raising = "\n@hookimpl\ndef distill_commands():\n    raise RuntimeError('boom')\n"
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry_module("steady", extra=raising))
    monkeypatch.setenv("DISTILL_PLUGINS", "acme")
    done = run("doctor")
    assert done.exit_code == 1
    assert "acme (acme 1.0): failed at hook:distill_commands" in done.stdout


def test_doctor_is_content_with_sound_plugins(steady: None) -> None:
    done = run("doctor")
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("no problems")


def test_strict_stops_list_but_not_the_doctor(steady: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_PLUGINS", "acme,nobody")
    monkeypatch.setenv("DISTILL_PLUGINS_STRICT", "1")
    with pytest.raises(PluginError, match="nobody"):
        CliRunner().invoke(app, ["list"], catch_exceptions=False)
    assert run("doctor").exit_code == 1


def test_check_passes_fails_and_sums_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISTILL_PLUGINS", "")

    class Fixed:
        """Half."""

        def __init__(self, options: Options) -> None: ...

        def __call__(self, step: int, total_steps: int) -> float:
            return 0.5

    class Drifting(Fixed):
        """Counts calls."""

        calls = 0

        def __call__(self, step: int, total_steps: int) -> float:
            self.calls += 1
            return float(self.calls)

    register("schedule", "fixed", Fixed)
    good = run("check", "session")
    assert good.exit_code == 0, good.stdout
    assert "0 failed" in good.stdout
    register("schedule", "drifting", Drifting)
    bad = run("check", "session")
    assert bad.exit_code == 1
    assert "1 failed" in bad.stdout
    assert "schedule session:drifting: depends on the step alone" in bad.stderr
    with pytest.raises(PluginError, match="no plugin or distribution called 'nobody'"):
        CliRunner().invoke(app, ["check", "nobody"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("My_Loss", "objective", "kebab-case"),
        ("class", "objective", "choose another"),
        ("options", "filter", "choose another"),
        ("my-loss", "objetive", "expected one of teacher, objective"),
    ],
)
def test_new_refuses_with_a_sentence(tmp_path: Path, name: str, kind: str, expected: str) -> None:
    with pytest.raises(PluginError, match=expected):
        CliRunner().invoke(app, ["new", name, "--kind", kind, "--output", str(tmp_path / "p")], catch_exceptions=False)
    assert not (tmp_path / "p").exists()


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(PluginError, match="not an empty directory"):
        CliRunner().invoke(app, ["new", "x", "--kind", "filter", "--output", str(tmp_path)], catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
