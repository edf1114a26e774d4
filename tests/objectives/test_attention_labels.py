"""The objective `attention-labels` against sums written out, and labels that do not fit."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import StudentView, TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama
from tests.objectives.conftest import build
from tests.objectives.feature_scene import LENGTHS, batch, compare, maps


def built(data: Any = None, **options: Any) -> Any:
    """For a student of two blocks and four heads."""
    objective = build("attention-labels", **options)
    objective.build(BuildContext(make_tiny_llama(num_hidden_layers=2), None, 10, 0, lambda *a: None, data=data))
    return objective


def label(tokens: int, *, blocks: tuple[int, ...] = (1, 2), heads: int = 4, position: int = -1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(tokens)
    shape = (len(blocks), heads, tokens)
    given = torch.randn(shape, generator=generator, dtype=torch.float64).mul(3).softmax(-1)
    given[0, 0] = torch.nn.functional.one_hot(torch.tensor(1), tokens)
    return {"blocks": list(blocks), "position": position, "probabilities": given.tolist()}


def labelled(*values: Any, weighted: bool = True) -> TokenBatch:
    return replace(batch(weighted=weighted), fields={"attention": values})


@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("weighted", [True, False])
def test_value_and_gradient(heads: int, position: int, weighted: bool) -> None:
    """Three sequences, one padded, one without a label, one with a label of the last block alone."""
    first = label(7, heads=heads, position=position)
    third = label(LENGTHS[2], blocks=(2,), heads=heads, position=position)
    given = labelled(first, None, third, weighted=weighted)
    own, objective = maps(2, 4, 1, causal=False), built()

    def mine(signals: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return objective(StudentView((), signals), TeacherSignals(), given).total

    def formula(signals: tuple[torch.Tensor, ...]) -> torch.Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for index, value in ((0, first), (2, third)):
            place, wanted = position % LENGTHS[index], torch.tensor(value["probabilities"], dtype=torch.float64)
            weight = 1.0 if given.weights_BT is None else float(given.weights_BT[index, place])
            parts = []
            for number, block in enumerate(value["blocks"]):
                p, q = wanted[number], signals[block - 1][index, :, place, : LENGTHS[index]]
                if heads != 4:
                    p, q = p.mean(0, keepdim=True), q.mean(0, keepdim=True)
                for ps, qs in zip(p, q, strict=True):
                    parts.append(sum(a * (math.log(a) - b.log()) for a, b in zip(ps.tolist(), qs, strict=True) if a))
            total = total + weight * sum(parts) / len(parts)
        return total

    assert compare(mine, formula, own) > 0
    assert objective.count(given) == 2


def test_a_batch_without_labels_counts_nothing() -> None:
    objective = built()
    own = tuple(x.requires_grad_() for x in maps(2, 4, 1))
    for given in (batch(), labelled(None, None, None)):
        total = objective(StudentView((), own), TeacherSignals(), given).total
        assert float(total.detach()) == 0 and objective.count(given) == 0
        assert all(float(g.abs().sum()) == 0 for g in torch.autograd.grad(total, own, materialize_grads=True))


def test_a_forbidden_place_is_finite() -> None:
    """The student gives 0 where the label gives all."""
    value = {"blocks": [2], "position": 0, "probabilities": [[[0.0, 1.0, *[0.0] * 5]] * 4]}
    own = tuple(x.requires_grad_() for x in maps(2, 4, 1, causal=True))  # the first token sees itself alone
    total = built()(StudentView((), own), TeacherSignals(), labelled(value, None, None)).total
    (gradient,) = torch.autograd.grad(total, own[1])
    assert math.isfinite(float(total.detach())) and float(total.detach()) > 80
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0.5, 0.5], r"an attention label is \{blocks"),
        ({**label(7), "blocks": [1, 3]}, r"blocks \[1, 3\], the student has 1 .. 2"),
        ({**label(7), "position": 3}, "position of the attention label is 3, expected 0 or -1"),
        ({**label(7), "probabilities": [[[0.5], [0.5, 0.5]]]}, "are no array"),
        (label(6), r"shape \[2, 4, 6\], expected \[2, heads, 7\]"),
        ({**label(7), "probabilities": torch.full((2, 4, 7), 0.2).tolist()}, r"sums from 1.4\d* to 1.4\d*; expected"),
        ({**label(7), "probabilities": torch.full((2, 4, 7), math.nan).tolist()}, "expected numbers from 0"),
    ],
    ids=["form", "blocks", "position", "ragged", "length", "sum", "nan"],
)
def test_labels_that_do_not_fit(value: Any, words: str) -> None:
    with pytest.raises(SignalError, match=words):
        built()(StudentView((), maps(2, 4, 1)), TeacherSignals(), labelled(value, None, None))


def test_what_is_missing_is_said() -> None:
    with pytest.raises(SignalError, match=r"name it in data.train.keep \(\[attention\]\)"):
        built(data=[SimpleNamespace(fields={})])
    assert built(data=[SimpleNamespace(fields={}), SimpleNamespace(fields={"attention": 1})])
    with pytest.raises(SignalError, match="attentions of none blocks came, the student has 2"):
        built()(StudentView(()), TeacherSignals(), batch())
    with pytest.raises(SignalError, match="the label has 6 heads, the student 4"):
        given = labelled(label(7, heads=6), None, None)
        built(heads="match")(StudentView((), maps(2, 4, 1)), TeacherSignals(), given)
