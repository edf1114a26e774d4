"""Lane `interp`: Triton's fused `linear_topk_logits` on a CPU."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops.head import Head
from distill_core.ops.support_logits.chunked import LinearSource
from distill_core.ops.topk_logits import triton_head
from tests.triton import rounding_shim
from tests.triton.red_zone import Guarded, access_log

pytestmark = [
    pytest.mark.interp,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy computes lanes that a mask drops
]
rounding_shim.install()
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def whole_numbers(*shape):
    """Products of small whole numbers are exact in every order of summation: values and ties can be compared."""
    return torch.randint(-3, 4, shape).float()


SHAPES = {  # N, V, D, k, temperatures
    "odd everything": (19, 101, 19, 7, (1.0, 2.5)),
    "one tile": (5, 20, 16, 3, (1.0,)),
    "everything is kept": (3, 33, 8, 16, (1.0,)),
    "as many as there are": (3, 9, 8, 9, (2.0,)),
    "one entry": (17, 64, 33, 1, (0.5,)),
    "one column": (2, 1, 4, 1, (1.0,)),
    "no rows": (0, 9, 4, 2, (1.0,)),
}


@dtypes
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_exact_with_ties_in_red_zones(shape, dtype, monkeypatch):
    n, v, d, k, temperatures = shape
    zones, calls = Guarded(), []
    fused = triton_head.fused_into
    monkeypatch.setattr(triton_head, "fused_into", lambda *a: (calls.append(k), fused(*a)))
    h = whole_numbers(n, d).to(dtype)
    h, w = zones.put(h) if n else h, zones.put(whole_numbers(v, d).to(dtype))
    bias = zones.put(whole_numbers(v).to(dtype))
    found = ops.linear_topk_logits(h, w, k, temperatures=temperatures, bias=bias, logit_scale=0.25, impl="triton")
    want = ops.linear_topk_logits(
        h.double(), w.double(), k, temperatures=temperatures, bias=bias.double(), logit_scale=0.25, impl="reference"
    )
    assert calls == [k] and zones.intact()
    assert torch.equal(found.ids_NK, want.ids_NK) and torch.equal(found.logits_NK.double(), want.logits_NK)
    torch.testing.assert_close(found.tail_NT.double(), want.tail_NT, rtol=1e-6, atol=1e-6)


@dtypes
def test_random_heads_are_as_good_as_torch(dtype):
    h, w = (torch.randn(9, 24) * 2).to(dtype), torch.randn(77, 24).to(dtype)
    options = {"temperatures": (1.0, 3.0), "softcap": 20.0, "valid_vocab": 70}
    found, plain = (ops.linear_topk_logits(h, w, 6, impl=impl, **options) for impl in ("triton", "reference"))
    truth = ops.linear_topk_logits(h.double(), w.double(), 6, **options)
    assert torch.equal(found.ids_NK, truth.ids_NK)
    for a, b, c in ((getattr(x, f) for x in (found, plain, truth)) for f in ("logits_NK", "tail_NT")):
        assert (a - c).abs().max() <= 2 * (b - c).abs().max() + 2e-6


def test_hostile_heads():
    """Constant rows, entries that are impossible, a tail of nothing, logits of 1e4, tails of 1e-8, NaN."""
    h = torch.cat([torch.zeros(1, 8), whole_numbers(5, 8)])
    h[4] *= 1e3
    w, bias = whole_numbers(70, 8), torch.zeros(70)
    bias[torch.arange(70) % 3 == 0] = -torch.inf
    for b in (None, bias, torch.full((70,), -torch.inf), torch.where(torch.arange(70) == 40, 18.0, 0.0)):
        found = ops.linear_topk_logits(h, w, 5, bias=b, impl="triton")
        want = ops.linear_topk_logits(h.double(), w.double(), 5, bias=None if b is None else b.double())
        assert torch.equal(found.ids_NK, want.ids_NK) and torch.equal(found.logits_NK.double(), want.logits_NK)
        torch.testing.assert_close(found.tail_NT.double(), want.tail_NT, rtol=1e-6, atol=1e-6)
    w[33] = torch.nan
    found = ops.linear_topk_logits(h, w, 2, impl="triton")
    assert (found.ids_NK[:, 0] == 33).all() and found.logits_NK[:, 0].isnan().all()
    assert found.tail_NT.isfinite().all()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_infinite_heads(k):
    """+inf left over makes the tail +inf, NaN left over makes it NaN."""
    h, w, bias = whole_numbers(3, 8), whole_numbers(70, 8), torch.zeros(70)
    bias[[3, 40, 69]] = torch.inf
    for nan in (False, True):
        if nan:
            bias[[5, 41]] = torch.nan
        found = ops.linear_topk_logits(h, w, k, bias=bias, impl="triton")
        first = [5, 41, 3, 40, 69] if nan else [3, 40, 69]
        assert found.ids_NK[:, : len(first)].tolist() == [first[:k]] * 3
        left = bias[first[k:]]
        if left.isnan().any():
            assert found.tail_NT.isnan().all()
        elif left.numel():
            assert found.tail_NT.isposinf().all()
        else:
            assert found.tail_NT.isfinite().all()


def test_which_schedule_serves_which_k(monkeypatch):
    """Up to 16 fused; above, chunks of logits and the row kernels, with the same result; above 256 refused."""
    h, w = whole_numbers(4, 8), whole_numbers(300, 8)
    used = []
    fused = triton_head.fused_into
    monkeypatch.setattr(triton_head, "fused_into", lambda *a: (used.append("fused"), fused(*a)))
    sixteen = ops.linear_topk_logits(h, w, triton_head.FUSED_K, impl="triton")
    more = ops.linear_topk_logits(h, w, triton_head.FUSED_K + 1, impl="triton")
    assert used == ["fused"]
    assert torch.equal(more.ids_NK[:, :16], sixteen.ids_NK)
    for op, call in (("linear_topk_logits", (h, w)), ("topk_logits", (h @ w.T,))):
        with pytest.raises(RuntimeError, match="the triton kernel keeps at most 256 entries per row; got k = 257"):
            getattr(ops, op)(*call, 257, impl="triton")
        assert getattr(ops, op)(*call, 257).ids_NK.shape == (4, 257)
        assert ops.chosen()[op] != "triton"


def test_opcheck_and_races():
    h, w = torch.randn(20, 8), torch.randn(50, 8)
    call = (h, w, None, 4, [1.0], None, 1.0, 45, "triton")
    torch.library.opcheck(torch.ops.distill_core.linear_topk_logits.default, call)
    torch.library.opcheck(torch.ops.distill_core.topk_logits.default, (h @ w.T, 4, [1.0], 45, "triton"))
    source = LinearSource(h, Head(w, None, None, 1.0, torch.float32))
    out = torch.empty(20, 4, dtype=torch.int64), torch.empty(20, 4), torch.empty(20, 1)
    # The second kernel reads what the first wrote: only writes may not meet.
    with access_log() as log:
        triton_head.fused_into(source, 4, [1.0], *out)
    assert log.stores and not [c for c in log.clashes if c[0] == "write"]
