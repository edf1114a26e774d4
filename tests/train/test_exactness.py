"""The step's loss and gradients against plain autograd on full float64 logits."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from distill_core import ops
from distill_core.engine.data import TokenDataset
from distill_core.engine.head import install_fused_head
from distill_core.engine.microbatches import MicroBatches
from distill_core.engine.objectives import Entry, ObjectiveSet
from distill_core.plugin import Needs
from distill_core.types import RowTarget, TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama
from tests.train.setting import HardLabels, kl, objectives, run_training, tiny_teacher, total_variation
from tests.train.worker import gradients

K = 8  # support of DenseTeacher


def dense_step_loss(student: Any, batch: TokenBatch, hidden_map_TS: Tensor) -> dict[str, Tensor]:
    """The means of `kl`, `tv`, `hard` and `gap`, written anew on dense logits; nothing of the engine is used."""
    teacher = tiny_teacher().model.double()
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    with torch.no_grad():
        teacher_out = teacher(**inputs, output_hidden_states=True)
    student_out = student(**inputs, output_hidden_states=True)
    kls, tvs, hards = [], [], []
    for b in range(batch.input_ids_BT.shape[0]):
        for t in range(1, batch.input_ids_BT.shape[1]):
            label = int(batch.labels_BT[b, t])
            if label == -100:
                continue
            p = teacher_out.logits[b, t - 1].softmax(-1)
            q = student_out.logits[b, t - 1].softmax(-1)
            ids = teacher_out.logits[b, t - 1].topk(K).indices
            p_K1 = torch.cat([p[ids], (1 - p[ids].sum())[None]])
            q_K1 = torch.cat([q[ids], (1 - q[ids].sum())[None]])
            kls.append((p_K1 * (p_K1 / q_K1).log()).sum())
            tvs.append(0.5 * (p_K1 - q_K1).abs().sum())
            hards.append(-q[label].log())
    mask_BT = batch.attention_mask_BT.bool()
    gap = student_out.hidden_states[-1][mask_BT] @ hidden_map_TS.t() - teacher_out.hidden_states[-1][mask_BT]
    means = {"kl": kls, "tv": tvs, "hard": hards}
    return {name: torch.stack(values).mean() for name, values in means.items()} | {"gap": gap.square().mean()}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_gradient_of_the_whole_step_is_that_of_dense_autograd(tmp_path: Path, data: TokenDataset, tied: bool) -> None:
    model = make_tiny_llama(seed=1, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "student")
    weights = {"kl": 1.0, "tv": 0.6, "gap": 0.7, "hard": 0.3}
    settings = {
        "student_dir": str(tmp_path / "student"),
        "data": str(data.directory),
        "objectives": [{"use": name, "weight": weight} for name, weight in weights.items()],
        "config": {"batch_sequences": 3, "accumulation_steps": 2},
    }
    moved = gradients(settings, tmp_path / "run")

    student = AutoModelForCausalLM.from_pretrained(tmp_path / "student").double()
    width = student.config.hidden_size
    hidden_map_TS = torch.nn.Linear(width, 48, bias=False, dtype=torch.float64).weight
    with torch.no_grad():
        hidden_map_TS.normal_(0, width**-0.5, generator=torch.Generator().manual_seed(3))
    (batch,) = [MicroBatches(data, batch_sequences=6, accumulation_steps=1, total_steps=1, seed=3)[0]["batch"]]
    means = dense_step_loss(student, batch, hidden_map_TS)
    loss = sum(weights[name] * means[name] for name in weights)
    assert isinstance(loss, Tensor)
    loss.backward()  # type: ignore[no-untyped-call]

    (line,) = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # the run's teacher ran in float64 too; only log-sum-exp against plain division differs
    assert line["loss"] == pytest.approx(float(loss.detach()), rel=1e-9)
    assert line["objectives"] == pytest.approx({name: float(means[name].detach()) for name in weights}, rel=1e-9)
    expected = {name: parameter.grad for name, parameter in student.named_parameters()}
    expected["distill_objectives.gap.map.weight"] = hidden_map_TS.grad
    assert set(expected) == set(moved)
    for name, gradient in expected.items():
        assert gradient is not None
        torch.testing.assert_close(moved[name], gradient, rtol=1e-8, atol=1e-11, msg=name)


def head_pass_of(
    batch: TokenBatch, signals: TeacherSignals, *entries: tuple[str, Any, Needs], chunk_rows: int | None = None
) -> Any:
    objective_set = ObjectiveSet([Entry(name, it, needs, lambda step, total: 1.0) for name, it, needs in entries])
    return objective_set.head_pass(
        batch, {"": signals}, factors=[1.0] * len(entries), step=0, total_steps=1, chunk_rows=chunk_rows
    )


TARGETS = Needs(signals=frozenset({"targets"}))


def exact_signals(logits_BTV: Tensor, batch: TokenBatch, k: int) -> TeacherSignals:
    top = ops.topk_logits(batch.rows().select(logits_BTV), k)
    return TeacherSignals(target=RowTarget("exact", top.ids_NK, (1.0,), logits_NK=top.logits_NK, tail_NM=top.tail_NT))


class EveryRow:
    """Records the values of another objective per row."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seen: list[Tensor] = []

    def rows(self, support: Any, target: RowTarget, rows: Any) -> Tensor:
        values = self.inner.rows(support, target, rows)
        self.seen.append(values.detach())
        return values


