"""The estimate of a step's memory against PyTorch's own record of one, on small models."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measure import memory
from distill_core import ops
from distill_core.ops.row_chunks import default_rows
from distill_core.planning.memory import DENSE_TENSORS, Step, chunk_rows, memory_figures, step_memory
from distill_core.planning.shape import shape_of_config, shape_of_size
from tests.conftest import make_tiny_llama

WITHIN = 0.2
"""Largest relative error of the estimated peak; seen here: at most 0.08."""


def measured_peak(model, batch: int, sequence: int) -> int:  # type: ignore[no-untyped-def]
    """Bytes of weights, AdamW states and the peak of everything allocated in one optimizer step."""
    vocabulary, rows, k = model.config.vocab_size, batch * sequence, 8
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (batch, sequence), generator=generator)
    ids = torch.rand(rows, vocabulary, generator=generator).topk(k).indices
    target = torch.log_softmax(torch.randn(rows, k + 1, generator=generator), dim=1)

    def step() -> None:
        hidden = model.model(input_ids=tokens).last_hidden_state.flatten(0, 1)
        loss = ops.sparse_distill_loss(
            hidden, model.lm_head.weight, ids, lambda s, r: (target[r].exp() * (target[r] - s.log_probs())).sum(1)
        )
        loss.backward()
        optimizer.step()

    step()  # AdamW makes its states
    optimizer.zero_grad(set_to_none=True)
    peak, _ = memory(step)
    return peak + 3 * 4 * sum(parameter.numel() for parameter in model.parameters())


CASES = {
    "activations": {"batch": 8, "sequence": 128},
    "checkpointing": {"batch": 8, "sequence": 128, "checkpointing": True},
    "gradients": {"batch": 1, "sequence": 16},
    "gradients, head untied": {"batch": 1, "sequence": 16, "tied": False},
    "wide vocabulary": {"batch": 4, "sequence": 64, "vocabulary": 8000},
}


@pytest.mark.parametrize("case", CASES)
def test_peak_of_a_step(case: str) -> None:
    given = {"vocabulary": 2000, "tied": True, "checkpointing": False, **CASES[case]}
    model = make_tiny_llama(
        vocab_size=given["vocabulary"],
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=4,
        tie_word_embeddings=given["tied"],
        use_cache=False,
    ).train()
    if given["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shape = shape_of_config(model.config.to_dict(), parameters, label="student")
    assert shape.parameters == parameters
    step = Step(batch=given["batch"], sequence=given["sequence"], checkpointing=given["checkpointing"])
    estimate, found = step_memory(shape, step).peak, measured_peak(model, given["batch"], given["sequence"])
    print(f"{case}: estimated {estimate:,.0f} B, measured {found:,} B, ratio {estimate / found:.3f}")
    assert estimate == pytest.approx(found, rel=WITHIN)


def test_a_dense_loss_holds_as_many_tensors_as_counted() -> None:
    rows, vocabulary, width = 256, 4000, 16
    hidden, head = torch.randn(rows, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
    teacher = torch.randn(rows, width)

    def dense() -> None:
        with torch.no_grad():
            target = torch.log_softmax(teacher @ head.T, dim=1)
        student = torch.log_softmax(hidden @ head.T, dim=1)
        torch.nn.functional.kl_div(student, target, log_target=True, reduction="batchmean").backward()

    peak, _ = memory(dense)
    assert peak / (4 * rows * vocabulary) == pytest.approx(DENSE_TENSORS, rel=0.05)


@pytest.mark.parametrize("vocabulary", [97, 32_000, 65_536, 65_537, 256_000, 50_000_000])
def test_chunks_are_those_of_the_op(vocabulary: int) -> None:
    assert chunk_rows(vocabulary) == default_rows(vocabulary, bytes_per_logit=4)


def test_parts_follow_their_settings() -> None:
    shape = shape_of_size(0.2e9, label="student", vocabulary=32_768)
    full, half = step_memory(shape, Step()), step_memory(shape, Step(dtype="bfloat16", precision="bfloat16"))
    assert half.weights == full.weights / 2
    assert half.activations == full.activations / 2
    mixed = step_memory(shape, Step(precision="bfloat16"))
    assert mixed.weights == full.weights + 2 * shape.parameters
    lora = step_memory(shape, Step(lora_rank=8))
    assert lora.adam < full.adam / 20
    assert step_memory(shape, Step(checkpointing=True)).peak < full.peak < full.dense_peak
    assert step_memory(shape, Step(accumulation=2)).peak == full.peak + full.gradients
    live = {figure.key: figure.value for figure in memory_figures(shape, Step(), live_teacher=shape)}
    assert live["memory_peak"] == full.peak + 4 * shape.parameters
