"""Values and gradients of the divergences against independent dense float64 computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from tests.objectives.conftest import Rows, build, value_and_gradient
from tests.objectives.dense import DIVERGENCES, forward_kl_mode, gradient_table, simplex, softmax

CASES: list[tuple[str, dict[str, Any]]] = [
    ("forward-kl", {}),
    ("reverse-kl", {}),
    ("jsd", {}),
    ("jsd", {"beta": 0.1}),
    ("jsd", {"beta": 0.83}),
    ("skew-forward-kl", {}),
    ("skew-forward-kl", {"alpha": 0.6}),
    ("skew-reverse-kl", {}),
    ("skew-reverse-kl", {"alpha": 0.6}),
    ("total-variation", {}),
]
IDS = [f"{name}-{'-'.join(map(str, options.values()))}".rstrip("-") for name, options in CASES]

# Rows x vocabulary x support: one row, a support of one, odd sizes, K nearly V.
SHAPES = [(1, 5, 1), (7, 53, 6), (4, 9, 8)]


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_value_is_the_dense_one(name: str, options: dict[str, Any], shape: Any, temperature: float) -> None:
    rows = Rows(*shape)
    objective = build(name, temperature=temperature, **options)
    target = rows.target((temperature,))
    value_N, _ = value_and_gradient(objective, torch.from_numpy(rows.student_NV), target, temperatures=(temperature,))
    p = simplex(softmax(rows.teacher_NV, temperature), rows.ids_NK)
    q = simplex(softmax(rows.student_NV, temperature), rows.ids_NK)
    # fp64 throughout; LOG_FLOOR = 1e-30 in place of 0 costs less than 1e-27.
    np.testing.assert_allclose(value_N.numpy(), DIVERGENCES[name](p, q, **options), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_gradient_is_that_of_the_table(name: str, options: dict[str, Any]) -> None:
    rows = Rows(6, 31, 5, padding=False)
    objective = build(name, **options)
    _, gradient_NV = value_and_gradient(objective, torch.from_numpy(rows.student_NV), rows.target())
    expected_NV = gradient_table(name, softmax(rows.teacher_NV), softmax(rows.student_NV), rows.ids_NK, **options)
    np.testing.assert_allclose(gradient_NV.numpy(), expected_NV, rtol=1e-8, atol=1e-11)
    # A softmax does not move when all logits do.
    np.testing.assert_allclose(gradient_NV.sum(1).numpy(), 0.0, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("temperature", [0.7, 3.0])
def test_gradient_is_the_finite_difference_of_the_value(name: str, options: dict[str, Any], temperature: float) -> None:
    """Axolotl's KD multiplies the value by T^2 and not the gradient; here both are of one function."""
    rows = Rows(3, 11, 4)
    objective = build(name, temperature=temperature, **options)
    target = rows.target((temperature,))
    student_NV = torch.from_numpy(rows.student_NV)
    _, gradient_NV = value_and_gradient(objective, student_NV, target, temperatures=(temperature,))
    step = 1e-6
    for n in range(3):
        for v in range(11):
            shift_NV = torch.zeros_like(student_NV)
            shift_NV[n, v] = step
            above, _ = value_and_gradient(objective, student_NV + shift_NV, target, temperatures=(temperature,))
            below, _ = value_and_gradient(objective, student_NV - shift_NV, target, temperatures=(temperature,))
            slope = float((above.sum() - below.sum()) / (2 * step))
            assert slope == pytest.approx(float(gradient_NV[n, v]), rel=1e-5, abs=1e-8), (n, v)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_equals_the_full_divergence_where_the_support_is_everything(name: str, options: dict[str, Any]) -> None:
    rows = Rows(5, 13, 13, padding=False)
    value_N, gradient_NV = value_and_gradient(build(name, **options), torch.from_numpy(rows.student_NV), rows.target())
    p, q = softmax(rows.teacher_NV), softmax(rows.student_NV)
    np.testing.assert_allclose(value_N.numpy(), DIVERGENCES[name](p, q, **options), rtol=1e-10, atol=1e-12)
    assert bool(torch.isfinite(gradient_NV).all())


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_is_a_lower_bound_and_never_negative(name: str, options: dict[str, Any]) -> None:
    objective = build(name, **options)
    for seed in range(20):
        rows = Rows(4, 29, 5, seed=seed)
        value_N, _ = value_and_gradient(objective, torch.from_numpy(rows.student_NV), rows.target())
        full_N = DIVERGENCES[name](softmax(rows.teacher_NV), softmax(rows.student_NV), **options)
        assert float(value_N.min()) > 0.0
        assert np.all(value_N.numpy() <= full_N + 1e-12)
        assert np.any(value_N.numpy() < full_N - 1e-4)  # the bound is not attained, or it would test nothing


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_zero_with_zero_gradient_at_equality(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """torchtune's ForwardKLLoss(x, x) is the entropy."""
    rows = Rows(7, 53, 6)
    value_N, gradient_NV = value_and_gradient(
        build(name, **options), torch.from_numpy(rows.teacher_NV).to(dtype), rows.target()
    )
    eps = torch.finfo(dtype).eps
    assert float(value_N.abs().max()) <= 20 * eps
    if name != "total-variation":  # it has a kink there: every slope between -1/2 and 1/2 is a subgradient
        assert float(gradient_NV.abs().max()) <= 20 * eps


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.parametrize("qbar", [1e-2, 1e-4, 1e-6, 1e-8], ids=str)
def test_small_tails_are_exact_in_float32(name: str, options: dict[str, Any], qbar: float) -> None:
    """``1 - sum`` is off by 5 % at 1e-6 in fp32; a clamp at 1e-8 is off by nats. The tail here is a logsumexp."""
    generator = np.random.default_rng(3)
    ids = np.arange(4)[None]
    student = generator.normal(size=(1, 40)).astype(np.float32)
    student[0, 4:] += np.float32(
        np.log(qbar / (1 - qbar)) + logsumexp(student[0, :4].astype(float)) - logsumexp(student[0, 4:].astype(float))
    )
    teacher = student.astype(np.float64) + generator.normal(size=(1, 40))
    p, q = softmax(teacher), softmax(student.astype(np.float64))
    assert simplex(q, ids)[0, -1] == pytest.approx(qbar, rel=1e-4)
    from tests.objectives.conftest import exact_target

    target = exact_target(torch.from_numpy(teacher), torch.from_numpy(ids))
    value_N, gradient_NV = value_and_gradient(build(name, **options), torch.from_numpy(student), target)
    expected_NV = gradient_table(name, p, q, ids, **options)
    # Rounding of numbers of size 1 to fp32, a few times; relative to the row's own scale.
    expected = DIVERGENCES[name](simplex(p, ids), simplex(q, ids), **options)
    np.testing.assert_allclose(value_N.numpy(), expected, rtol=1e-5, atol=1e-6)
    off = slice(4, 40)
    scale = np.abs(expected_NV[:, off]).max()
    np.testing.assert_allclose(gradient_NV.numpy()[:, off], expected_NV[:, off], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("mode", ["tail", "truncated", "renormalized", "renormalized-both"])
def test_forward_kl_modes(mode: str) -> None:
    rows = Rows(7, 53, 6)
    student_NV = torch.from_numpy(rows.student_NV)
    value_N, gradient_NV = value_and_gradient(build("forward-kl", mode=mode), student_NV, rows.target())
    p, q = simplex(softmax(rows.teacher_NV), rows.ids_NK), simplex(softmax(rows.student_NV), rows.ids_NK)
    np.testing.assert_allclose(value_N.numpy(), forward_kl_mode(p, q, mode), rtol=1e-10)
    step, n, v = 1e-6, 2, int(rows.ids_NK[2, 0])
    shift_NV = torch.zeros_like(student_NV)
    shift_NV[n, v] = step
    above, _ = value_and_gradient(build("forward-kl", mode=mode), student_NV + shift_NV, rows.target())
    below, _ = value_and_gradient(build("forward-kl", mode=mode), student_NV - shift_NV, rows.target())
    assert float((above - below).sum() / (2 * step)) == pytest.approx(float(gradient_NV[n, v]), rel=1e-6)


def test_declared_properties_of_the_modes_hold_and_the_others_fail() -> None:
    from distill_objectives.forward_kl import MODE_PROPERTIES

    for mode, properties in MODE_PROPERTIES.items():
        objective = build("forward-kl", mode=mode)
        seen = {"zero_at_equality": True, "nonnegative": True, "lower_bound": True}
        for seed in range(60):
            rows = Rows(4, 29, 5, seed=seed)
            if seed % 2:  # supports that hold little of the teacher's mass
                rows.ids_NK = np.random.default_rng(seed).permuted(np.tile(np.arange(29), (4, 1)), axis=1)[:, :5]
            teacher_NV = torch.from_numpy(rows.teacher_NV)
            equal_N, _ = value_and_gradient(objective, teacher_NV, rows.target())
            seen["zero_at_equality"] &= float(equal_N.abs().max()) < 1e-12
            # Students far from the teacher, bolder than it, and flatter.
            for student_NV in (torch.from_numpy(rows.student_NV), teacher_NV * 1.5, teacher_NV * 0.5):
                value_N, _ = value_and_gradient(objective, student_NV, rows.target())
                full_N = DIVERGENCES["forward-kl"](softmax(rows.teacher_NV), softmax(student_NV.numpy()))
                seen["nonnegative"] &= float(value_N.min()) > -1e-12
                seen["lower_bound"] &= bool(np.all(value_N.numpy() <= full_N + 1e-12))
        assert seen == properties, mode


def test_negative_truncated_values_keep_their_gradient() -> None:
    """verl clamps a negative truncated KL at 0, which loses the gradient of most steps; nothing is clamped here."""
    rows = Rows(4, 29, 5, seed=1)
    student_NV = torch.from_numpy(rows.teacher_NV) * 1.5
    value_N, gradient_NV = value_and_gradient(build("forward-kl", mode="truncated"), student_NV, rows.target())
    assert float(value_N.min()) < 0
    assert float(gradient_NV[int(value_N.argmin())].abs().max()) > 1e-3
