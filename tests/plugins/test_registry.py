"""Resolution to options, instances and hooks; objects of the process and one-file plugins."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from distill_core.config import ComponentRef, ObjectiveRef
from distill_core.errors import ConfigError, PluginError
from distill_core.options import DivergenceOptions, Options
from distill_core.plugin import Needs, Provides
from distill_core.registry import Registry, get_registry, register

from .conftest import Plant, discover, entry_module


class RampOptions(Options):
    start: float = Field(default=0.0, ge=0)
    values: tuple[float, ...] = ()


class Ramp:
    """A ramp.

    More.
    """

    def __init__(self, options: RampOptions) -> None:
        self.options = options

    def __call__(self, step: int, total_steps: int) -> float:
        return self.options.start + step / total_steps


def with_ramp() -> Registry:
    registry = Registry()
    registry.register("schedule", "ramp", Ramp, options=RampOptions)
    return registry


@pytest.mark.parametrize(
    "reference", [{"use": "ramp", "start": 0.5}, ComponentRef.model_validate({"use": "session:ramp", "start": 0.5})]
)
def test_build_validates_and_calls_with_the_options(reference: Any) -> None:
    built = with_ramp().build("schedule", reference)
    assert built.options == RampOptions(start=0.5)
    assert built(1, 4) == 0.75


def test_a_bare_name_builds_with_defaults() -> None:
    assert with_ramp().build("schedule", "ramp").options == RampOptions()


def test_all_option_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        with_ramp().options("schedule", {"use": "ramp", "strt": 1, "start": -1, "values": [1, "x"]})
    problems = caught.value.problems
    assert len(problems) == 3
    assert any(text.startswith("strt: unknown option; did you mean 'start'?") for text in problems)
    assert any(text.startswith("start: Input should be greater than or equal to 0; received -1") for text in problems)
    assert any(text.startswith("values[1]: ") and text.endswith("received 'x'") for text in problems)


@pytest.mark.parametrize(
    ("temperature", "problem"),
    [
        (-1, "temperature: Input should be greater than 0; received -1"),
        ("x", "temperature: Input should be a valid number, unable to parse string as a number; received 'x'"),
        ({"us": "linear"}, "temperature.use: required, but not given"),
    ],
)
def test_an_option_of_several_types_is_blamed_once(temperature: Any, problem: str) -> None:
    registry = Registry()
    registry.register("objective", "nothing", lambda options: options, options=DivergenceOptions)
    with pytest.raises(ConfigError) as caught:
        registry.options("objective", {"use": "nothing", "temperature": temperature})
    assert caught.value.problems == [problem]


def test_a_reference_without_use_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="use: required, but not given"):
        with_ramp().options("schedule", {"start": 1})


def test_objective_names_and_weights_are_no_options() -> None:
    registry = Registry()
    registry.register("objective", "nothing", lambda options: options)
    reference = {"use": "nothing", "name": "main", "weight": 0.5}
    assert registry.options("objective", reference).model_dump() == {}
    assert registry.options("objective", ObjectiveRef.model_validate(reference)).model_dump() == {}
    registry.register("schedule", "nothing", lambda options: options)
    with pytest.raises(ConfigError, match="weight: unknown option; this component has no options"):
        registry.options("schedule", reference)


def test_needs_and_provides_come_from_the_options_model() -> None:
    class TeacherOptions(Options):
        deep: bool = False

        def provides(self, declared: Provides) -> Provides:
            return Provides(signals=declared.signals | {"hidden_states"}) if self.deep else declared

    registry = Registry()
    registry.register(
        "teacher", "t", lambda o: o, options=TeacherOptions, provides=Provides(signals=frozenset({"targets"}))
    )
    assert registry.provides("teacher", "t").signals == {"targets"}
    assert registry.provides("teacher", {"use": "t", "deep": True}).signals == {"targets", "hidden_states"}
    assert registry.needs("teacher", "t") == Needs()


def test_register_replaces_and_is_process_wide(fresh_registry: None) -> None:
    register("schedule", "mine", Ramp, options=RampOptions)
    entry = register("schedule", "mine", lambda options: "second")
    assert entry.id == "session:mine"
    assert get_registry().build("schedule", "mine") == "second"
    assert [e.id for e in get_registry().components("schedule") if e.plugin == "session"] == ["session:mine"]


def test_summary_and_version_of_an_object_come_from_its_source() -> None:
    entry = Registry().register("schedule", "ramp", Ramp, options=RampOptions)
    assert entry.component.summary == "A ramp."
    assert entry.version.startswith("source-")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("tv", "pkg.mod:thing", "expected the object itself"),
        ("tv", 3, "can be neither called"),
        ("tv", lambda teacher_logp, student_logp: None, "made an objective by @divergence"),
        ("T V", Ramp, "kebab-case"),
    ],
)
def test_register_refuses_with_a_sentence(name: str, value: Any, expected: str) -> None:
    with pytest.raises((TypeError, ValueError), match=expected):
        Registry().register("objective", name, value)


def test_build_names_what_cannot_be_imported(plant: Plant) -> None:
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry_module("steady"), steady_impl="import not_there")
    registry = discover("acme")
    with pytest.raises(PluginError, match=r"target steady_impl:Target of schedule acme:steady .* 'not_there'"):
        registry.build("schedule", "steady")


def test_build_stops_an_exiting_constructor_and_marks_other_errors() -> None:
    def leave(options: Any) -> None:
        raise SystemExit(5)

    def fail(options: Any) -> None:
        raise ValueError("no such thing")

    registry = Registry()
    registry.register("schedule", "leave", leave)
    registry.register("schedule", "fail", fail)
    with pytest.raises(PluginError, match=r"called sys.exit\(5\)"):
        registry.build("schedule", "leave")
    with pytest.raises(ValueError, match="no such thing") as caught:
        registry.build("schedule", "fail")
    assert caught.value.__notes__ == ["while building schedule session:fail"]


OBSERVER = """
@hookimpl
def distill_step_ended(step, metrics):
    return ("%s", step, metrics["loss"])
