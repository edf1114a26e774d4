"""What the benchmarks compare: rivals that claim to compute the same thing agree in value and gradients.

Nothing is timed. Sizes are those that a fresh process warms up with.
"""

from __future__ import annotations

import argparse

import pytest
import torch
from torch import Tensor

from benchmarks import peers
from benchmarks.__main__ import NAMES, parse
from benchmarks.case import Absent, Case, flat
from distill_core import ops

UNTIMED = ("capture", "accuracy", "gradient_quality", "target_bias", "store_size", "objective_table")
WHOLE_RUNS = ("trl_training", "dataset_distillation", "selection", "text_distillation")  # trainings: tests of their own
TIMED = [name for name in NAMES if name not in (*UNTIMED, *WHOLE_RUNS)]


def small(name: str, *more: str) -> argparse.Namespace:
    return parse([name, *parse([name]).module.TINY, *more])


def outcome(options: argparse.Namespace, case: str) -> list[Tensor]:
    found = options.module.cases(options)[case]
    assert isinstance(found, Case), found
    return [x.detach() for x in flat(found.build()())]


def eager_cases(name: str) -> list[str]:
    options = small(name)
    return [case for case, found in options.module.cases(options).items() if isinstance(found, Case)]


@pytest.mark.parametrize("name", TIMED)
def test_cases_that_compute_the_same_agree(name: str) -> None:
    options = small(name)
    found = options.module.cases(options)
    same = [c for c, case in found.items() if isinstance(case, Case) and case.same and not case.compiled]
    expected = outcome(options, same[0]) if same else []
    for case in same[1:]:
        for own, other in zip(outcome(options, case), expected, strict=True):
            torch.testing.assert_close(own, other, rtol=2e-5, atol=2e-6, msg=lambda text, c=case: f"{c}: {text}")
    assert len(same) >= 2 or name in ("topk_logits", "random_projection", "projected_gradients")


@pytest.mark.parametrize("name", TIMED)
def test_every_case_runs(name: str) -> None:
    options = small(name)
    for case in eager_cases(name):
        if not options.module.cases(options)[case].compiled:
            assert all(torch.isfinite(x).all() for x in outcome(options, case) if x.is_floating_point()), case


@pytest.mark.parametrize("name", ["linear_sparse_kl", "sparse_kl", "gradient_match"])
def test_bfloat16_runs_and_is_near(name: str) -> None:
    options, wide = small(name, "--dtype", "bfloat16"), small(name)
    own = "distill-core"
    value, expected = outcome(options, own)[0], outcome(wide, own)[0]
    torch.testing.assert_close(value.float(), expected, rtol=0.05, atol=0)


def test_truncated_rivals_agree_with_ours() -> None:
    """The formulas without a tail compute `mode="truncated"`."""
    options = small("linear_sparse_kl")
    expected = outcome(options, "distill-core, no tail")
    for case in ("axolotl's chunks", "axolotl's chunks with Liger"):
        for own, other in zip(outcome(options, case), expected, strict=True):
            torch.testing.assert_close(own, other, rtol=2e-5, atol=2e-6, msg=lambda text, c=case: f"{c}: {text}")


def test_top_k_agrees_with_torch() -> None:
    for rows in ("random", "ascending"):
        options = small("topk_logits", "--rows", rows)
        logits, ids, tail = outcome(options, "distill-core")
        expected, expected_ids = outcome(options, "torch.topk alone")
        assert torch.equal(logits, expected) and torch.equal(ids, expected_ids)
        logp, _ = outcome(options, "log_softmax + topk")
        total = torch.cat([logits, tail], dim=1).logsumexp(1, keepdim=True)
        torch.testing.assert_close(logits - total, logp, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", ["tied", "constant"])
def test_tied_rows_are_tied(rows: str) -> None:
    """The k-th logit occurs outside the top k too, so that which of them is kept is a matter of ties."""
    options = small("topk_logits", "--rows", rows)
    logits, ids, _ = outcome(options, "distill-core")
    z_NV = options.module.logits(options)
    assert ((z_NV == logits[:, -1:]).sum(1) > (logits == logits[:, -1:]).sum(1)).any()
    torch.testing.assert_close(z_NV.gather(1, ids), logits, rtol=0, atol=0)


def test_projection_is_a_matrix_of_signs() -> None:
    options = small("random_projection")
    found = options.module.cases(options)["distill-core"].build()()
    signs = ops.random_projection([torch.eye(options.features)], options.dim, seed=options.module.SEED)
    torch.testing.assert_close(signs.abs(), torch.full_like(signs, options.dim**-0.5))
    assert 0.4 < (signs > 0).float().mean() < 0.6
    generator = torch.Generator().manual_seed(options.module.SEED)
    features = torch.randn(options.samples, options.features, generator=generator)
    torch.testing.assert_close(features @ signs, found, rtol=1e-4, atol=1e-5)


def test_dense_rivals_agree_where_the_support_is_the_vocabulary() -> None:
    """Liger's and TRL's dense losses, where they are installed: at K = V the sparse KL is the dense one."""
    options = parse(["linear_sparse_kl", "--tokens", "13", "--vocabulary", "31", "--hidden", "7", "--support", "31"])
    expected = outcome(options, "distill-core")
    assert expected[0] > 0.1
    found = options.module.cases(options)
    for case in ("Liger chunked", "TRL GKD"):
        if isinstance(found[case], Case):
            for own, other in zip(outcome(options, case), expected, strict=True):
                torch.testing.assert_close(own, other, rtol=2e-5, atol=2e-6, msg=lambda text, c=case: f"{c}: {text}")


def test_a_peer_that_is_missing_is_named() -> None:
    absent = peers.peer("no_such_package.losses", "Loss", lambda f: f, "nothing")
    assert absent == Absent(f"no_such_package is not installed ({peers.INSTALL})")
    moved = peers.peer("torch.nn.functional", "no_such_loss", lambda f: f, "nothing")
    assert isinstance(moved, Absent) and "no_such_loss" in moved.reason


def test_every_rival_has_a_row_whatever_is_installed() -> None:
    options = small("linear_sparse_kl")
    named = {"Liger chunked", "Liger chunked, compiled", "TRL server", "TRL chunked", "TRL GKD"}
    assert named <= set(options.module.cases(options))
