"""The selector uncertainty: every measure against the model's own probabilities, in float64, sequence by sequence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine.data import collate
from distill_core.engine.features import Features
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import DataError
from tests.conftest import make_tiny_llama
from tests.selection.conftest import VOCABULARY, sequence, token_pool
from tests.selection.test_geometry import selected

MakeFeatures = Callable[..., Features]
POOL = token_pool(8, seed=4, prompt=1)


def explicit(one: Any) -> dict[str, float]:
    """Means over the predicted tokens, each by its definition."""
    model = make_tiny_llama(vocab_size=VOCABULARY).double()
    labels = torch.from_numpy(one.labels[1:]).long()
    rows = labels != -100
    p = model(torch.from_numpy(one.input_ids).long()[None]).logits[0, :-1][rows].softmax(-1).detach()
    own = p.gather(-1, labels[rows][:, None])[:, 0]
    first, second = p.sort(descending=True).values[:, :2].unbind(1)
    return {
        "entropy": float(-(p * p.log()).sum(-1).mean()),
        "lead": float(1 - (first - second).mean()),
        "loss": float(-own.log().mean()),
        "doubt": float((1 - own).mean()),
    }


@pytest.mark.parametrize("measure", ["entropy", "lead", "loss", "doubt"])
def test_scores_by_the_definitions(tmp_path: Path, model_features: MakeFeatures, measure: str) -> None:
    expected = [explicit(one)[measure] for one in POOL]
    pool = [*POOL, sequence([5, 6, 7], prompt=3)]
    found = selected("uncertainty", tmp_path, pool, features=model_features(), measure=measure)
    np.testing.assert_allclose(found.scores[:-1], expected, rtol=1e-4)
    assert found.order.tolist() == np.argsort(-np.array(expected), kind="stable").tolist()
    assert found.refused == {8: "nothing to predict"} and np.isnan(found.scores[8])
    again = selected("uncertainty", tmp_path, pool, features=model_features(), measure=measure)
    np.testing.assert_array_equal(again.scores, found.scores)


def test_the_measures_differ() -> None:
    orders = {measure: tuple(np.argsort([explicit(one)[measure] for one in POOL])) for measure in explicit(POOL[0])}
    assert len(set(orders.values())) >= 3


def test_leads_of_a_classifier_that_is_sure() -> None:
    class Sure(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 60.0, 1.0]))

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return type("Output", (), {"logits": self.bias.expand(len(input_ids), 3)})()

    model, batch = SequenceModel(Sure(), next_token=False), collate([sequence([5, 6], label=1)])
    assert model.leads(batch).item() == pytest.approx(1.0)
    assert 0 <= model.entropies(batch).item() < 1e-6


def test_wrong_use(tmp_path: Path, model_features: MakeFeatures) -> None:
    with pytest.raises(DataError, match="uncertainty: no sequence of the pool has anything to predict"):
        selected("uncertainty", tmp_path, [sequence([5, 6], prompt=2)], features=model_features())
    with pytest.raises(DataError, match="asked for the model, which it does not declare"):
        selected("uncertainty", tmp_path, POOL, features=model_features(student=None, key=None))
