"""Conformance of row objectives, in float64 on small random rows with padding, at temperatures 1 and 2.

Legend: N rows, V vocabulary, D hidden, K support size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from distill_core import ops
from distill_core.testing.material import (
    Rows,
    build_context,
    exact_target,
    finite_difference_error,
    prepared,
    random_rows,
    row_values,
    temperatures_of,
)
from distill_core.testing.subject import NotApplicable, Subject
from distill_core.types import RowTarget

ROUNDING = 1e-9
"""Float64 rounding of sums of a dozen terms of size 1 to 70 (log 1e-30), with three digits to spare."""


@dataclass(frozen=True)
class Trial:
    """An objective built with some options, and the needs those options mean."""

    objective: Any
    needs_target: bool
    admits_sampled: bool

    @property
    def properties(self) -> Mapping[str, bool]:
        declared: Mapping[str, bool] = getattr(self.objective, "properties", {})
        return {"exact_gradient": True, **declared}

    def random_rows(self, seed: int, **sizes: int) -> Rows:
        """Random rows, with what the objective computes over all of them beforehand."""
        rows = random_rows(seed, **sizes)
        return prepared(self.objective, rows, self.target(rows))

    def target(self, rows: Rows) -> RowTarget | None:
        if not self.needs_target:
            return None
        return exact_target(rows.teacher_NV, rows.ids_NK, temperatures_of(self.objective))

    def values(self, rows: Rows, student_NV: Tensor | None = None) -> Tensor:
        return row_values(
            self.objective, rows, rows.student_NV if student_NV is None else student_NV, self.target(rows)
        )


def trials(subject: Subject) -> Iterator[Trial]:
    """The objective with its example options, and at temperature 2 if it has that option."""
    variants: list[dict[str, Any]] = [{}]
    if "temperature" in subject.model.model_fields:
        variants.append({"temperature": 2.0})
    for changes in variants:
        objective = subject.build(**changes)
        if not hasattr(objective, "rows"):
            raise NotApplicable("a free-form objective")
        needs = subject.needs(**changes)
        if unknown := needs.signals - {"targets"}:
            raise NotApplicable(f"needs signals the kit cannot make: {sorted(unknown)}")
        if hasattr(objective, "build"):
            objective.build(build_context(subject.registry))
        needs_target = "targets" in needs.signals
        yield Trial(objective, needs_target, needs_target and "sampled" in needs.targets)


def declaring(subject: Subject, name: str) -> Iterator[Trial]:
    """Trials whose objective declares a property."""
    found = [trial for trial in trials(subject) if trial.properties.get(name, False)]
    if not found:
        raise NotApplicable(f"does not declare {name}")
    yield from found


def gives_one_finite_value_per_row(subject: Subject) -> None:
    for trial in trials(subject):
        rows = trial.random_rows(0)
        values_N = trial.values(rows)
        assert values_N.shape == (5,), f"rows() returned shape {tuple(values_N.shape)} for 5 rows; expected (5,)"
        assert values_N.dtype == torch.float64, f"rows() returned {values_N.dtype} for float64 signals"
        assert bool(torch.isfinite(values_N).all()), f"rows() is not finite: {values_N.tolist()}"


def is_zero_at_equality(subject: Subject) -> None:
    """On a support with a tail and padding, and on the whole vocabulary, where the tail is empty."""
    for trial in declaring(subject, "zero_at_equality"):
        for rows in (trial.random_rows(1), trial.random_rows(2, k=11)):
            worst = float(trial.values(rows, rows.teacher_NV).detach().abs().max())
            assert worst <= ROUNDING, f"student equal to teacher gives {worst:.3g}, expected 0"


def is_never_negative(subject: Subject) -> None:
    for trial in declaring(subject, "nonnegative"):
        for seed in range(20):
            least = float(trial.values(trial.random_rows(seed)).detach().min())
            assert least >= -ROUNDING, f"a value is {least:.3g}, expected >= 0"


def is_at_most_its_value_on_the_whole_vocabulary(subject: Subject) -> None:
    """The data processing inequality: merging outcomes into a tail never raises a divergence."""
    for trial in declaring(subject, "lower_bound"):
        for seed in range(20):
            rows = trial.random_rows(seed)
            whole = rows.with_support(torch.arange(11).expand(5, 11))
            sparse_N, dense_N = trial.values(rows).detach(), trial.values(whole).detach()
            excess = float((sparse_N - dense_N).max())
            assert excess <= ROUNDING, f"with 3 of 11 outcomes a value exceeds the dense one by {excess:.3g}"


def gradient_is_the_derivative_of_the_value(subject: Subject) -> None:
    """Central differences in float64 with step 1e-6: their error is about 1e-12 of rounding / 1e-6 + third derivatives
    * 1e-12, so 1e-5 leaves a decade."""
    for trial in declaring(subject, "exact_gradient"):
        for seed in range(3):
            rows = trial.random_rows(seed)
            upstream_N = torch.linspace(-1.0, 2.0, 5, dtype=torch.float64)

            def value(student_NV: Tensor, trial: Trial = trial, rows: Rows = rows, up: Tensor = upstream_N) -> Tensor:
                return (up * trial.values(rows, student_NV)).sum()

            error = finite_difference_error(value, rows.student_NV, step=1e-6, directions=6)
            assert error <= 1e-5, (
                f"the gradient differs from the derivative of the value by {error:.3g} of it; declare "
                "exact_gradient=False if that is meant"
            )


def passes_gradcheck_through_the_head(subject: Subject) -> None:
    for trial in declaring(subject, "exact_gradient"):
        rows = trial.random_rows(4, n_rows=3)
        target = trial.target(rows)

        def through(
            hidden_ND: Tensor, weight_VD: Tensor, trial: Trial = trial, rows: Rows = rows, target: Any = target
        ) -> Tensor:
            support = ops.linear_support_logits(
                hidden_ND,
                weight_VD,
                rows.ids_NK,
                labels_N=rows.info.labels_N,
                temperatures=temperatures_of(trial.objective),
                extras=tuple(getattr(trial.objective, "extras", ())),
            )
            values_N: Tensor = trial.objective.rows(support, target, rows.info)
            return values_N

        inputs = (rows.hidden_ND.requires_grad_(True), rows.weight_VD.requires_grad_(True))
        assert torch.autograd.gradcheck(through, inputs)


def fused_pass_gives_the_same_loss_and_gradients(subject: Subject) -> None:
    """In chunks of 2 rows, as the trainer runs it; also: the sum does not depend on how rows are split."""
    for trial in trials(subject):
        rows = trial.random_rows(5)
        target = trial.target(rows)
        plain = [rows.hidden_ND.clone().requires_grad_(True), rows.weight_VD.clone().requires_grad_(True)]
        weights_N = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)  # token weights
        direct = (weights_N * trial.values(rows, plain[0] @ plain[1].T)).sum()
        expected = torch.autograd.grad(direct, plain)

        def loss_fn(
            support: Any,
            cut: slice,
            trial: Trial = trial,
            rows: Rows = rows,
            target: Any = target,
            weights_N: Tensor = weights_N,
        ) -> Tensor:
            values_n: Tensor = trial.objective.rows(support, None if target is None else target[cut], rows.info[cut])
            return weights_N[cut] * values_n

        parameters = getattr(trial.objective, "parameters", None)
        fused = [rows.hidden_ND.clone().requires_grad_(True), rows.weight_VD.clone().requires_grad_(True)]
        loss = ops.sparse_distill_loss(
            fused[0],
            fused[1],
            rows.ids_NK,
            loss_fn,
            labels_N=rows.info.labels_N,
            temperatures=temperatures_of(trial.objective),
            extras=tuple(getattr(trial.objective, "extras", ())),
            params=() if parameters is None else tuple(p for p in parameters() if p.requires_grad),
            chunk_rows=2,
        )
        torch.testing.assert_close(loss, direct, rtol=ROUNDING, atol=ROUNDING)
        for found, wanted in zip(torch.autograd.grad(loss, fused), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-8, atol=ROUNDING)


def rows_do_not_depend_on_each_other(subject: Subject) -> None:
    """Sums over split batches add up, and a subset of rows has the values it had among the others."""
    for trial in trials(subject):
        rows = trial.random_rows(6)
        student_NV, target = rows.student_NV, trial.target(rows)
        whole_N = row_values(trial.objective, rows, student_NV, target)
        for cut in (slice(0, 2), slice(2, 5), slice(4, 5)):
            part = replace(rows, info=rows.info[cut], ids_NK=rows.ids_NK[cut])
            values_n = row_values(trial.objective, part, student_NV[cut], None if target is None else target[cut])
            torch.testing.assert_close(values_n, whole_N[cut], rtol=ROUNDING, atol=ROUNDING)


def padding_of_the_target_has_no_influence_even_as_nan(subject: Subject) -> None:
    for trial in trials(subject):
        if not trial.needs_target:
            raise NotApplicable("needs no target")
        rows = trial.random_rows(7)
        target = trial.target(rows)
        assert target is not None and target.logits_NK is not None
        dirty = replace(target, logits_NK=target.logits_NK.masked_fill(target.ids_NK < 0, math.nan))
        results = []
        for given in (target, dirty):
            student_NV = rows.student_NV.detach().requires_grad_(True)
            values_N = row_values(trial.objective, rows, student_NV, given)
            results.append((values_N.detach(), torch.autograd.grad(values_N.sum(), student_NV)[0]))
        for clean, found in zip(*results, strict=True):
            assert bool(torch.isfinite(found).all()), "NaN in a padded entry of the target reaches the loss"
            torch.testing.assert_close(found, clean, rtol=0, atol=0)


def does_not_edit_its_inputs(subject: Subject) -> None:
    for trial in trials(subject):
        rows = trial.random_rows(8)
        target = trial.target(rows)
        student_NV = rows.student_NV.detach().requires_grad_(True)
        holders = [holder for holder in (target, rows.info) if holder is not None]
        before = [(holder, name, tensor.clone()) for holder in holders for name, tensor in _tensors(holder)]
        student_before = student_NV.detach().clone()
        torch.autograd.grad(row_values(trial.objective, rows, student_NV, target).sum(), student_NV)
        for holder, name, saved in before:
            torch.testing.assert_close(getattr(holder, name), saved, rtol=0, atol=0, msg=f"{name} was edited")
        torch.testing.assert_close(student_NV.detach(), student_before, rtol=0, atol=0, msg="the logits were edited")


def _tensors(holder: Any) -> Iterator[tuple[str, Tensor]]:
    for field in fields(holder):
        value = getattr(holder, field.name)
        if isinstance(value, Tensor):
            yield field.name, value


def wrong_shapes_raise_and_name_the_argument(subject: Subject) -> None:
    """A target of one row (which would broadcast), of too few rows, of another support."""
    for trial in trials(subject):
        if not trial.needs_target:
            raise NotApplicable("needs no target")
        rows = trial.random_rows(9)
        target = trial.target(rows)
        other_support = trial.target(trial.random_rows(9, k=2))
        assert target is not None
        for wrong in (target[0:1], target[0:4], other_support):
            support = ops.support_logits(rows.student_NV, rows.ids_NK, temperatures=temperatures_of(trial.objective))
            try:
                trial.objective.rows(support, wrong, rows.info)
            except (ValueError, TypeError) as error:
                named = "target" in str(error) or "support" in str(error)
                assert named, f"the error names no argument: {error}"
            else:
                raise AssertionError(
                    f"a target of {len(wrong or ())} rows and a support of 5 were accepted; raise ValueError "
                    "(distill_core.simplex.check_same_rows does)"
                )


def sampled_targets_are_right_or_refused(subject: Subject) -> None:
    """A sample that holds the whole vocabulary with its probabilities means what the exact target means; an objective
    that does not admit samples raises."""
    for trial in trials(subject):
        if not trial.needs_target:
            raise NotApplicable("needs no target")
        temperatures = temperatures_of(trial.objective)
        rows = trial.random_rows(10, k=11)
        logp_NV = (rows.teacher_NV / temperatures[0]).log_softmax(1).gather(1, rows.ids_NK)
        sampled = RowTarget(
            kind="sampled",
            ids_NK=rows.ids_NK,
            temperatures=temperatures,
            weights_NK=logp_NV.exp(),
            entropy_N=-(logp_NV.exp() * logp_NV).sum(1),
            threshold_N=torch.zeros(5, dtype=torch.float64),
        )
        if not trial.admits_sampled:
            try:
                row_values(trial.objective, rows, rows.student_NV, sampled)
            except ValueError:
                continue
            raise AssertionError("declares exact targets alone but accepts a sampled one; refuse it (ValueError)")
        student_NV = rows.student_NV
        exact = exact_target(rows.teacher_NV, rows.ids_NK, temperatures)
        torch.testing.assert_close(
            row_values(trial.objective, rows, student_NV, sampled),
            row_values(trial.objective, rows, student_NV, exact),
            rtol=ROUNDING,
            atol=ROUNDING,
        )


def reads_the_temperatures_it_declares(subject: Subject) -> None:
    variants: list[dict[str, Any]] = [{}]
    if "temperature" in subject.model.model_fields:
        variants.append({"temperature": 2.0})
    for changes, trial in zip(variants, trials(subject), strict=True):
        declared = subject.needs(**changes).temperatures
        if not trial.needs_target or declared is None:
            continue
        read = temperatures_of(trial.objective)
        assert set(read) <= set(declared), f"reads temperatures {read}, but its needs are {declared}"


CHECKS = (
    gives_one_finite_value_per_row,
    is_zero_at_equality,
    is_never_negative,
    is_at_most_its_value_on_the_whole_vocabulary,
    gradient_is_the_derivative_of_the_value,
    passes_gradcheck_through_the_head,
    fused_pass_gives_the_same_loss_and_gradients,
    rows_do_not_depend_on_each_other,
    padding_of_the_target_has_no_influence_even_as_nan,
    does_not_edit_its_inputs,
    wrong_shapes_raise_and_name_the_argument,
    sampled_targets_are_right_or_refused,
    reads_the_temperatures_it_declares,
)
