"""torch.compile with its default compiler, inductor, on a CPU: one graph, static and dynamic, values and gradients.

An op stays one call in the compiled code; what surrounds it, and the sizes of its outputs as `register_fake`
has them, is inductor's. Its C++ takes seconds to compile, so ops share graphs.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from tests.ops.test_registration import losses, primitive, teacher

pytestmark = [pytest.mark.slow, pytest.mark.native]
K = 5


def matching(p, impl, dtype):
    synthetic = [(p.hidden_ND * 2).to(dtype), (p.weight_VD.sin()).to(dtype)]
    real = [x.detach().cos() for x in synthetic]
    by_row = ops.gradient_match(synthetic, real, impl=impl)
    return by_row + ops.gradient_match(synthetic, real, distance="l2+l1", group="global", impl=impl)


def losses_of_the_reference(p, logp):
    return primitive(p, logp) + losses(p, logp) + matching(p, "reference", torch.float64)


def losses_on_the_cpu(p, logp):
    """The C++ row kernels, the fused head on them, and both compiled schedules of the loss."""
    hidden, weight = p.hidden_ND.float(), p.weight_VD.float()
    z, logp = hidden @ weight.T, logp.float()
    s = ops.support_logits(z, p.ids_NK, extras=("entropy",), impl="cpu")
    head = ops.linear_support_logits(hidden, weight, p.ids_NK, labels_N=p.labels_N, impl="cpu")
    loss = ops.sparse_kl(z, p.ids_NK, logp, temperature=1.5, impl="cpu")
    loss = loss + ops.linear_sparse_kl(hidden, weight, p.ids_NK, logp, reduction="none", impl="cpu").mean()
    loss = loss + s.entropy_NT.sum() + s.tail_NT.sum() + head.cross_entropy().sum()
    return loss + matching(p, "cpu", torch.float32)


def of_gradients(hidden, impl):
    gram = ops.gradient_gram(hidden[:, None], hidden[:, None], hidden[:, None], hidden[:, None])
    return gram, ops.random_projection([hidden, hidden * 2], 8, seed=1, impl=impl)


def teacher_of_the_reference(p, logp):
    return (*teacher(p, logp), *of_gradients(p.hidden_ND, "reference"))


def teacher_on_the_cpu(p, logp):
    hidden, weight = p.hidden_ND.float(), p.weight_VD.float()
    top = ops.topk_logits(hidden @ weight.T, 4, temperatures=(1.0, 2.0), impl="cpu")
    ids, w = ops.sample_support(hidden @ weight.T, 4, seed=3, impl="cpu")
    linear = ops.linear_topk_logits(hidden, weight, 2, impl="cpu")
    return (*top.log_probs(2.0), ids, w, linear.ids_NK, linear.logits_NK, *of_gradients(hidden, "cpu"))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    "function", [losses_of_the_reference, losses_on_the_cpu, teacher_of_the_reference, teacher_on_the_cpu]
)
def test_one_graph(make_problem, function, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="inductor")
    near = {"rtol": 2e-5, "atol": 2e-5} if function.__name__.endswith("cpu") else {"rtol": 1e-7, "atol": 1e-7}
    for n, v in ((7, 23), (9, 31)) if dynamic else ((7, 23),):
        p = make_problem(n=n, v=v)
        logp = torch.log_softmax(torch.randn(n, K, dtype=torch.float64), 1) - 0.1
        want, got = function(p, logp), compiled(p, logp)
        torch.testing.assert_close(got, want, **near)
        if isinstance(want, torch.Tensor):
            expected = torch.autograd.grad(want, p.inputs[:2])
            for g, w in zip(torch.autograd.grad(got, p.inputs[:2]), expected, strict=True):
                torch.testing.assert_close(g, w, **near)
