"""What selectors ask of a model, against one sequence at a time, per-sample autograd in float64 and explicit signs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from distill_core import ops
from distill_core.engine.data import collate
from distill_core.engine.features import Features
from distill_core.engine.features.per_sample import ProjectedGradients, gradient_norms, linear_layers, visit_gradients
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError, SignalError
from tests.conftest import make_tiny_llama
from tests.selection.conftest import VOCABULARY, sequence, token_pool

POOL = token_pool(7, prompt=1)


def model_of(**changes: Any) -> Any:
    return make_tiny_llama(vocab_size=VOCABULARY, **changes).double()


def own_loss(model: Any, one: Any) -> Any:
    """The mean cross-entropy of one sequence alone, from the model's own logits."""
    ids, labels = torch.from_numpy(one.input_ids).long(), torch.from_numpy(one.labels).long()
    logits = model(ids[None]).logits[0, :-1]
    return functional.cross_entropy(logits, labels[1:], ignore_index=-100)


def own_gradients(model: Any, one: Any, layers: Any) -> dict[str, Any]:
    """Gradients of one sequence by autograd."""
    weights = [layer.weight for layer in layers.values()]
    return dict(zip(layers, torch.autograd.grad(own_loss(model, one), weights), strict=True))


def test_losses_errors_and_hidden_states() -> None:
    model = model_of()
    whole, batch = SequenceModel(model, next_token=True), collate(POOL, pad_id=5)
    expected, errors, means = [], [], []
    for one in POOL:
        output = model(torch.from_numpy(one.input_ids).long()[None], output_hidden_states=True)
        expected.append(own_loss(model, one))
        means.append(output.hidden_states[-1][0].mean(0))
        p = output.logits[0, :-1].softmax(-1)
        labels = torch.from_numpy(one.labels[1:]).long()
        rows = labels != -100
        errors.append((p[rows] - functional.one_hot(labels[rows], VOCABULARY)).norm(dim=-1).mean())
    torch.testing.assert_close(whole.losses(batch), torch.stack(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.losses(batch, own_forward=True), torch.stack(expected), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(whole.error_norms(batch), torch.stack(errors), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(whole.hidden(batch), torch.stack(means), rtol=1e-9, atol=1e-9)


def test_a_sequence_without_predictions_has_loss_0_and_no_gradient() -> None:
    pool = [sequence([5, 6, 7], prompt=3), sequence([5, 6, 7])]
    model = SequenceModel(model_of(), next_token=True)
    assert model.losses(collate(pool))[0] == 0 and model.losses(collate(pool))[1] > 0
    norms = gradient_norms(model, linear_layers(model.model, None), collate(pool))
    assert norms[0] == 0 and norms[1] > 0
    assert model.error_norms(collate(pool[:1])).tolist() == [0.0]


@pytest.mark.parametrize("at_once", [1, 3, 100], ids="at_once={}".format)
def test_projected_gradients_are_the_explicit_product(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Per-sample autograd, flattened layer after layer, times an explicit matrix of signs."""
    model = model_of()
    layers = linear_layers(model, r"layers\.[01]\.self_attn\.[kv]_proj")
    sizes = [layer.weight.numel() for layer in layers.values()]
    monkeypatch.setattr("distill_core.engine.features.per_sample.FORMED_ELEMENTS", at_once * max(sizes))
    signs = ops.random_projection(torch.eye(sum(sizes), dtype=torch.float64), 16, seed=5, impl="reference")
    assert torch.unique(signs.abs()).tolist() == [0.25]
    flat = torch.stack([torch.cat([g.flatten() for g in own_gradients(model, one, layers).values()]) for one in POOL])
    project = ProjectedGradients(SequenceModel(model, next_token=True), layers, dim=16, seed=5)
    torch.testing.assert_close(project(collate(POOL, pad_id=9)), flat @ signs, rtol=1e-8, atol=1e-9)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_the_change_sees_each_layers_gradients() -> None:
    model = model_of()
    layers = linear_layers(model, "layers.0.mlp")
    seen: dict[str, Any] = {}

    def keep(name: str, formed: Any) -> Any:
        seen[name] = formed
        return formed * 2

    whole = SequenceModel(model, next_token=True)
    doubled = ProjectedGradients(whole, layers, dim=4, seed=0, change=keep)(collate(POOL))
    torch.testing.assert_close(doubled, 2 * ProjectedGradients(whole, layers, dim=4, seed=0)(collate(POOL)))
    for i, one in enumerate(POOL):
        for name, gradient in own_gradients(model, one, layers).items():
            torch.testing.assert_close(seen[name][i], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
def test_gradient_norms_by_autograd(bias: bool) -> None:
    model = model_of(attention_bias=bias, mlp_bias=bias)
    layers = linear_layers(model, None, head=True)
    assert "lm_head" in layers and "lm_head" not in linear_layers(model, None)
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    expected = []
    for one in POOL:
        gradients = torch.autograd.grad(own_loss(model, one), parameters)
        expected.append(torch.cat([g.flatten() for g in gradients]).norm())
    found = gradient_norms(SequenceModel(model, next_token=True), layers, collate(POOL))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-8, atol=1e-9)


def test_layers_that_cannot_be() -> None:
    model = model_of()
    with pytest.raises(
        DataError, match=r"no linear layer of LlamaForCausalLM matches layers: 'attnn'.*self_attn.q_proj"
    ):
        linear_layers(model, "attnn")
    twice = torch.nn.Sequential(*[torch.nn.Linear(4, 4)] * 2)

    class Shared:
        model, next_token = twice, False

        def losses(self, batch: Any, own_forward: bool) -> Any:
            return twice(torch.ones(1, 3, 4)).sum((1, 2))

    batch: Any = collate([sequence([5, 6, 7])])
    with pytest.raises(SignalError, match="the layer 0 runs twice"):
        visit_gradients(Shared(), batch, {"0": twice[0]}, lambda *_: None)  # type: ignore[arg-type]


def test_features_are_kept_and_shared(model_features: Callable[..., Features], monkeypatch: Any) -> None:
    first = model_features()
    found = {
        "hidden": first.hidden(POOL),
        "losses": first.losses(POOL),
        "error_norms": first.error_norms(POOL),
        "gradient_norms": first.gradient_norms(POOL),
    }
    projected = first.gradients(POOL, dim=8, seed=1)
    assert found["hidden"].shape == (7, 32) and projected.shape == (7, 8)
    again = model_features()
    monkeypatch.setattr(Features, "fresh_model", lambda self: pytest.fail("the model was loaded again"))
    for name, values in found.items():
        np.testing.assert_array_equal(getattr(again, name)(POOL), values)
    np.testing.assert_array_equal(again.gradients(POOL, dim=8, seed=1), projected)


def test_batches_and_shards_change_nothing_but_rounding(model_features: Callable[..., Features], tmp_path: Any) -> None:
    one = model_features(batch_sequences=1, key="one")
    other = model_features(batch_sequences=7, shard_rows=100, key="other")
    for name in ("hidden", "losses", "gradient_norms"):
        np.testing.assert_allclose(getattr(one, name)(POOL), getattr(other, name)(POOL), rtol=2e-4, atol=1e-6)


def test_data_of_another_tokenizer(model_features: Callable[..., Features]) -> None:
    foreign = [sequence([5, 6, VOCABULARY])]
    features = model_features()
    for ask in (features.hidden, features.losses, features.error_norms, features.gradient_norms):
        with pytest.raises(DataError, match="hold the token id 97, but the student has 97 embeddings"):
            ask(foreign)
    with pytest.raises(DataError, match="another tokenizer; set student"):
        features.gradients(foreign, dim=4, seed=0)


def test_the_model_must_be_declared(model_features: Callable[..., Features]) -> None:
    with pytest.raises(DataError, match="asked for the model, which it does not declare: add the signal `model`"):
        model_features(student=None, key=None).hidden(POOL)