def test_a_teacher_equal_to_the_student_gives_zero_at_every_row(data: TokenDataset) -> None:
    student = make_tiny_llama(seed=1)
    batch = next(data.batches(len(data)))
    with torch.no_grad():
        logits = student(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    recorded = EveryRow(kl.from_options(divergence_options()))
    install_fused_head(student)
    signals = exact_signals(logits, batch, 12)
    out = student(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        head_pass=head_pass_of(batch, signals, ("kl", recorded, TARGETS), chunk_rows=13),
    )
    values_N = torch.cat(recorded.seen)
    predicted = sum(len(s) - 1 if i % 2 else len(s) - 3 for i, s in enumerate(data))
    assert len(values_N) == predicted  # prompts are not predicted: nothing anywhere else
    assert float(values_N.abs().max()) <= 1e-6
    assert float(out["loss"].detach().abs()) <= 1e-6 * predicted
    # a target shifted by one row would be far off
    shifted = exact_signals(logits.roll(1, dims=1), batch, 12)
    recorded.seen.clear()
    with torch.no_grad():
        student(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            head_pass=head_pass_of(batch, shifted, ("kl", recorded, TARGETS)),
        )
    assert float(torch.cat(recorded.seen).mean()) > 0.1


def test_padding_has_no_influence_even_when_its_hidden_states_are_nan(data: TokenDataset) -> None:
    student = make_tiny_llama(seed=1)
    install_fused_head(student)
    batch = next(data.batches(4))
    logits = torch.randn(*batch.input_ids_BT.shape, 97, generator=torch.Generator().manual_seed(0))
    signals = exact_signals(logits, batch, 5)
    results = []
    for poisoned in (False, True):
        handle = None
        if poisoned:

            def poison(module: Any, args: Any, output: Any) -> Any:
                nan = torch.full_like(output.last_hidden_state, float("nan"))
                keep = batch.attention_mask_BT.bool()[..., None]
                output.last_hidden_state = torch.where(keep, output.last_hidden_state, nan)
                return output

            handle = student.model.register_forward_hook(poison)
        student.zero_grad()
        out = student(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            head_pass=head_pass_of(batch, signals, ("kl", kl.from_options(divergence_options()), TARGETS)),
        )
        out["loss"].backward()
        results.append((out["loss"].detach(), {n: p.grad.clone() for n, p in student.named_parameters()}))
        if handle is not None:
            handle.remove()
    (loss_1, gradients_1), (loss_2, gradients_2) = results
    assert torch.equal(loss_1, loss_2)
    assert all(torch.equal(gradients_1[name], gradients_2[name]) for name in gradients_1)


def divergence_options(**changes: Any) -> Any:
    from distill_core.options import DivergenceOptions

    return DivergenceOptions(**changes)


def test_objectives_with_different_supports_are_folded_from_the_union(data: TokenDataset) -> None:
    """`head` views of a threshold sample read a sub-support, the other objective the whole one."""
    student = make_tiny_llama(seed=1).double()
    reference = copy.deepcopy(student)
    install_fused_head(student)
    batch = next(data.batches(3))
    n = len(batch.rows())
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(97, generator=generator)[:6] for _ in range(n)])
    weights = torch.tensor([0.4, 0.2, 0.1, 0.1, 0.1, 0.1]).repeat(n, 1)
    target = RowTarget(
        "sampled", ids, (1.0,), weights_NK=weights, entropy_N=torch.zeros(n), threshold_N=torch.full((n,), 0.1)
    )
    out = student(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        head_pass=head_pass_of(
            batch,
            TeacherSignals(target=target),
            ("ce", kl.from_options(divergence_options()), TARGETS),
            ("tv", total_variation.from_options(divergence_options(view="head")), TARGETS),
            ("hard", HardLabels(None), Needs()),  # type: ignore[arg-type]
            chunk_rows=7,
        ),
    )
    logits = reference(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
    logq_NV = batch.rows().select(logits).log_softmax(-1)
    ce = -(weights * logq_NV.gather(1, ids)).sum()
    q_N2 = logq_NV.exp().gather(1, ids[:, :2])
    head_p = torch.tensor([0.4, 0.2], dtype=torch.float64)
    tv = 0.5 * ((head_p - q_N2).abs().sum(1) + (0.4 - (1 - q_N2.sum(1))).abs()).sum()
    hard = -logq_NV.gather(1, batch.rows().labels_N[:, None]).sum()
    torch.testing.assert_close(out["sums"], torch.stack([ce, tv, hard]).detach(), rtol=1e-7, atol=1e-7)
    out["loss"].backward()
    (ce + tv + hard).backward()
    for (name, parameter), other in zip(student.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-6, atol=1e-7, msg=name)


def test_token_weights_multiply(data: TokenDataset) -> None:
    from dataclasses import replace

    student = make_tiny_llama(seed=1)
    install_fused_head(student)
    batch = next(data.batches(3))
    weights_BT = torch.rand(batch.input_ids_BT.shape, generator=torch.Generator().manual_seed(0))
    weighted = replace(batch, weights_BT=weights_BT)
    recorded = EveryRow(HardLabels(None))  # type: ignore[arg-type]
    out = student(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        head_pass=head_pass_of(weighted, TeacherSignals(), ("hard", recorded, Needs())),
    )
    rows = batch.rows()
    expected = (torch.cat(recorded.seen) * weights_BT[rows.sequence_N, rows.position_N + 1]).sum()
    assert float(out["loss"].detach()) == pytest.approx(float(expected), rel=1e-6)


def test_a_process_without_rows_still_runs_the_head(data: TokenDataset) -> None:
    from dataclasses import replace

    student = make_tiny_llama(seed=1)
    install_fused_head(student)
    batch = next(data.batches(2))
    empty = replace(batch, labels_BT=torch.full_like(batch.labels_BT, -100))
    signals = TeacherSignals(
        target=RowTarget(
            "exact",
            torch.zeros(0, 4, dtype=torch.int64),
            (1.0,),
            logits_NK=torch.zeros(0, 4),
            tail_NM=torch.zeros(0, 1),
        )
    )
    kl_objective = kl.from_options(divergence_options())
    out = student(
        input_ids=batch.input_ids_BT,
        attention_mask=batch.attention_mask_BT,
        head_pass=head_pass_of(empty, signals, ("kl", kl_objective, TARGETS)),
    )
    out["loss"].backward()
    assert float(out["loss"].detach()) == 0.0
    # every parameter has a gradient, of zeros: the collectives of DDP and FSDP run as on the other ranks
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())


def test_a_weight_schedule_is_followed(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    ramp = {"use": "ramp", "start": 1.0, "end": 0.0}
    result = run_training(
        tmp_path / "run",
        student_dir=student_dir,
        data=data,
        teacher=tiny_teacher(),
        config={
            "max_steps": 3,
            "objectives": objectives({"use": "kl", "weight": ramp}, {"use": "hard", "weight": 0.5}),
        },
    )
    lines = [json.loads(text) for text in result.metrics.read_text().splitlines()]
    for line, weight in zip(lines, (1.0, 0.5, 0.0), strict=True):
        means = line["objectives"]
        assert line["loss"] == pytest.approx(weight * means["kl"] + 0.5 * means["hard"], rel=1e-12)
