"""The loss and every gradient of a step with a task equal a plain eager computation, in float64 where it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer

from distill_core.config import ObjectiveRef
from distill_core.engine.classifier import as_sequence, classify, head_path, install_classifier_head
from distill_core.engine.data import TokenDataset
from distill_core.engine.head import remove_fused_head
from distill_core.engine.objectives import ObjectiveSet
from distill_core.engine.prepare import prepare_data
from distill_core.engine.progress import Progress
from distill_core.errors import TrainingError
from distill_core.registry import get_registry
from distill_core.types import Needs, SparseSpec, TokenBatch
from distill_teachers.hf_classifier import HFClassifier
from tests.tasks.conftest import Bench, make_model

KINDS = ["bert", "llama", "bert-tokens", "vit", "resnet"]


def dataset(bench: Bench) -> tuple[TokenDataset, Any, Any]:
    """Prepared sequences, the task, the tokenizer (None for images)."""
    from distill_core.engine.context import RunContext
    from distill_core.engine.plan import make_plan
    from distill_core.engine.run_file.validate import load_run_file

    registry = get_registry()
    plan = make_plan(load_run_file(bench.write(), registry=registry), registry=registry)
    context = RunContext(plan, registry=registry, progress=Progress(quiet=True))
    tokenizer = context.tokenizer()
    prepare_data(
        "train",
        plan.config.data,
        tokenizer=tokenizer,
        directory=context.path("data:train"),
        registry=registry,
        progress=context.progress,
        task=context.task,
    )
    return context.dataset("train"), context.task, tokenizer


def batch_of(bench: Bench) -> tuple[TokenBatch, Any]:
    data, _, tokenizer = dataset(bench)
    return next(data.batches(7, [3, 0, 8, 5, 1, 10, 2])), tokenizer


def eager_rows(model: Any, batch: TokenBatch) -> Tensor:
    """[N, V] logits as a user of Transformers would get them, independent of the engine's rows."""
    logits = model(**batch.model_inputs()).logits
    return logits if logits.dim() == 2 else logits[batch.labels_BT != -100]


def eager_labels(batch: TokenBatch) -> Tensor:
    return batch.labels_BT[batch.labels_BT != -100]


@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradients_of_a_step(bench: Callable[[str], Bench], kind: str) -> None:
    batch, tokenizer = batch_of(bench(kind))
    temperature, weights = 2.0, (0.7, 0.3)
    references = [
        {"use": "forward-kl", "temperature": temperature, "weight": weights[0]},
        {"use": "cross-entropy", "weight": weights[1]},
    ]
    objectives = ObjectiveSet.from_config([ObjectiveRef.model_validate(ref) for ref in references], get_registry())
    teacher = HFClassifier.from_model(make_model(kind, seed=5), tokenizer)
    signals = teacher.signals(batch, objectives.needs(0, 1), SparseSpec("topk", 64, (temperature,)))
    assert signals.target is not None and signals.target.ids_NK.shape[1] == 3
    n = len(batch.rows())

    fused = make_model(kind, seed=1)
    install_classifier_head(fused, batch)
    head_pass = objectives.head_pass(
        batch, {"": signals}, factors=[weight / n for weight in weights], step=0, total_steps=1, chunk_rows=2
    )
    output = fused(**batch.model_inputs(), head_pass=head_pass)
    output["loss"].backward()

    dense = make_model(kind, seed=1)
    student_NV, labels_N = eager_rows(dense, batch), eager_labels(batch)
    with torch.no_grad():
        teacher_NV = eager_rows(make_model(kind, seed=5), batch).double()
    p_NV = (teacher_NV / temperature).softmax(1)
    q_logp_NV = (student_NV.double() / temperature).log_softmax(1)
    kl = (p_NV * (p_NV.log() - q_logp_NV)).sum() / n
    loss = weights[0] * kl + weights[1] * cross_entropy(student_NV.double(), labels_N)
    loss.backward()

    assert float(output["loss"].detach()) == pytest.approx(float(loss.detach()), rel=1e-5)
    named = dict(dense.named_parameters())
    # Both backward passes are fp32: they differ by rounding, which scales with the largest gradient of the model.
    largest = max(float(p.grad.abs().max()) for p in dense.parameters() if p.grad is not None)
    for name, parameter in fused.named_parameters():
        expected = named[name].grad
        assert (parameter.grad is None) == (expected is None), name
        if expected is not None:
            assert float((parameter.grad - expected).abs().max()) <= 2e-6 * largest, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_equal_to_the_student_teaches_nothing(bench: Callable[[str], Bench], kind: str) -> None:
    """K = V: the target is the whole distribution, so the KL at every row is 0."""
    batch, tokenizer = batch_of(bench(kind))
    objectives = ObjectiveSet.from_config([ObjectiveRef(use="forward-kl")], get_registry())
    signals = HFClassifier.from_model(make_model(kind), tokenizer).signals(batch, objectives.needs(0, 1))
    model = make_model(kind)
    install_classifier_head(model, batch)
    head_pass = objectives.head_pass(batch, {"": signals}, factors=[1.0], step=0, total_steps=1, chunk_rows=None)
    output = model(**batch.model_inputs(), head_pass=head_pass)
    assert abs(float(output["sums"][0])) <= 1e-6 * len(batch.rows())


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_head_pass_the_model_is_as_before(bench: Callable[[str], Bench], kind: str) -> None:
    batch, _ = batch_of(bench(kind))
    model = make_model(kind)
    before = model(**batch.model_inputs()).logits
    install_classifier_head(model, batch)
    assert torch.equal(model(**batch.model_inputs()).logits, before)
    remove_fused_head(model)
    assert "forward" not in model.__dict__ and all(type(m).__name__ != "FusedHead" for m in model.modules())


