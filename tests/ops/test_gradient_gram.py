"""`gradient_gram`: both schedules against per-sample gradients by autograd, the choice between them, memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile

from distill_core import ops
from distill_core.ops.gradient_gram import gradient_gram_op, reference


def make(samples_a=4, samples_b=3, s=5, t=2, d=6, o=7, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((samples_a, s, d), (samples_a, s, o), (samples_b, t, d), (samples_b, t, o))
    return [torch.randn(shape, generator=g, dtype=torch.float64).to(dtype) for shape in shapes]


def by_definition(acts_a, grads_a, acts_b, grads_b):
    """Every sample's weight gradient, in fp64."""
    flat_a = torch.einsum("bto,btd->bod", grads_a.double(), acts_a.double()).flatten(1)
    flat_b = torch.einsum("bto,btd->bod", grads_b.double(), acts_b.double()).flatten(1)
    return flat_a @ flat_b.T


def test_equals_autograd_of_each_sample():
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 7, bias=False).double()
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    flat, acts, grads = [], [], []
    for sample in x:
        out = layer(sample)
        loss = out.square().sum() + out.sin().sum()
        by_out, by_weight = torch.autograd.grad(loss, (out, layer.weight))
        flat.append(by_weight.reshape(-1))
        acts.append(sample)
        grads.append(by_out)
    a, b, g = torch.stack(acts), torch.stack(grads), torch.stack(flat)
    torch.testing.assert_close(ops.gradient_gram(a, b, a, b), g @ g.T)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(0, 6)] * 4, *[st.integers(0, 20)] * 2),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    schedule=st.sampled_from(["auto", "ghost", "formed"]),
    tile=st.sampled_from([1, 7, 64, 2**20]),
    strided=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_shape_dtype_and_tile(sizes, dtype, schedule, tile, strided, seed):
    tensors = make(*sizes, dtype=dtype, seed=seed)
    if strided:
        tensors = [x.transpose(0, 2).contiguous().transpose(0, 2) for x in tensors]
    kept, reference.TILE_NUMBERS = reference.TILE_NUMBERS, tile
    try:
        found = ops.gradient_gram(*tensors) if schedule == "auto" else getattr(reference, schedule)(*tensors)
    finally:
        reference.TILE_NUMBERS = kept
    want = by_definition(*tensors)
    assert found.shape == (sizes[0], sizes[1])
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("t", [1, 8, 64])
def test_error_is_within_twice_the_error_of_torch(t):
    tensors = [x * 10 for x in make(6, 6, t, t, 128, 96, dtype=torch.float32)]
    want = by_definition(*tensors)
    plain = torch.einsum("bto,btd->bod", tensors[1], tensors[0]).flatten(1)
    other = torch.einsum("bto,btd->bod", tensors[3], tensors[2]).flatten(1)
    allowed = 2 * ((plain @ other.T).double() - want).abs().max() + 1e-7 * want.abs().max()
    for run in (reference.ghost, reference.formed):
        assert (run(*tensors).double() - want).abs().max() <= allowed


@pytest.mark.parametrize(
    ("samples", "t", "width", "cheaper"),
    [(1000, 8, 1024, "ghost"), (1000, 64, 1024, "formed"), (1, 64, 1024, "ghost"), (1, 512, 256, "formed")],
)
def test_the_schedule_follows_the_cost(samples, t, width, cheaper):
    """KERNELS.md: large Gram matrices of a 1024 x 1024 layer are cheaper by ghosts for T < 23, one pair for T < 341."""
    x = torch.zeros(1, 1, 1).expand(samples, t, width)
    assert reference.schedule(x, x, x, x) == cheaper


def peak_numbers(run, tensors):
    """Most fp32 numbers alive at once beyond what was there before, from the profiler's memory events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run(*tensors)
    alive = peak = 0
    for event in prof.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    assert peak > 0
    return peak // 4


@pytest.mark.parametrize("run", [reference.ghost, reference.formed], ids=["ghost", "formed"])
def test_memory_is_the_result_and_tiles(run):
    """24 samples of a 512 x 512 layer would hold 24 x 2^18 = 6.3 M numbers of gradients per side; all pairs of
    positions 24 x 24 x 128 x 128 = 9.4 M."""
    tensors = make(24, 24, 128, 128, 512, 512, dtype=torch.float32)
    kept, reference.TILE_NUMBERS = reference.TILE_NUMBERS, 2**16
    try:
        assert peak_numbers(run, tensors) < 24 * 24 + 8 * 2**16
    finally:
        reference.TILE_NUMBERS = kept


def test_nan_is_not_hidden():
    tensors = make()
    tensors[0][1, 2, 3] = float("nan")
    found = ops.gradient_gram(*tensors)
    assert found[1].isnan().all()
    assert found[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize(
    ("argument", "value", "error", "sentence"),
    [
        (0, torch.zeros(4, 6), ValueError, r"acts_a must be \[samples, positions, width\].*unsqueeze"),
        (0, torch.zeros(4, 5, 6, dtype=torch.int64), TypeError, "floating point"),
        (0, [1.0], TypeError, "must be a torch.Tensor; got list"),
        (1, torch.zeros(4, 4, 7), ValueError, "samples and positions "),
        (2, torch.zeros(3, 2, 5), ValueError, "differ in the last dimension"),
        (3, torch.zeros(3, 2, 8), ValueError, "differ in the last dimension"),
    ],
)
def test_wrong_arguments(argument, value, error, sentence):
    tensors = make(dtype=torch.float32)
    tensors[argument] = value
    with pytest.raises(error, match=sentence):
        ops.gradient_gram(*tensors)


def test_an_explicit_impl_that_is_not_there_raises():
    with pytest.raises(RuntimeError, match="cannot run"):
        ops.gradient_gram(*make(), impl="triton")


def test_opcheck():
    assert set(torch.library.opcheck(gradient_gram_op, (*make(), "reference")).values()) == {"SUCCESS"}


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiles_to_one_graph(dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(ops.gradient_gram, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n in (4, 6) if dynamic else (4,):
        tensors = make(n, n + 1)
        torch.testing.assert_close(compiled(*tensors), ops.gradient_gram(*tensors))
