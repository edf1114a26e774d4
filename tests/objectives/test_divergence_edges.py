"""What divergences do at the edges: padding, impossible outcomes, empty supports, sampled targets, wrong options."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from distill_core.types import RowTarget
from tests.objectives.conftest import Rows, build, exact_target, info, value_and_gradient
from tests.objectives.dense import softmax

OPTIONS: dict[str, dict[str, Any]] = {
    "forward-kl": {},
    "reverse-kl": {},
    "jsd": {},
    "skew-forward-kl": {},
    "skew-reverse-kl": {},
    "total-variation": {},
    "alpha-beta": {},
    "adaptive-kl": {},
    "token-wise-kl": {},
    "decoupled-kd": {},
    "tail-aware-kl": {"modes": 1},
    "logit-differences": {},
    "interpolated-support-kl": {"interpolation": 0.5},
}
ALL = list(OPTIONS)
NONLINEAR = [name for name in ALL if name != "forward-kl"]
MODES = ["tail", "truncated", "renormalized", "renormalized-both"]
LEAST_SUPPORT = {"tail-aware-kl": 2, "logit-differences": 2}
"""Fewest ids that an objective makes sense of; with fewer it raises."""


def every_objective(*, k: int = 2) -> list[tuple[str, Any]]:
    """All that a support of k ids is enough for."""
    modes = [(f"forward-kl {mode}", build("forward-kl", mode=mode)) for mode in MODES]
    enough = [name for name in NONLINEAR if k >= LEAST_SUPPORT.get(name, 0)]
    extremes = [(f"alpha-beta {a} {b}", build("alpha-beta", alpha=a, beta=b)) for a, b in ((0, 1), (1, 0), (2, 1))]
    return [*modes, *((name, build(name, **OPTIONS[name])) for name in enough), *extremes]


def test_padding_columns_change_nothing() -> None:
    rows = Rows(5, 23, 4, padding=False)
    target = rows.target()
    assert target.logits_NK is not None
    padded = RowTarget(
        kind="exact",
        ids_NK=torch.cat([target.ids_NK, torch.full((5, 3), -1)], dim=1),
        temperatures=(1.0,),
        # What stands on padding must not be read, not even NaN.
        logits_NK=torch.cat([target.logits_NK, torch.full((5, 3), math.nan, dtype=torch.float64)], dim=1),
        tail_NM=target.tail_NM,
    )
    for name, objective in every_objective():
        student_NV = torch.from_numpy(rows.student_NV)
        value_N, gradient_NV = value_and_gradient(objective, student_NV, target)
        padded_N, padded_NV = value_and_gradient(objective, student_NV, padded)
        torch.testing.assert_close(padded_N, value_N, rtol=1e-12, atol=1e-12, msg=name)
        torch.testing.assert_close(padded_NV, gradient_NV, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("k", [0, 3])
def test_rows_of_padding_alone_are_zero(k: int) -> None:
    """All mass lies in the tail on both sides: nothing is known, nothing is asked."""
    target = RowTarget("exact", torch.full((2, k), -1), (1.0,), torch.zeros(2, k).double(), torch.zeros(2, 1).double())
    student_NV = torch.from_numpy(Rows(2, 9, 3).student_NV)
    for name, objective in every_objective(k=k):
        value_N, gradient_NV = value_and_gradient(objective, student_NV, target)
        assert value_N.abs().max() < 1e-12, name
        assert gradient_NV.abs().max() < 1e-12, name


def test_no_rows() -> None:
    target = RowTarget("exact", torch.zeros(0, 3).long(), (1.0,), torch.zeros(0, 3), torch.zeros(0, 1))
    for name, objective in every_objective():
        value_N, _ = value_and_gradient(objective, torch.zeros(0, 9), target)
        assert value_N.shape == (0,), name


def test_teacher_entries_of_probability_zero() -> None:
    """-inf in the teacher's logits (Liger's fused JSD gives NaN): finite everywhere, 0 log 0 = 0."""
    rows = Rows(4, 17, 5, padding=False)
    rows.teacher_NV[:, rows.ids_NK[0, 1]] = -np.inf
    rows.ids_NK = np.tile(rows.ids_NK[0], (4, 1))
    target = exact_target(torch.from_numpy(rows.teacher_NV), torch.from_numpy(rows.ids_NK))
    without = np.delete(rows.ids_NK, 1, axis=1)
    for name, objective in every_objective():
        value_N, gradient_NV = value_and_gradient(objective, torch.from_numpy(rows.student_NV), target)
        assert bool(torch.isfinite(value_N).all() & torch.isfinite(gradient_NV).all()), name
        if name in ("forward-kl truncated", "forward-kl renormalized"):
            # The impossible entry asks nothing: as if it were not in the support.
            smaller = exact_target(torch.from_numpy(rows.teacher_NV), torch.from_numpy(without))
            expected_N, _ = value_and_gradient(objective, torch.from_numpy(rows.student_NV), smaller)
            torch.testing.assert_close(value_N, expected_N, rtol=1e-10, atol=1e-12, msg=name)


def test_student_entries_of_probability_zero() -> None:
    rows = Rows(3, 17, 5, padding=False)
    rows.student_NV[:, :] = np.where(np.arange(17) == rows.ids_NK[0, 2], -np.inf, rows.student_NV)
    rows.ids_NK = np.tile(rows.ids_NK[0], (3, 1))
    target = exact_target(torch.from_numpy(rows.teacher_NV), torch.from_numpy(rows.ids_NK))
    for name, objective in every_objective():
        value_N, gradient_NV = value_and_gradient(objective, torch.from_numpy(rows.student_NV), target)
        assert not bool(torch.isnan(value_N).any() | torch.isnan(gradient_NV).any()), name
        if name in ("forward-kl tail", "forward-kl truncated", "forward-kl renormalized"):
            assert bool(torch.isposinf(value_N).all()), name  # p > 0 where q = 0
        elif name in NONLINEAR:
            assert bool(torch.isfinite(value_N).all()), name


@pytest.mark.parametrize("spread", [1e3, 1e4])
def test_extreme_logits_give_no_nan(spread: float) -> None:
    rows = Rows(4, 17, 5)
    target = exact_target(torch.from_numpy(rows.teacher_NV * spread).float(), torch.from_numpy(rows.ids_NK))
    for name, objective in every_objective():
        value_N, gradient_NV = value_and_gradient(
            objective, torch.from_numpy(-rows.student_NV * spread).float(), target
        )
        assert not bool(torch.isnan(value_N).any() | torch.isnan(gradient_NV).any()), name


def sampled(logits_NV: Tensor, k: int, seed: int, method: Any = "threshold", temperature: float = 1.0) -> RowTarget:
    ids_NK, weights_NK = ops.sample_support(logits_NV, k, method=method, seed=seed, temperature=temperature)
    p_NV = torch.softmax(logits_NV / temperature, dim=1)
    entropy_N = -(p_NV * p_NV.log()).sum(1)
    threshold_N = weights_NK.masked_fill(ids_NK < 0, math.inf).amin(1) if method == "threshold" else None
    return RowTarget(
        "sampled", ids_NK, (temperature,), weights_NK=weights_NK, entropy_N=entropy_N, threshold_N=threshold_N
    )


@pytest.mark.parametrize("method", ["threshold", "multinomial"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_forward_kl_of_samples_is_unbiased(method: str, temperature: float) -> None:
    """Mean of value and gradient over 600 seeds within 5 standard errors of the full KL (some 60 numbers compared).

    Standard errors of the gradient are known: a kept entry's weight has variance p (c - p) or p (1 - p) / k. Entries
    expected fewer than five times in all seeds say nothing by themselves and count through the value.
    """
    n_seeds, k = 600, 6
    rows = Rows(2, 30, 6, seed=5)
    teacher_NV, student_NV = torch.from_numpy(rows.teacher_NV), torch.from_numpy(rows.student_NV)
    objective = build("forward-kl", temperature=temperature)
    values, gradients = [], []
    for seed in range(n_seeds):
        target = sampled(teacher_NV, k, seed, method, temperature)
        value_N, gradient_NV = value_and_gradient(objective, student_NV, target, temperatures=(temperature,))
        values.append(value_N)
        gradients.append(gradient_NV)
    p_NV = torch.softmax(teacher_NV / temperature, 1)
    logq_NV = torch.log_softmax(student_NV / temperature, 1)
    full_N = (p_NV * (p_NV.log() - logq_NV)).sum(1)
    error_N = torch.stack(values).std(0) / math.sqrt(n_seeds)
    assert float(((torch.stack(values).mean(0) - full_N) / error_N).abs().max()) < 5.0
    assert float((error_N / full_N).max()) < 0.05  # tight enough to notice a bias

    c_N1 = torch.full((2, 1), 1.0 / k).double() if target.threshold_N is None else target.threshold_N[:, None]
    variance_NV = p_NV * (1 - p_NV) / k if method == "multinomial" else (p_NV * (c_N1 - p_NV)).clamp_min(0.0)
    often_NV = n_seeds * p_NV / c_N1 >= 5
    assert int(often_NV.sum()) > 20
    error_NV = variance_NV.sqrt() / temperature / math.sqrt(n_seeds) + 1e-9
    gap_NV = torch.stack(gradients).mean(0) - (logq_NV.exp() - p_NV) / temperature
    assert float((gap_NV / error_NV)[often_NV].abs().max()) < 5.0


@pytest.mark.parametrize("name", NONLINEAR)
def test_samples_are_refused_where_they_would_bias(name: str) -> None:
    rows = Rows(3, 30, 6)
    target = sampled(torch.from_numpy(rows.teacher_NV), 6, 0)
    with pytest.raises(ValueError, match=f"{name} is not linear in the teacher.*view: head"):
        value_and_gradient(build(name, **OPTIONS[name]), torch.from_numpy(rows.student_NV), target)
    entry = get_registry().find("objective", name)
    options = get_registry().options("objective", {"use": name, **OPTIONS[name]})
    assert options.needs(entry.component.needs).targets == ("exact",)  # so `distill validate` refuses it before it runs


@pytest.mark.parametrize("mode", MODES[1:])
def test_samples_admit_no_other_mode(mode: str) -> None:
    rows = Rows(3, 30, 6)
    target = sampled(torch.from_numpy(rows.teacher_NV), 6, 0)
    with pytest.raises(ValueError, match=f"'mode': '{mode}'"):
        value_and_gradient(build("forward-kl", mode=mode), torch.from_numpy(rows.student_NV), target)
    entry = get_registry().find("objective", "forward-kl")
    options = get_registry().options("objective", {"use": "forward-kl", "mode": mode})
    assert options.needs(entry.component.needs).targets == ("exact",)
    assert options.needs(entry.component.needs).temperatures == (1.0,)


@pytest.mark.parametrize("name", ALL)
def test_head_view_of_a_threshold_sample_is_exact(name: str) -> None:
    """Entries with p >= c and a tail of the rest: the divergence of that coarser, exact target."""
    rows = Rows(5, 40, 6)
    teacher_NV, student_NV = torch.from_numpy(rows.teacher_NV), torch.from_numpy(rows.student_NV)
    target = sampled(teacher_NV, 8, 1)
    assert target.weights_NK is not None and target.threshold_N is not None
    kept_NK = target.weights_NK > target.threshold_N[:, None]
    assert 0 < int(kept_NK.sum()) < kept_NK.numel()
    exact = exact_target(teacher_NV, torch.where(kept_NK, target.ids_NK, -1))
    value_N, _ = value_and_gradient(build(name, view="head", **OPTIONS[name]), student_NV, target)
    expected_N, _ = value_and_gradient(build(name, **OPTIONS[name]), student_NV, exact)
    # head() keeps logits in float32
    torch.testing.assert_close(value_N, expected_N, rtol=2e-5, atol=1e-6)


def test_a_foreign_temperature_is_refused() -> None:
    rows = Rows(3, 30, 6)
    student_NV = torch.from_numpy(rows.student_NV)
    with pytest.raises(ValueError, match=r"temperature 3.0 .*\[1.0, 2.0\]"):
        value_and_gradient(
            build("reverse-kl", temperature=3.0), student_NV, rows.target((1.0, 2.0)), temperatures=(3.0,)
        )
    drawn = sampled(torch.from_numpy(rows.teacher_NV), 6, 0, temperature=2.0)
    with pytest.raises(ValueError, match=r"drawn at 2.0"):
        value_and_gradient(build("forward-kl"), student_NV, drawn)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsd", {"beta": 0}, "beta: .*strictly between 0 and 1.*use forward-kl or reverse-kl"),
        ("jsd", {"beta": 1}, "beta: .*identically 0"),
        ("skew-forward-kl", {"alpha": 0}, "alpha: .*strictly between 0 and 1"),
        ("skew-reverse-kl", {"alpha": 1.0}, "alpha: .*identically 0"),
        ("forward-kl", {"mode": "topk"}, "mode: .*renormalized-both"),
        ("forward-kl", {"temperature": 0}, "temperature"),
        ("total-variation", {"alpha": 0.5}, "alpha"),
        ("cross-entropy", {"label_smoothing": 1.0}, "label_smoothing"),
        ("alpha-beta", {"alpha": 0, "beta": 0}, "both 0.*probability 0 weighs without bound"),
        ("alpha-beta", {"alpha": -0.5}, "alpha: .*greater than or equal to 0"),
        ("adaptive-kl", {"head_mass": 1.0}, "head_mass: .*less than 1"),
        ("token-wise-kl", {"alpha": 0.5}, "alpha"),
        ("decoupled-kd", {"alpha": 0, "beta": 0}, "the loss is 0"),
        ("tail-aware-kl", {"modes": 0}, "modes"),
        ("tail-aware-kl", {"mean_tail_mass": 0}, "mean_tail_mass"),
        ("logit-differences", {"top_k": 1}, "top_k: .*greater than or equal to 2"),
        ("logit-differences", {"led": "nobody"}, "led: .*student"),
        ("interpolated-support-kl", {"interpolation": 1.5}, "interpolation must lie between 0 .the student"),
        ("interpolated-support-kl", {"interpolation": {"use": "linear", "start": 0, "end": 2}}, "end must lie between"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


def test_functions_refuse_wrong_options_too() -> None:
    from distill_objectives.adaptive_kl import adaptive_kl
    from distill_objectives.alpha_beta import alpha_beta
    from distill_objectives.forward_kl import forward_kl
    from distill_objectives.interpolated_support_kl import interpolated_support_kl
    from distill_objectives.jsd import jsd
    from distill_objectives.skew_forward_kl import skew_forward_kl
    from distill_objectives.skew_reverse_kl import skew_reverse_kl

    logp = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    for exponents in ({"alpha": 0.0, "beta": 0.0}, {"alpha": -0.1}):
        with pytest.raises(ValueError, match="must not be negative, nor both 0; got alpha"):
            alpha_beta(logp, logp, **exponents)
    with pytest.raises(ValueError, match=r"head_mass must lie strictly between 0 and 1, got 1\.0"):
        adaptive_kl(logp, logp, head_mass=1.0)
    with pytest.raises(ValueError, match=r"interpolation must lie between 0 .* got 1\.25"):
        interpolated_support_kl(logp, logp, interpolation=1.25)
    for value in (0.0, 1.0, -0.5):
        for function, keyword in ((jsd, "beta"), (skew_forward_kl, "alpha"), (skew_reverse_kl, "alpha")):
            with pytest.raises(ValueError, match=f"{keyword} must lie strictly between 0 and 1"):
                function(logp, logp, **{keyword: value})
    with pytest.raises(ValueError, match="mode must be one of"):
        forward_kl(logp, logp, mode="clamped")


def test_a_support_too_small_for_the_loss_is_refused() -> None:
    student_NV = torch.from_numpy(Rows(3, 17, 3).student_NV)
    with pytest.raises(ValueError, match=r"modes is 3, but the support holds 3 ids.*larger k"):
        value_and_gradient(build("tail-aware-kl", modes=3), student_NV, Rows(3, 17, 3).target())
    with pytest.raises(ValueError, match="logit-differences needs a support of at least 2 ids, got 1"):
        value_and_gradient(build("logit-differences"), student_NV, Rows(3, 17, 1).target())


def test_distributions_without_a_common_outcome_give_no_nan() -> None:
    """The interpolation of two such distributions is no distribution; the teacher stands in for it."""
    teacher_NV = torch.tensor([[2.0, 1.0, -math.inf, -math.inf]])
    student_NV = torch.tensor([[-math.inf, -math.inf, 1.0, 0.5]])
    target = exact_target(teacher_NV.double(), torch.tensor([[0, 1, 2]]))
    for name, objective in every_objective():
        value_N, gradient_NV = value_and_gradient(objective, student_NV, target)
        assert not bool(torch.isnan(value_N).any() | torch.isnan(gradient_NV).any()), name
    value_N, _ = value_and_gradient(build("interpolated-support-kl", interpolation=0.5), student_NV, target)
    assert bool(torch.isposinf(value_N).all())


def test_scheduled_interpolation_is_read_at_the_step() -> None:
    class Context:
        build = staticmethod(lambda kind, reference: get_registry().build(kind, reference))

    default = build("interpolated-support-kl")
    rows = Rows(3, 30, 6)
    target = rows.target()
    support = ops.support_logits(torch.from_numpy(rows.student_NV), target.ids_NK)
    with pytest.raises(RuntimeError, match="interpolation is a schedule: call build"):
        default.rows(support, target, info(3))
    default.build(Context())
    for step, t in ((0, 0.4), (3, 0.7), (6, 1.0)):
        found = default.rows(support, target, info(3, step=step, total_steps=7))
        fixed = build("interpolated-support-kl", interpolation=t).rows(support, target, info(3))
        torch.testing.assert_close(found, fixed, rtol=1e-12, atol=0)


def test_scheduled_temperature_is_read_at_the_step() -> None:
    objective = build("forward-kl", temperature={"use": "linear", "start": 4.0, "end": 1.0, "values": [1.0, 2.0, 4.0]})

    class Context:
        build = staticmethod(lambda kind, reference: get_registry().build(kind, reference))

    with pytest.raises(RuntimeError, match="call build"):
        objective.temperatures(0, 10)
    objective.build(Context())
    assert [objective.temperatures(step, 10)[0] for step in range(10)] == [4, 4, 4, 2, 2, 2, 2, 2, 1, 1]
    rows = Rows(3, 30, 6)
    target = rows.target((1.0, 2.0, 4.0))
    support = ops.support_logits(torch.from_numpy(rows.student_NV), target.ids_NK, temperatures=(1.0, 2.0, 4.0))
    at_two = objective.rows(support, target, info(3, step=5, total_steps=10))
    fixed = build("forward-kl", temperature=2.0).rows(support, target, info(3))
    torch.testing.assert_close(at_two, fixed, rtol=0, atol=0)


def test_dense_reference_is_a_distribution() -> None:
    assert softmax(np.array([[1e4, 0.0, -1e4]])).sum() == pytest.approx(1.0)
