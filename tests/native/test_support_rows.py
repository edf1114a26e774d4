"""The row kernels of `support_logits` and `sparse_kl`: threads, instruction sets, strides, the tile, NaN."""

from __future__ import annotations

import pytest
import torch

from distill_core import ops
from distill_core.ops import cpu_library
from distill_core.ops.support_logits import chunked, native
from tests.ops.support_heads import EXTRAS, HEADS

pytestmark = pytest.mark.native
heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


@pytest.fixture(autouse=True)
def _ready():
    can_run, why = cpu_library.available()
    assert can_run, why
    torch.manual_seed(0)


def problem(n, v, k, softcap=None):
    z = torch.randn(n, v) * 4
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    ids = torch.rand(n, v).argsort(1)[:, :k].contiguous()
    labels = torch.randint(0, v, (n,))
    if n > 4 and k:
        ids[0, 0], ids[2], labels[1], labels[4] = -1, -1, -100, ids[4, 0]
    return z, ids, labels


def walk(z, ids, labels, head, impl, restore, rows=None):
    """Statistics and gradient, chunk by chunk, as the head's schedule calls the tile."""
    softcap, scale, temperatures, extras = head
    request = chunked.Request(ids, labels, temperatures, extras, softcap, scale, impl)
    fields, gradients = [], []
    for first in range(0, len(z), rows or len(z)):
        cut = slice(first, min(len(z), first + (rows or len(z))))
        tile = request.tile(z[cut].clone(), cut)
        found = tile.statistics()
        if restore:
            tile = request.tile(z[cut].clone(), cut)
            tile.restore(found.tail_NT)
        up = []
        for i, x in enumerate(found[:5]):
            g = torch.Generator().manual_seed(i)
            whole = torch.randn((len(z), *x.shape[1:]), generator=g, dtype=torch.float64).to(z.dtype)
            up.append(whole[cut] if x.numel() else None)
        gradients.append(tile.gradient_(chunked.Cotangents(*up)))
        fields.append(found)
    return [torch.cat(x) for x in zip(*fields, strict=True)] + [torch.cat(gradients)]


@heads
@pytest.mark.parametrize("v", [1, 37, 2048, 4999])
@pytest.mark.parametrize("restore", [False, True])
def test_tile_error_is_at_most_twice_the_reference_tiles(head, v, restore):
    z, ids, labels = problem(7, v, min(v, 5), head[0])
    truth = walk(z.double(), ids, labels, head, "reference", restore)
    plain = walk(z, ids, labels, head, "reference", restore)
    ours = walk(z, ids, labels, head, "cpu", restore)
    for want, torchs, found in zip(truth, plain, ours, strict=True):
        assert torch.equal(want.isfinite(), found.isfinite())
        real = want.isfinite()
        if real.any():
            error, theirs = ((x[real].double() - want[real]).abs().max() for x in (found, torchs))
            assert error <= 2 * theirs + 1e-6 * want[real].abs().max().clamp_min(0.1)


