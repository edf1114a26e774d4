"""Aggregators against dense float64 mixtures: weights, disagreement, routing, learning, wrong use.

Legend: N rows, M teachers, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_core.engine.aggregation import AggregatedTeacher
from distill_core.errors import ConfigError, SignalError
from distill_core.interfaces import BuildContext
from distill_core.mixture import disagreement, geometric_mixture
from distill_core.plugin import Needs
from distill_core.registry import get_registry
from distill_core.types import RowTarget, SparseSpec, TokenBatch
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import random_sequences

NEEDS = Needs(frozenset({"targets"}), ("exact",), (1.0,))
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def teachers(tiny_tokenizer: Any) -> dict[str, HFTeacher]:
    return {
        name: HFTeacher.from_model(
            make_tiny_llama(vocab_size=320, seed=seed, initializer_range=0.3), tiny_tokenizer, label=name
        )
        for seed, name in enumerate(NAMES)
    }


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    from distill_core.engine.data import collate

    sequences = random_sequences(4, vocabulary=320, longest=14, seed=3)
    domains = ("law", "code", "law", "prose")
    return collate([replace(one, domain=domain) for one, domain in zip(sequences, domains, strict=True)])


@torch.no_grad()
def dense(teachers: Mapping[str, HFTeacher], batch: TokenBatch, temperature: float = 1.0) -> Tensor:
    """[M, N, V] float64 probabilities."""
    parts = []
    for teacher in teachers.values():
        logits = teacher.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        parts.append((batch.rows().select(logits).double() / temperature).softmax(-1))
    return torch.stack(parts)


def aggregated(teachers: Mapping[str, HFTeacher], options: dict[str, Any]) -> AggregatedTeacher:
    return AggregatedTeacher(teachers, get_registry().build("aggregator", options))


def on_support(target: RowTarget, p_NV: Tensor) -> Tensor:
    """[N, K+1] the dense distribution on the target's outcomes."""
    kept_NK = p_NV.gather(1, target.ids_NK.clamp_min(0)) * (target.ids_NK >= 0)
    return torch.cat([kept_NK, 1 - kept_NK.sum(1, keepdim=True)], dim=1)


def check(found: RowTarget | None, expected_NV: Tensor, temperature: float = 1.0) -> None:
    """fp32 logits of size 10 are known to 1e-6, their probabilities to 1e-5."""
    assert found is not None
    torch.testing.assert_close(
        found.log_probs(temperature).double().exp(), on_support(found, expected_NV), rtol=1e-4, atol=1e-6
    )


def dense_entropy(p_XV: Tensor) -> Tensor:
    return -(p_XV * p_XV.log()).sum(-1)


def whole(teachers: Mapping[str, HFTeacher], options: dict[str, Any], batch: TokenBatch, **changes: Any) -> Any:
    """Signals on the whole vocabulary, where everything is exact."""
    needs = replace(NEEDS, **changes)
    return aggregated(teachers, options).signals(batch, needs, SparseSpec("topk", 320, needs.temperatures or (1.0,)))


def test_fixed_weights_and_their_disagreement(teachers: dict[str, HFTeacher], batch: TokenBatch) -> None:
    options = {"use": "fixed", "weights": {"c": 1, "a": 2, "b": 5}}
    p_MNV = dense(teachers, batch)
    weights_M = torch.tensor([2.0, 5.0, 1.0], dtype=torch.float64) / 8
    mixed_NV = torch.einsum("m,mnv->nv", weights_M, p_MNV)
    check(aggregated(teachers, options).signals(batch, NEEDS, SparseSpec("topk", 7)).target, mixed_NV)
    signals = whole(teachers, options, batch)
    check(signals.target, mixed_NV)
    expected_N = torch.einsum("m,mn->n", weights_M, dense_entropy(p_MNV))
    variance_N = torch.einsum("m,mnv->n", weights_M, (p_MNV - mixed_NV).square())
    close = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(signals.extra["expected_entropy"].double(), expected_N, **close)
    torch.testing.assert_close(signals.extra["ensemble_variance"].double(), variance_N, **close)
    mutual_N = dense_entropy(mixed_NV) - expected_N
    torch.testing.assert_close(signals.extra["mutual_information"].double(), mutual_N, **close)
    assert float(mutual_N.min()) > 1e-3, "teachers so alike that the test would not see a difference"


