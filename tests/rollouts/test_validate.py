"""What `distill validate` says about rollouts and their objectives, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill_core.errors import ConfigError
from tests.run.conftest import Workshop, plain_teacher, workshop

__all__ = ["plain_teacher", "workshop"]

MINI = [{"use": "minillm"}]
TWO = [{"use": "distillm-2"}]


def problems(workshop: Workshop, rollout: dict[str, Any] | None, objectives: list[Any], teacher: str = "live") -> str:
    def change(data: dict[str, Any]) -> None:
        data["train"].update(teacher=teacher, objectives=objectives)
        if rollout is not None:
            data["train"]["rollout"] = {"use": "on-policy", "prefix_tokens": 4, **rollout}

    with pytest.raises(ConfigError) as error:
        workshop.check(change)
    return str(error.value)


@pytest.mark.parametrize(
    ("rollout", "objectives", "message"),
    [
        (None, MINI, "objective minillm learns from what is written while training: add `rollout:"),
        (None, TWO, "objective distillm-2 learns from what is written while training: add `rollout:"),
        ({}, MINI, "reads the teacher's log-probabilities of what the student wrote: set rollout.teacher_mix above 0"),
        ({"student_share": 0.0, "teacher_mix": 0.2}, MINI, "rollout.student_share is 0"),
        ({}, TWO, "contrasts two sources, but the teacher writes nothing: set rollout.pairs: true"),
        ({"student_share": 0, "teacher_share": 1}, TWO, "contrasts two sources, but the student writes nothing"),
        ({"pairs": True}, [{**TWO[0], "adaptive_alpha": True}], "adaptive_alpha reads log-probabilities of whole"),
        ({"pairs": True}, [{**TWO[0], "beta": 2.5}], "beta is 2.5; expected at most 2"),
        ({"student_share": 0.7, "teacher_share": 0.7}, MINI, "add up to more than 1"),
        ({"max_new_token": 3}, MINI, "max_new_token"),
    ],
)
def test_parts_that_do_not_fit(
    workshop: Workshop, rollout: dict[str, Any] | None, objectives: list[Any], message: str
) -> None:
    assert message in problems(workshop, rollout, objectives)


def test_a_rollout_asks_for_a_live_teacher(workshop: Workshop) -> None:
    found = problems(workshop, {"teacher_share": 0.5, "student_share": 0.5}, [{"use": "cross-entropy"}], "none")
    assert "rollout on-policy with teacher_share asks a teacher, but train.teacher is none" in found
    found = problems(workshop, {}, [{"use": "forward-kl"}], "store")
    assert "on-policy writes new sequences in every step, which a store does not hold" in found


def test_good_ones_pass_and_the_baseline_may_go_without(workshop: Workshop, tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        share = {"use": "linear", "start": 0.0, "end": 1.0}
        data["train"].update(
            teacher="live", objectives=MINI, rollout={"use": "on-policy", "teacher_mix": 0.2, "student_share": share}
        )
        data["compare"] = {"off": {"rollout": None, "objectives": [{"use": "forward-kl"}]}}
        data["compare"]["two"] = {"rollout": {"use": "on-policy", "pairs": True}, "objectives": TWO}

    assert set(workshop.check(change).config.trainings()) == {"student", "off", "two"}
