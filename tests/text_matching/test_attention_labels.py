"""Learned attention labels: their divergence, their gradient, that they help matching, and the record they are in."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from distill_core.engine.data import collate
from distill_core.errors import DataError
from distill_core.interfaces import BuildContext
from distill_core.registry import get_registry
from distill_core.types import StudentView, TeacherSignals
from distill_synthesis.matching.randomness import generator
from distill_synthesis.text_matching.attention_labels import as_field, as_label, as_logits, attention_divergence
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.network import Labels
from distill_synthesis.text_matching.options import GradientMatchingTextOptions
from tests.text_matching.conftest import context, make, new_student, text_records
from tests.text_matching.test_mathematics import doubled, first_state, prepared

NAME = "gradient-matching-text"
KINDS = ("bert", "llama")
MATCHED = {"last-block": "last-block", "all": "all"}


def scene(kind: str, tokenizer: Any, directory: Path, blocks: str, **options: Any) -> tuple[Any, Any, Any, Any]:
    """Synthesizer, its variables, a network in fp64, leaves of the state that the students ended in."""
    made = prepared(
        NAME, context(tokenizer, kind), directory, attention_labels=blocks, matched=MATCHED[blocks], **options
    )
    variables = first_state(made, directory).variables
    variables = {name: x.double() if x.is_floating_point() else x for name, x in variables.items()}
    network = doubled(made.networks.networks[0])
    return made, variables, network, network.leaves([p.double() for p in made.networks.states[0][-1]])


def kl(label: torch.Tensor, found: torch.Tensor, tokens: int) -> float:
    """Number by number."""
    parts = [
        sum(p * (math.log(p) - math.log(q)) for p, q in zip(ps[:tokens], qs[:tokens], strict=True) if p)
        for block, other in zip(label.tolist(), found.tolist(), strict=True)
        for ps, qs in zip(block, other, strict=True)
    ]
    return sum(parts) / len(parts)


@pytest.mark.parametrize("blocks", ["last-block", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_cross_entropy_and_divergence(kind: str, blocks: str, tokenizer: Any, tmp_path: Path) -> None:
    """Padded texts side by side against each alone, its attentions read from the model's own output."""
    made, _, network, leaves = scene(kind, tokenizer, tmp_path, blocks)
    sequences = made.texts.sequences[:5]
    batch, depth = collate(sequences), {"last-block": 1, "all": 2}[blocks]
    assert len({len(one) for one in sequences}) > 1
    shape = (5, depth, 2, batch.input_ids_BT.shape[1])
    label = as_label(torch.randn(shape, generator=generator("label"), dtype=torch.float64), batch.attention_mask_BT)
    label[0, 0, 0] = torch.nn.functional.one_hot(torch.tensor(1), shape[-1])  # a 0 among tokens
    found = network.losses(leaves, batch, labels=Labels(None, label, 0.7))
    plain = network.losses(leaves, batch)
    given = {name.removeprefix("model."): x for name, x in zip(network.names, leaves, strict=True)}
    for index, one in enumerate(sequences):
        inputs = {**collate([one]).model_inputs(), "output_attentions": True}
        attentions = torch.func.functional_call(network.model, given, (), inputs).attentions
        place = 0 if kind == "bert" else len(one) - 1
        own = torch.stack([x[0, :, place] for x in attentions[-depth:]]).detach()
        expected = float(plain[index].detach()) + 0.7 * kl(label[index], own, len(one))
        # Llama's norm computes in fp32, padded and alone round apart
        assert float(found[index].detach()) == pytest.approx(expected, rel=1e-9 if kind == "bert" else 1e-5)
        assert float(label[index, ..., len(one) :].sum()) == 0


