"""Row weights, the posterior and the ensemble's distribution against dense float64 computations.

Legend: N rows, V vocabulary, M teachers, K support size.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.errors import ConfigError, SignalError
from distill_core.mixture import disagreement, geometric_mixture, mixture
from distill_core.registry import get_registry
from distill_core.types import RowInfo, RowTarget, TeacherSignals
from distill_objectives.ensemble_distribution import dirichlet_log_density

V, N, M = 13, 6, 3


def logits(seed: int, *shape: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sparse(logits_NV: Tensor, ids_NK: Tensor) -> RowTarget:
    found = ops.support_logits(logits_NV, ids_NK)
    return RowTarget("exact", ids_NK, (1.0,), logits_NK=found.support_NK, tail_NM=found.tail_NT)


def supports(k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(V, generator=generator)[:k] for _ in range(N)])


def outcomes(p_XNV: Tensor, ids_NK: Tensor) -> Tensor:
    """[..., N, K+1] the distribution on the support and the tail."""
    index = ids_NK.expand(*p_XNV.shape[:-2], *ids_NK.shape)
    kept = p_XNV.gather(-1, index)
    return torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], dim=-1)


LABELS = torch.tensor([0, 3, 5, 12, 7, 3])
INFO = RowInfo(LABELS, LABELS, LABELS)


def value_and_gradient(objective: Any, target: RowTarget, student_NV: Tensor, info: RowInfo) -> tuple[Tensor, Tensor]:
    student_NV = student_NV.clone().requires_grad_(True)
    support = ops.support_logits(student_NV, target.ids_NK, labels_N=info.labels_N)
    value_N = objective.rows(support, target, info)
    (gradient_NV,) = torch.autograd.grad((value_N * torch.arange(1, N + 1)).sum(), student_NV)
    return value_N.detach(), gradient_NV


def check(objective: Any, target: RowTarget, student_NV: Tensor, info: RowInfo, dense: Any) -> None:
    """`dense(student_NV) -> [N]`; upstream gradients 1 ... N."""
    value_N, gradient_NV = value_and_gradient(objective, target, student_NV, info)
    leaf_NV = student_NV.clone().requires_grad_(True)
    expected_N = dense(leaf_NV)
    (expected_NV,) = torch.autograd.grad((expected_N * torch.arange(1, N + 1)).sum(), leaf_NV)
    torch.testing.assert_close(value_N, expected_N.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient_NV, expected_NV, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("k", [0, 4, V])
@pytest.mark.parametrize("strength", [0.0, 1.0, 7.5])
def test_the_posterior_is_the_mode_of_prior_times_likelihood(k: int, strength: float) -> None:
    """(a KL(p, q) + CE(y, q)) / (a + 1); at K = V the loss is lowest at (a p + onehot) / (a + 1)."""
    teacher_NV, ids_NK = logits(1, N, V), supports(k)
    objective = get_registry().build("objective", {"use": "label-posterior", "strength": strength})
    p = outcomes(teacher_NV.softmax(-1), ids_NK) if k else torch.ones(N, 1, dtype=torch.float64)

    def dense(student_NV: Tensor) -> Tensor:
        q = outcomes(student_NV.softmax(-1), ids_NK) if k < V else student_NV.softmax(-1).gather(1, ids_NK)
        own = p if k < V else p[:, :-1]
        soft_N = (own * (own.log() - q.log())).sum(-1)
        return (strength * soft_N + torch.nn.functional.cross_entropy(student_NV, LABELS, reduction="none")) / (
            strength + 1
        )

    check(objective, sparse(teacher_NV, ids_NK), logits(2, N, V), INFO, dense)
    if k == V:
        onehot_NV = torch.nn.functional.one_hot(LABELS, V)
        mode_NV = (strength * teacher_NV.softmax(-1) + onehot_NV) / (strength + 1)
        if strength > 0:
            _, gradient_NV = value_and_gradient(objective, sparse(teacher_NV, ids_NK), mode_NV.log(), INFO)
            assert float(gradient_NV.abs().max()) < 1e-9


def three(ids_NK: Tensor) -> tuple[dict[str, RowTarget], Tensor]:
    dense_MNV = torch.stack([logits(10 + m, N, V) for m in range(M)])
    return {f"t{m}": sparse(dense_MNV[m], ids_NK) for m in range(M)}, dense_MNV.softmax(-1)


def test_the_strength_of_an_ensemble_is_its_precision() -> None:
    """Members drawn from a Dirichlet of precision 30: the moments give it back (4,000 members: about 3 %)."""
    torch.manual_seed(0)
    alpha_V = torch.tensor([15.0, 9.0, 5.0, 1.0], dtype=torch.float64)
    members_MV = torch.distributions.Dirichlet(alpha_V).sample((4000,))
    ids = torch.arange(4)[None]
    targets = {
        str(m): RowTarget("exact", ids, (1.0,), row.log()[None], torch.full((1, 1), -math.inf, dtype=torch.float64))
        for m, row in enumerate(members_MV)
    }
    weights = torch.ones(4000)
    objective = get_registry().build("objective", {"use": "label-posterior", "strength": "ensemble"})
    signals = TeacherSignals(target=mixture(targets, weights), extra=disagreement(targets, weights))
    (found,) = objective.prepare(None, signals, INFO).values()
    assert float(found) == pytest.approx(30.0, rel=0.05)

    ids_NK = supports(5)
    some, p_MNV = three(ids_NK)
    own = TeacherSignals(target=mixture(some, torch.ones(M)), extra=disagreement(some, torch.ones(M)))
    extra = objective.prepare(None, own, INFO)
    p_MNC = outcomes(p_MNV, ids_NK)
    mean_NC = p_MNC.mean(0)
    strength_N = ((mean_NC * (1 - mean_NC)).sum(-1) / (p_MNC - mean_NC).square().sum(-1).mean(0) - 1).clamp(0.1, 100)
    torch.testing.assert_close(extra["prior_strength"].double(), strength_N, rtol=1e-4, atol=1e-4)

    def dense(student_NV: Tensor) -> Tensor:
        q = outcomes(student_NV.softmax(-1), ids_NK)
        hard_N = torch.nn.functional.cross_entropy(student_NV, LABELS, reduction="none")
        return (strength_N * (mean_NC * (mean_NC.log() - q.log())).sum(-1) + hard_N) / (strength_N + 1)

    info = RowInfo(LABELS, LABELS, LABELS, extra={"prior_strength": strength_N})
    target = own.target
    assert target is not None
    exact = RowTarget("exact", ids_NK, (1.0,), mean_NC[:, :-1].log(), mean_NC[:, -1:].log())
    check(objective, exact, logits(3, N, V), info, dense)
    with pytest.raises(SignalError, match="one teacher alone does not give"):
        objective.prepare(None, TeacherSignals(target=target), INFO)


def test_sampled_weights_give_the_posterior_on_average() -> None:
    """All tokens kept with their probabilities: the sample is the teacher, value minus the entropy included."""
    teacher_NV, student_NV = logits(1, N, V), logits(2, N, V)
    p_NV = teacher_NV.softmax(-1)
    ids_NV = torch.arange(V).expand(N, V).contiguous()
    sample = RowTarget(
        "sampled", ids_NV, (1.0,), weights_NK=p_NV, entropy_N=-(p_NV * p_NV.log()).sum(-1), threshold_N=torch.zeros(N)
    )
    objective = get_registry().build("objective", {"use": "label-posterior", "strength": 2.0})
    exact, _ = value_and_gradient(objective, sparse(teacher_NV, ids_NV), student_NV, INFO)
    sampled, _ = value_and_gradient(objective, sample, student_NV, INFO)
    torch.testing.assert_close(sampled, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("k", [3, V])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_the_likelihood_of_the_teachers_under_the_students_dirichlet(k: int, shift: float) -> None:
    """Against torch.distributions.Dirichlet on the merged outcomes, teacher by teacher."""
    ids_NK = supports(k)
    targets, p_MNV = three(ids_NK)
    target, log_mass_N = geometric_mixture(targets, torch.ones(M, dtype=torch.float64))
    objective = get_registry().build("objective", {"use": "ensemble-distribution", "shift": shift})
    extra = objective.prepare(None, TeacherSignals(extra={"log_normalizer": log_mass_N}), INFO)
    p_MNC = outcomes(p_MNV, ids_NK) if k < V else p_MNV.gather(-1, ids_NK.expand(M, N, V))

    def dense(student_NV: Tensor) -> Tensor:
        alpha_NV = (student_NV - shift).exp()
        kept = alpha_NV.gather(1, ids_NK)
        missing = torch.ones_like(alpha_NV).scatter(1, ids_NK, 0)
        alpha_NC = torch.cat([kept, (alpha_NV * missing).sum(1, keepdim=True)], 1) if k < V else kept
        dirichlet = torch.distributions.Dirichlet(alpha_NC, validate_args=False)
        return -torch.stack([dirichlet.log_prob(p_NC) for p_NC in p_MNC]).mean(0)

    info = RowInfo(LABELS, LABELS, LABELS, extra=extra)
    check(objective, target, logits(4, N, V), info, dense)
    assert objective.prepare(None, TeacherSignals(target=target), INFO) == {}
    with pytest.raises(SignalError, match="learns from the geometric mean of several teachers"):
        objective.prepare(None, TeacherSignals(extra={"ensemble_variance": log_mass_N}), INFO)


def test_concentrations_of_a_language_model_lose_no_digits() -> None:
    """Logits of 30: log Gamma of 1e13 is 3e14; against 60-digit arithmetic."""
    import mpmath

    mpmath.mp.dps = 60
    log_alpha = torch.tensor([[30.0, 28.0, 12.0, -5.0, -40.0]], dtype=torch.float64)
    mean = torch.tensor([[-0.2, -2.0, -9.0, -20.0, -60.0]], dtype=torch.float64)
    alpha = [mpmath.exp(mpmath.mpf(float(one))) for one in log_alpha[0]]
    exact = mpmath.loggamma(sum(alpha)) - sum(mpmath.loggamma(one) for one in alpha)
    exact += sum((one - 1) * mpmath.mpf(float(m)) for one, m in zip(alpha, mean[0], strict=True))
    found = dirichlet_log_density(log_alpha, mean, torch.ones_like(mean, dtype=torch.bool))
    assert float(found) == pytest.approx(float(exact), rel=1e-12)


def test_padding_and_impossible_outcomes() -> None:
    ids = torch.tensor([[3, -1, -1], [0, 5, 2]])
    logits_NK = torch.tensor([[1.0, 99.0, 99.0], [0.0, -math.inf, 1.0]])
    target = RowTarget("exact", ids, (1.0,), logits_NK, torch.tensor([[0.5], [-math.inf]]))
    student = (1e4 * torch.tensor([[1.0, 0, -1, 0, 0, 0], [0, 0, 0, 0, 0, 0]])).requires_grad_(True)
    labels = torch.tensor([0, 1])
    info = RowInfo(labels, labels, labels)
    support = ops.support_logits(student, ids, labels_N=labels)
    for name in ("label-posterior", "ensemble-distribution"):
        value_N = get_registry().build("objective", {"use": name}).rows(support, target, info)
        assert value_N.shape == (2,) and bool(torch.isfinite(value_N[1])), name
        none = ops.support_logits(student[:0], ids[:0], labels_N=labels[:0])
        empty = get_registry().build("objective", {"use": name}).rows(none, target[slice(0, 0)], info[slice(0, 0)])
        assert empty.shape == (0,), name


def test_the_ensembles_distribution_compiles_with_dynamic_temperatures() -> None:
    objective = get_registry().build("objective", {"use": "ensemble-distribution"})

    def step(logits_NV: Tensor, ids_NK: Tensor, teacher: RowTarget, temperature: float) -> Tensor:
        support = ops.support_logits(logits_NV, ids_NK, temperatures=(temperature, 1.0))
        zero_N = torch.zeros(logits_NV.shape[0], dtype=torch.int64)
        value: Tensor = objective.rows(support, teacher, RowInfo(zero_N, zero_N, zero_N, 0, 1))
        return value

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    for temperature in (2.0, 3.0, 4.5):
        ids_NK = supports(4, seed=int(temperature))
        target = sparse(logits(7, N, V), ids_NK)
        arguments = (logits(8, N, V), ids_NK, target, temperature)
        torch.testing.assert_close(compiled(*arguments), step(*arguments))


def test_the_ensembles_distribution_says_which_temperature_is_missing() -> None:
    objective = get_registry().build("objective", {"use": "ensemble-distribution"})
    ids_NK = supports(4)
    support = ops.support_logits(logits(8, N, V), ids_NK, temperatures=(2.0,))
    with pytest.raises(ValueError, match=r"temperature 1\.0 was not asked for, this holds \(2\.0,\)"):
        objective.rows(support, sparse(logits(7, N, V), ids_NK), INFO)


def test_entropy_weights() -> None:
    ids_NK = supports(4)
    teacher_NV = logits(5, N, V)
    p = outcomes(teacher_NV.softmax(-1), ids_NK)
    entropy_N = -(p * p.log()).sum(-1)
    signals = TeacherSignals(target=sparse(teacher_NV, ids_NK))
    for prefer, expected_N in (("certain", (-0.7 * entropy_N).exp()), ("uncertain", 1 - (-0.7 * entropy_N).exp())):
        weight = get_registry().build("row-weight", {"use": "teacher-entropy", "beta": 0.7, "prefer": prefer})
        torch.testing.assert_close(weight.weights(None, signals, INFO), expected_N, rtol=1e-9, atol=1e-9)
    stored = RowTarget("sampled", ids_NK, (2.0,), weights_NK=torch.ones(N, 4) / 4, entropy_N=torch.full((N,), 3.0))
    weight = get_registry().build("row-weight", {"use": "teacher-entropy"})
    torch.testing.assert_close(
        weight.weights(None, TeacherSignals(target=stored), INFO), torch.full((N,), math.exp(-3.0))
    )
    with pytest.raises(SignalError, match="stored without the teacher's entropy"):
        weight.weights(None, TeacherSignals(target=RowTarget("sampled", ids_NK, (1.0,), weights_NK=p[:, :4])), INFO)
    with pytest.raises(SignalError, match="need the teacher's targets"):
        weight.weights(None, TeacherSignals(), INFO)


def test_weights_by_disagreement() -> None:
    extra = {"ensemble_variance": torch.tensor([0.0, 0.5]), "mutual_information": torch.tensor([0.1, 2.0])}
    for name, value_N in extra.items():
        weight = get_registry().build("row-weight", {"use": "ensemble-variance", "signal": name, "beta": 3.0})
        torch.testing.assert_close(weight.weights(None, TeacherSignals(extra=extra), INFO), (-3 * value_N).exp())
        needs = get_registry().needs("row-weight", {"use": "ensemble-variance", "signal": name})
        assert needs.signals == {"targets", name}
    with pytest.raises(SignalError, match="need mutual_information, which one teacher alone does not give"):
        weight.weights(None, TeacherSignals(), INFO)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("objective", {"use": "label-posterior", "least": 5, "most": 1}, "least 5.0 is larger than most"),
        ("objective", {"use": "label-posterior", "strength": -1}, "strength"),
        ("row-weight", {"use": "teacher-entropy", "beta": 0}, "beta"),
        ("row-weight", {"use": "ensemble-variance", "signal": "expected_entropy"}, "signal"),
    ],
)
def test_wrong_options(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_registry().options(kind, options)
