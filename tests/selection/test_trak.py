"""TRAK against an explicit float64 computation, and against leaving one out and training again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core import ops
from distill_core.engine.data import collate
from distill_core.engine.features import Features
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError
from distill_synthesis.selectors.trak import influence
from tests.conftest import make_tiny_llama
from tests.selection.conftest import VOCABULARY, sequence, token_pool
from tests.selection.test_features import own_loss
from tests.selection.test_geometry import selected

MakeFeatures = Callable[..., Features]
POOL, TARGET = token_pool(9, seed=1, prompt=1), token_pool(4, seed=2)
LAYERS = r"layers\.1\.self_attn\.[kv]_proj"


def ranks(values: Any) -> Any:
    return np.argsort(np.argsort(values)).astype(float)


def spearman(a: Any, b: Any) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def log_odds(logits: Any, labels: Any) -> Any:
    """By the definition: log p - log(1 - p)."""
    p = logits.softmax(-1).gather(-1, labels[:, None])[:, 0]
    return p.log() - (1 - p).log()


def own_margin(model: Any, one: Any) -> tuple[Any, Any]:
    """Mean log-odds and mean 1 - p of one sequence alone."""
    labels = torch.from_numpy(one.labels[1:]).long()
    rows = labels != -100
    logits = model(torch.from_numpy(one.input_ids).long()[None]).logits[0, :-1][rows]
    p = logits.softmax(-1).gather(-1, labels[rows][:, None])
    return log_odds(logits, labels[rows]).mean(), (1 - p).mean()


def trained(network: int, share: float, learning_rate: float) -> Any:
    """The warm-up again, one pass of AdamW over every parameter in float64."""
    from distill_synthesis.selectors.strata import generator

    rng = generator("warm-up", 0, network)
    sample = rng.permutation(len(POOL))[: round(share * len(POOL))]
    order = rng.permutation(sample)
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    starts = range(0, len(order), 2)
    for step, start in enumerate(starts):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / len(starts))
        optimizer.zero_grad()
        torch.stack([own_loss(model, POOL[int(i)]) for i in order[start : start + 2]]).mean().backward()
        optimizer.step()
    return model


def test_scores_by_autograd_and_an_explicit_inverse(tmp_path: Path, model_features: MakeFeatures) -> None:
    influences, doubts, damping = [], [], 0.1
    for network in range(2):
        model = trained(network, share=0.5, learning_rate=0.001)
        weights = [m.weight for name, m in model.named_modules() if re.search(LAYERS, name)]
        size = sum(weight.numel() for weight in weights)
        signs = ops.random_projection(torch.eye(size, dtype=torch.float64), 6, seed=7 + network, impl="reference")

        def phi(one: Any, model: Any = model, weights: Any = weights, signs: Any = signs) -> Any:
            gradients = torch.autograd.grad(own_margin(model, one)[0], weights)
            return (torch.cat([g.flatten() for g in gradients]) @ signs).numpy()

        pool, target = np.stack([phi(one) for one in POOL]), np.stack([phi(one) for one in TARGET])
        gram = pool.T @ pool
        inverse = np.linalg.inv(gram + damping * np.trace(gram) / 6 * np.eye(6))
        influences.append((target @ inverse @ pool.T).mean(axis=0))
        doubts.append([float(own_margin(model, one)[1].detach()) for one in POOL])
    expected = np.mean(influences, axis=0) * np.mean(doubts, axis=0)
    warm_up = {"share": 0.5, "epochs": 1, "learning_rate": 0.001, "batch_sequences": 2}
    options = {"dim": 6, "networks": 2, "projection_seed": 7, "layers": LAYERS, "damping": damping}
    given = {"target": TARGET, "warm_up": warm_up, **options}
    found = selected("trak", tmp_path, POOL, features=model_features(), **given)
    # two steps of Adam in fp32 against float64 move small gradients apart
    np.testing.assert_allclose(found.scores, expected, rtol=0, atol=2e-3 * np.abs(expected).max())
    assert found.order.tolist() == np.argsort(-found.scores).tolist()
    assert found.notes == {"networks": 2, "target": 4}
    again = selected("trak", tmp_path / "again", POOL, features=model_features(), **given)
    np.testing.assert_array_equal(again.scores, found.scores)


@pytest.mark.parametrize("columns", [3, 8, 20], ids="K={}".format)
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_both_spaces_give_the_same(columns: int, damping: float) -> None:
    rng = np.random.default_rng(columns)
    phi, aim = rng.normal(size=(8, columns)), rng.normal(size=(5, columns))
    gram = phi.T @ phi
    ridge = damping * np.trace(gram) / min(8, columns) * np.eye(columns)
    expected = (aim @ np.linalg.inv(gram + ridge) @ phi.T).mean(axis=0)
    np.testing.assert_allclose(influence(phi, aim, damping=damping), expected, rtol=1e-7, atol=1e-10)


def test_least_squares_ranks_what_leaving_one_out_does() -> None:
    """``y = x w`` has the gradient x; influence times residual is what an output owes to a row, to first order."""
    rng = np.random.default_rng(0)
    x, aim = rng.normal(size=(80, 6)), rng.normal(size=(1, 6))
    y = x @ rng.normal(size=6) + rng.normal(size=80)

    def fitted(rows: Any) -> Any:
        return np.linalg.lstsq(x[rows], y[rows], rcond=None)[0]

    everything = np.arange(80)
    whole = fitted(everything)
    owed = [float((aim @ (whole - fitted(everything != i))).item()) for i in range(80)]
    scores = influence(x, aim, damping=0.0) * (y - x @ whole)
    assert spearman(scores, owed) > 0.99
    assert abs(spearman(scores[rng.permutation(80)], owed)) < 0.4  # the comparison can fail


def test_logistic_regression_ranks_what_leaving_one_out_does() -> None:
    """The log-odds of the right class are ``s x w`` with s = 1 or -1, their gradient ``s x``."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(80, 5))
    s = np.where(rng.random(80) < 1 / (1 + np.exp(-2 * x[:, 0] + x[:, 1])), 1.0, -1.0)
    phi = s[:, None] * x
    aim = rng.normal(size=(30, 5)) * rng.choice([-1.0, 1.0], size=(30, 1))

    def fitted(rows: Any) -> Any:
        w = np.zeros(5)
        for _ in range(30):
            doubt = 1 / (1 + np.exp(phi[rows] @ w))
            hessian = phi[rows].T @ (phi[rows] * (doubt * (1 - doubt))[:, None]) + 1e-9 * np.eye(5)
            w = w + np.linalg.solve(hessian, phi[rows].T @ doubt)
        return w

    everything = np.arange(80)
    whole = fitted(everything)
    owed = [float((aim @ (whole - fitted(everything != i))).mean()) for i in range(80)]
    scores = influence(phi, aim, damping=0.0) / (1 + np.exp(phi @ whole))
    assert spearman(scores, owed) > 0.95
    assert abs(spearman(scores[rng.permutation(80)], owed)) < 0.4