"""


def test_a_raising_hook_is_recorded_and_others_run(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    raising = "\n@hookimpl\ndef distill_step_ended(run):\n    raise RuntimeError('boom')\n"
    plant("aa", "1.0", {"aa": "aa_entry"}, aa_entry=entry_module("first", extra=OBSERVER % "aa"))
    plant("bb", "1.0", {"bb": "bb_entry"}, bb_entry=entry_module("second", extra=raising))
    plant("cc", "1.0", {"cc": "cc_entry"}, cc_entry=entry_module("third", extra=OBSERVER % "cc"))
    registry = discover("aa", "bb", "cc")
    with caplog.at_level(logging.WARNING):
        for step in range(2):
            answers = registry.call_hook("distill_step_ended", run=None, step=step, metrics={"loss": 0.5})
            assert sorted(answers) == [("aa", step, 0.5), ("cc", step, 0.5)]
    assert len(caplog.records) == 1  # said once, not at every step
    (bad,) = registry.problems()
    assert (bad.plugin, bad.stage, bad.error) == ("bb", "hook:distill_step_ended", "RuntimeError: boom")
    assert "boom" in bad.traceback
    assert registry.find("schedule", "second").plugin == "bb"


def test_hooks_are_called_as_specified(plant: Plant) -> None:
    plant("aa", "1.0", {"aa": "aa_entry"}, aa_entry=entry_module("first", extra=OBSERVER % "aa"))
    registry = discover("aa")
    with pytest.raises(ValueError, match="unknown hook 'distill_step_end'"):
        registry.call_hook("distill_step_end")
    with pytest.raises(TypeError, match="without 'metrics'"):
        registry.call_hook("distill_step_ended", run=None, step=1)
    answers = registry.call_hook_by_plugin("distill_step_ended", run=None, step=1, metrics={"loss": 2.0})
    assert answers == [("aa", ("aa", 1, 2.0))]


FILE_WITH_HOOKS = """
from distill_core.plugin import component, hookimpl

class Fixed:
    def __init__(self, options): ...
    def __call__(self, step, total_steps): return 0.25

@hookimpl
def distill_components():
    return [component("schedule", "fixed", f"{__name__}:Fixed")]

@hookimpl
def distill_run_started(run):
    return "seen"
"""


def test_file_plugin_with_hooks(tmp_path: Path) -> None:
    path = tmp_path / "my_schedule.py"
    path.write_text(FILE_WITH_HOOKS)
    registry = Registry()
    record = registry.load_file(path)
    assert (record.plugin, record.status) == ("my-schedule", "ok")
    assert record.version.startswith("sha256-")
    assert registry.build("schedule", "my-schedule:fixed")(1, 2) == 0.25
    assert registry.call_hook("distill_run_started", run=None) == ["seen"]
    assert registry.load_file(path) is record  # once


@pytest.mark.parametrize(
    ("source", "stage", "expected"),
    [
        ("import not_there", "import", "not_there"),
        ("x = 1", "components", "neither hooks"),
        ("from distill_core import hookimpl\n@hookimpl\ndef distill_component(): ...", "hooks", "did you mean"),
    ],
)
def test_a_bad_plugin_file_is_an_error(tmp_path: Path, source: str, stage: str, expected: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(source)
    registry = Registry()
    with pytest.raises(PluginError, match=expected):
        registry.load_file(path)
    assert [(r.status, r.stage) for r in registry.records] == [("failed", stage)]
    path.write_text(FILE_WITH_HOOKS)
    assert registry.load_file(path).status == "ok"  # mended: can be loaded again


def test_a_missing_plugin_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: x")
    for name, said in (("nowhere.py", "no such file"), (".", "no such file"), ("run.yaml", r"must end in \.py")):
        with pytest.raises(PluginError, match=said) as caught:
            Registry().load_file(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "Traceback" not in str(caught.value)
