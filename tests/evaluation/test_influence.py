"""Which training examples hurt: effects against finite differences, a planted broken example is found first."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.features.sequence_model import SequenceModel
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluationContext
from distill_evaluation.held_out import chosen_indices, some_batches
from distill_evaluation.influence_options import TrainingInfluenceOptions
from distill_evaluation.training_influence import TrainingInfluence, influences
from tests.conftest import SENTENCES, make_tiny_llama
from tests.evaluation.rows import bare_context

LINEAR = "_proj"


def sequence(ids: list[int], document: str) -> TokenSequence:
    array = np.asarray(ids, dtype=np.int32)
    return TokenSequence(array, array, document, document.encode().ljust(16, b"\0")[:16])


def texts(tokenizer: Any, chosen: list[str], name: str) -> list[TokenSequence]:
    return [
        sequence(tokenizer(text, add_special_tokens=False)["input_ids"][:24], f"{name}-{index}")
        for index, text in enumerate(chosen)
    ]


@pytest.fixture(scope="module")
def fitted(tokenizer: Any) -> Any:
    """A tiny model that has learned the first sentences."""
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=0)
    batch = collate(texts(tokenizer, SENTENCES[:6], "t"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = SequenceModel(model, next_token=True).losses(batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_effects_are_the_change_of_the_held_out_loss(fitted: Any, tokenizer: Any) -> None:
    """Against autograd's own gradients, and against the loss after real steps (norms run in fp32: steps are large)."""
    model = copy.deepcopy(fitted).double()
    training = texts(tokenizer, SENTENCES[:3], "t")
    held_out = collate(texts(tokenizer, SENTENCES[5:9], "h"))
    found = influences(SequenceModel(model, next_token=True), [held_out], training, batch_sequences=2)
    own = [p for name, p in model.named_parameters() if LINEAR in name]
    assert len(own) > 4

    def loss_of(one: Any, batch: Any) -> torch.Tensor:
        output = one(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT)
        logp = output.logits[:, :-1].log_softmax(-1).gather(-1, batch.input_ids_BT[:, 1:, None])[..., 0]
        mask = batch.attention_mask_BT[:, 1:]
        return (-(logp * mask).sum(1) / mask.sum(1)).mean()

    for one, example in zip(found, training, strict=True):
        gradients = torch.autograd.grad(loss_of(model, collate([example])), own)
        aims = torch.autograd.grad(loss_of(model, held_out), own)
        changes = []
        for rate in (0.05, -0.05):
            with torch.no_grad():
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.sub_(rate * gradient)
                changes.append(float(loss_of(model, held_out)))
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.add_(rate * gradient)
        dot = float(sum((g * aim).sum() for g, aim in zip(gradients, aims, strict=True)))
        assert one.effect == pytest.approx(-dot, rel=1e-4)
        assert one.effect == pytest.approx((changes[0] - changes[1]) / 0.1, rel=0.02)
        norms = [float(sum(g.square().sum() for g in several)) ** 0.5 for several in (gradients, aims)]
        assert one.cosine == pytest.approx(-one.effect / (norms[0] * norms[1]), rel=1e-4)
        assert one.loss == pytest.approx(float(loss_of(model, collate([example])).detach()), rel=1e-5)


def context(model: Any, tokenizer: Any, training: list[TokenSequence], **options: Any) -> EvaluationContext:
    batches = [collate(texts(tokenizer, SENTENCES[:6], "held"))]
    return bare_context(model=model, tokenizer=tokenizer, batches=lambda: batches, training=training, **options)


