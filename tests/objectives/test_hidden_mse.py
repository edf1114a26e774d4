"""hidden-mse against a plain numpy computation: layer maps, projections, masks, weights, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import IGNORE, StudentView, TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama
from tests.objectives.conftest import build

B, T = 3, 7


def batch() -> TokenBatch:
    """Right-padded; a masked prompt, a padded row, uneven token weights."""
    input_ids_BT = torch.randint(3, 97, (B, T), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones(B, T, dtype=torch.long)
    mask_BT[1, 5:] = 0
    labels_BT = input_ids_BT.clone()
    labels_BT[mask_BT == 0] = IGNORE
    labels_BT[2, :4] = IGNORE
    weights_BT = torch.linspace(0.5, 2.0, B * T).view(B, T)
    return TokenBatch(input_ids_BT, mask_BT, labels_BT, keys=(bytes(16),) * B, weights_BT=weights_BT)


def states(layers: int, width: int, seed: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, T, width, generator=generator, dtype=torch.float64) for _ in range(layers + 1))


def built(teacher: Any, *, seed: int = 3, **options: Any) -> Any:
    objective = build("hidden-mse", **options)
    student = make_tiny_llama(num_hidden_layers=2)
    objective.build(BuildContext(student, None if teacher is None else teacher, 10, seed, lambda *a: None))
    return objective


def config(layers: int, width: int) -> Any:
    return make_tiny_llama(num_hidden_layers=layers, hidden_size=width).config


def expected(objective: Any, student: Any, teacher: Any, pairs: list[tuple[int, int]], normalize: bool) -> float:
    """Loops over positions; which positions count is written out anew from the labels."""
    one = batch()
    total = 0.0
    for b in range(B):
        for t in range(T - 1):
            if one.labels_BT[b, t + 1] == IGNORE:
                continue
            for index, (i, j) in enumerate(pairs):
                x = student[i][b, t].numpy().astype(np.float64)
                if len(objective.projections):
                    x = objective.projections[index].weight.detach().numpy().astype(np.float64) @ x
                y = teacher[j][b, t].numpy()
                if normalize:
                    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
                total += float(one.weights_BT[b, t + 1]) * np.mean((x - y) ** 2) / len(pairs)
    return total


@pytest.mark.parametrize(
    ("layers", "teacher_layers", "pairs"),
    [
        ("uniform", 6, [(1, 3), (2, 6)]),
        ("uniform", 2, [(1, 1), (2, 2)]),
        ("last", 5, [(2, 5)]),
        ([[0, 0], [1, 4]], 5, [(0, 0), (1, 4)]),
    ],
)
@pytest.mark.parametrize("width", [32, 24])
@pytest.mark.parametrize("normalize", [False, True])
def test_value(layers: Any, teacher_layers: int, pairs: Any, width: int, normalize: bool) -> None:
    objective = built(config(teacher_layers, width), layers=layers, normalize=normalize)
    assert objective.pairs == pairs
    assert len(objective.projections) == (0 if width == 32 else len(pairs))
    student, teacher = states(2, 32, 1), states(teacher_layers, width, 2)
    term = objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch())
    # hidden states are compared in float32
    assert float(term.total.detach()) == pytest.approx(
        expected(objective, student, teacher, pairs, normalize), rel=1e-5
    )
    assert set(term.metrics) == {f"layer_{i}_to_{j}" for i, j in pairs}


def test_gradient_reaches_student_and_projection_but_not_the_teacher() -> None:
    objective = built(config(4, 24))
    student = tuple(state.requires_grad_(True) for state in states(2, 32, 1))
    teacher = tuple(state.requires_grad_(True) for state in states(4, 24, 2))
    term = objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch())
    term.total.backward()
    assert all(state.grad is None for state in teacher)
    assert student[0].grad is None  # uniform does not compare the embeddings
    rows = batch().rows()
    touched_BT = torch.zeros(B, T, dtype=torch.bool)
    touched_BT[rows.sequence_N, rows.position_N] = True
    for state in student[1:]:
        assert bool((state.grad[~touched_BT] == 0).all())
        assert bool((state.grad[touched_BT].abs().sum(-1) > 0).all())
    parameters = list(objective.parameters())
    assert len(parameters) == 2
    # finite difference in one entry of a projection: exact for a quadratic, so the step may be large
    step = 1.0
    entry = parameters[1].detach()[3, 5].clone()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameters[1][3, 5] = entry + sign * step
        term = objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch())
        values.append(float(term.total.detach()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(parameters[1].grad[3, 5]), rel=1e-3)


def test_masked_positions_have_no_influence_even_when_nan() -> None:
    objective = built(config(2, 32))
    student, teacher = states(2, 32, 1), states(2, 32, 2)
    before = objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch()).total
    for state in (*student, *teacher):
        state[1, 5:] = float("nan")
        state[2, :3] = float("nan")
    after = objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch()).total
    assert float(after.detach()) == float(before.detach())


def test_projections_are_seeded_and_saved() -> None:
    one, two, other = built(config(4, 24)), built(config(4, 24)), built(config(4, 24), seed=4)
    assert torch.equal(one.projections[1].weight, two.projections[1].weight)
    assert not torch.equal(one.projections[0].weight, one.projections[1].weight)
    assert not torch.equal(one.projections[0].weight, other.projections[0].weight)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.projections[1].weight, other.projections[1].weight)
    assert not one.exported


def test_refusals() -> None:
    with pytest.raises(SignalError, match="32 dimensions and the teacher's 24"):
        built(config(4, 24), projection="none")
    with pytest.raises(SignalError, match=r"pair \[1, 9\].*teacher 0 .. 4"):
        built(config(4, 32), layers=[[1, 9]])
    with pytest.raises(SignalError, match=r"train.teacher: live"):
        built(None)
    objective = built(config(2, 32))
    with pytest.raises(SignalError, match="sent none"):
        objective(StudentView(states(2, 32, 1)), TeacherSignals(), batch())
    with pytest.raises(RuntimeError, match="build"):
        build("hidden-mse")(StudentView(states(2, 32, 1)), TeacherSignals(hidden_states=states(2, 32, 1)), batch())


def test_projection_linear_is_learned_even_at_equal_widths() -> None:
    assert len(built(config(2, 32), projection="linear").projections) == 2
