"""Gradient quality equals the library's own gradients; capture computes what the model computes; errors are small."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from benchmarks import accuracy, capture, gradient_quality
from benchmarks.__main__ import parse
from benchmarks.head_gradients import METHODS, HeadGradients, angle_degrees, draws_for_unique
from benchmarks.quality_plot import picture
from benchmarks.real_text import documents, windows
from distill_core import ops

V, D, N, K, DRAWS, SEED = 60, 5, 7, 4, 9, 3


@pytest.fixture(scope="module")
def sums():
    torch.manual_seed(0)
    weight, student, teacher = (torch.randn(*shape, dtype=torch.float64) for shape in ((V, D), (N, D), (N, D)))
    weight *= 2
    sums = HeadGradients(weight, [K], {K: DRAWS}, SEED)
    sums.add(student[:3], teacher[:3])
    sums.add(student[3:], teacher[3:])
    return sums, weight, student, teacher @ weight.T


@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_loss(sums, method: str) -> None:
    found, weight, student, teacher_NV = sums
    tail = None
    if method in ("multinomial", "threshold"):
        asked = DRAWS if method == "multinomial" else K
        ids, weights = ops.sample_support(teacher_NV, asked, method=method, seed=SEED)
        mode, logp = "weights", weights.log()
    else:
        top = ops.topk_logits(teacher_NV, K)
        (logp, tail_logp), ids = top.log_probs(), top.ids_NK
        mode, tail = ("tail", tail_logp) if method == "top-k + tail" else ("renormalized", None)
    leaf = weight.clone().requires_grad_()
    loss = ops.sparse_kl(student @ leaf.T, ids, logp, tail_logp_N=tail, mode=mode, reduction="sum")
    (expected,) = torch.autograd.grad(loss, leaf)
    # Multinomial weights count / k are rounded to fp32 on their way, whatever the dtype.
    torch.testing.assert_close(found.gradient(K, method), expected, rtol=1e-6, atol=1e-6)


def test_full_gradient_is_that_of_dense_kl(sums) -> None:
    found, weight, student, teacher_NV = sums
    leaf = weight.clone().requires_grad_()
    loss = torch.nn.functional.kl_div(
        (student @ leaf.T).log_softmax(1), teacher_NV.log_softmax(1), reduction="sum", log_target=True
    )
    torch.testing.assert_close(found.full_gradient(), torch.autograd.grad(loss, leaf)[0])


def test_angles() -> None:
    right = torch.eye(2)
    assert angle_degrees(right[:1], right[1:]) == pytest.approx(90)
    assert angle_degrees(right[:1], 3 * right[:1]) == 0
    for degrees in (1e-3, 0.5, 30.0, 179.0):
        turned = torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]], dtype=torch.float64)
        assert angle_degrees(turned, 2 * right[:1].double()) == pytest.approx(degrees, rel=1e-6)


def test_draws_reach_the_ids_asked_for() -> None:
    """Uniform over 8: n draws hold 8 (1 - (7/8)^n) different ids, so 4 need 6 draws."""
    absent = [torch.log1p(-torch.full((2, 8), 1 / 8))]
    assert draws_for_unique(absent, 4) == 6
    with pytest.raises(ValueError, match="fewer than 9"):
        draws_for_unique(absent, 9, limit=64)


def measured() -> dict:
    rows = [
        {"text": "t", "seed": s, "tokens": n, "k": 2, "method": m, "degrees": d + s, "unique_ids": 2, "draws": 2}
        for s in (0, 1)
        for n in (192, 384)
        for m, d in zip(METHODS, (8.0, 4.0, 3.0, 2.0), strict=True)
    ]
    settings = {"tokens": 384, "window": 192, "dropped": [1], "entries": [2]}
    return {"settings": settings, "machine": "a machine", "measurements": rows}


def test_quality_table_and_plot() -> None:
    table = gradient_quality.table(measured())
    assert "| t | 2 | 8.50 ± 0.71 | 4.50 ± 0.71 | 3.50 ± 0.71 | 2.50 ± 0.71 | 0.71 | 2.0 |" in table
    drawn = picture(measured())
    assert drawn.count("<polyline") == 4 and drawn.count("<circle") == 8 and "nan" not in drawn


def test_other_settings_are_not_mixed(tmp_path) -> None:
    path = tmp_path / "found.json"
    gradient_quality.save({**measured(), "benchmark": "gradient_quality"}, path)
    with pytest.raises(SystemExit, match="other settings"):
        gradient_quality.run(parse(["gradient_quality", "--json", str(path)]))


def test_a_finished_file_is_not_measured_again(tmp_path) -> None:
    """Neither model nor text is loaded: the file holds all seeds."""
    path = tmp_path / "found.json"
    options = parse(["gradient_quality", "--texts", "speeches", "--seeds", "1", "--json", str(path)])
    settings = gradient_quality.settings(options)
    found = {"settings": settings, "measurements": [{"text": "speeches", "seed": 0}]}
    gradient_quality.save(found, path)
    assert gradient_quality.run(options)["measurements"] == found["measurements"]


def test_a_run_may_take_some_of_the_seeds() -> None:
    options = parse(["gradient_quality", "--texts", "speeches", "--seeds", "4", "--only", "3", "1", "0"])
    found = {"measurements": [{"text": "speeches", "seed": 1}, {"text": "speeches", "seed": 2}]}
    assert gradient_quality.missing(options, found) == [("speeches", 3), ("speeches", 0)]
    assert "--only" not in gradient_quality.unfinished(options)["command"]
    options.only = None
    assert gradient_quality.missing(options, found) == [("speeches", 0), ("speeches", 3)]
    options.only = [0, 4]
    with pytest.raises(SystemExit, match=r"no seed \[4\] among --seeds 4"):
        gradient_quality.missing(options, found)


def test_the_measurement_runs_on_small_states() -> None:
    torch.manual_seed(0)
    states = torch.randn(2, gradient_quality.BLOCK * 2, D)
    rows = list(gradient_quality.measure(states[0], states[1], torch.randn(V, D), [K], 0))
    assert [(row["tokens"], row["method"]) for row in rows] == [(n, m) for n in (192, 384) for m in METHODS]
    assert all(0 < row["degrees"] < 90 for row in rows)


def test_the_reference_text_is_there_and_cut() -> None:
    found, digest = documents("python-reference")
    assert len(found) > 20 and len(digest) == 16

    def tokenizer(text: str, **options: object) -> dict[str, list[int]]:
        return {"input_ids": list(text.encode())}

    cut = windows(found[:5], tokenizer, 64)
    assert cut.shape == (sum(len(text.encode()) // 64 for text in found[:5]), 64)


def test_capture_computes_what_the_model_computes(tiny_llama) -> None:
    model = copy.deepcopy(tiny_llama)
    found = {name: case.build()() for name, case in capture.ways(model, torch.arange(3, 27).view(2, 12), 5).items()}
    logits, ids, tail = found[capture.OURS]
    whole = found[capture.FORWARD].flatten(0, 1)
    torch.testing.assert_close(whole.gather(1, ids), logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([logits, tail], 1).logsumexp(1), whole.logsumexp(1), rtol=1e-5, atol=1e-5)
    usual = found["the model's forward, log_softmax, topk"]
    assert torch.equal(usual.indices, ids)


def test_accuracy_target() -> None:
    """err <= 2 err(torch, the better of its two) + tiny, in every line of the table."""
    result = accuracy.run(parse(["accuracy", "--tokens", "32", "--vocabulary", "1024", "--hidden", "32"]))
    assert {row["op"] for row in result["measurements"]} == {"sparse_kl", "linear_sparse_kl"}
    for row in result["measurements"]:
        best = min(row[way] for way in accuracy.WAYS[:2])
        assert row["distill-core"] <= 2 * best + 2e-7, row
    assert accuracy.table(result).count("\n") == len(result["measurements"]) + 3