def test_one_row_per_text(bench: Callable[[str], Bench]) -> None:
    """At the token that stands for it."""
    texts, _ = batch_of(bench("llama"))
    rows = texts.rows()
    assert rows.sequence_N.tolist() == list(range(7))
    assert rows.position_N.tolist() == [int(length) - 1 for length in texts.attention_mask_BT.sum(1)]
    assert rows.labels_N.tolist() == [0, 0, 2, 2, 1, 1, 2]  # labels go round in the data: 3, 0, 8, 5, 1, 10, 2
    selected = texts.select_sequences(2, 5)
    assert selected.rows().labels_N.tolist() == rows.labels_N.tolist()[2:5] and not selected.next_token
    assert texts.to("cpu").next_token is False


def test_first_tokens_of_words(bench: Callable[[str], Bench]) -> None:
    from distill_objectives.tasks.options import TokenClassificationOptions
    from distill_objectives.tasks.token_classification import TokenClassification

    one = bench("bert-tokens")
    tokenizer = AutoTokenizer.from_pretrained(one.tokenizer_dir)
    task = TokenClassification(TokenClassificationOptions(labels=("red", "green")))
    record = {"tokens": ["cherry", "x", "grass"], "labels": ["red", None, "green"]}
    (piece,) = task.pieces(record, tokenizer=tokenizer, length_tokens=64, document="d").pieces
    lengths = [len(tokenizer([word], is_split_into_words=True)["input_ids"]) for word in record["tokens"]]
    expected = [0] + [-100] * (lengths[0] - 1 + lengths[1]) + [1] + [-100] * (lengths[2] - 1)
    assert piece.classes == expected and lengths[0] > 1
    cut = task.pieces(record, tokenizer=tokenizer, length_tokens=lengths[0], document="d")
    assert cut.dropped == ["words beyond the length"] and len(cut.pieces[0].input_ids) == lengths[0]


def test_pixels_are_scaled_and_cut_along(bench: Callable[[str], Bench]) -> None:
    batch, _ = batch_of(bench("vit"))
    pixels = batch.inputs["pixel_values"]
    expected = (batch.input_ids_BT.float() / 255 - 0.5) / 0.5
    assert pixels.shape == (7, 1, 8, 8) and torch.allclose(pixels.flatten(1), expected, atol=1e-6)
    part = batch.select_sequences(2, 4)
    assert torch.equal(part.inputs["pixel_values"], pixels[2:4]) and set(part.model_inputs()) == {"pixel_values"}


@pytest.mark.parametrize("kind", ["bert", "vit", "resnet"])
def test_hidden_states_reach_objectives(bench: Callable[[str], Bench], kind: str) -> None:
    """Both sides give sequences [B, T, D]; a feature map starts with its mean."""
    batch, tokenizer = batch_of(bench(kind))
    model = make_model(kind, seed=2)
    teacher = HFClassifier.from_model(model, tokenizer)
    signals = teacher.signals(batch, Needs(frozenset({"hidden_states"})))
    output = model(**batch.model_inputs(), output_hidden_states=True)
    assert signals.hidden_states is not None and len(signals.hidden_states) == len(output.hidden_states)
    for ours, theirs in zip(signals.hidden_states, output.hidden_states, strict=True):
        assert ours.dim() == 3 and torch.equal(ours, as_sequence(theirs))
    if kind == "resnet":
        assert torch.allclose(signals.hidden_states[-1][:, 0], output.hidden_states[-1].mean((2, 3)), atol=1e-6)
    found = classify(model, head_path(model, batch), batch.model_inputs())
    assert torch.allclose(found.logits, output.logits, atol=1e-5) and found.hidden_states is None


def test_masks_fit_the_positions_a_model_makes(bench: Callable[[str], Bench]) -> None:
    batch, _ = batch_of(bench("vit"))
    fitted = batch.on_positions(5)
    assert fitted.attention_mask_BT.shape == (7, 5) and bool(fitted.attention_mask_BT.all())
    assert fitted.rows().labels_N.tolist() == batch.rows().labels_N.tolist()


def test_rows_at_the_wrong_token_are_refused(bench: Callable[[str], Bench]) -> None:
    """A decoder reads the last token; a batch that expects its class at the first one is caught before training."""
    one = bench("llama")
    batch, _ = batch_of(one)
    moved = batch.labels_BT.new_full(batch.labels_BT.shape, -100)
    moved[:, 0] = batch.rows().labels_N
    from dataclasses import replace

    with pytest.raises(TrainingError, match=r"score.*position: last"):
        install_classifier_head(make_model("llama"), replace(batch, labels_BT=moved))


def test_what_is_no_classifier_is_refused(bench: Callable[[str], Bench]) -> None:
    from tests.conftest import make_tiny_llama

    batch, _ = batch_of(bench("llama"))
    with pytest.raises(TrainingError, match=r"no torch.nn.Linear with \d+ outputs"):
        install_classifier_head(make_tiny_llama(vocab_size=320), batch)
    with pytest.raises(TrainingError, match="gives it input_ids, attention_mask"):
        install_classifier_head(make_model("vit"), batch)


def test_a_model_that_changes_its_logits_is_refused(bench: Callable[[str], Bench]) -> None:
    """Two heads averaged, as DeiT with a distillation token does."""
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    from tests.tasks.conftest import COLOURS, VIT_SIZE, names

    batch, _ = batch_of(bench("vit"))
    model = DeiTForImageClassificationWithTeacher(DeiTConfig(**VIT_SIZE, **names(COLOURS))).eval()
    with pytest.raises(TrainingError, match="two heads"):
        install_classifier_head(model, batch)
