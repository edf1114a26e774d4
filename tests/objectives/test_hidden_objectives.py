"""Objectives on hidden states against the formulas written out in float64, and what they must not see.

Legend: N compared positions, L blocks.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.types import StudentView, TeacherSignals
from tests.objectives.conftest import build
from tests.objectives.feature_scene import batch, built, compare, config, hidden_value, places, states

HIDDEN = ("hidden-mse", "hidden-cosine", "hidden-cka", "hidden-relational", "hidden-contrastive")
GROUPED = HIDDEN[2:]


def rows_of(state: Tensor, chosen: list[tuple[int, int, float]]) -> Tensor:
    return torch.stack([state[b, t] for b, t, _ in chosen])


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y) / (x @ x).sqrt() / (y @ y).sqrt()


def cka(x: Tensor, y: Tensor, w: list[float]) -> Tensor:
    """By the n x n kernels and the weighted centring matrix: H = D^(1/2) (I - 1 w^T / sum w)."""
    weights = torch.tensor(w, dtype=torch.float64)
    centring = weights.sqrt().diag() @ (torch.eye(len(w), dtype=torch.float64) - weights[None, :] / weights.sum())
    k, m = (centring @ z @ z.T @ centring.T for z in (x, y))
    return (k * m).sum() / ((k * k).sum() * (m * m).sum()).sqrt()


def huber(d: Tensor) -> Tensor:
    return 0.5 * d * d if abs(float(d.detach())) < 1 else d.abs() - 0.5


def relational(x: Tensor, y: Tensor, w: list[float], distance_weight: float, angle_weight: float) -> Tensor:
    """Loops over pairs and triplets of distinct rows."""
    n = len(w)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]

    def distance(z: Tensor, i: int, j: int) -> Tensor:
        return (z[i] - z[j]).square().sum().sqrt()

    mass = sum(w[i] * w[j] for i, j in pairs)
    mean_x, mean_y = (sum(w[i] * w[j] * distance(z, i, j) for i, j in pairs) / mass for z in (x, y))
    gaps = [w[i] * w[j] * huber(distance(x, i, j) / mean_x - distance(y, i, j) / mean_y) for i, j in pairs]
    total = distance_weight * torch.stack(gaps).sum() / mass
    triplets = [(i, j, k) for i, j in pairs for k in range(n) if k not in (i, j)]
    angles = [
        w[i] * w[j] * w[k] * huber(cosine(x[i] - x[j], x[k] - x[j]) - cosine(y[i] - y[j], y[k] - y[j]))
        for i, j, k in triplets
    ]
    return total + angle_weight * torch.stack(angles).sum() / sum(w[i] * w[j] * w[k] for i, j, k in triplets)


def contrastive(s: Tensor, t: Tensor, w: list[float], tau: float, symmetric: bool) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(w)):
        there = [cosine(s[i], t[j]) / tau for j in range(len(w))]
        back = [cosine(s[j], t[i]) / tau for j in range(len(w))]
        value = torch.stack(there).exp().sum().log() - there[i]
        if symmetric:
            value = (value + torch.stack(back).exp().sum().log() - back[i]) / 2
        total = total + w[i] * value
    return total


def expected(name: str, objective: Any, student: Any, teacher: Any, pairs: Any, chosen: Any) -> Tensor:
    """The mean over pairs of layers of the sum over groups, each counting as its weights."""
    options = objective.options
    within = getattr(options, "within", "batch")
    sequences = sorted({b for b, _, _ in chosen})
    groups = [chosen] if within == "batch" else [[p for p in chosen if p[0] == b] for b in sequences]
    total = torch.zeros((), dtype=torch.float64)
    for index, (i, j) in enumerate(pairs):
        for group in groups:
            x, y, w = rows_of(student[i], group), rows_of(teacher[j], group), [weight for _, _, weight in group]
            if getattr(objective, "projects", False) and len(objective.projections):
                x = x @ objective.projections[index].weight.T
            if name == "hidden-mse":
                total = total + sum(weight * (a - b).square().mean() for weight, a, b in zip(w, x, y, strict=True))
            elif name == "hidden-cosine":
                total = total + sum(weight * (1 - cosine(a, b)) for weight, a, b in zip(w, x, y, strict=True))
            elif name == "hidden-cka":
                total = total + sum(w) * (1 - cka(x, y, w))
            elif name == "hidden-relational":
                gap = relational(x, y, w, options.distance_weight, options.angle_weight)
                total = total + sum(w) * gap
            else:
                s = x @ objective.projections[index].weight.T
                t = y @ objective.teacher_projections[index].weight.T
                total = total + contrastive(s, t, w, options.temperature, options.symmetric)
    return total / len(pairs)


CASES = [
    ("hidden-mse", {}),
    ("hidden-cosine", {"layers": "uniform"}),
    ("hidden-cosine", {"positions": "tokens"}),
    ("hidden-cka", {}),
    ("hidden-cka", {"within": "sequence", "layers": [[0, 0], [1, 4]]}),
    ("hidden-relational", {}),
    ("hidden-relational", {"within": "sequence", "distance_weight": 3.0, "angle_weight": 0.5}),
    ("hidden-contrastive", {"dimensions": 6, "temperature": 0.3}),
    ("hidden-contrastive", {"within": "sequence", "symmetric": False, "layers": "uniform"}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
@pytest.mark.parametrize("width", [32, 24])
def test_value_and_gradients(name: str, options: dict[str, Any], width: int) -> None:
    """Other depths always (2 and 5 blocks), other widths in one of two cases."""
    objective = built(name, config(layers=5, width=width), **options)
    pairs = {"uniform": [(1, 2), (2, 5)], "last": [(2, 5)]}.get(str(objective.options.layers), options.get("layers"))
    assert objective.pairs == [tuple(pair) for pair in pairs]
    student, teacher = states(3, 32, 1), states(6, width, 2)
    chosen = places(options.get("positions", "rows"))
    compare(
        lambda own: hidden_value(objective, own, teacher),
        lambda own: expected(name, objective, own, teacher, objective.pairs, chosen),
        student,
        list(objective.parameters()),
    )
    assert objective.count(batch()) == len(chosen)


def test_cka_is_the_same_number_through_either_product() -> None:
    """More rows than dimensions, and fewer: 13 rows of width 4 and 5, and of width 32 and 24 above."""
    from distill_objectives.features.hidden_cka import linear_cka

    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(13, width, generator=generator, dtype=torch.float64) for width in (4, 5))
    w = torch.linspace(0.5, 2.0, 13, dtype=torch.float64)
    torch.testing.assert_close(linear_cka(x, y, w), cka(x, y, w.tolist()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["hidden-mse", "hidden-cosine", "hidden-cka", "hidden-relational"])
def test_zero_at_equality(name: str) -> None:
    objective = built(name, config(layers=2))
    same = states(3, 32, 1)
    # the angles' cosines and 1 - cos round in the last place of 1
    assert abs(float(hidden_value(objective, same, same).detach())) <= 1e-13
    assert objective.properties["zero_at_equality"]


def rotation(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize(
    ("name", "change", "blind"),
    [
        ("hidden-cosine", "scale", True),
        ("hidden-cosine", "rotate", False),
        ("hidden-cka", "scale", True),
        ("hidden-cka", "rotate", True),
        ("hidden-cka", "shift", True),
        ("hidden-cka", "stretch", False),
        ("hidden-relational", "scale", True),
        ("hidden-relational", "rotate", True),
        ("hidden-relational", "shift", True),
        ("hidden-relational", "stretch", False),
    ],
)
def test_what_a_change_of_the_student_does(name: str, change: str, blind: bool) -> None:
    stretch = torch.linspace(0.2, 3.0, 32, dtype=torch.float64)
    changes = {
        "scale": lambda x: 7.5 * x,
        "rotate": lambda x: x @ rotation(32),
        "shift": lambda x: x + stretch,
        "stretch": lambda x: x * stretch,
    }
    objective = built(name, config(layers=2))
    student, teacher = states(3, 32, 1), states(3, 32, 2)
    before = float(hidden_value(objective, student, teacher).detach())
    after = float(hidden_value(objective, tuple(changes[change](x) for x in student), teacher).detach())
    assert math.isclose(before, after, rel_tol=1e-10) == blind


def test_learned_layers_start_as_the_mean_and_find_the_layer_that_the_student_has() -> None:
    objective = built("hidden-mse", config(layers=4), layers="learned")
    student, teacher = states(3, 32, 1), states(5, 32, 2)
    means = sum(teacher[1:]) / 4
    chosen = places()
    compare(
        lambda own: hidden_value(objective, own, teacher),
        lambda own: expected("hidden-mse", objective, own, (None, means, means), [(1, 1), (2, 2)], chosen),
        student,
    )
    # a student whose blocks are the teacher's third and first
    same = (student[0], teacher[3], teacher[1])
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        hidden_value(objective, same, teacher).backward()
        optimizer.step()
    assert objective.layer_scores.argmax(dim=1).tolist() == [2, 0]
    assert not objective.properties["zero_at_equality"]
    assert set(objective.state_dict()) == {"layer_scores"}


@pytest.mark.parametrize("name", HIDDEN)
def test_learned_layers_work_at_other_depths_and_widths(name: str) -> None:
    objective = built(name, config(layers=5, width=24), layers="learned")
    hidden_value(objective, states(3, 32, 1), states(6, 24, 2)).backward()
    assert bool(objective.layer_scores.grad.abs().sum(dim=1).gt(0).all())


@pytest.mark.parametrize("name", HIDDEN)
def test_positions_that_do_not_count_have_no_influence_even_when_nan(name: str) -> None:
    objective = built(name, config(layers=2, width=24))
    student, teacher = states(3, 32, 1), states(3, 24, 2)
    before = hidden_value(objective, student, teacher)
    counted = {(b, t) for b, t, _ in places()}
    for state in (*student, *teacher):
        for b, t, _ in places("tokens"):
            if (b, t) not in counted:
                state[b, t] = math.nan
        state[1, 5:] = math.nan
    assert float(hidden_value(objective, student, teacher).detach()) == float(before.detach())


@pytest.mark.parametrize("name", GROUPED)
def test_within_a_sequence_cutting_the_batch_changes_nothing(name: str) -> None:
    student, teacher = states(3, 32, 1), states(3, 24, 2)
    for within, equal in (("sequence", True), ("batch", False)):
        objective = built(name, config(layers=2, width=24), within=within)
        whole = float(hidden_value(objective, student, teacher).detach())
        parts, counts = 0.0, 0.0
        for start, stop in ((0, 1), (1, 3)):
            own, theirs = (tuple(x[start:stop] for x in side) for side in (student, teacher))
            part = batch().select_sequences(start, stop)
            parts += float(objective(StudentView(own), TeacherSignals(hidden_states=theirs), part).total.detach())
            counts += objective.count(part)
        assert math.isclose(parts, whole, rel_tol=1e-12) == equal == objective.properties["additive"]
        assert counts == objective.count(batch())


@pytest.mark.parametrize(("name", "least"), [("hidden-cka", 2), ("hidden-relational", 3), ("hidden-contrastive", 2)])
def test_groups_that_are_too_small_are_left_out_of_sum_and_count(name: str, least: int) -> None:
    objective = built(name, config(layers=2, width=24), within="sequence")
    one = batch()
    labels_BT = one.labels_BT.clone()
    labels_BT[0, least:] = -100  # least - 1 rows are left
    small = type(one)(one.input_ids_BT, one.attention_mask_BT, labels_BT, keys=one.keys, weights_BT=one.weights_BT)
    student, teacher = states(3, 32, 1), states(3, 24, 2)
    total = objective(StudentView(student), TeacherSignals(hidden_states=teacher), small).total
    rest = objective(
        StudentView(tuple(x[1:] for x in student)),
        TeacherSignals(hidden_states=tuple(x[1:] for x in teacher)),
        one.select_sequences(1, 3),
    ).total
    assert float(total.detach()) == pytest.approx(float(rest.detach()), rel=1e-12)
    assert objective.count(small) == objective.count(one.select_sequences(1, 3)) == len(small.rows()) - (least - 1)
    alone = small.select_sequences(0, 1)
    empty = objective(
        StudentView(tuple(x[:1].requires_grad_(True) for x in student)),
        TeacherSignals(hidden_states=tuple(x[:1] for x in teacher)),
        alone,
    )
    assert objective.count(alone) == 0 and float(empty.total.detach()) == 0
    assert empty.total.requires_grad


@pytest.mark.parametrize("name", ["hidden-relational", "hidden-contrastive"])
def test_max_rows_draws_by_the_content_of_the_batch(name: str) -> None:
    objective = built(name, config(layers=2, width=24), max_rows=5)
    student, teacher = states(3, 32, 1), states(3, 24, 2)

    def touched(seed: int) -> set[tuple[int, int]]:
        own = tuple(x.detach().clone().requires_grad_(True) for x in student)
        one = batch()
        keys = tuple(bytes([b + seed]) * 16 for b in range(3))
        one = type(one)(one.input_ids_BT, one.attention_mask_BT, one.labels_BT, keys=keys, weights_BT=one.weights_BT)
        objective(StudentView(own), TeacherSignals(hidden_states=teacher), one).total.backward()
        return {(int(b), int(t)) for b, t in own[-1].grad.abs().sum(-1).nonzero()}

    first = touched(0)
    assert len(first) == 5 and first <= {(b, t) for b, t, _ in places()}
    assert touched(0) == first
    assert any(touched(seed) != first for seed in (7, 8))


def test_rows_that_coincide_have_finite_gradients() -> None:
    """The first token of every sequence is the same one: its hidden states are equal."""
    objective = built("hidden-relational", config(layers=2))
    student, teacher = states(3, 32, 1), states(3, 32, 2)
    for state in (*student, *teacher):
        state[1, 0] = state[0, 0]
    own = tuple(state.requires_grad_(True) for state in student)
    hidden_value(objective, own, teacher).backward()
    assert bool(torch.isfinite(own[-1].grad).all())
    assert float(own[-1].grad.abs().max()) < 10  # distances of about 8: nothing was divided by a rounding error


def test_half_precision_states_are_compared_in_float32() -> None:
    for name in HIDDEN:
        objective = built(name, config(layers=2, width=24)).float()
        student = tuple(x.bfloat16() for x in states(3, 32, 1))
        teacher = tuple(x.bfloat16() for x in states(3, 24, 2))
        exact = hidden_value(objective, tuple(x.float() for x in student), tuple(x.float() for x in teacher))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = hidden_value(objective, student, teacher)
        assert found.dtype == torch.float32 and float(found.detach()) == float(exact.detach())


@pytest.mark.parametrize("name", HIDDEN)
def test_refusals(name: str) -> None:
    student, teacher = states(3, 32, 1), states(5, 24, 2)
    with pytest.raises(SignalError, match=rf"{name} needs the teacher's hidden states.*train.teacher: live"):
        built(name, None)
    with pytest.raises(SignalError, match=rf"{name}: layers names the pair \[3, 1\].*student has hidden states 0 .. 2"):
        built(name, config(layers=4, width=24), layers=[[3, 1]])
    objective = built(name, config(layers=4, width=24))
    with pytest.raises(SignalError, match=f"{name} needs the teacher's hidden states, but the teacher sent none"):
        objective(StudentView(student), TeacherSignals(), batch())
    with pytest.raises(SignalError, match="2 student and 3 teacher blocks came, but the configurations say 2 and 4"):
        hidden_value(objective, student, teacher[:4])
    with pytest.raises(SignalError, match=r"\[3, 7\] .*teacher's \[3, 6\].*student's tokenizer"):
        hidden_value(objective, student, tuple(x[:, :6] for x in teacher))
    with pytest.raises(RuntimeError, match=f"{name}: call build"):
        hidden_value(build(name), student, teacher)
    if objective.projects:
        with pytest.raises(SignalError, match=r"32 dimensions and the teacher's 24.*projection: auto"):
            built(name, config(layers=4, width=24), projection="none")
