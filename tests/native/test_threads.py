"""No result depends on the number of threads: every compiled CPU kernel, bit for bit at 1, 2, 3 and 5.

Rounded to fp32 at the end, most sums look the same in whatever order they were taken. The inputs of the sums that cross
the bounds between threads are therefore such that any other order shows.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from distill_core import ops
from distill_core.ops import cpu_library, thin_products
from distill_core.ops.sparse_kl.native import sparse_kl_rows_op

pytestmark = pytest.mark.native
THREADS = (1, 2, 3, 5, 5)
BLOCK = 1 << 14  # elements that the kernel of gradient matching sums at a time


@pytest.fixture(autouse=True)
def _ready():
    can_run, why = cpu_library.available()
    assert can_run, why
    torch.manual_seed(0)


def at_every_thread_count(run: Callable[[], list[Tensor]]) -> None:
    before, found = torch.get_num_threads(), []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            found.append(run())
    finally:
        torch.set_num_threads(before)
    for threads, other in zip(THREADS[1:], found[1:], strict=True):
        for i, (a, b) in enumerate(zip(found[0], other, strict=True)):
            assert torch.equal(a, b), f"number {i} differs between 1 and {threads} threads: {a} {b}"


def rows(n: int = 37, v: int = 5003, k: int = 9, dtype: torch.dtype = torch.float32):
    z = (torch.randn(n, v) * 4).to(dtype).requires_grad_()
    ids = torch.rand(n, v).argsort(1)[:, :k].contiguous()
    ids[0, 0], ids[2] = -1, -1
    return z, ids, torch.randint(0, v, (n,)), torch.log_softmax(torch.randn(n, k + 1), 1)[:, :k]


every_dtype = pytest.mark.parametrize("dtype", cpu_library.DTYPES, ids=str)


@every_dtype
@pytest.mark.parametrize("options", [{}, {"temperatures": (1.0, 2.5), "extras": ("mean", "entropy", "top1")}], ids=str)
def test_support_logits(dtype, options):
    z, ids, labels, _ = rows(dtype=dtype)

    def run():
        s = ops.support_logits(z, ids, labels_N=labels, impl="cpu", **options)
        value = s.tail_NT.sum() + s.label_N.sum() + s.log_probs()[:, -1].sum()
        value = value if s.mean_N is None else value + s.mean_N.sum() + s.entropy_NT.sum()
        return [s.support_NK, s.tail_NT, *torch.autograd.grad(value, z)]

    at_every_thread_count(run)


@every_dtype
@pytest.mark.parametrize("mode", ["tail", "renormalized-both"])
def test_sparse_kl(dtype, mode):
    z, ids, _, logp = rows(dtype=dtype)

    def run():
        loss = ops.sparse_kl(z, ids, logp, mode=mode, reduction="none", impl="cpu")
        return [loss, *torch.autograd.grad(loss.sum(), z)]

    at_every_thread_count(run)


@every_dtype
def test_topk_logits(dtype):
    z = rows(dtype=dtype)[0].detach()
    for k in (0, 1, 12, 300):

        def run(k=k):
            found = ops.topk_logits(z, k, temperatures=(1.0, 3.0), impl="cpu")
            return [found.ids_NK, found.logits_NK, found.tail_NT]

        at_every_thread_count(run)


@every_dtype
@pytest.mark.parametrize("method", ["threshold", "multinomial"])
def test_sample_support(dtype, method):
    z, keys = rows(dtype=dtype)[0].detach(), torch.randint(-(2**63), 2**63 - 1, (37,))
    for k in (1, 12, 300):
        options = {"method": method, "seed": 3, "row_keys_N": keys, "impl": "cpu"}
        at_every_thread_count(lambda k=k, options=options: list(ops.sample_support(z, k, **options)))


@pytest.mark.parametrize("n", [1, 2])
def test_few_long_rows(n):
    """Fewer rows than threads."""
    z, ids = rows(n=3, v=70_001, k=3)[:2]

    def run():
        s = ops.support_logits(z[:n], ids[:n], impl="cpu")
        top, sampled = ops.topk_logits(z[:n], 5, impl="cpu"), ops.sample_support(z[:n], 5, impl="cpu")
        return [s.tail_NT, *torch.autograd.grad(s.tail_NT.sum(), z), top.ids_NK, top.tail_NT, *sampled]

    at_every_thread_count(run)


def near_zero():
    """Rows whose tail is log(1 + a few units in the last place of fp64): one more or less shows in fp32."""
    z, ids = torch.full((5, 70_001), -float("inf")), torch.full((5, 1), 70_000)
    z[:, 3::2048] = -37.0  # one is lost against 1, two together are not; one in a block
    z[:, 0], z[:, 70_000] = 0.0, 1.0
    return z, ids


def test_tails_near_zero():
    z, ids = near_zero()

    def run():
        s = ops.support_logits(z, ids, extras=("entropy",), impl="cpu")
        return [s.tail_NT, s.entropy_NT, ops.topk_logits(z, 1, impl="cpu").tail_NT]

    found = run()
    assert all(tail.abs().max() < 1e-12 for tail in (found[0], found[2]))
    at_every_thread_count(run)


@pytest.mark.parametrize("mode", ["tail", "truncated", "weights"])
def test_sparse_kl_before_it_is_rounded(mode):
    """The losses of the kernel are fp64."""
    z, ids = near_zero()
    at_every_thread_count(
        lambda: list(sparse_kl_rows_op(z, ids, torch.zeros(5, 1), None, mode, False, 1.0, 1.0, None, True, "cpu"))
    )


def head_problem(width, dtype):
    """Three chunks of rows, whose bounds and order the sums of the weight's gradient follow."""
    _, ids, labels, logp = rows(600, 701)
    hidden, weight, bias = (torch.randn(s).to(dtype).requires_grad_() for s in ((600, width), (701, width), (701,)))

    def run():
        s = ops.linear_support_logits(hidden, weight, ids, bias=bias, labels_N=labels, extras=("entropy",), impl="cpu")
        value = s.tail_NT.sum() + s.cross_entropy().sum() + s.entropy_NT.sum()
        loss = ops.linear_sparse_kl(hidden, weight, ids, logp, bias=bias, impl="cpu")
        top = ops.linear_topk_logits(hidden, weight, 7, bias=bias, impl="cpu")
        grads = [torch.autograd.grad(x, (hidden, weight, bias)) for x in (value, loss)]
        return [s.support_NK, s.tail_NT, loss, top.logits_NK, top.tail_NT, *grads[0], *grads[1]]

    return run