def test_a_broken_example_is_found_first(fitted: Any, tokenizer: Any) -> None:
    """Among honest texts stands one that goes on with another text's tokens, shuffled."""
    honest = texts(tokenizer, SENTENCES[:6], "honest")
    ids = honest[0].input_ids.tolist()
    other = honest[1].input_ids.tolist()[: len(ids) - 6]
    broken = sequence(ids[:6] + np.random.default_rng(0).permutation(other).tolist(), "broken")
    found = TrainingInfluence(TrainingInfluenceOptions(shown=3)).evaluate(
        context(fitted, tokenizer, [*honest[:3], broken, *honest[3:]])
    )
    share, cosine = found
    rows = share.detail["hurt_most"]
    assert rows[0]["document"] == "broken" and rows[0]["effect"] > 0 and rows[0]["cosine"] < 0
    assert rows[0]["text"].startswith(tokenizer.decode(ids[:6]))
    assert rows[0]["loss"] > max(row["loss"] for row in share.detail["help_most"])
    assert all(row["document"].startswith("honest") for row in share.detail["help_most"])
    assert (share.metric, share.n, share.higher_is_better) == ("harmful_share", 7, None)
    assert share.value == pytest.approx(sum(s for s, _ in share.document_sums.values()) / 7)
    assert -1 <= cosine.value <= 1


def test_a_mislabelled_example_of_a_task(tiny_tokenizer_dir: Any, tokenizer: Any) -> None:
    """Two classes by the text; one training example has the other one's label."""
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)

    def example(name: str, first: int, label: int) -> TokenSequence:
        ids = np.asarray([first, *np.random.default_rng(len(name)).integers(20, 40, size=5)], dtype=np.int32)
        labels = np.full(len(ids), -100, dtype=np.int32)
        labels[-1] = label
        return TokenSequence(ids, labels, name, name.encode().ljust(16, b"\0"), next_token=False)

    clean = [example(f"clean-{i}" + "x" * i, 10 + i % 2, i % 2) for i in range(8)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(25):
        loss = SequenceModel(model, next_token=False).losses(collate(clean)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    wrong = example("wrong", 10, 1)
    given = bare_context(
        model=model, tokenizer=tokenizer, batches=lambda: [collate(clean)], training=[*clean, wrong],
        labels=("even", "odd"),
    )  # fmt: skip
    (row, *others) = TrainingInfluence().evaluate(given)[0].detail["hurt_most"]
    assert row["document"] == "wrong" and row["label"] == "odd"
    assert all(row["effect"] > 10 * one["effect"] for one in others)


def test_only_models_that_were_trained_here(fitted: Any, tokenizer: Any) -> None:
    training = texts(tokenizer, SENTENCES[:2], "t")
    assert TrainingInfluence().evaluate(context(fitted, tokenizer, training, is_teacher=True)) == []
    assert TrainingInfluence().evaluate(context(fitted, tokenizer, training, name="hard-labels")) == []
    with pytest.raises(SignalError, match="training-influence reads the training data, but this evaluation was not"):
        TrainingInfluence().evaluate(context(fitted, tokenizer, []))
    silent = sequence(training[0].input_ids.tolist(), "silent")
    silent = TokenSequence(silent.input_ids, np.full_like(silent.labels, -100), "silent", silent.key)
    with pytest.raises(SignalError, match="no training sequence with anything to predict"):
        TrainingInfluence().evaluate(context(fitted, tokenizer, [silent]))
    with pytest.raises(SignalError, match=r"training-influence: no linear layer .* matches layers: 'conv'"):
        TrainingInfluence(TrainingInfluenceOptions(layers="conv")).evaluate(context(fitted, tokenizer, training))


def test_some_held_out_sequences_are_of_many_documents(tokenizer: Any) -> None:
    names = ["a"] * 8 + ["b", "c"]
    assert {names[i] for i in chosen_indices(names, 3, seed=5)} == {"a", "b", "c"}
    assert chosen_indices(names, 99, seed=0) == set(range(10))
    assert len({frozenset(chosen_indices(names, 3, seed=s)) for s in range(20)}) > 1
    batches = [collate(texts(tokenizer, SENTENCES[:3], "x")), collate(texts(tokenizer, SENTENCES[3:5], "y"))]
    given = bare_context(batches=lambda: batches)
    assert [batch is whole for batch, whole in zip(some_batches(given, 5), batches, strict=True)] == [True, True]
    kept = [name for batch in some_batches(given, 2) for name in batch.documents]
    assert len(kept) == 2 and set(kept) <= {"x-0", "x-1", "x-2", "y-0", "y-1"}
