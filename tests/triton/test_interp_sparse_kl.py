"""Lane `interp`: Triton's `sparse_kl` on logits on a CPU, value and gradient against fp64."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core import ops
from distill_core.ops.sparse_kl import triton as by_triton
from distill_core.ops.sparse_kl.native import sparse_kl_rows_op
from distill_core.ops.sparse_kl.reference import MODES
from tests.triton import rounding_shim
from tests.triton.red_zone import Guarded, access_log

pytestmark = [
    pytest.mark.interp,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy computes lanes that a mask drops
]
rounding_shim.install()
inf = math.inf
CASES = [(m, "forward") for m in MODES] + [("tail", "reverse"), ("renormalized-both", "reverse")]
cases = pytest.mark.parametrize(("mode", "direction"), CASES, ids=[f"{m}-{d}" for m, d in CASES])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def problem(n, v, k, spread=4.0):
    """Logits, ids with padding and one row of it, teacher log-probabilities and tail."""
    z, full = torch.randn(n, v) * spread, torch.log_softmax(torch.randn(n, v, dtype=torch.float64) * 3, 1)
    ids = torch.rand(n, v).argsort(1)[:, :k].contiguous()
    if n > 2 and k > 1:
        ids[0, 1], ids[1] = -1, -1
    at = torch.where(ids < 0, v, ids)
    padded = torch.cat([full, torch.full((n, 1), -inf, dtype=torch.float64)], 1)
    logp = padded.gather(1, at)
    tail = padded.scatter(1, at, -inf).logsumexp(1)
    return z, ids, logp, tail


def run(z, ids, logp, impl, upstream, **options):
    x = z.clone().requires_grad_()
    loss = ops.sparse_kl(x, ids, logp, impl=impl, **options)
    (g,) = torch.autograd.grad(loss, x, upstream.to(loss.dtype).expand_as(loss))
    return loss.detach().double(), g.double()


def assert_no_worse_than_torch(z, ids, logp, upstream, **options):
    truth = run(z.double(), ids, logp, "reference", upstream, **options)
    ours, plain = (run(z, ids, logp, impl, upstream, **options) for impl in ("triton", "reference"))
    for want, found, torchs in zip(truth, ours, plain, strict=True):
        assert found.shape == want.shape
        if want.numel():
            allowed = 2 * (torchs - want).abs().max() + 1e-6 * want.abs().max().clamp_min(1)
            assert (found - want).abs().max() <= allowed
    return ours


@cases
@dtypes
def test_error_is_at_most_twice_torchs(mode, direction, dtype):
    z, ids, logp, tail = problem(4, 101, 7)
    options = {"mode": mode, "direction": direction, "temperature": 1.5}
    assert_no_worse_than_torch(z.to(dtype), ids, logp, torch.tensor(0.3), tail_logp_N=tail, **options)
    assert_no_worse_than_torch(z.to(dtype), ids, logp, torch.linspace(-1, 2, 4), reduction="none", **options)


SHAPES = {
    "one column": (2, 1, 1),
    "support is everything": (3, 5, 5),
    "no support": (2, 64, 0),
    "shorter than a block": (3, 31, 4),
    "ends with a block": (2, 96, 3),
    "all padding but one": (4, 70, 2),
    "no rows": (0, 9, 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    ("mode", "direction"), [("tail", "forward"), ("tail", "reverse"), ("renormalized-both", "forward")]
)
def test_awkward_shapes(shape, mode, direction):
    z, ids, logp, _ = problem(*shape)
    assert_no_worse_than_torch(z, ids, logp, torch.tensor(1.0), mode=mode, direction=direction)


@pytest.mark.parametrize("qbar", [1e-2, 1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_small_tails_keep_their_digits(qbar, direction):
    z, ids, _, _ = problem(3, 90, 4, spread=1.0)
    ids, z = ids.clamp_min(0), z.double()
    ids[0], ids[1] = torch.arange(4), torch.arange(40, 44)
    rest = z.scatter(1, ids, -inf).logsumexp(1, keepdim=True)
    lift = rest - z.gather(1, ids).logsumexp(1, keepdim=True) - math.log(qbar)
    z = z.scatter(1, ids, z.gather(1, ids) + lift).float()
    logp = torch.log_softmax(torch.randn(3, 5, dtype=torch.float64), 1)
    options = {"tail_logp_N": logp[:, 4], "direction": direction, "reduction": "sum"}
    upstream = torch.tensor(1.0)
    want = run(z.double(), ids, logp[:, :4], "reference", upstream, **options)
    found = run(z, ids, logp[:, :4], "triton", upstream, **options)
    torch.testing.assert_close(found[0], want[0], rtol=1e-6, atol=0)
    off = torch.ones(3, 90, dtype=torch.bool).scatter(1, ids, False)
    torch.testing.assert_close(found[1][off], want[1][off], rtol=4e-6, atol=0)
    torch.testing.assert_close(found[1], want[1], rtol=4e-6, atol=1e-6)


@cases
def test_hostile_rows(mode, direction):
    """-inf, 1e4, teachers of probability 0 and 1, students of probability 0: as the reference, value and gradient."""
    z, ids, logp, _ = problem(8, 50, 3)
    ids = torch.tensor([[1, 2, 7]]).repeat(8, 1)
    ids[5] = -1
    z[0, 9:], z[1], z[2] = -inf, -inf, z[2] * 1e4
    z[3, 2] = -inf  # p > 0, q = 0
    z[4, 1] = 1e4
    z[6] = torch.full((50,), -inf).scatter(0, ids[6], z[6, :3])  # no complement
    logp[4] = torch.tensor([0.0, -inf, -inf])
    options = {"mode": mode, "direction": direction, "reduction": "none"}
    upstream = torch.ones(8)
    want, found = (
        run(z.to(d), ids, logp, i, upstream, **options)
        for d, i in ((torch.float64, "reference"), (torch.float32, "triton"))
    )
    assert not found[0].isnan().any() and not found[1].isnan().any()
    assert torch.equal(found[0].isinf(), want[0].isinf())
    finite = want[0].isfinite()
    torch.testing.assert_close(found[0][finite], want[0][finite], rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(found[1], want[1], rtol=4e-6, atol=2e-6)


def test_nan_in_is_nan_out():
    z, ids, logp, _ = problem(3, 50, 3)
    ids = torch.tensor([[1, 2, 7]]).repeat(3, 1)
    z[0, 33], z[1, 2] = math.nan, math.nan
    loss, g = run(z, ids, logp, "triton", torch.ones(3), reduction="none")
    assert loss[:2].isnan().all() and g[:2].isnan().any(1).all()
    assert loss[2].isfinite() and g[2].isfinite().all()


def test_gradient_may_overwrite_the_logits():
    """In red zones, with a row stride of its own; then over the logits, with the same bits."""
    z, ids, logp, tail = problem(4, 101, 7)
    for dtype in (torch.float32, torch.bfloat16):
        zones = Guarded()
        x, dz = zones.put(z.to(dtype)), zones.put(torch.zeros(4, 101, dtype=dtype))
        loss, again = torch.empty(4, dtype=torch.float64), torch.empty(4, dtype=torch.float64)
        upstream = torch.tensor([1.0, -2.0, 0.5, 1e-3], dtype=torch.float64)
        rest = (ids.int(), logp, tail, 0, False, 1.5, 0.25, upstream)
        by_triton.rows_into(x, *rest, loss, dz)
        assert torch.equal(x, z.to(dtype)) and zones.intact() and dz.abs().max() > 0
        plain = torch.empty(4, 101, dtype=dtype)  # another row stride than the logits'
        by_triton.rows_into(x, *rest, again, plain)
        assert torch.equal(plain, dz) and torch.equal(again, loss)
        by_triton.rows_into(x, *rest, again, None)
        assert torch.equal(again, loss)
        by_triton.rows_into(x, *rest, again, x)
        assert torch.equal(x, dz) and torch.equal(again, loss) and zones.intact()


@cases
def test_finite_difference_and_second_derivative(mode, direction):
    z, ids, logp, tail = problem(3, 29, 4, spread=1.5)
    along = torch.randn(z.shape)

    def loss(x, impl="triton"):
        return ops.sparse_kl(x, ids, logp, tail_logp_N=tail, mode=mode, direction=direction, impl=impl)

    x = z.clone().requires_grad_()
    (g,) = torch.autograd.grad(loss(x), x)
    h = 2.0**-6
    slope = (loss(z + h * along).double() - loss(z - h * along).double()) / (2 * h)
    assert abs(slope - (g * along).sum()) <= 2e-3 * (g * along).abs().sum()

    def second(logits, impl):
        x = logits.clone().requires_grad_()
        (first,) = torch.autograd.grad(loss(x, impl), x, create_graph=True)
        return torch.autograd.grad((first.double() ** 2).sum(), x)[0].double()

    want = second(z.double(), "reference")
    assert (second(z, "triton") - want).abs().max() <= 2e-5 * want.abs().max()


def test_zero_where_student_equals_teacher():
    z, ids, _, _ = problem(3, 40, 5)
    ids = ids.clamp_min(0)
    ids[1] = torch.arange(5)
    ids[0] = torch.arange(7, 12)
    logq = torch.log_softmax(z.double(), 1)
    tail = logq.scatter(1, ids, -inf).logsumexp(1)
    loss, g = run(z, ids, logq.gather(1, ids), "triton", torch.ones(3), tail_logp_N=tail, reduction="none")
    assert loss.abs().max() < 1e-6 and g.abs().max() < 1e-6


def test_opcheck_and_what_is_refused():
    z, ids, logp, tail = problem(3, 20, 3)
    call = (z, ids, logp, tail, "tail", False, 1.5, 0.2, tail.clone(), True, "triton")
    torch.library.opcheck(sparse_kl_rows_op, call)
    torch.library.opcheck(sparse_kl_rows_op, (z, ids, logp, None, "weights", False, 1.0, 1.0, None, False, "triton"))
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. 19"):
        ops.sparse_kl(z, ids + 20, logp, impl="triton")
    wide = torch.arange(4097)[None]
    with pytest.raises(RuntimeError, match="at most 4096 support entries per row; got 4097"):
        ops.sparse_kl(torch.zeros(1, 5000), wide, torch.full((1, 4097), -9.0), impl="triton")
    ops.sparse_kl(z, ids, logp)
    assert ops.chosen()["sparse_kl"] != "triton"


def test_programs_touch_nothing_of_each_other():
    z, ids, logp, tail = problem(4, 50, 5)
    loss = torch.empty(4, dtype=torch.float64)
    with access_log() as log:
        by_triton.rows_into(z, ids, logp, tail, 0, False, 1.0, 1.0, None, loss, z)
    assert log.stores and not log.clashes, log.clashes[:3]