@heads
def test_chunks_and_threads_change_no_bit(head):
    z, ids, labels = problem(23, 5003, 9, head[0])
    want = walk(z, ids, labels, head, "cpu", False)
    threads = torch.get_num_threads()
    try:
        for n_threads, rows in ((1, 1), (2, 23), (2, 5), (3, 8)):
            torch.set_num_threads(n_threads)
            for a, b in zip(want, walk(z, ids, labels, head, "cpu", False, rows), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sparse_kl_threads_and_strides_change_no_bit(dtype):
    z, ids, _ = problem(23, 5003, 9)
    z, logp = z.to(dtype), torch.log_softmax(torch.randn(23, 9), 1) - 0.2
    wide = torch.full((23, 5050), 7.0, dtype=dtype)
    wide[:, 3:5006] = z
    every_second = torch.stack([z, z + 1], 2)[..., 0]
    threads, results = torch.get_num_threads(), []
    try:
        for n_threads, logits in ((1, z), (2, z), (2, wide[:, 3:5006]), (2, every_second), (1, z.T.contiguous().T)):
            torch.set_num_threads(n_threads)
            x = logits.detach().requires_grad_()
            loss = ops.sparse_kl(x, ids, logp, reduction="none", impl="cpu")
            s = ops.support_logits(x, ids.int(), impl="cpu")
            results.append((loss, *torch.autograd.grad(loss.sum(), x), s.tail_NT, s.support_NK))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", cpu_library.DTYPES, ids=str)
@pytest.mark.parametrize("place", ["support", "rest", "row"])
def test_nan_in_gives_nan_out_in_its_row_alone(dtype, place):
    z, ids, _ = problem(6, 300, 4)
    at = {"support": ids[3, 0], "rest": min(set(range(300)) - set(ids[3].tolist())), "row": slice(None)}[place]
    z[3, at] = float("nan")
    x = z.to(dtype).requires_grad_()
    loss = ops.sparse_kl(x, ids.clamp_min(-1), torch.full((6, 4), -2.0), reduction="none", impl="cpu")
    s = ops.support_logits(x, ids, extras=EXTRAS, impl="cpu")
    (g,) = torch.autograd.grad(loss.sum(), x)
    nan = torch.arange(6) == 3
    for per_row in (loss, s.logsumexp(), s.mean_N, s.entropy_NT[:, 0], g.sum(1)):
        assert torch.equal(per_row.isnan(), nan)
    assert torch.equal(s.top1_N, x.argmax(1))


def test_top1_takes_the_lowest_of_equals():
    z = torch.zeros(3, 5000)
    z[0, [17, 4000]] = 2.0
    z[2] = float("-inf")
    s = ops.support_logits(z, torch.zeros(3, 0, dtype=torch.int64), extras=("top1",), impl="cpu")
    assert s.top1_N.tolist() == [17, 0, 0]


ACCURACY = """
import torch
from distill_core import ops
torch.manual_seed(0)
z = torch.randn(9, 5003) * 4
ids = torch.rand(9, 5003).argsort(1)[:, :40]
logp = torch.log_softmax(torch.randn(9, 40, dtype=torch.float64), 1) - 0.3
def run(x, impl):
    x = x.clone().requires_grad_()
    loss = ops.sparse_kl(x, ids, logp, reduction="none", impl=impl)
    s = ops.support_logits(x, ids, temperatures=(1.0, 2.0), extras=("mean", "entropy"), impl=impl)
    mix = loss.sum() + s.tail_NT.sum() + s.entropy_NT.sum() + s.mean_N.sum()
    return (loss, s.tail_NT, s.entropy_NT, s.mean_N, *torch.autograd.grad(mix, x))
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    x = z.to(dtype)
    for want, ours, plain in zip(run(x.double(), "reference"), run(x, "cpu"), run(x, "reference")):
        error, theirs = ((f.double() - want).abs().max() for f in (ours, plain))
        assert error <= 2 * theirs + 1e-6, (dtype, error, theirs)
"""


def test_every_instruction_set_is_as_accurate_as_torch(on_isa):
    on_isa(ACCURACY)


@heads
@pytest.mark.parametrize("impl", ["reference", "cpu"])
def test_statistics_without_a_gradient_are_the_same(impl, head):
    softcap, scale, temperatures, extras = head
    z, ids, labels = problem(9, 2500, 7, softcap)
    request = chunked.Request(ids, labels, temperatures, extras, softcap, scale, impl)
    with_gradient = request.tile(z.clone(), slice(0, 9)).statistics()
    tile = z.clone()
    without = request.tile(tile, slice(0, 9)).statistics(gradient=False)
    assert all(torch.equal(a, b) for a, b in zip(with_gradient, without, strict=True))
    assert impl == "reference" or torch.equal(tile, z)


def test_a_pass_without_gradients_writes_no_exponentials(monkeypatch):
    """The forward pass of the fused head, and losses under no_grad."""
    monkeypatch.setattr(native, "new_weights", lambda z: pytest.fail("exponentials"))
    hidden, weight, ids = torch.randn(5, 40), torch.randn(101, 40), torch.tensor([[3]]).expand(5, 1)
    ops.linear_support_logits(hidden, weight, ids, impl="cpu")
    ops.linear_sparse_kl(hidden, weight, ids, torch.full((5, 1), -0.5), impl="cpu")
