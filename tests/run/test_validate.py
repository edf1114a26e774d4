"""Validation: all problems at once, with place, line and near misses; capabilities; no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from distill_core.errors import ConfigError
from tests.run.conftest import Workshop

HEAD_JSD = {"use": "jsd", "view": "head"}
Change = Callable[[dict[str, Any]], None]


def problems(workshop: Workshop, change: Change, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        workshop.check(change, *overrides)
    return caught.value.problems


def only(workshop: Workshop, change: Change) -> str:
    found = problems(workshop, change)
    assert len(found) == 1, found
    return found[0]


def test_the_good_file_is_good(workshop: Workshop) -> None:
    checked = workshop.check()
    assert ("train", "objectives", 0) in checked.components
    assert checked.config.trainings().keys() == {"student"}


def test_all_problems_at_once_in_the_order_of_the_file(workshop: Workshop) -> None:
    def change(run: dict[str, Any]) -> None:
        run["name"] = "a b"
        run["teacher"] = {"use": "hff", "model": "x"}
        run["data"]["sequence_length"] = 3
        run["data"]["train"]["source"]["pth"] = "x"
        run["data"]["eval"]["source"]["path"] = "nowhere/*.jsonl"
        run["student"]["init"]["model"] = "org/name"
        run["capture"]["k"] = 0
        run["train"]["objectives"] = [{"use": "forward-kl", "weight": -1}, {"use": "revers-kl"}, {"uze": "jsd"}]
        run["compare"] = {"hard": {"learning_rat": 1}}

    found = problems(workshop, change)
    places = [problem.partition(" (line ")[0] for problem in found]
    assert places == [
        "name",
        "teacher.use",
        "data.train.source.pth",
        "data.eval.source.path[0]",
        "data.sequence_length",
        "student.init",
        "capture.k",
        "train.objectives[0].weight",
        "train.objectives[1].use",
        "train.objectives[2].use",
        "compare.hard.learning_rat",
    ]
    text = "\n".join(found)
    for hint in ("'hf'", "'path'", "'sequence_length_tokens'", "'reverse-kl'", "'uze'", "'learning_rate'"):
        assert hint in text, hint
    lines = [int(problem.partition("(line ")[2].partition(")")[0]) for problem in found]
    assert lines == sorted(lines) and min(lines) >= 1


def test_overridden_values_are_blamed_on_the_command_line(workshop: Workshop) -> None:
    found = problems(workshop, lambda run: None, "train.max_steps=no", "capture.method=topp")
    assert [p.partition(":")[0] for p in sorted(found)] == ["capture.method (--set)", "train.max_steps (--set)"]


def test_sampled_targets_need_a_linear_objective(workshop: Workshop) -> None:
    def objectives(*refs: dict[str, Any], method: str = "threshold") -> Change:
        def change(run: dict[str, Any]) -> None:
            run["capture"]["method"] = method
            run["train"]["objectives"] = list(refs)

        return change

    said = only(workshop, objectives({"use": "reverse-kl"}))
    assert said.startswith("train.objectives[0] (line ") and "view: head" in said and "method: topk" in said
    said = only(workshop, objectives({"use": "jsd"}, method="multinomial"))
    assert "view: head" not in said and "method: topk" in said
    said = only(workshop, objectives({"use": "jsd", "view": "head"}, method="multinomial"))
    assert "no exact part" in said
    workshop.check(objectives({"use": "reverse-kl", "view": "head"}))
    workshop.check(objectives({"use": "reverse-kl"}, method="topk"))
    assert "forward-kl" in only(workshop, objectives({"use": "forward-kl", "mode": "truncated"}))


def test_temperatures_have_to_be_captured(workshop: Workshop) -> None:
    def at(temperature: Any, method: str, captured: list[float]) -> Change:
        def change(run: dict[str, Any]) -> None:
            run["capture"].update(method=method, temperatures=captured)
            run["train"]["objectives"] = [{"use": "forward-kl", "temperature": temperature}]

        return change

    assert "2.0" in only(workshop, at(2.0, "topk", [1.0]))
    workshop.check(at(2.0, "topk", [1.0, 2.0]))
    assert "sample serves" in only(workshop, at(2.0, "threshold", [1.0]))
    assert "one temperature" in only(workshop, at(1.0, "threshold", [1.0, 2.0]))
    ramp = {"use": "linear", "start": 1.0, "end": 2.0}
    assert "values" in only(workshop, at(ramp, "topk", [1.0, 2.0]))
    workshop.check(at({**ramp, "values": [1.0, 2.0]}, "topk", [1.0, 2.0]))
    assert "1.5" in only(workshop, at({**ramp, "values": [1.0, 1.5, 2.0]}, "topk", [1.0, 2.0]))
    assert "did you mean 'linear'" in only(workshop, at({**ramp, "use": "linaer"}, "topk", [1.0])).lower()


def test_live_teacher_serves_any_temperature(workshop: Workshop) -> None:
    def change(run: dict[str, Any]) -> None:
        del run["capture"]
        run["train"].update(teacher="live", objectives=[{"use": "jsd", "temperature": 3.5}, {"use": "hidden-mse"}])

    workshop.check(change)


def no_teacher(run: dict[str, Any]) -> None:
    del run["teacher"], run["capture"]
    run["train"].update(teacher="none", objectives=[{"use": "cross-entropy"}])


def capture_without_teacher(run: dict[str, Any]) -> None:
    del run["teacher"]
    run["student"].update(init={"config": {"model_type": "llama"}}, tokenizer="org/t")


@pytest.mark.parametrize(
    ("place", "said", "change"),
    [
        ("train.store", "did you mean 'main'", lambda run: run["train"].update(store="mian")),
        ("train.store", "no `capture:`", lambda run: run.pop("capture")),
        ("train.teacher", "needs a teacher", lambda run: run["train"].update(teacher="none")),
        ("student.init.from_teacher", "exactly one", no_teacher),
        ("capture", "needs a teacher", capture_without_teacher),
        ("compare.hard.teacher", "needs a teacher", lambda run: run.update(compare={"hard": {"teacher": "none"}})),
        ("compare.teacher", "taken", lambda run: run.update(compare={"teacher": {"learning_rate": 1e-3}})),
        ("capture[1].name", "second capture", lambda run: run.update(capture=[{"k": 2}, {"k": 3}])),
        ("capture.joint", "names one", lambda run: run["capture"].update(joint=True, method="topk")),
        ("capture.draws", "draws nothing", lambda run: run["capture"].update(method="topk", draws=2)),
        ("train.objectives[0]", "hidden_states", lambda run: run["train"].update(objectives=[{"use": "hidden-mse"}])),
        ("train.objectives[1].name", "called 'jsd'", lambda run: run["train"].update(objectives=[HEAD_JSD] * 2)),
        ("student.init.model", "does not exist", lambda run: run["student"].update(init={"model": "./no-such-model"})),
        ("student.tokenizer", "does not exist", lambda run: run["student"].update(tokenizer="/no/such/tokenizer")),
        ("teacher.model", "no directory", lambda run: run["teacher"].update(model="./no-such-teacher")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_mismatch_is_named_at_its_place(workshop: Workshop, place: str, said: str, change: Change) -> None:
    problem = only(workshop, change)
    assert problem.startswith((f"{place} (", f"{place}:")), problem
    assert said in problem


def test_several_teachers(workshop: Workshop) -> None:
    def two(**capture: Any) -> Change:
        def change(run: dict[str, Any]) -> None:
            teacher = run.pop("teacher")
            run["teachers"] = {"a": teacher, "b": dict(teacher)}
            run["student"] = {"init": {"config": {"model_type": "llama"}}}
            run["capture"].update(capture)

        return change

    assert "joint: true" in only(workshop, two())
    assert "method: topk" in only(workshop, two(joint=True))
    assert "say how they are mixed, train.aggregate" in only(workshop, two(joint=True, method="topk"))
    workshop.check(two(teachers=["a"]))
    assert "did you mean" in only(workshop, two(teachers=["aa"])).lower()


def test_sequence_longer_than_the_context(workshop: Workshop, plain_teacher: Any) -> None:
    def change(run: dict[str, Any]) -> None:
        run["student"]["init"] = {"model": str(plain_teacher)}
        run["data"]["sequence_length_tokens"] = 65

    said = only(workshop, change)
    assert said.startswith("data.sequence_length_tokens (line ") and "65" in said and "64" in said


def test_plan_hook_may_object(workshop: Workshop, tmp_path: Any) -> None:
    from distill_core.engine.run_file.loading import read_run_file
    from distill_core.engine.run_file.validate import check_run
    from distill_core.registry import Registry

    plugin = tmp_path / "objector.py"
    plugin.write_text(
        "from distill_core.plugin import hookimpl\n"
        "@hookimpl\ndef distill_check_plan(plan):\n    return [f'no run may be called {plan.name}']\n"
    )
    broken = tmp_path / "broken.py"
    broken.write_text("from distill_core.plugin import hookimpl\n@hookimpl\ndef distill_check_plan(plan):\n    1 / 0\n")
    registry = Registry().discover()
    registry.load_file(broken)
    registry.load_file(plugin)
    with pytest.raises(ConfigError, match="no run may be called small") as caught:
        check_run(read_run_file(workshop.write()), registry=registry)
    assert len(caught.value.problems) == 1


def test_validation_imports_nothing_heavy(workshop: Workshop) -> None:
    code = (
        "import sys; from distill_core.cli.application import exit_code\n"
        f"assert exit_code(['validate', {str(workshop.write())!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pyarrow', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("topk", "tail"),
        ("topk", "truncated"),
        ("topk", "renormalized"),
        ("topk", "renormalized-both"),
        ("multinomial", "tail"),
        ("threshold", "tail"),
    ],
)
def test_each_sparse_target_has_a_name(workshop: Workshop, method: str, mode: str) -> None:
    """The six of docs/sparse-targets.md, by what is captured and what is done with the mass outside."""

    def change(run: dict[str, Any]) -> None:
        run["capture"]["method"] = method
        run["train"]["objectives"] = [{"use": "forward-kl", "mode": mode}]

    checked = workshop.check(change)
    assert checked.components["train", "objectives", 0].options.mode == mode
    assert checked.config.captures[0].method == method


@pytest.mark.parametrize(
    "name",
    [
        "alpha-beta",
        "adaptive-kl",
        "token-wise-kl",
        "decoupled-kd",
        "tail-aware-kl",
        "logit-differences",
        "interpolated-support-kl",
    ],
)
def test_weighted_and_decoupled_losses_refuse_samples(workshop: Workshop, name: str) -> None:
    def objective(method: str, **options: Any) -> Change:
        def change(run: dict[str, Any]) -> None:
            run["capture"]["method"] = method
            run["train"]["objectives"] = [{"use": name, **options}]

        return change

    said = only(workshop, objective("threshold"))
    assert name in said and "not linear in the teacher" in said and "view: head" in said and "method: topk" in said
    assert "method: topk" in only(workshop, objective("multinomial"))
    workshop.check(objective("threshold", view="head"))
    workshop.check(objective("topk"))


def test_an_unknown_schedule_of_an_option_is_named(workshop: Workshop) -> None:
    def change(run: dict[str, Any]) -> None:
        run["capture"]["method"] = "topk"
        schedule = {"use": "linaer", "start": 0.0, "end": 1.0}
        run["train"]["objectives"] = [{"use": "interpolated-support-kl", "interpolation": schedule}]

    problem = only(workshop, change)
    assert problem.startswith("train.objectives[0].interpolation") and "'linear'" in problem
