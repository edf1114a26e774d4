"""Wrong values in the right place: NaN shows in every mode, logits are no log-probabilities, numbers are numbers."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from distill_core import ops
from tests.ops.sparse_teacher import MODES

CASES = [(m, "forward") for m in MODES] + [("tail", "reverse"), ("renormalized-both", "reverse")]
cases = pytest.mark.parametrize(("mode", "direction"), CASES, ids=[f"{m}-{d}" for m, d in CASES])
impls = pytest.mark.parametrize("impl", ["reference", "cpu"])
torch.manual_seed(0)
HIDDEN, WEIGHT, LOGITS = torch.randn(4, 6), torch.randn(11, 6), torch.randn(4, 11)
TOP = ops.topk_logits(LOGITS, 3)


def both_ops(hidden, logp, tail, impl, **options):
    """Losses and gradients by the fused op and by the one on logits, per row and summed."""
    for reduction in ("none", "sum"):
        x = hidden.clone().requires_grad_()
        options.update(reduction=reduction, tail_logp_N=tail, impl=impl)
        for loss in (
            ops.linear_sparse_kl(x, WEIGHT, TOP.ids_NK, logp, **options),
            ops.sparse_kl(x @ WEIGHT.T, TOP.ids_NK, logp, **options),
        ):
            yield loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


@cases
@impls
@pytest.mark.parametrize("where", ["teacher", "tail", "student", "infinite student"])
def test_nan_is_never_a_loss_of_zero(mode, direction, impl, where):
    logp, tail = (x.clone() for x in TOP.log_probs())
    hidden = HIDDEN.clone()
    if where == "teacher":
        logp[1, 0] = math.nan
    elif where == "tail":
        if mode != "tail":  # the only mode that reads it
            logp[1, 1] = math.nan
        tail[1] = math.nan
    else:
        hidden[1, 0] = math.nan if where == "student" else math.inf
    for loss, gradient in both_ops(hidden, logp, tail, impl, mode=mode, direction=direction):
        if loss.dim():
            assert loss.isnan().tolist() == [False, True, False, False]
        else:
            assert loss.isnan()
        assert gradient[1].isnan().any() and gradient[[0, 2, 3]].isfinite().all()


@cases
def test_logits_in_place_of_log_probabilities_are_refused(mode, direction):
    logp, _ = TOP.log_probs()
    options = {"mode": mode, "direction": direction}
    if mode == "weights":  # log-weights of importance samples may exceed 0
        assert ops.sparse_kl(LOGITS, TOP.ids_NK, TOP.logits_NK, **options).isfinite()
        return
    for call in (partial(ops.linear_sparse_kl, HIDDEN, WEIGHT), partial(ops.sparse_kl, LOGITS)):
        with pytest.raises(ValueError, match=r"logp_NK must hold log-probabilities, .* logp_NK\[0, 0\] is 0\.\d+"):
            call(TOP.ids_NK, logp.exp(), **options)
        with pytest.raises(ValueError, match=r"`TopK\.log_probs"):
            call(TOP.ids_NK, TOP.logits_NK, **options)
        if mode == "tail":
            with pytest.raises(ValueError, match=r"tail_logp_N must hold log-probabilities"):
                call(TOP.ids_NK, logp, tail_logp_N=TOP.tail_NT[:, 0], **options)
        ids, padded = TOP.ids_NK.clone(), logp.clone()
        ids[0, 0], padded[0, 0] = -1, 7.0  # what stands at padding is not read
        assert call(ids, padded, **options).isfinite()


def linear(**options):
    return ops.linear_support_logits(HIDDEN, WEIGHT, TOP.ids_NK, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ops.topk_logits(LOGITS, 2.0), "topk_logits: k must be an integer; got 2.0"),
        (lambda: ops.topk_logits(LOGITS, None), "k must be an integer; got None"),
        (lambda: ops.topk_logits(LOGITS, torch.tensor(2)), "k must be an integer; got a tensor; pass k.item()"),
        (lambda: ops.topk_logits(LOGITS, 2, valid_vocab=3.0), "valid_vocab must be an integer; got 3.0"),
        (lambda: ops.topk_logits(LOGITS.to_sparse(), 2), "logits_NV must be a dense tensor; got layout torch.sparse"),
        (lambda: ops.topk_logits(LOGITS, 2, temperatures=None), "temperatures must be a tuple such as .* got None"),
        (lambda: ops.topk_logits(LOGITS, 2, temperatures=("a",)), "temperatures must be a Python number; got 'a'"),
        (lambda: ops.sample_support(LOGITS, 2, seed=1.5), "seed must be an integer; got 1.5"),
        (lambda: ops.sample_support(LOGITS, 2, row_keys_N=[0] * 4), "row_keys_N must be a torch.Tensor; got list"),
        (lambda: ops.sample_support(LOGITS, 2, temperature=None), "temperature must be a Python number; got None"),
        (lambda: ops.random_projection(LOGITS, 2.0, seed=0), "dim must be an integer; got 2.0"),
        (lambda: ops.random_projection(LOGITS, 2, seed="a"), "seed must be an integer; got 'a'"),
        (lambda: linear(bias=0.0), "bias must be a torch.Tensor; got float"),
        (lambda: linear(softcap="30"), "softcap must be a Python number; got '30'"),
        (lambda: linear(logit_scale=torch.tensor(2.0, requires_grad=True)), "logit_scale .* would get no gradient"),
        (lambda: linear(softcap=torch.tensor(2.0)), "softcap must be a Python number; got a tensor"),
        (lambda: linear(labels_N=[0] * 4), "labels_N must be a torch.Tensor; got list"),
        (lambda: linear(extras=None), "extras must be a tuple such as .* got None"),
        (
            lambda: ops.sparse_distill_loss(HIDDEN, WEIGHT, TOP.ids_NK, lambda s, r: s.tail_NT[:, 0], chunk_rows=1.5),
            "chunk_rows must be an integer; got 1.5",
        ),
        (
            lambda: ops.sparse_distill_loss(HIDDEN, WEIGHT, TOP.ids_NK, lambda s, r: s.tail_NT[:, 0], params=HIDDEN),
            "params must be a tuple of tensors",
        ),
    ],
)
def test_a_wrong_type_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()
