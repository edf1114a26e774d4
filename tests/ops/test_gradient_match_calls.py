"""`gradient_match` as a function and an operator: what it takes and refuses, registration, compiling, threads."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops.gradient_match.ops import (
    gradient_match_backward_op,
    gradient_match_double_backward_op,
    gradient_match_op,
    gradient_match_with_gradient_op,
)
from tests.ops.gradient_lists import GROUPS, IMPLS, make, measured


@pytest.mark.parametrize("impl", IMPLS)
def test_mixed_dtypes_are_promoted(impl):
    synthetic, real = make([(4, 9), (3, 5)])
    synthetic[0] = synthetic[0].detach().bfloat16().requires_grad_()
    value, grads = measured(synthetic, real, impl=impl)
    assert value.dtype == torch.float32
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("impl", IMPLS)
def test_vectors_are_left_out_of_rows_by_default(impl):
    synthetic, real = make([(4, 9), (5,)])
    value, grads = measured(synthetic, real, impl=impl)
    torch.testing.assert_close(value, ops.gradient_match(synthetic[:1], real[:1], impl=impl))
    assert not grads[1].any()
    assert ops.gradient_match(synthetic, real, include_vectors=True, impl=impl) > value


def test_empty_lists_are_at_distance_zero():
    assert ops.gradient_match([], []).item() == 0


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"synthetic": torch.zeros(2, 2)}, TypeError, "must be a list of tensors"),
        ({"synthetic": [None, torch.zeros(3)]}, TypeError, r"synthetic\[0\] must be a torch.Tensor; got NoneType"),
        ({"real": [torch.zeros(2, 2)]}, ValueError, "of one length"),
        ({"real": [torch.zeros(2, 3), torch.zeros(3)]}, ValueError, r"real\[0\] is \[2, 3\]"),
        ({"real": [torch.zeros(2, 2, requires_grad=True), torch.zeros(3)]}, ValueError, r"pass real\[0\].detach"),
        ({"real": [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3)]}, TypeError, "must be floating point"),
        ({"weights": [1.0]}, ValueError, "one number per tensor, 2; got 1"),
        ({"weights": [1.0, -1.0]}, ValueError, "at least 0"),
        ({"weights": torch.ones(2)}, TypeError, "tolist"),
        ({"distance": "mse"}, ValueError, "distance must be one of"),
        ({"group": "layer"}, ValueError, "group must be one of"),
        ({"eps_mode": "max"}, ValueError, "eps_mode must be one of"),
        ({"eps": 0.0}, ValueError, "eps must be a positive"),
        ({"synthetic": [torch.zeros(3)], "real": [torch.zeros(3)]}, ValueError, "include_vectors=True"),
        ({"impl": "triton"}, RuntimeError, "cannot run"),
    ],
)
def test_wrong_arguments(change, error, sentence):
    good = {"synthetic": [torch.zeros(2, 2), torch.zeros(3)], "real": [torch.zeros(2, 2), torch.zeros(3)]}
    with pytest.raises(error, match=sentence):
        ops.gradient_match(**{**good, **change})


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("distance,group", [("cosine", "row"), ("cosine", "global"), ("l2+l1", "tensor")])
def test_opcheck(distance, group, impl):
    synthetic, real = make([(3, 5), (2, 3, 2)])
    options = ([1.0, 2.0], distance, group, 1e-12, "clamp", impl)

    def check(op, arguments):
        assert set(torch.library.opcheck(op, arguments).values()) == {"SUCCESS"}

    check(gradient_match_op, (synthetic, real, *options))
    if distance != "cosine" or group == "row":  # one read is enough
        check(gradient_match_with_gradient_op, ([x.detach() for x in synthetic], real, *options))
    statistics = gradient_match_op(synthetic, real, *options)[1]
    upstream = torch.tensor(1.5, requires_grad=True)
    check(gradient_match_backward_op, (upstream, synthetic, real, statistics, *options))
    plain = [x.detach() for x in synthetic]
    check(gradient_match_double_backward_op, (upstream.detach(), plain, real, torch.randn(27), *options))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_to_one_graph(dynamic, impl):
    torch._dynamo.reset()

    def loss(a, b):
        return ops.gradient_match(a, b, impl=impl) + ops.gradient_match(a, b, distance="l2", group="global", impl=impl)

    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (4, 6) if dynamic else (4,):
        synthetic, real = make([(n, 5), (2, n, 3)])
        got, want = compiled(synthetic, real), loss(synthetic, real)
        torch.testing.assert_close(got, want)
        for g, w in zip(torch.autograd.grad(got, synthetic), torch.autograd.grad(want, synthetic), strict=True):
            torch.testing.assert_close(g, w)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("group", GROUPS)
def test_thread_count_changes_nothing(group, impl):
    synthetic, real = make([(300, 257), (3, 70001), (40,)])
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(measured(synthetic, real, group=group, impl=impl))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(x, y) for x, y in zip(found[0][1], found[1][1], strict=True))
