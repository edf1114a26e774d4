"""torch.compile with its default compiler, inductor, on a CPU: one graph, static and dynamic, values and gradients.

An op stays one call in the compiled code; what surrounds it, and the reading of its outputs' sizes and strides from
`register_fake`, is inductor's. Compiling C++ takes seconds a graph.
"""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from tests.ops.test_registration import losses, primitive, teacher

pytestmark = [pytest.mark.slow, pytest.mark.native]
K = 5


def rows_on_the_cpu(p, logp):
    """The C++ row kernels, the fused head on them, and both compiled schedules of the loss."""
    hidden, weight = p.hidden_ND.float(), p.weight_VD.float()
    z, logp = hidden @ weight.T, logp.float()
    s = ops.support_logits(z, p.ids_NK, extras=("entropy",), impl="cpu")
    head = ops.linear_support_logits(hidden, weight, p.ids_NK, labels_N=p.labels_N, impl="cpu")
    loss = ops.sparse_kl(z, p.ids_NK, logp, temperature=1.5, impl="cpu")
    loss = loss + ops.linear_sparse_kl(hidden, weight, p.ids_NK, logp, reduction="none", impl="cpu").mean()
    return loss + s.entropy_NT.sum() + s.tail_NT.sum() + head.cross_entropy().sum()


def teacher_on_the_cpu(p, logp):
    hidden, weight = p.hidden_ND.float(), p.weight_VD.float()
    top = ops.topk_logits(hidden @ weight.T, 4, temperatures=(1.0, 2.0), impl="cpu")
    ids, w = ops.sample_support(hidden @ weight.T, 4, seed=3, impl="cpu")
    linear = ops.linear_topk_logits(hidden, weight, 2, impl="cpu")
    return (*top.log_probs(2.0), ids, w, linear.ids_NK, linear.logits_NK)


def matching(impl):
    def run(p, logp):
        dtype = torch.float32 if impl == "cpu" else torch.float64
        synthetic = [(p.hidden_ND * 2).to(dtype), (p.weight_VD.sin()).to(dtype)]
        real = [x.detach().cos() for x in synthetic]
        by_row = ops.gradient_match(synthetic, real, impl=impl)
        return by_row + ops.gradient_match(synthetic, real, distance="l2+l1", group="global", impl=impl)

    return run


def of_gradients(impl):
    def run(p, logp):
        hidden = p.hidden_ND.float()
        gram = ops.gradient_gram(hidden[:, None], hidden[:, None], hidden[:, None], hidden[:, None])
        return gram, ops.random_projection([hidden, hidden * 2], 8, seed=1, impl=impl)

    return run


CASES = {
    "support logits": primitive,
    "losses": losses,
    "teacher": teacher,
    "rows, cpu": rows_on_the_cpu,
    "teacher, cpu": teacher_on_the_cpu,
    "gradient_match": matching("reference"),
    "gradient_match, cpu": matching("cpu"),
    "gram and projection": of_gradients("reference"),
    "gram and projection, cpu": of_gradients("cpu"),
}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", CASES)
def test_one_graph(make_problem, case, dynamic):
    torch._dynamo.reset()
    function = CASES[case]
    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="inductor")
    for n, v in ((7, 23), (9, 31)) if dynamic else ((7, 23),):
        p = make_problem(n=n, v=v)
        logp = torch.log_softmax(torch.randn(n, K, dtype=torch.float64), 1) - 0.1
        want, got = function(p, logp), compiled(p, logp)
        near = {"rtol": 2e-5, "atol": 2e-5} if "cpu" in case or "gram" in case else {}
        torch.testing.assert_close(got, want, **near)
        if isinstance(want, torch.Tensor):
            inputs = p.inputs[:2]
            expected = torch.autograd.grad(want, inputs)
            for g, w in zip(torch.autograd.grad(got, inputs), expected, strict=True):
                torch.testing.assert_close(g, w, **near)