def test_the_geometric_mean_and_its_mass(teachers: dict[str, HFTeacher], batch: TokenBatch) -> None:
    for temperature in (1.0, 2.0):
        p_MNV = dense(teachers, batch, temperature)
        log_NV = p_MNV.log().mean(0)
        signals = whole(teachers, {"use": "fixed", "mean": "geometric"}, batch, temperatures=(temperature,))
        check(signals.target, log_NV.softmax(-1), temperature)
        torch.testing.assert_close(signals.extra["log_normalizer"].double(), log_NV.logsumexp(-1), rtol=1e-4, atol=1e-5)
        assert float(signals.extra["log_normalizer"].max()) < 0


def test_entropy_weights_prefer_the_sure(teachers: dict[str, HFTeacher], batch: TokenBatch) -> None:
    p_MNV = dense(teachers, batch)
    weights_MN = (-2 * dense_entropy(p_MNV)).softmax(0)
    signals = whole(teachers, {"use": "entropy", "beta": 2.0}, batch)
    check(signals.target, torch.einsum("mn,mnv->nv", weights_MN, p_MNV))


def label_losses(p_MNV: Tensor, batch: TokenBatch) -> Tensor:
    labels_N = batch.rows().labels_N
    return -p_MNV[:, torch.arange(len(labels_N)), labels_N].log()


@pytest.mark.parametrize("per", ["sequence", "row"])
def test_minimum_ce_takes_the_best_teacher(teachers: dict[str, HFTeacher], batch: TokenBatch, per: str) -> None:
    """On a support of 3 tokens, where most labels would be missing: the union holds them."""
    p_MNV = dense(teachers, batch)
    loss_MN = label_losses(p_MNV, batch)
    if per == "sequence":
        sequence_N = batch.rows().sequence_N
        for sequence in range(len(batch.keys)):
            of_it = sequence_N == sequence
            loss_MN[:, of_it] = loss_MN[:, of_it].mean(1, keepdim=True)
    best_N = loss_MN.argmin(0)
    assert len(best_N.unique()) > 1, "one teacher is best everywhere"
    ask = {"use": "minimum-ce", "per": per}
    found = aggregated(teachers, ask).signals(batch, NEEDS, SparseSpec("topk", 3)).target
    check(found, p_MNV[best_N, torch.arange(len(best_N))])
    average = aggregated(teachers, {**ask, "fusion": "average", "beta": 0.5})
    expected_NV = torch.einsum("mn,mnv->nv", (-0.5 * loss_MN).softmax(0), p_MNV)
    check(average.signals(batch, NEEDS, SparseSpec("topk", 3)).target, expected_NV)