@pytest.mark.parametrize("blocks", ["last-block", "all"])
@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_the_gradient_by_labels_is_that_of_differences(
    blocks: str, labels: str, tokenizer: Any, tmp_path: Path
) -> None:
    made, variables, network, leaves = scene("bert", tokenizer, tmp_path, blocks, labels=labels)
    variables["attention"] += torch.randn(variables["attention"].shape, generator=generator("off"), dtype=torch.float64)
    rows = [row for row, number in enumerate(made.number_B) if number == 1]
    real = made.networks.real_gradient(network, leaves, 1, "test")
    _, by = made.matched(network, leaves, real, rows, variables)
    assert set(by) == {"x", "attention"} | ({"labels"} if labels == "soft" else set())
    for name, found in by.items():
        direction = torch.zeros_like(variables[name])
        direction[rows] = torch.randn(found.shape, generator=generator("direction"), dtype=torch.float64)
        ends = [
            made.matched(network, leaves, real, rows, {**variables, name: variables[name] + sign * direction})[0]
            for sign in (1e-5, -1e-5)
        ]
        slope = (ends[0] - ends[1]) / 2e-5
        assert abs(slope) > 1e-7
        assert float((found * direction[rows]).sum()) == pytest.approx(slope, rel=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_they_lower_the_distance_of_gradients(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Texts and classes as they are: a student's own attentions change nothing, learned ones bring gradients nearer."""
    made, variables, network, leaves = scene(
        kind, tokenizer, tmp_path, "all", networks=1, network_states=1, attention_weight=3.0
    )
    plain = {name: x for name, x in variables.items() if name != "attention"}
    for number in range(3):
        rows = [row for row, one in enumerate(made.number_B) if one == number]
        real = made.networks.real_gradient(network, leaves, number, "test")
        without, _ = made.matched(network, leaves, real, rows, plain)
        learned = {**variables, "attention": variables["attention"].clone()}
        moments = new_moments({"attention": learned["attention"]})
        first = last = made.matched(network, leaves, real, rows, learned)[0]
        # the label is the student's attention of its fp32 state: the divergence and its gradient are next to nothing
        assert first == pytest.approx(without, rel=1e-3)
        for step in range(20):
            last, by = made.matched(network, leaves, real, rows, learned)
            gradient = torch.zeros_like(learned["attention"])
            gradient[rows] = by["attention"]
            adam(learned, {"attention": gradient}, moments, rate=0.1, step=step)
        print(f"{kind} class {number}: {without:.4f} -> {last:.4f}")
        assert last < 0.9 * without


@pytest.mark.parametrize("labels", ["hard", "soft"])
@pytest.mark.parametrize("kind", KINDS)
def test_records_hold_labels_that_the_objective_reads(kind: str, labels: str, tokenizer: Any, tmp_path: Path) -> None:
    ctx = context(tokenizer, kind)
    made = make(NAME, ctx, attention_labels="all", matched="all", labels=labels)
    records = list(made.synthesize(iter(text_records()), tmp_path))
    assert json.loads(json.dumps(records)) == records and len({one["document"] for one in records}) == 3
    objective = get_registry().build("objective", {"use": "attention-labels"})
    student = new_student(kind, 5).eval()
    student.set_attn_implementation("eager")
    objective.build(BuildContext(student, None, 10, 0, lambda *a: None))
    for record in records:
        field = record["attention"]
        (sequence,) = ctx.sequences(record)
        assert field["blocks"] == [1, 2] and field["position"] == (0 if kind == "bert" else -1)
        probabilities = torch.tensor(field["probabilities"])
        assert probabilities.shape == (2, 2, len(sequence))
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 2), rtol=0, atol=1e-5)  # six decimals each
        batch = collate([type(sequence)(**{**vars(sequence), "fields": {"attention": field}})])
        attentions = student(**batch.model_inputs(), output_attentions=True).attentions
        value = float(objective(StudentView((), attentions), TeacherSignals(), batch).total.detach())
        place = field["position"]
        own = torch.stack([x[0, :, place] for x in attentions])
        weight = record.get("weight", 1.0)
        assert value == pytest.approx(weight * kl(probabilities, own, len(sequence)), rel=1e-3, abs=1e-5)


def test_logits_make_the_label_again() -> None:
    tokens = torch.tensor([[1, 1, 1, 0]])
    label = as_label(torch.randn(1, 2, 3, 4, generator=generator("logits")), tokens)
    torch.testing.assert_close(as_label(as_logits(label), tokens), label, rtol=1e-5, atol=1e-6)
    assert float(attention_divergence(label, label)) == 0
    assert as_field(label[0, :1, :, :3], depth=4, position=-1)["blocks"] == [4]


def test_what_has_no_meaning_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    for blocks, matched in (("last-block", "head"), ("all", "last-block"), ("all", "head")):
        with pytest.raises(ValidationError, match=f"attention_labels is {blocks}, matched is {matched}"):
            GradientMatchingTextOptions(texts=3, attention_labels=blocks, matched=matched)
    made = make(NAME, context(tokenizer, "causal"), attention_labels="all", matched="all")
    with pytest.raises(DataError, match="stands at the place of a class"):
        next(iter(made.synthesize(iter(text_records()), tmp_path)))