@every_dtype
def test_narrow_heads(dtype):
    at_every_thread_count(head_problem(8, dtype))


PRODUCTS_AND_SUMS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::sum")


def same_products(run: Callable[[], list[Tensor]], rtol: float) -> None:
    """The sequence and the sizes of all products and sums are those at one thread, the numbers equal up to rounding.

    torch leaves products to a library whose last bits may change with the number of threads (MKL's do in small ones).
    """
    before, found, called = torch.get_num_threads(), [], []
    try:
        for threads in THREADS:
            torch.set_num_threads(threads)
            with torch.profiler.profile(record_shapes=True) as profile:
                found.append(run())
            called.append([(e.name, e.input_shapes) for e in profile.events() if e.name in PRODUCTS_AND_SUMS])
    finally:
        torch.set_num_threads(before)
    assert any("mm" in name for name, _ in called[0])
    for calls, numbers in zip(called[1:], found[1:], strict=True):
        assert calls == called[0]
        for a, b in zip(found[0], numbers, strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(a.detach().abs().max()))


@every_dtype
def test_wide_heads(dtype):
    same_products(head_problem(70, dtype), rtol=2e-6 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("positions", [3, 80], ids=["ghost", "formed"])
def test_gradient_gram(positions):
    sides = [(torch.randn(n, positions, 33), torch.randn(n, positions, 41)) for n in (7, 5)]
    same_products(lambda: [ops.gradient_gram(*sides[0], *side) for side in sides], rtol=1e-6)


def lists(*sizes):
    return [torch.zeros(size).requires_grad_() for size in sizes], [torch.zeros(size) for size in sizes]


SMALL = 1.9 * 2.0**-54
"""One is lost against 1 in fp64, two together are not."""


def assert_order_shows(shares: list[float], value: Tensor) -> None:
    """The sum in order is the value; taken from the other end, or in two halves, it is another fp32 number."""
    half = len(shares) // 2
    in_order, reverse, halves = sum(shares), sum(reversed(shares)), sum(shares[:half]) + sum(shares[half:])
    as_float = torch.tensor([in_order, reverse, halves], dtype=torch.float64).float()
    assert value == as_float[0] != as_float[1] and as_float[0] != as_float[2]


def test_gradient_match_l2():
    """1 + 2^-24 lies between two fp32 numbers: whatever of the small shares is not lost decides."""
    synthetic, real = lists((20, BLOCK), (1, 7), (30, BLOCK))
    with torch.no_grad():
        synthetic[0][9, 0], synthetic[0][9, 3000] = 1.0, 2.0**-12
        synthetic[0][10:, 5] = synthetic[2][:, 9] = SMALL**0.5

    def run():
        value = ops.gradient_match(synthetic, real, distance="l2", impl="cpu")
        with torch.no_grad():  # more than once: which block is ready first is a matter of chance
            again = [ops.gradient_match(synthetic, real, distance="l2", impl="cpu") for _ in range(30)]
        return [value, *again, *torch.autograd.grad(value, synthetic)]

    assert_order_shows([0.0] * 9 + [1 + 2.0**-24] + [SMALL] * 40, run()[0])
    at_every_thread_count(run)


def test_gradient_match_rows():
    synthetic, real = lists((1, 300), (1, 70), (60, 5), (41, 9001))
    with torch.no_grad():
        for a, b in zip(synthetic, real, strict=True):  # at a distance of 1 each
            a[:, 0] = b[:, 1] = 1.0
    weights = [1.0, 2.0**-24, SMALL, SMALL]

    def run():
        value = ops.gradient_match(synthetic, real, weights=weights, impl="cpu")
        return [value, *torch.autograd.grad(value, synthetic)]

    assert_order_shows([1.0 + 2.0**-24] + [SMALL] * 101, run()[0])
    at_every_thread_count(run)


@pytest.mark.parametrize("group", ["tensor", "global"])
def test_gradient_match_blocks(group):
    """<a, b> = large + small ... - large: 0 in order. The gradient where b = 0 is a multiple of it."""
    synthetic, real = lists((50, BLOCK), (3, 5))
    with torch.no_grad():
        synthetic[0][:, 0] = real[0][:, 0] = (0.2 * 2.0**-12) ** 0.5  # lost against 2^40 from above and below
        synthetic[0][0, 0] = synthetic[0][-1, 0] = real[0][0, 0] = 2.0**20
        real[0][-1, 0] = -(2.0**20)
        synthetic[0][:, 1] = 2.0**20

    def run():
        value = ops.gradient_match(synthetic, real, group=group, impl="cpu")
        return [value, *torch.autograd.grad(value, synthetic)]

    assert not run()[1][:, 1].any()
    at_every_thread_count(run)


@every_dtype
@pytest.mark.parametrize(("distance", "group"), [("cosine", "row"), ("cosine", "global"), ("l2+l1", "tensor")])
def test_gradient_match_of_random_numbers(dtype, distance, group):
    synthetic = [torch.randn(size).to(dtype).requires_grad_() for size in ((300, 257), (3, 70_001), (40,), (1, 1))]
    real = [torch.randn_like(x).detach() for x in synthetic]

    def run():
        value = ops.gradient_match(synthetic, real, distance=distance, group=group, include_vectors=True, impl="cpu")
        return [
            value,
            *torch.autograd.grad(value, synthetic, retain_graph=True),
            *torch.autograd.grad(value, synthetic),
        ]

    at_every_thread_count(run)


@pytest.mark.parametrize("split", [[20_001], [7, 5000, 14_994]], ids=["one", "three"])
def test_random_projection(split):
    """The first and the last feature are large: where their signs differ, what lies between is lost, in this order."""
    x = torch.zeros(5, 20_001)
    x[:, ::512] = 0.2 * 2.0**-12
    x[:, 0] = x[:, -1] = 2.0**40

    def run():
        return [ops.random_projection(list(x.split(split, 1)), 300, seed=0, impl="cpu")]

    (found,) = run()
    assert 0.3 < (found == 0).double().mean() < 0.7
    at_every_thread_count(run)
    x.normal_()
    at_every_thread_count(run)


def test_thin_gradient_of_hidden_states():
    """dh = sum over slabs of the vocabulary: large, small ..., -large."""
    dz, hidden, weight_t = torch.zeros(5, 20_001), torch.ones(5, 8), torch.ones(8, 20_001)
    dz[:, ::500] = 0.2 * 2.0**-12
    dz[:, 0], dz[:, -1] = 2.0**40, -(2.0**40)

    def run():
        dhidden, dweight_t = torch.empty(5, 8), torch.empty(8, 20_001)
        thin_products.gradients_into(dz, hidden, weight_t, dhidden, dweight_t, add=False)
        return [dhidden, dweight_t]

    assert not run()[0].any()
    at_every_thread_count(run)
    for x in (dz, hidden, weight_t):
        x.normal_()
    at_every_thread_count(run)
