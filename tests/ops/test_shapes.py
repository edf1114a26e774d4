"""The jaxtyping annotations of the public ops, enforced by beartype: they hold, and they catch a wrong shape."""

from __future__ import annotations

import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import TypeCheckError, jaxtyped

from distill_core import ops

NAMES = (
    "linear_support_logits",
    "support_logits",
    "sparse_distill_loss",
    "sparse_kl",
    "linear_sparse_kl",
    "topk_logits",
    "linear_topk_logits",
    "sample_support",
)
CHECKED = {name: jaxtyped(typechecker=beartype)(getattr(ops, name)) for name in NAMES}


@pytest.fixture
def calls(make_problem):
    p = make_problem(dtype=torch.float32)
    z = p.dense().detach()
    logp = torch.log_softmax(torch.randn(11, 5), 1)
    head = {"hidden_ND": p.hidden_ND, "weight_VD": p.weight_VD, "bias": p.bias_V}
    support = {"ids_NK": p.ids_NK, "labels_N": p.labels_N}
    return {
        "linear_support_logits": {**head, **support, "extras": ("mean", "entropy", "top1")},
        "support_logits": {"logits_NV": z, **support},
        "sparse_distill_loss": {**head, **support, "loss_fn": lambda s, rows: s.cross_entropy()},
        "sparse_kl": {"logits_NV": z, "ids_NK": p.ids_NK, "logp_NK": logp, "tail_logp_N": logp[:, 0]},
        "linear_sparse_kl": {**head, "ids_NK": p.ids_NK, "logp_NK": logp, "reduction": "none"},
        "topk_logits": {"logits_NV": z, "k": 3},
        "linear_topk_logits": {**head, "k": 3},
        "sample_support": {"logits_NV": z, "k": 3, "row_keys_N": torch.arange(11)},
    }


@pytest.mark.parametrize("name", NAMES)
def test_annotations_hold(calls, name):
    CHECKED[name](**calls[name])
    CHECKED[name](**calls[name], impl="reference")


@pytest.mark.parametrize(
    ("name", "argument"),
    [(n, "hidden_ND") for n in NAMES if n.startswith(("linear_s", "sparse_d"))]
    + [(n, "ids_NK") for n in NAMES if n not in ("topk_logits", "linear_topk_logits", "sample_support")]
    + [("sparse_kl", "logp_NK"), ("sparse_kl", "tail_logp_N"), ("sample_support", "row_keys_N")],
)
def test_annotations_catch_a_missing_row(calls, name, argument):
    wrong = {**calls[name], argument: calls[name][argument][:-1]}
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        CHECKED[name](**wrong)


def test_annotations_catch_a_wrong_impl(calls):
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        CHECKED["topk_logits"](**calls["topk_logits"], impl="fast")


def test_results_carry_their_shapes():
    checked = jaxtyped(typechecker=beartype)(ops.SupportLogits)
    checked(torch.zeros(2, 3, dtype=torch.int64), (1.0,), torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises((TypeCheckError, BeartypeCallHintViolation)):
        checked(torch.zeros(2, 4, dtype=torch.int64), (1.0,), torch.zeros(2, 3), torch.zeros(2, 1))
