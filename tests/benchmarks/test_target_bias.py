"""The losses of `target_bias` are the library's objectives, its figures those of plain formulas; files resume."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks import target_bias
from benchmarks.__main__ import parse
from benchmarks.bias_plot import picture
from benchmarks.target_bias import TARGETS, calibration_error, held_out, loss_of, means, paired, split, trained
from distill_core import ops
from distill_core.registry import get_registry
from distill_core.types import RowInfo, RowTarget

V, D, N, K, SEED = 60, 5, 12, 4, 3


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    weight, student, teacher = torch.randn(V, D), torch.randn(N, D), 2 * torch.randn(N, D)
    return weight, student, teacher @ weight.T


@pytest.mark.parametrize("mode", ["tail", "truncated", "renormalized", "renormalized-both"])
def test_top_k_losses_are_the_modes_of_forward_kl(problem, mode: str) -> None:
    weight, student, teacher_NV = problem
    rows = torch.tensor([7, 1, 4])
    found = loss_of(mode, teacher_NV, weight, K, K, SEED)(student[rows], rows)
    objective = get_registry().build("objective", {"use": "forward-kl", "mode": mode})
    top = ops.topk_logits(teacher_NV[rows], K)
    target = RowTarget("exact", top.ids_NK, (1.0,), logits_NK=top.logits_NK, tail_NM=top.tail_NT)
    support = ops.support_logits(student[rows] @ weight.T, top.ids_NK)
    values_N = objective.rows(support, target, RowInfo(rows, rows, rows))
    torch.testing.assert_close(found, values_N.mean(), rtol=1e-5, atol=1e-6)


def test_sampled_gradients_are_right_on_average(problem) -> None:
    weight, student, teacher_NV = problem
    weight = weight.clone()
    full_VD = target_bias.head_gradient(loss_of("full", teacher_NV, weight, K, K, 0), student, weight)
    assert not weight.requires_grad
    for target in ("multinomial", "threshold"):
        drawn = [
            target_bias.head_gradient(loss_of(target, teacher_NV, weight, K, 9, seed), student, weight)
            for seed in range(200)
        ]
        error_VD = torch.stack(drawn).std(0) / math.sqrt(len(drawn)) + 1e-4
        assert float(((torch.stack(drawn).mean(0) - full_VD) / error_VD).abs().max()) < 5.5


def test_training_lowers_the_loss_and_depends_on_the_seed(problem) -> None:
    weight, student, teacher_NV = problem
    options = parse(["target_bias", "--steps", "30", "--batch", "5", "--learning-rate", "0.03"])
    loss = loss_of("full", teacher_NV, weight, K, K, 0)
    one, again, other = (trained(loss, student, options, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    everything = torch.arange(N)
    assert float(loss(student + student @ one, everything)) < 0.5 * float(loss(student, everything))


def test_figures_of_a_student() -> None:
    teacher_NV = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]]).log()
    student_NV = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.3, 0.1]]).log()
    found = held_out(student_NV, teacher_NV, torch.tensor([0, 1]), 2)
    kl = [sum(p * math.log(p / q) for p, q in zip(*row, strict=True)) for row in
          (((0.7, 0.2, 0.1), (0.5, 0.3, 0.2)), ((0.1, 0.8, 0.1), (0.6, 0.3, 0.1)))]  # fmt: skip
    assert found["kl"] == pytest.approx(sum(kl) / 2, rel=1e-5)
    assert found["confidence"] == pytest.approx(0.55) and found["accuracy"] == 0.5
    # 0.5 (right) and 0.6 (wrong) lie in bins of their own: (|0.5 - 1| + |0.6 - 0|) / 2
    assert found["calibration_error"] == pytest.approx(0.55)
    assert found["mass_outside"] == pytest.approx((0.2 + 0.1) / 2, abs=1e-6)


def test_calibration_error_nets_out_inside_a_bin() -> None:
    assert calibration_error(torch.tensor([0.62, 0.68]), torch.tensor([True, False])) == pytest.approx(0.15)
    assert calibration_error(torch.ones(3), torch.ones(3, dtype=torch.bool)) == 0


def test_the_last_token_of_a_window_has_no_next_one() -> None:
    hidden_ND = torch.arange(8.0).view(8, 1)
    kept, labels = split(hidden_ND, torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]]))
    assert kept.flatten().tolist() == [0, 1, 2, 4, 5, 6] and labels.tolist() == [11, 12, 13, 21, 22, 23]


def measured() -> dict:
    rows = [
        {"seed": s, "target": t, "degrees": 3.0 * i, "kl": 1.0 + i, "confidence": 0.4 + 0.01 * i * (s + 1),
         "accuracy": 0.3, "calibration_error": 0.1, "mass_outside": 0.2}
        for s in (0, 1) for i, t in enumerate(TARGETS)
    ]  # fmt: skip
    for s in (0, 1):
        for target in ("teacher", "untrained"):
            rows.append(
                {key: value for key, value in rows[0].items() if key != "degrees"} | {"seed": s, "target": target}
            )
    options = parse(["target_bias"])
    return {
        "benchmark": "target_bias",
        "settings": target_bias.settings(options),
        "machine": "a machine",
        "measurements": rows,
    }


def test_table_and_plot() -> None:
    table = target_bias.table(measured())
    assert "| tail | 3.0° | 2.000 | 0.415 | +0.015 ± 0.005 | 0.300 | 0.100 | 0.200 |" in table
    assert means(measured(), "kl")["threshold"] == [7.0, 7.0]
    assert paired([1.0, 3.0], [0.0, 0.0]) == (2.0, pytest.approx(1.0))
    drawn = picture(measured())
    assert drawn.count("<rect") == 1 + 4 * len(TARGETS) and "nan" not in drawn


def test_other_settings_are_not_mixed_and_a_finished_file_is_not_measured_again(tmp_path) -> None:
    path = tmp_path / "found.json"
    target_bias.save(measured(), path)
    with pytest.raises(SystemExit, match="other settings"):
        target_bias.run(parse(["target_bias", "--entries", "5", "--json", str(path)]))
    done = target_bias.run(parse(["target_bias", "--seeds", "2", "--json", str(path)]))
    assert done["measurements"] == measured()["measurements"]


def test_every_target_is_measured_on_small_states(problem) -> None:
    weight, student, _ = problem
    torch.manual_seed(1)
    kept: list[dict] = []
    options = parse(["target_bias", "--steps", "2", "--batch", "5", "--entries", "3"])
    parts = (student, torch.randn(6, D)), (torch.randn(N, D), torch.randn(6, D))
    labels_N = torch.arange(6)
    missing = ["teacher", *TARGETS]
    target_bias.measure(*parts, labels_N, weight.clone(), options, 0, missing, kept.append)
    assert [row["target"] for row in kept] == missing
    assert kept[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert all(0 < row["degrees"] < 90 for row in kept[2:]) and kept[1]["degrees"] == 0