def test_every_domain_has_its_teacher(teachers: dict[str, HFTeacher], batch: TokenBatch) -> None:
    p_MNV = dense(teachers, batch)
    options = {"use": "domain", "routes": {"law": "b", "code": {"a": 1, "b": 0, "c": 3}}, "default": "c"}
    weights_BM = torch.tensor([[0, 1, 0], [0.25, 0, 0.75], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    expected_NV = torch.einsum("nm,mnv->nv", weights_BM[batch.rows().sequence_N], p_MNV)
    check(aggregated(teachers, options).signals(batch, NEEDS, SparseSpec("topk", 5)).target, expected_NV)
    with pytest.raises(SignalError, match=r"no route for the domain 'prose'; routes: law, code"):
        whole(teachers, {**options, "default": None}, batch)
    with pytest.raises(SignalError, match="no route for sequences whose records have no `domain`"):
        whole(teachers, {**options, "default": None}, replace(batch, domains=()))
    with pytest.raises(SignalError, match=r"the route 'law' names d, which is no teacher here.*teachers are a, b, c"):
        whole(teachers, {**options, "routes": {"law": "d"}}, batch)


def context(teacher: Any = None, tokenizer: Any = None, student: nn.Module | None = None) -> BuildContext:
    registry = get_registry()
    return BuildContext(
        student=student or nn.Linear(1, 1),
        teacher_config=None,
        total_steps=3,
        seed=0,
        build=lambda kind, ref: registry.build(kind, ref),
        tokenizer=tokenizer,
        teacher=teacher,
    )


def test_validation_losses_given_and_measured(
    teachers: dict[str, HFTeacher], batch: TokenBatch, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    p_MNV = dense(teachers, batch)
    given = aggregated(teachers, {"use": "validation-loss", "losses": {"b": 1.0, "a": 2.0, "c": 4.0}, "beta": 0.5})
    weights_M = (-0.5 * torch.tensor([2.0, 1.0, 4.0], dtype=torch.float64)).softmax(0)
    expected_NV = torch.einsum("m,mnv->nv", weights_M, p_MNV)
    check(given.signals(batch, NEEDS, SparseSpec("topk", 4)).target, expected_NV)

    text = "The work of the union is the work of its people."
    (tmp_path / "held_out.txt").write_text(text, encoding="utf-8")
    measured = aggregated(
        teachers,
        {"use": "validation-loss", "source": {"use": "text-files", "paths": str(tmp_path / "held_out.txt")}},
    )
    measured.build(context(measured, tiny_tokenizer))
    ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
    for name, teacher in teachers.items():
        with torch.no_grad():
            logits = teacher.model(input_ids=ids).logits[0].double()
        expected = nn.functional.cross_entropy(logits[:-1], ids[0, 1:])
        assert measured.aggregator.losses[name] == pytest.approx(float(expected), rel=1e-5)
    again = aggregated(teachers, {"use": "validation-loss", "losses": {"a": 0, "b": 0, "c": 0}})
    again.load_state_dict(measured.state_dict())
    assert again.aggregator.losses == measured.aggregator.losses

    with pytest.raises(SignalError, match=r"reads a store.*give their held-out `losses`"):
        measured.aggregator.losses = None
        measured.aggregator.build(context(None, tiny_tokenizer))
    with pytest.raises(SignalError, match=r"losses says nothing of c; the teachers are a, b, c"):
        whole(teachers, {"use": "validation-loss", "losses": {"a": 1.0, "b": 1.0}}, batch)


class Student(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)


def test_the_router_learns_whom_the_text_proves_right(teachers: dict[str, HFTeacher], batch: TokenBatch) -> None:
    """Labels that teacher b predicts: the gate turns to b; held-out batches teach nothing."""
    best_N = dense(teachers, batch)[1].argmax(-1)
    labels_BT = batch.labels_BT.clone()
    rows = batch.rows()
    labels_BT[rows.sequence_N, rows.position_N + 1] = best_N
    easy = replace(batch, labels_BT=labels_BT)
    student = Student()
    routed = aggregated(teachers, {"use": "router", "learning_rate": 0.1})
    routed.build(context(routed, student=student))
    spec = SparseSpec("topk", 6)

    def loss() -> float:
        """Of the mixture on the labels; a held-out look."""
        student.eval()
        target = routed.signals(easy, NEEDS, spec).target
        student.train()
        assert target is not None
        hit = target.ids_NK == easy.rows().labels_N[:, None]
        return float(-target.log_probs()[:, :-1][hit].mean())

    start = loss()
    alike = torch.einsum("mnv->nv", dense(teachers, easy)) / 3
    assert start == pytest.approx(float(label_losses(alike[None], easy).mean()), rel=1e-4)
    routed.on_step_end(None)
    assert loss() == start, "a held-out batch moved the gate"
    for _ in range(40):
        routed.signals(easy, NEEDS, spec)
        routed.on_step_end(None)
    alone = float(label_losses(dense(teachers, easy)[1:2], easy).mean())
    assert loss() < alone + 0.2 * (start - alone), "four fifths of the way to the teacher that is right"

    resumed = aggregated(teachers, {"use": "router", "learning_rate": 0.1})
    resumed.build(context(resumed, student=student))
    resumed.load_state_dict(routed.state_dict())
    for one in (routed, resumed):
        one.signals(easy, NEEDS, spec)
        one.on_step_end(None)
    for key, value in routed.state_dict()["gate"].items():
        assert torch.equal(value, resumed.state_dict()["gate"][key])


def test_the_routers_gradient_is_that_of_the_mixture(teachers: dict[str, HFTeacher]) -> None:
    router = get_registry().build("aggregator", {"use": "router", "balance": 0.3})
    gate = router._gate(3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        gate.weight.normal_(0, 0.3, generator=generator)
    features = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    logp = -3 * torch.rand(5, 3, generator=generator, dtype=torch.float64)
    weights = (features @ gate.weight.T + gate.bias).softmax(1)
    mean = weights.mean(0)
    expected = -(weights * logp.exp()).sum(1).log().mean() + 0.3 * (mean * (mean * 3).log()).sum()
    torch.testing.assert_close(router.loss(features, logp), expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda w: torch.func.functional_call(_Loss(router), {"router.gate.weight": w}, (features, logp)),
        (gate.weight.detach().clone().requires_grad_(),),
    )


class _Loss(nn.Module):
    def __init__(self, router: Any) -> None:
        super().__init__()
        self.router = nn.Module()
        self.router.gate = router.gate
        self._owner = router

    def forward(self, features: Tensor, logp: Tensor) -> Tensor:
        return self._owner.loss(features, logp)


def test_awkward_rows() -> None:
    """No rows, padding, impossible outcomes, an empty tail, extreme logits."""
    ids = torch.tensor([[3, 5, -1], [3, -1, -1]])
    inf = math.inf
    one = RowTarget("exact", ids, (1.0,), torch.tensor([[0.0, -inf, 9.0], [1e4, 0, 0]]), torch.tensor([[-inf], [0.0]]))
    two = RowTarget("exact", ids, (1.0,), torch.tensor([[0.0, 0.0, 9.0], [-1e4, 0, 0]]), torch.tensor([[-inf], [0.0]]))
    targets = {"a": one, "b": two}
    for options in (
        {"use": "fixed"},
        {"use": "entropy"},
        {"use": "fixed", "weights": {"a": 0, "b": 1}, "mean": "geometric"},
    ):
        signals = get_registry().build("aggregator", options).combine(targets, None, 1.0)
        total_N = signals.target.log_probs().exp().sum(1)
        torch.testing.assert_close(total_N, torch.ones(2))
        assert all(bool(torch.isfinite(value_N).all()) for value_N in signals.extra.values()), options
    variance_N = disagreement(targets, torch.tensor([0.5, 0.5]))["ensemble_variance"]
    torch.testing.assert_close(variance_N, torch.tensor([2 * 0.25**2, 2 * 0.5**2]))
    with pytest.raises(ValueError, match="a, b share no possible outcome in 1 rows"):
        apart = RowTarget("exact", ids[1:], (1.0,), torch.tensor([[-inf, 0, 0]]), torch.zeros(1, 1))
        sure = RowTarget("exact", ids[1:], (1.0,), torch.zeros(1, 3), torch.full((1, 1), -inf))
        geometric_mixture({"a": apart, "b": sure}, torch.ones(2))
    none = {name: target[slice(0, 0)] for name, target in targets.items()}
    signals = get_registry().build("aggregator", {"use": "entropy"}).combine(none, None, 1.0)
    assert len(signals.target) == 0 and signals.extra["ensemble_variance"].shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use": "fixed", "weights": {"a": 0, "b": 0}}, "weights are all 0"),
        ({"use": "validation-loss"}, "in one way: losses"),
        ({"use": "domain", "routes": {}}, "routes"),
        ({"use": "domain", "routes": {"law": {"a": 0}}}, "the weights of law are all 0"),
        ({"use": "entropy", "beta": 0}, "beta"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_registry().options("aggregator", options)
