"""The kit finds what is wrong with an objective: each planted defect fails exactly the check named for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distill_core.options import DivergenceOptions, Options
from distill_core.plugin import Needs
from distill_core.registry import Registry
from distill_core.simplex import Divergence, divergence
from distill_core.testing import check_plugin
from distill_core.types import LossTerm
from tests.plugins.kit_verdicts import failed


def forward_kl(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)


def test_a_sound_divergence_passes_everything() -> None:
    assert failed("objective", divergence(linear_in_teacher=True)(forward_kl)) == set()


def shifted(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return forward_kl(teacher_logp, student_logp) + 0.1


def negative(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return -forward_kl(teacher_logp, student_logp)


def squared_gap(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    """Merging outcomes raises it: no lower bound."""
    return (teacher_logp.exp() - student_logp.exp()).square().sum(-1)


def detached(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    weight = forward_kl(teacher_logp, student_logp).detach()
    return weight * forward_kl(teacher_logp, student_logp)


def centred(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    value = forward_kl(teacher_logp, student_logp)
    return value - value.mean()


def editing(teacher_logp: Tensor, student_logp: Tensor) -> Tensor:
    return forward_kl(teacher_logp, student_logp)


DEFECTS = {
    "not zero": (shifted, {}, {"is zero at equality"}),
    "negative": (negative, {"lower_bound": False}, {"is never negative"}),
    "no bound": (squared_gap, {}, {"is at most its value on the whole vocabulary"}),
    "detached": (
        detached,
        {},
        {"gradient is the derivative of the value", "passes gradcheck through the head"},
    ),
    "rows mixed": (
        centred,
        {"nonnegative": False, "lower_bound": False},
        {"fused pass gives the same loss and gradients", "rows do not depend on each other"},
    ),
}


@pytest.mark.parametrize("case", DEFECTS)
def test_each_defect_fails_its_check(case: str) -> None:
    function, properties, expected = DEFECTS[case]
    assert expected <= failed("objective", divergence(**properties)(function))


@pytest.mark.parametrize(
    ("function", "property_name"),
    [(shifted, "zero_at_equality"), (negative, "nonnegative"), (squared_gap, "lower_bound")],
)
def test_what_is_not_declared_is_left_out(function: Any, property_name: str) -> None:
    registry = Registry()
    declared = dict.fromkeys(("zero_at_equality", "nonnegative", "lower_bound"), True) | {property_name: False}
    registry.register("objective", "subject", divergence(**declared)(function))
    details = [result.detail for result in check_plugin("session", registry=registry) if result.status == "left out"]
    assert f"does not declare {property_name}" in details


def test_properties_may_depend_on_the_options() -> None:
    class Shift(DivergenceOptions):
        shift: float = 0.0

        def properties(self, declared: Mapping[str, bool]) -> Mapping[str, bool]:
            return {**declared, "zero_at_equality": self.shift == 0, "lower_bound": self.shift == 0}

    @divergence
    def moved(teacher_logp: Tensor, student_logp: Tensor, *, shift: float = 0.0) -> Tensor:
        return forward_kl(teacher_logp, student_logp) + shift

    registry = Registry()
    registry.register("objective", "subject", moved, summary="moved", options=Shift)
    for shift, left_out in ((0.0, False), (1.0, True)):
        results = check_plugin("session", registry=registry, options={"subject": {"shift": shift}})
        found = {r.check: r.status for r in results}
        assert found["is zero at equality"] == ("left out" if left_out else "passed")
        assert {r.check for r in results if r.status == "failed"} == {
            "options model refuses unknown options and describes its own"  # shift has no description
        }


class RowsOfOwn:
    """A row objective without @divergence: sound but for what a subclass spoils."""

    properties = {"zero_at_equality": True}  # noqa: RUF012
    needs = Needs(signals=frozenset({"targets"}), targets=("exact",), temperatures=(1.0,))

    def __init__(self, options: Options) -> None: ...

    def rows(self, support: Any, target: Any, rows: Any) -> Tensor:
        if target.ids_NK.shape != support.ids_NK.shape:
            raise ValueError(f"target has shape {target.ids_NK.shape}, support {support.ids_NK.shape}")
        return (target.log_probs(1.0).exp() - support.log_probs(1.0).exp()).abs().sum(1)


class Broadcasts(RowsOfOwn):
    def rows(self, support: Any, target: Any, rows: Any) -> Tensor:
        return (target.log_probs(1.0).exp() - support.log_probs(1.0).exp()).abs().sum(1)


class Edits(RowsOfOwn):
    def rows(self, support: Any, target: Any, rows: Any) -> Tensor:
        result = super().rows(support, target, rows)
        target.logits_NK.mul_(1.5)
        return result


class ReadsPadding(RowsOfOwn):
    def rows(self, support: Any, target: Any, rows: Any) -> Tensor:
        return super().rows(support, target, rows) + 0 * target.logits_NK.sum(1)


class ReadsOtherTemperatures(RowsOfOwn):
    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0, 3.0)


@pytest.mark.parametrize(
    ("value", "check"),
    [
        (Broadcasts, "wrong shapes raise and name the argument"),
        (Edits, "does not edit its inputs"),
        (ReadsPadding, "padding of the target has no influence even as nan"),
        (ReadsOtherTemperatures, "reads the temperatures it declares"),
    ],
)
def test_defects_of_row_objectives_by_class(value: Any, check: str) -> None:
    assert failed("objective", RowsOfOwn) == set()
    assert check in failed("objective", value)


def test_needs_have_to_agree_with_the_divergence() -> None:
    wrong = Needs(signals=frozenset({"targets"}), targets=("exact", "sampled"))
    found = failed("objective", Divergence(forward_kl, linear_in_teacher=False, properties={}), needs=wrong)
    assert {"declared needs agree with the target", "sampled targets are right or refused"} <= found


class HiddenGap:
    """A sound free-form objective."""

    needs = Needs(signals=frozenset({"hidden_states"}), targets=())

    def __init__(self, options: Options) -> None: ...

    def values(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        if teacher.hidden_states is None:
            raise ValueError("hidden states are needed")
        rows = batch.rows()
        gap = rows.select(student.hidden_states[1]).mean(1) - rows.select(teacher.hidden_states[1]).mean(1)
        return gap.square()

    def __call__(self, student: Any, teacher: Any, batch: Any) -> LossTerm:
        return LossTerm(self.values(student, teacher, batch).sum())


class Averages(HiddenGap):
    def __call__(self, student: Any, teacher: Any, batch: Any) -> LossTerm:
        return LossTerm(self.values(student, teacher, batch).mean())


class MultipliesTheMask(HiddenGap):
    """NaN * 0 is NaN: a masked position has to be left out, not multiplied by zero."""

    def values(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        if teacher.hidden_states is None:
            raise ValueError("hidden states are needed")
        rows = batch.rows()
        mask = torch.zeros(batch.input_ids_BT.shape)
        mask[rows.sequence_N, rows.position_N] = 1
        gap = student.hidden_states[1].mean(2) - teacher.hidden_states[1].mean(2)
        return (gap * mask).square()


class AveragesAndSaysSo(Averages):
    properties: ClassVar[dict[str, bool]] = {"additive": False, "zero_at_equality": True, "nonnegative": True}


class Shifted(HiddenGap):
    properties: ClassVar[dict[str, bool]] = {"zero_at_equality": True}

    def values(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return super().values(student, teacher, batch) + 0.1


class Negated(HiddenGap):
    properties: ClassVar[dict[str, bool]] = {"nonnegative": True}

    def values(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        return -super().values(student, teacher, batch)


@pytest.mark.parametrize(
    ("value", "checks"),
    [
        (HiddenGap, set()),
        (Averages, {"sum and count add up over split batches"}),
        (AveragesAndSaysSo, set()),
        (
            MultipliesTheMask,
            {"masked positions have no influence even as nan", "padding has no influence even as nan"},
        ),
        (Shifted, {"is zero at equality"}),
        (Negated, {"is never negative"}),
    ],
)
def test_defects_of_free_form_objectives(value: Any, checks: set[str]) -> None:
    assert failed("objective", value) == checks