def test_margins_doubts_and_entropies() -> None:
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    whole, pool = SequenceModel(model, next_token=True), [*POOL, sequence([5, 6, 7], prompt=3)]
    batch = collate(pool, pad_id=5)
    expected = [own_margin(model, one) for one in POOL]
    zero = torch.zeros(1, dtype=torch.float64)
    margins, doubts = (torch.cat([torch.stack(part), zero]) for part in zip(*expected, strict=True))
    torch.testing.assert_close(whole.margins(batch), margins, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.doubts(batch), doubts, rtol=1e-9, atol=1e-9)
    entropies = []
    for one in POOL:
        p = model(torch.from_numpy(one.input_ids).long()[None]).logits[0, :-1].softmax(-1)
        entropies.append(torch.special.entr(p).sum(-1)[torch.from_numpy(one.labels[1:]) != -100].mean())
    torch.testing.assert_close(whole.entropies(batch)[:-1], torch.stack(entropies), rtol=1e-8, atol=1e-8)
    assert whole.entropies(batch)[-1] == 0


def test_the_margin_of_a_sure_classifier_keeps_its_digits() -> None:
    """Logits 60 apart: 1 - p is below 1e-26, and log(1 - p) by ``1 - p`` would be -inf."""

    class Sure(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 60.0, 1.0]))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return type("Output", (), {"logits": self.bias.expand(len(input_ids), 3)})()

    model = SequenceModel(Sure(), next_token=False)
    batch = collate([sequence([5, 6], label=1), sequence([5, 6, 7], label=0)])
    rest = np.log(1 + np.e)
    expected = [60 - rest, -np.logaddexp(60, 1)]
    np.testing.assert_allclose(model.margins(batch).detach().numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(model.doubts(batch).numpy(), 1 / (1 + np.exp(expected)), rtol=1e-4)


def test_wrong_use(tmp_path: Path, model_features: MakeFeatures) -> None:
    for target in (None, [], [sequence([5, 6], prompt=2)]):
        with pytest.raises(DataError, match="trak aims at a target, and was given none"):
            selected("trak", tmp_path, POOL, target=target, features=model_features())
    with pytest.raises(DataError, match=r"4 sequences in 3 columns have no inverse with damping 0.0: raise damping"):
        influence(np.ones((4, 3)), np.ones((1, 3)), damping=0.0)
    with pytest.raises(DataError, match="no inverse"):
        influence(np.zeros((2, 3)), np.ones((1, 3)), damping=0.5)


def test_sequences_without_a_prediction_are_refused(tmp_path: Path, model_features: MakeFeatures) -> None:
    pool = [*POOL[:4], sequence([5, 6, 7], prompt=3)]
    found = selected("trak", tmp_path, pool, features=model_features(), target=TARGET, dim=4, networks=1)
    assert found.refused == {4: "nothing to predict"} and sorted(found.order.tolist()) == [0, 1, 2, 3]
    assert np.isnan(found.scores[4])
