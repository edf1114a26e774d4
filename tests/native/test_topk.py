"""The top-k kernel in each instruction set: hard rows against fp64, strides, thread counts, rows with NaN."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.native

START = """
import torch
from distill_core import ops
inf, nan = torch.inf, torch.nan
torch.manual_seed(0)

def both(z, k, temperatures=(1.0,), **options):
    own = ops.topk_logits(z, k, temperatures=temperatures, impl="cpu", **options)
    return own, ops.topk_logits(z.double(), k, temperatures=temperatures, impl="reference", **options)

def same_choice(own, exact):
    assert torch.equal(own.ids_NK, exact.ids_NK), (own.ids_NK, exact.ids_NK)
    assert torch.equal(own.logits_NK.double(), exact.logits_NK)
"""

HARD_ROWS = """
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

def rows(v):
    up = torch.arange(v, dtype=torch.float64)
    yield "random", torch.randn(3, v) * 5
    yield "constant", torch.full((1, v), -3.0)
    yield "ascending", up[None] * 1e-3
    yield "descending", -up[None] * 1e-3
    yield "steep", up[None] * 0.5
    yield "ties", torch.randint(0, 3, (2, v)).double()
    yield "one apart", torch.cat([torch.zeros(1, v - 1), torch.full((1, 1), 200.0)], 1)
    yield "far below", torch.cat([torch.randn(1, v // 2 + 1) - 300, torch.randn(1, v - v // 2 - 1)], 1)
    yield "impossible start", torch.cat([torch.full((1, v // 2), -inf), torch.randn(1, v - v // 2)], 1)
    yield "all impossible", torch.full((1, v), -inf)
    yield "huge", torch.randn(1, v) * 1e4
    yield "few values above many ties", torch.where(torch.rand(1, v) < 0.003, torch.randn(1, v).abs() + 1, 0.5)
    yield "signed zeros", torch.where(torch.rand(1, v) < 0.5, 0.0, -0.0)

sizes = [(v, k) for v in (1, 2, 64, 300, 3001) for k in sorted({0, 1, min(v, 7), min(v, 64), v // 2, v})]
# k blocks are searched up to k = v / 96; keys are sorted in other ways from 161 and from 512 on
sizes += [(8200, 64), (20_003, 208), (20_003, 209), (50_001, 520), (50_001, 521)]
for v, k in sizes:
    for dtype in DTYPES:
        for name, z in rows(v):
            z = z.to(dtype)
            temperatures = (1.0, 2.5, 0.1)
            own, exact = both(z, k, temperatures)
            same_choice(own, exact)
            # torch in fp32 on the same numbers; a result is also rounded to fp32 once
            theirs = ops.topk_logits(z.float(), k, temperatures=temperatures, impl="reference").tail_NT.double()
            lost = exact.tail_NT.isinf()
            assert torch.equal(own.tail_NT.double()[lost], exact.tail_NT[lost]), (name, v, k)
            error = (own.tail_NT.double() - exact.tail_NT)[~lost].abs()
            allowed = 2 * (theirs - exact.tail_NT)[~lost].abs() + 1e-6 + 1.2e-7 * exact.tail_NT[~lost].abs()
            assert (error <= allowed).all(), (name, v, k, dtype, error.max(), allowed.min())
"""

STRIDES_AND_THREADS = """
wide = torch.randn(9, 4000)
plain, exact = both(wide[:, 100:3100].contiguous(), 20, (1.0, 2.0))
same_choice(plain, exact)
for z in (wide[:, 100:3100], wide[:, 100:3100].t().contiguous().t(), wide[:, 100:]):
    found = ops.topk_logits(z, 20, temperatures=(1.0, 2.0), valid_vocab=3000, impl="cpu")
    assert torch.equal(found.ids_NK, plain.ids_NK) and torch.equal(found.tail_NT, plain.tail_NT)
every_second = wide[::2, 100:3100]
assert torch.equal(ops.topk_logits(every_second, 20, impl="cpu").tail_NT, plain.tail_NT[::2, :1])
one = wide[:1].expand(4, 4000)
alone = ops.topk_logits(wide[:1], 3, impl="cpu").ids_NK
assert torch.equal(ops.topk_logits(one, 3, impl="cpu").ids_NK, alone.expand(4, 3))
many = torch.randn(40, 20001) * 4
results = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    results.append(ops.topk_logits(many, 64, temperatures=(1.0, 4.0), impl="cpu"))
results.append(ops.topk_logits(many[7:8], 64, temperatures=(1.0, 4.0), impl="cpu"))
for other in results[1:3]:
    assert torch.equal(other.tail_NT, results[0].tail_NT) and torch.equal(other.ids_NK, results[0].ids_NK)
assert torch.equal(results[3].tail_NT, results[0].tail_NT[7:8])
"""

STRANGE_ROWS = """
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for v in (5, 700):
        z = torch.randn(5, v).to(dtype)
        z[0, 3] = nan
        z[1, 1], z[1, 4] = inf, nan
        z[2, 2] = inf
        z[3] = nan
        z[4, 4] = -nan
        for k in (0, 1, 3):
            found = ops.topk_logits(z, k, impl="cpu")
            if k:
                assert found.ids_NK[:, 0].tolist() == [3, 4, 2, 0, 4]
                assert found.logits_NK[[0, 1, 3, 4], 0].isnan().all() and found.logits_NK[2, 0] == inf
                assert found.ids_NK[3].tolist() == list(range(k))
                assert found.log_probs()[0][[0, 1, 3, 4]].isnan().all()
            # what is left: NaN in row 3, +inf in row 1 under k = 1, numbers elsewhere
            if k == 0:
                assert found.tail_NT[[0, 1, 3, 4]].isnan().all() and found.tail_NT[2] == inf
            if k == 1:
                assert found.tail_NT[1] == inf and found.tail_NT[3].isnan()
                assert found.tail_NT[[0, 2, 4]].isfinite().all()
            clean = z[0].float().clone()
            clean[found.ids_NK[0]] = -inf
            if k:
                torch.testing.assert_close(found.tail_NT[0, 0], clean.logsumexp(0))
"""


@pytest.mark.parametrize("code", [HARD_ROWS, STRIDES_AND_THREADS, STRANGE_ROWS], ids=["hard", "strides", "strange"])
def test_top_k(on_isa, code):
    on_isa(START + code)


def test_a_wrong_shape_is_refused_by_the_binding(on_isa):
    on_isa(
        START
        + """
import distill_core.ops.topk_logits.native
from distill_core.ops import cpu_library
assert cpu_library.available()[0], cpu_library.available()[1]
double = torch.float64
values, tails = torch.zeros(2, 1), torch.zeros(2, 1)
good = [torch.zeros(2, 3), 1, torch.ones(1, dtype=double), torch.zeros(2, 1, dtype=torch.int64), values, tails]
torch.ops.distill_core_cpu.topk(*good)
for place, wrong in ((0, torch.zeros(2, 3).double()), (1, 4), (2, torch.ones(2, dtype=double)), (3, torch.zeros(2, 1))):
    bad = list(good)
    bad[place] = wrong
    try:
        torch.ops.distill_core_cpu.topk(*bad)
    except RuntimeError:
        continue
    raise SystemExit(f"argument {place} was not refused")
"""
    )
