"""Lane `interp`: the Triton kernels, statement by statement in Triton's interpreter, against fp64.

Blocks are tiny (`triton_configs.CHIPS["interpreter"]`), so that small inputs cross many block borders. Rows lie in red
zones. err(kernel) <= 2 err(torch in the same dtype) + tiny.
"""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from distill_core import ops
from distill_core.ops.head import Head
from distill_core.ops.support_logits import triton as on_logits
from distill_core.ops.support_logits import triton_head
from distill_core.ops.support_logits.chunked import LinearSource, LogitsSource, Request, forward, logits_backward
from distill_core.ops.support_logits.tile import Cotangents
from distill_core.ops.topk_logits.reference import topk_and_tail
from distill_core.ops.topk_logits.triton import topk_into
from tests.triton import rounding_shim
from tests.triton.red_zone import Guarded, access_log

pytestmark = [
    pytest.mark.interp,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy computes lanes that a mask drops
]
rounding_shim.install()
EVERYTHING = ("mean", "entropy", "top1")
# N, V, K, temperatures, extras
SHAPES = {
    "odd V": (5, 101, 7, (1.0,), ()),
    "several temperatures": (3, 67, 5, (1.0, 2.5, 0.5), ()),
    "extras": (4, 37, 5, (1.0, 2.0), EVERYTHING),
    "support is everything": (3, 5, 5, (1.0,), EVERYTHING),
    "no support": (2, 64, 0, (2.0,), ()),
    "one column": (2, 1, 1, (1.0,), ()),
    "no rows": (0, 9, 2, (1.0,), EVERYTHING),
    "shorter than a block": (3, 31, 4, (1.0,), ()),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def support(n, v, k):
    ids = torch.rand(n, v).argsort(1)[:, :k].contiguous()
    labels = torch.randint(0, v, (n,))
    if n > 1 and k > 1:
        ids[0, 1] = -1
        ids[1] = -1
        labels[1] = -100
        labels[-1] = ids[-1, 0]
    return ids, labels


def cotangents(n, k, temperatures, extras):
    t = len(temperatures)
    mean, entropy = torch.randn(n) if "mean" in extras else None, torch.randn(n, t) if "entropy" in extras else None
    return Cotangents(torch.randn(n, k), torch.randn(n, t), torch.randn(n), mean, entropy)


def doubled(c):
    return Cotangents(*(None if x is None else x.double() for x in c))


def error(found, truth):
    found, truth = found.double(), truth.double()
    same = (found == truth) | (found.isnan() & truth.isnan())
    return torch.where(same, 0.0, (found - truth).abs() / (1 + truth.abs())).nan_to_num(nan=math.inf).max()


def close(found, torch_found, truth, tiny=3e-7):
    if truth.numel():
        assert error(found, truth) <= 2 * error(torch_found, truth) + tiny


@shapes
@dtypes
def test_rows_in_red_zones_equal_fp64(shape, dtype):
    n, v, k, temperatures, extras = shape
    zones = Guarded()
    ids, labels = support(n, v, k)
    z = zones.put((torch.randn(n, v) * 4).to(dtype))
    before = z.clone()
    request = Request(ids, labels, temperatures, extras)
    found = on_logits.forward(LogitsSource(z), request)
    plain, truth = (forward(LogitsSource(z.to(d)), request) for d in (torch.float32, torch.float64))
    for a, b, c in zip(found, plain, truth, strict=True):
        close(a, b, c)
    given = cotangents(n, k, temperatures, extras)
    dz = zones.put(torch.zeros(n, v, dtype=dtype))
    on_logits.gradient_into(dz, LogitsSource(z), request, found.tail_NT, given)
    plain = logits_backward(LogitsSource(z), request, found.tail_NT, given)
    close(dz, plain, logits_backward(LogitsSource(z.double()), request, truth.tail_NT, doubled(given)))
    assert torch.equal(on_logits.backward(LogitsSource(z), request, found.tail_NT, given), dz)
    assert torch.equal(z, before) and zones.intact()
    on_logits.gradient_into(z, LogitsSource(z), request, found.tail_NT, given)
    assert torch.equal(z, dz) and zones.intact()


@pytest.mark.parametrize("qbar", [1e-2, 1e-4, 1e-6, 1e-8])
def test_small_tails_keep_their_digits(qbar):
    z, (ids, _) = torch.randn(3, 90, dtype=torch.float64), support(3, 90, 4)
    ids = ids.clamp_min(0)
    ids[0], ids[1] = torch.arange(4), torch.arange(40, 44)
    rest = z.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    lift = rest - z.gather(1, ids).logsumexp(1, keepdim=True) - math.log(qbar)
    z = z.scatter(1, ids, z.gather(1, ids) + lift).float()
    request = Request(ids, None, (1.0,), ())
    found, truth = on_logits.forward(LogitsSource(z), request), forward(LogitsSource(z.double()), request)
    assert error(found.tail_NT, truth.tail_NT) < 1e-6
    given = Cotangents(torch.zeros(3, 4), torch.ones(3, 1))
    dz = on_logits.backward(LogitsSource(z), request, found.tail_NT, given)
    want = logits_backward(LogitsSource(z.double()), request, truth.tail_NT, doubled(given))
    torch.testing.assert_close(dz.double(), want, rtol=4e-6, atol=0)


def test_hostile_rows():
    z = torch.randn(6, 50) * 3
    z[0, 7:] = -torch.inf
    z[1] = -torch.inf
    z[2] *= 1e4
    z[3, 9] = torch.nan
    ids = torch.tensor([[1, 2]]).repeat(6, 1)
    request = Request(ids, None, (1.0,), ())
    found, truth = on_logits.forward(LogitsSource(z), request), forward(LogitsSource(z.double()), request)
    rows = [0, 1, 2, 4, 5]
    assert error(found.tail_NT[rows], truth.tail_NT[rows]) < 1e-6 and found.tail_NT[3].isnan().all()
    given = cotangents(6, 2, (1.0,), ())
    dz = on_logits.backward(LogitsSource(z), request, found.tail_NT, given)
    assert dz[rows].isfinite().all() and dz[3].isnan().any()
    assert torch.equal(dz[1, 3:], torch.zeros(47))


HEADS = {
    "plain": (37, 101, 19, 7, (1.0,), (), None, False),
    "cap, bias, two temperatures": (20, 70, 32, 5, (1.0, 2.0), (), 8.0, True),
    "extras": (9, 37, 16, 5, (1.0,), EVERYTHING, None, True),
    "support is everything": (3, 5, 7, 5, (1.0,), (), None, False),
    "no support": (5, 64, 16, 0, (1.0,), (), None, True),
    "no rows": (0, 9, 4, 2, (1.0,), (), None, False),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@dtypes
def test_fused_head_in_red_zones_equals_fp64(head, dtype):
    n, v, d, k, temperatures, extras, cap, with_bias = head
    zones, (ids, labels) = Guarded(), support(n, v, k)
    hidden, weight = zones.put((torch.randn(n, d) * 2).to(dtype)), zones.put(torch.randn(v, d).to(dtype))
    bias = zones.put(torch.randn(v).to(dtype)) if with_bias else None
    request = Request(ids, labels, temperatures, extras, cap, 1.3)

    def source(to, compute):
        up = [None if x is None else x.to(to) for x in (hidden, weight, bias)]
        return LinearSource(up[0], Head(up[1], up[2], cap, 1.3, compute))

    found = triton_head.forward(source(dtype, torch.float32), request._replace(impl="triton"))
    plain = forward(source(dtype, torch.float32), request)
    truth = forward(source(torch.float64, torch.float64), request)
    for a, b, c in zip(found, plain, truth, strict=True):
        if a.is_floating_point():
            close(a, b, c, tiny=1e-6)
    assert zones.intact()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_public_ops_take_the_kernels_by_name_alone(dtype):
    h, w = torch.randn(5, 8, dtype=dtype, requires_grad=True), torch.randn(33, 8, dtype=dtype, requires_grad=True)
    ids, labels = support(5, 33, 4)
    grads = {}
    for impl in ("reference", "triton"):
        s = ops.linear_support_logits(h, w, ids, labels_N=labels, softcap=9.0, impl=impl)
        total = s.tail_NT.sum() + (s.support_NK.masked_fill(ids < 0, 0.0) ** 2).sum() + s.label_N.sum()
        grads[impl] = torch.autograd.grad(total, (h, w))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for a, b in zip(*grads.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    ops.support_logits(torch.zeros(1, 4), torch.tensor([[2]]))
    assert ops.chosen()["support_logits"] != "triton"
    assert ops.status()["support_logits"]["triton"]["available"]


def test_opcheck_and_second_derivative():
    z, ids = torch.randn(3, 20, requires_grad=True), support(3, 20, 3)[0]
    call = (z, ids, None, [1.0], False, False, False, "triton")
    torch.library.opcheck(torch.ops.distill_core.support_logits.default, call)
    h, w = torch.randn(3, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    head = (h, w, None, ids, None, [1.0], None, 1.0, False, False, False, "triton")
    torch.library.opcheck(torch.ops.distill_core.linear_support_logits.default, head)

    def second(impl):
        s = ops.support_logits(z, ids, impl=impl)
        (g,) = torch.autograd.grad(s.tail_NT.sum(), z, create_graph=True)
        return torch.autograd.grad((g**2).sum(), z)[0]

    torch.testing.assert_close(second("triton"), second("reference"), rtol=1e-5, atol=1e-6)


def test_fused_loss_by_triton_equals_reference():
    h, w = torch.randn(6, 8, requires_grad=True), torch.randn(40, 8, requires_grad=True)
    ids = support(6, 40, 4)[0]
    logp = torch.log_softmax(torch.randn(6, 5), 1)[:, :4]
    grads = []
    for impl in ("reference", "triton"):
        loss = ops.linear_sparse_kl(h, w, ids, logp, reduction="sum", impl=impl)
        grads.append((loss, *torch.autograd.grad(loss, (h, w))))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(b, a, rtol=2e-5, atol=2e-5)


ROWS = {
    "random": lambda: torch.randn(3, 101) * 4,
    "ties": lambda: torch.randint(-1, 2, (3, 77)).float(),
    "signed zeros": lambda: torch.tensor([[0.0, -0.0] * 20]),
    "ascending": lambda: torch.arange(60.0)[None].repeat(2, 1),
    "all -inf": lambda: torch.full((2, 33), -torch.inf),
    "one possible": lambda: torch.full((1, 40), -torch.inf).index_fill(1, torch.tensor([17]), 3.0),
}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("k", [0, 1, 9, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_topk_is_exact(rows, k, dtype):
    zones = Guarded()
    z = zones.put(rows().to(dtype))
    n, temperatures = z.shape[0], (1.0, 2.0)
    ids, top, tail = torch.empty(n, k, dtype=torch.int64), torch.empty(n, k), torch.empty(n, 2)
    topk_into(z, k, temperatures, ids, top, tail)
    want = topk_and_tail(z.double(), k, temperatures)
    assert torch.equal(ids, want[0]) and torch.equal(top.double(), want[1])
    plain = topk_and_tail(z.float(), k, temperatures)
    close(tail, plain[2], want[2])
    assert zones.intact()


def test_topk_nan_in_is_nan_out():
    z = torch.randn(2, 70)
    z[0, 33] = torch.nan
    found = ops.topk_logits(z, 3, impl="triton")
    assert found.ids_NK[0, 0] == 33 and found.logits_NK[0, 0].isnan() and found.tail_NT[1].isfinite().all()


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_topk_of_infinite_rows(k):
    """+inf left over makes the tail +inf, NaN left over makes it NaN; NaN comes before +inf wherever it stands."""
    z = torch.randn(5, 70)
    z[0, [3, 40, 69]] = torch.inf
    z[1, ::9] = torch.inf
    z[2, ::9], z[2, 64] = torch.inf, torch.nan
    z[3, [5, 50]], z[3, 60], z[3, ::2] = torch.inf, torch.nan, -torch.inf
    found = ops.topk_logits(z, k, temperatures=(1.0, 0.5), impl="triton")
    z_sorted = [sorted(range(70), key=lambda i, row=row: (not math.isnan(row[i]), -row[i], i)) for row in z.tolist()]
    assert found.ids_NK.tolist() == [order[:k] for order in z_sorted]
    rest = torch.stack([row[order[k:]] for row, order in zip(z, z_sorted, strict=True)])
    want = torch.stack([torch.logsumexp(rest.double() / t, dim=1) for t in (1.0, 0.5)], dim=1)
    assert want.isposinf().any() and (k > 0 or want.isnan().any())
    torch.testing.assert_close(found.tail_NT.double(), want, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_programs_touch_nothing_of_each_other():
    ids, labels = support(4, 50, 5)
    request = Request(ids, labels, (1.0,), ())
    z = torch.randn(4, 50)
    given = cotangents(4, 5, (1.0,), ())
    tail = on_logits.forward(LogitsSource(z), request).tail_NT
    head = LinearSource(torch.randn(20, 8), Head(torch.randn(50, 8), None, None, 1.0, torch.float32))
    wide = Request(*support(20, 50, 5), (1.0,), ())
    launches = {
        "rows forward": lambda: on_logits.forward(LogitsSource(z), request),
        "rows backward in place": lambda: on_logits.gradient_into(z, LogitsSource(z), request, tail, given),
    }
    for name, launch in launches.items():
        with access_log() as log:
            launch()
        assert log.stores and not log.clashes, (name, log.clashes[:3])
    # The second kernel reads what the first wrote: only writes may not meet.
    with access_log() as log:
        triton_head._forward_fused(head, wide)
    assert log.stores and not [c for c in log.clashes if c[0] == "write"]


@triton.jit
def _off_by_one(x_ptr, out_ptr, stride, V, WRITE: tl.constexpr, BLOCK: tl.constexpr):
    """A planted fault: the mask lets one column too many pass, in the load or in the store."""
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + c, mask=(c < V) if WRITE else (c <= V), other=0.0)
    if WRITE:
        tl.store(out_ptr + row * stride + c, x, mask=c <= V)
    else:
        tl.store(out_ptr + row, tl.sum(x, axis=0))


@triton.jit
def _shared_total(x_ptr, out_ptr, BLOCK: tl.constexpr):
    """A planted fault: programs add to one number without an atomic."""
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.store(out_ptr, tl.load(out_ptr) + tl.sum(x, axis=0))


def test_planted_faults_are_caught():
    zones = Guarded()
    x, out = zones.put(torch.randn(2, 9)), zones.put(torch.zeros(2, 9))
    total = torch.zeros(2)
    _off_by_one[(2,)](x, total, x.stride(0), 9, WRITE=False, BLOCK=16)
    assert total.isnan().all() and zones.intact()
    _off_by_one[(2,)](x, out, x.stride(0), 9, WRITE=True, BLOCK=16)
    assert not zones.intact()
    with access_log() as log:
        _shared_total[(2,)](torch.randn(8), torch.zeros(1), BLOCK=4)
    assert log.clashes


@triton.jit
def _narrow(x_ptr, out_ptr, B: tl.constexpr):
    at = tl.arange(0, B)
    tl.store(out_ptr + at, tl.load(x_ptr + at).to(tl.bfloat16))


def test_bf16_results_are_rounded_as_on_a_gpu():
    """The interpreter by itself cuts bits off; `rounding_shim` must be in force, and is not needed once this passes
    without it."""
    x, out = torch.randn(64), torch.zeros(64, dtype=torch.bfloat16)
    x[0], x[1], x[2] = torch.nan, torch.inf, 3.4e38
    _narrow[(1,)](x, out, B=64)
    assert torch.equal(out[1:], x.bfloat16()[1:]) and out[0].isnan()
    with rounding_shim.removed():
        _narrow[(1,)](x, out, B=64)
    assert not torch.equal(out[1:], x.bfloat16()[1:])


@triton.jit
def _product(a_ptr, b_ptr, out_ptr, UPCAST: tl.constexpr, B: tl.constexpr):
    at = tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    a, b = tl.load(a_ptr + at), tl.load(b_ptr + at)
    if UPCAST:
        a, b = a.to(tl.float32), b.to(tl.float32)
    tl.store(out_ptr + at, tl.dot(a, b))


def test_why_bf16_is_upcast_before_a_product():
    """The interpreter multiplies the bits of bf16. When it no longer does, UPCAST may go."""
    a, b, out = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16(), torch.zeros(16, 16)
    _product[(1,)](a, b, out, UPCAST=True, B=16)
    torch.testing.assert_close(out, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
    _product[(1,)](a, b, out, UPCAST=False, B=16)
    assert not torch.allclose(out, a.float() @ b.float(), rtol=0.1, atol=0.1)
