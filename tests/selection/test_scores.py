"""DSIR by explicit counts; IFD, EL2N, GraNd and LESS by autograd, sequence by sequence; coverage and dedup by hand."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from distill_core import ops
from distill_core.engine.features import Features
from distill_core.errors import DataError
from distill_core.interfaces import Budget
from tests.conftest import make_tiny_llama
from tests.selection.conftest import VOCABULARY, FixedFeatures, sequence, token_pool
from tests.selection.test_features import own_loss
from tests.selection.test_geometry import selected

MakeFeatures = Callable[..., Features]
POOL, TARGET = token_pool(9, seed=1), token_pool(4, seed=2)


def ngrams(one: Any, longest: int) -> list[bytes]:
    ids = [int(i) for i in one.input_ids]
    return [
        np.array(ids[start : start + n], dtype="<i4").tobytes()
        for n in range(1, longest + 1)
        for start in range(len(ids) - n + 1)
    ]


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_dsir_weights_by_explicit_counts(tmp_path: Path, longest: int) -> None:
    """With so many buckets that none is shared, weights are sums of log ratios of smoothed n-gram frequencies."""
    from distill_synthesis.selectors.dsir import bucket

    buckets = 10_000_019
    known = {gram for one in [*POOL, *TARGET] for gram in ngrams(one, longest)}
    assert len({bucket(gram, buckets) for gram in known}) == len(known)
    pool, target = Counter(), Counter()
    for counts, sequences in ((pool, POOL), (target, TARGET)):
        for one in sequences:
            counts.update(ngrams(one, longest))

    def log_probability(counts: Any, gram: bytes) -> float:
        return math.log((counts[gram] + 0.5) / (sum(counts.values()) + 0.5 * buckets))

    expected = [
        sum(log_probability(target, gram) - log_probability(pool, gram) for gram in ngrams(one, longest))
        for one in POOL
    ]
    options = {"ngrams": longest, "buckets": buckets, "smoothing": 0.5, "sample": False}
    found = selected("dsir", tmp_path, POOL, target=TARGET, **options)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-9, atol=1e-9)
    assert found.order.tolist() == np.argsort(-np.array(expected)).tolist()


def test_dsir_resamples_in_proportion_to_the_weights(tmp_path: Path) -> None:
    """The first of the order is a draw from the softmax of the log weights."""
    pool = [sequence([3, 4]), sequence([3, 5]), sequence([6, 7])]
    target = [sequence([3, 4]), sequence([3, 8])]
    weights = selected("dsir", tmp_path, pool, target=target).scores
    expected = np.exp(weights - weights.max())
    expected /= expected.sum()
    draws = 600
    first = Counter(int(selected("dsir", tmp_path, pool, target=target, draw=d).order[0]) for d in range(draws))
    error = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs([first[i] / draws for i in range(3)] - expected) < 4.5 * error).all()


def test_dsir_finds_the_target_in_a_mixture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pool = [sequence(rng.integers(3, 50, 20)) for _ in range(38)] + [
        sequence(rng.integers(60, 97, 20)) for _ in range(2)
    ]
    target = [sequence(rng.integers(60, 97, 20)) for _ in range(5)]
    assert set(selected("dsir", tmp_path, pool, target=target).order[:2].tolist()) == {38, 39}


@pytest.mark.parametrize("use", ["dsir", "less"])
@pytest.mark.parametrize("target", [None, []], ids=["none", "empty"])
def test_the_target_is_missing(tmp_path: Path, model_features: MakeFeatures, use: str, target: Any) -> None:
    with pytest.raises(DataError, match=f"{use} aims at a target, and was given none"):
        selected(use, tmp_path, POOL, target=target, features=model_features())


def test_ifd_is_the_ratio_of_losses_on_the_same_tokens(tmp_path: Path, model_features: MakeFeatures) -> None:
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    rng = np.random.default_rng(4)
    pool = [sequence(rng.integers(3, VOCABULARY, 10), prompt=4) for _ in range(6)]
    pool += [sequence([5, 6, 7]), sequence([5, 6, 7], prompt=2), sequence([5, 6, 7], prompt=3)]
    expected = []
    for one in pool[:6]:
        ids = torch.from_numpy(one.input_ids).long()
        given, alone = model(ids[None]).logits[0], model(ids[None, 4:]).logits[0]
        expected.append(
            float(
                (
                    functional.cross_entropy(given[4:-1], ids[5:]) / functional.cross_entropy(alone[:-1], ids[5:])
                ).detach()
            )
        )
    found = selected("ifd", tmp_path, pool, features=model_features(), drop_above=1e9)
    np.testing.assert_allclose(found.scores[:6], expected, rtol=1e-4)
    assert found.order.tolist() == np.argsort(-np.array(expected)).tolist()
    assert found.refused == {6: "no prompt", 7: "an answer of one token", 8: "no prompt"}
    limit = sorted(expected)[3]
    cut = selected("ifd", tmp_path, pool, features=model_features(), drop_above=limit * 1.00001)
    assert len(cut.order) == 4 and list(cut.refused.values()).count("the prompt does not help") == 2


def test_ifd_wrong_use(tmp_path: Path, model_features: MakeFeatures) -> None:
    with pytest.raises(DataError, match="no sequence with a prompt and an answer of at least two tokens"):
        selected("ifd", tmp_path, POOL, features=model_features())
    with pytest.raises(DataError, match="the sequences have classes"):
        selected("ifd", tmp_path, [sequence([5, 6], label=1)], features=model_features())


def test_el2n_and_grand_by_autograd(tmp_path: Path, model_features: MakeFeatures) -> None:
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear)]
    errors, norms = [], []
    for one in POOL:
        ids = torch.from_numpy(one.input_ids).long()
        p = model(ids[None]).logits[0, :-1].softmax(-1)
        errors.append(float((p - functional.one_hot(ids[1:], VOCABULARY)).norm(dim=-1).mean().detach()))
        gradients = torch.autograd.grad(own_loss(model, one), weights)
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
    for use, expected in (("el2n", errors), ("grand", norms)):
        found = selected(use, tmp_path, POOL, features=model_features())
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
        assert found.order.tolist() == np.argsort(-np.array(expected)).tolist()
        easy = selected(use, tmp_path, POOL, features=model_features(), keep="easiest")
        assert easy.order.tolist() == found.order.tolist()[::-1]


def test_scores_over_networks_are_their_mean(tmp_path: Path, model_features: MakeFeatures) -> None:
    warm_up = {"share": 0.5, "epochs": 1, "learning_rate": 0.01, "batch_sequences": 2}
    initial = selected("el2n", tmp_path, POOL, features=model_features())
    one = selected("el2n", tmp_path, POOL, features=model_features(), warm_up=warm_up)
    two = selected("el2n", tmp_path, POOL, features=model_features(), warm_up=warm_up, networks=2)
    second = 2 * two.scores - one.scores
    assert (np.abs(one.scores - initial.scores) > 1e-4).any() and (np.abs(second - one.scores) > 1e-5).any()
    assert (second > 0).all() and (second < math.sqrt(2)).all()


@pytest.mark.parametrize("use", ["el2n", "grand", "less", "coverage-centric"])
def test_sequences_without_a_prediction_are_refused(tmp_path: Path, model_features: MakeFeatures, use: str) -> None:
    given: dict[str, Any] = {"target": TARGET, "dim": 8} if use == "less" else {}
    pool = [*POOL[:4], sequence([5, 6, 7], prompt=3)]
    found = selected(use, tmp_path, pool, features=model_features(), **given)
    assert found.refused == {4: "nothing to predict"} and sorted(found.order.tolist()) == [0, 1, 2, 3]
    assert np.isnan(found.scores[4])


@pytest.mark.parametrize("use", ["el2n", "grand"])
def test_networks_need_a_warm_up(tmp_path: Path, model_features: MakeFeatures, use: str) -> None:
    with pytest.raises(DataError, match="networks: 2 without warm_up would all be the same initial student"):
        selected(use, tmp_path, POOL, features=model_features(), networks=2)
    with pytest.raises(DataError, match="no sequence of the pool has anything to predict"):
        selected(use, tmp_path, [sequence([5, 6], prompt=2)], features=model_features())


LAYERS = r"layers\.1\.self_attn\.[kv]_proj"
WARM_UP = {"share": 0.5, "epochs": 2, "learning_rate": 0.01, "batch_sequences": 2}


def trained_by_hand(orders: Any) -> Any:
    """The warm-up again: plain AdamW in float64 on the same batches; yields model, moments, steps, mean rate."""
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    layers = {name: m for name, m in model.named_modules() if re.search(LAYERS, name)}
    m = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}
    v, step = {name: torch.zeros_like(layer.weight) for name, layer in layers.items()}, 0
    total = sum(-(-len(order) // 2) for order in orders)
    for order in orders:
        rates = []
        for start in range(0, len(order), 2):
            rates.append(0.01 * (1 - step / total))
            loss = torch.stack([own_loss(model, POOL[int(i)]) for i in order[start : start + 2]]).mean()
            gradients = torch.autograd.grad(loss, [layer.weight for layer in layers.values()])
            step += 1
            with torch.no_grad():
                for (name, layer), g in zip(layers.items(), gradients, strict=True):
                    m[name] = 0.9 * m[name] + 0.1 * g
                    v[name] = 0.999 * v[name] + 0.001 * g**2
                    mean, spread = m[name] / (1 - 0.9**step), v[name] / (1 - 0.999**step)
                    layer.weight -= rates[-1] * mean / (spread.sqrt() + 1e-8)
        yield model, layers, m, v, step, sum(rates) / len(rates)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_the_update_is_the_next_step_of_adam(steps: int) -> None:
    """After some steps of torch's own Adam, its next step is the learning rate times the update."""
    from distill_synthesis.selectors.warm_up import adam_update

    generator = torch.Generator().manual_seed(steps)
    gradients = torch.randn(steps + 1, 4, 3, dtype=torch.float64, generator=generator)
    weight = torch.nn.Parameter(torch.zeros(4, 3, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.5)
    for gradient in gradients[:-1]:
        weight.grad = gradient
        optimizer.step()
    state = optimizer.state.get(weight, {"exp_avg": torch.zeros(4, 3), "exp_avg_sq": torch.zeros(4, 3)})
    expected = adam_update(gradients[-1:], state["exp_avg"].clone(), state["exp_avg_sq"].clone(), steps)
    before = weight.detach().clone()
    weight.grad = gradients[-1]
    optimizer.step()
    torch.testing.assert_close((before - weight.detach()) / 0.5, expected[0])


def test_less_by_per_sample_autograd_and_an_explicit_sign_matrix(tmp_path: Path, model_features: MakeFeatures) -> None:
    from distill_synthesis.selectors.strata import generator

    rng = generator("warm-up", 0, 0)
    sample = rng.permutation(len(POOL))[: round(0.5 * len(POOL))]
    orders = [rng.permutation(sample) for _ in range(2)]
    domains = sorted({one.domain for one in TARGET})
    expected = np.zeros((len(POOL), len(domains)))
    for model, layers, m, v, step, rate in trained_by_hand(orders):

        def gradients(one: Any, model: Any = model, layers: Any = layers) -> Any:
            return torch.autograd.grad(own_loss(model, one), [layer.weight for layer in layers.values()])

        size = sum(layer.weight.numel() for layer in layers.values())
        signs = ops.random_projection(torch.eye(size, dtype=torch.float64), 32, seed=7, impl="reference")
        updates = []
        for one in POOL:
            parts = []
            for name, g in zip(layers, gradients(one), strict=True):
                first = (0.9 * m[name] + 0.1 * g) / (1 - 0.9 ** (step + 1))
                second = (0.999 * v[name] + 0.001 * g**2) / (1 - 0.999 ** (step + 1))
                parts.append((first / (second.sqrt() + 1e-8)).flatten())
            updates.append(torch.cat(parts) @ signs)
        for column, domain in enumerate(domains):
            of_domain = [one for one in TARGET if one.domain == domain]
            flat = [torch.cat([g.flatten() for g in gradients(one)]) @ signs for one in of_domain]
            mean = torch.stack(flat).mean(0)
            expected[:, column] += [rate * float(functional.cosine_similarity(u, mean, dim=0)) for u in updates]
    options = {"dim": 32, "projection_seed": 7, "layers": LAYERS, "warm_up": WARM_UP}
    found = selected("less", tmp_path, POOL, target=TARGET, features=model_features(), **options)
    # fp32 weights after four steps of Adam against float64: the update of a small gradient is steep in its sign
    np.testing.assert_allclose(found.scores, expected.max(axis=1), rtol=0, atol=2e-4 * 0.01)
    assert found.notes == {"checkpoints": 2, "subtasks": 2, "target": 4}
    one_task = selected("less", tmp_path, POOL, target=TARGET, features=model_features(), tasks="one", **options)
    assert one_task.notes["subtasks"] == 1 and not np.allclose(one_task.scores, found.scores)


def test_a_killed_warm_up_goes_on(tmp_path: Path, model_features: MakeFeatures, monkeypatch: Any) -> None:
    """Stopped after its first pass, it ends in the same bits."""
    from distill_synthesis.selectors import warm_up

    options = {"dim": 8, "layers": LAYERS, "warm_up": WARM_UP}
    whole = selected("less", tmp_path / "a", POOL, target=TARGET, features=model_features(), **options)

    written = []
    genuine = warm_up.write_json

    def stops(path: Path, value: Any) -> None:
        genuine(path, value)
        written.append(path)
        raise KeyboardInterrupt

    features = model_features(key="tiny")
    monkeypatch.setattr(warm_up, "write_json", stops)
    with pytest.raises(KeyboardInterrupt):
        selected("less", tmp_path / "b", POOL, target=TARGET, features=features, **options)
    monkeypatch.undo()
    assert len(written) == 1
    features.store.root = tmp_path / "other-store"
    resumed = selected("less", tmp_path / "b", POOL, target=TARGET, features=features, **options)
    np.testing.assert_array_equal(resumed.scores, whole.scores)


def test_coverage_takes_from_every_stratum_and_drops_the_hardest(tmp_path: Path) -> None:
    class Errors(FixedFeatures):
        def error_norms(self, sequences: Any) -> Any:
            return self.values

    scores = np.array([0.0] * 10 + [0.34, 0.35, 0.5] + [0.9, 1.0])
    pool = token_pool(15)
    found = selected("coverage-centric", tmp_path, pool, features=Errors(scores), strata=10, prune_hardest=0.1)
    assert found.refused == {14: "among the hardest, which are dropped first"}
    # strata of width 0.09 up to 0.9: {0 x 10}, {0.34, 0.35}, {0.5}, {0.9}
    assert Counter(round(float(scores[i]), 1) for i in found.order[:4]) == {0.0: 1, 0.3: 1, 0.5: 1, 0.9: 1}
    assert sorted(found.order.tolist()) == [i for i in range(15) if i != 14]
    assert found.notes["strata filled"] == 4


def test_semantic_dedup_by_brute_force(tmp_path: Path) -> None:
    """One cluster: walking from the farthest to the nearest of the centre, what lies close to an earlier one goes."""
    rng = np.random.default_rng(6)
    base = rng.normal(size=(6, 4))
    x = np.concatenate([base, base + 0.01 * rng.normal(size=(6, 4)), rng.normal(size=(3, 4))])
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    unit = unit.astype(np.float32).astype(np.float64)
    pool = token_pool(15)
    found = selected("semantic-dedup", tmp_path, pool, clusters=1, threshold=0.01, features=FixedFeatures(unit))
    centre = unit.sum(0) / np.linalg.norm(unit.sum(0))
    walk, kept, dropped = sorted(range(15), key=lambda i: unit[i] @ centre), [], set()
    for place, i in enumerate(walk):
        near = [j for j in walk[:place] if 1 - unit[i] @ unit[j] < 0.01]
        (dropped.add(i) if near else kept.append(i))
    assert len(dropped) >= 6 and set(found.refused) == dropped and set(found.order.tolist()) == set(kept)
    twin = next(i for i in dropped if i < 12)
    assert found.refused[twin] == f"nearly the same as another: sequence {(twin + 6) % 12}"


def test_semantic_dedup_on_equal_and_single_features(tmp_path: Path) -> None:
    equal = selected("semantic-dedup", tmp_path, token_pool(4), features=FixedFeatures(np.ones((4, 3))))
    assert len(equal.order) == 1 and len(equal.refused) == 3
    single = selected("semantic-dedup", tmp_path, token_pool(1), features=FixedFeatures(np.zeros((1, 3))))
    assert single.order.tolist() == [0]
    budget = Budget(sequences=1)
    assert len(
        selected("semantic-dedup", tmp_path, token_pool(2), features=FixedFeatures(np.eye(2)), budget=budget).order
    )
