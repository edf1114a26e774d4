"""Lane `interp`: Triton's `sample_support` on a CPU, its ids equal to the reference's."""

from __future__ import annotations

import math

import pytest
import torch
import triton
import triton.language as tl

from distill_core import ops
from distill_core.ops import triton_configs
from distill_core.ops.sample_support import counter_random
from distill_core.ops.sample_support import triton as by_triton
from distill_core.ops.sample_support.row_kernels import uniform
from distill_core.ops.triton_configs import CHIPS, Sample
from tests.triton import rounding_shim
from tests.triton.red_zone import Guarded, access_log

pytestmark = [
    pytest.mark.interp,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy computes lanes that a mask drops
]
rounding_shim.install()
inf = math.inf
METHODS = ("threshold", "multinomial")
methods = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def same_as_reference(z, k, method, **options):
    found = ops.sample_support(z, k, method=method, impl="triton", **options)
    want = ops.sample_support(z.float(), k, method=method, impl="reference", **options)
    assert torch.equal(found[0], want[0])
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], want[1], rtol=1.2e-7, atol=0, equal_nan=True)
    return found


@triton.jit
def _uniforms(seed_ptr, keys_ptr, out_ptr, M: tl.constexpr):
    row = tl.program_id(0)
    draw = tl.arange(0, M).to(tl.int64) + 1
    tl.store(out_ptr + row * M + draw - 1, uniform(tl.load(seed_ptr), tl.load(keys_ptr + row), draw))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 123456789012345])
def test_random_numbers_equal_the_references_bit_for_bit(seed):
    keys = torch.cat([torch.tensor([0, 1, -1, 2**63 - 1, -(2**63)]), torch.randint(-(2**63), 2**63 - 1, (4,))])
    found = torch.empty(9, 16, dtype=torch.float64)
    _uniforms[(9,)](torch.tensor([seed]), keys, found, M=16)
    assert torch.equal(found, counter_random.uniform(seed, keys, 16))


SHAPES = {  # N, V, k, spread, temperature
    "flat": (3, 101, 7, 0.0, 1.0),
    "random": (4, 101, 8, 1.0, 1.0),
    "warm": (3, 77, 9, 6.0, 2.5),
    "peaked": (4, 67, 5, 30.0, 1.0),
    "everything": (3, 9, 9, 2.0, 1.0),
    "more than there is": (2, 4, 6, 2.0, 1.0),
    "one entry": (3, 40, 1, 2.0, 0.7),
    "one column": (2, 1, 1, 1.0, 1.0),
    "no rows": (0, 9, 3, 1.0, 1.0),
    "nothing asked for": (2, 9, 0, 1.0, 1.0),
}


@methods
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_ids_equal_the_references(shape, method, dtype):
    n, v, k, spread, temperature = shape
    zones = Guarded()
    z = (torch.randn(n, v) * spread).to(dtype)
    z = zones.put(z) if n else z
    keys = torch.randint(-(2**63), 2**63 - 1, (n,))
    same_as_reference(z, k, method, temperature=temperature, seed=7, row_keys_N=keys)
    assert zones.intact()


@methods
def test_outputs_stay_inside_their_red_zones(method):
    z, keys, zones = torch.randn(3, 50) * 3, torch.arange(3), Guarded()
    # Outputs are contiguous: one long row each.
    ids = zones.put(torch.full((18,), -1, dtype=torch.int64)).view(3, 6)
    weights = zones.put(torch.zeros(18)).view(3, 6)
    by_triton.sample_into(zones.put(z), 6, method, 1.0, 3, zones.put(keys), ids, weights)
    want = ops.sample_support(z, 6, method=method, seed=3, impl="reference")
    assert torch.equal(ids, want[0]) and zones.intact()


@methods
def test_no_grid_order_or_row_start_changes_a_bit(method, monkeypatch):
    """Other block sizes, rows alone, permuted, and starting at every place of the grid that rows are read on."""
    z = torch.randn(6, 150) * 4
    keys = torch.randint(-(2**63), 2**63 - 1, (6,))

    def sample(x, own):
        return ops.sample_support(x, 9, method=method, seed=5, row_keys_N=own, impl="triton")

    ids, w = sample(z, keys)
    order = torch.randperm(6)
    permuted = sample(z[order], keys[order])
    assert torch.equal(permuted[0], ids[order]) and torch.equal(permuted[1], w[order])
    alone = sample(z[4:5], keys[4:5])
    assert torch.equal(alone[0][0], ids[4]) and torch.equal(alone[1][0], w[4])
    for pitch in (151, 157, 160):
        shifted = torch.zeros(6, pitch)[:, :150].copy_(z)
        found = sample(shifted, keys)
        assert torch.equal(found[0], ids) and torch.equal(found[1], w)
    for sizes in (Sample(64, 64, 16, 2, 1), Sample(16, 4, 1, 64, 2)):
        monkeypatch.setitem(CHIPS, "interpreter", CHIPS["interpreter"]._replace(sample=sizes))
        assert triton_configs.chip_of(z.device).sample == sizes
        found = sample(z, keys)
        assert torch.equal(found[0], ids) and torch.equal(found[1], w)
    monkeypatch.undo()
    assert not torch.equal(sample(z, keys + 1)[0], ids)


@methods
def test_hostile_rows(method):
    z = torch.randn(8, 40)
    z[0] = -inf
    z[1, 1:] = -inf
    z[2] = torch.where(torch.arange(40) % 7 == 0, 1e4, -1e4)
    z[3] = 7.0
    z[4] = torch.arange(40) * -50.0  # the leading entry holds all but 1e-21, the next of that, ...
    z[5, 10:] = -700.0  # far below what is drawn from
    z[6, 3], z[7] = -1e30, z[7] * 1e3
    ids, w = same_as_reference(z, 5, method, seed=2)
    assert not w.isnan().any() and (ids[0] == -1).all()
    torch.testing.assert_close(w.double().sum(1)[1:], torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-6)


@methods
def test_rows_without_a_distribution(method):
    z = torch.randn(6, 30)
    z[0, 25], z[1, 12], z[1, 13] = math.nan, inf, math.nan
    z[2], z[3, 4], z[3, 3] = -math.nan, math.nan, -inf
    z[4, 20], z[4, 21] = math.nan, inf
    ids, w = same_as_reference(z, 3, method)
    assert ids[:5, 0].tolist() == [25, 12, 0, 4, 20] and (ids[:5, 1:] == -1).all()
    assert w[:5, 0].isnan().all() and (w[:5, 1:] == 0).all() and not w[5].isnan().any()


@methods
def test_valid_vocabulary_and_non_contiguous_logits(method):
    z = torch.randn(4, 60)
    z[:, 41:] = 50.0
    same_as_reference(z, 6, method, valid_vocab=41)
    same_as_reference(z.t().contiguous().t(), 6, method, valid_vocab=41)
    ids, _ = ops.sample_support(z, 6, method=method, valid_vocab=0, impl="triton")
    assert (ids == -1).all()


def test_threshold_is_unbiased():
    """The mean weight over 400 keys is p within 4.5 standard errors, and shifting p is noticed."""
    z = torch.tensor([2.0, 1.5, 0.0, -0.5, -1.0, -2.0, -inf])
    ids, w = ops.sample_support(z.expand(400, 7), 3, seed=11, impl="triton")
    full = torch.zeros(400, 7, dtype=torch.float64).scatter_add(1, ids, w.double())
    p, room = torch.softmax(z.double(), 0), 4.5 * full.std(0) / 20
    assert ((full.mean(0) - p).abs() <= room + 6e-8).all()
    assert ((full.mean(0) - p - 0.1 * p.max()).abs() > room).any()


def test_too_many_entries_are_refused_by_name():
    with pytest.raises(RuntimeError, match="the triton kernel keeps at most 256 entries per row; got k = 257"):
        ops.sample_support(torch.zeros(1, 300), 257, impl="triton")
    ops.sample_support(torch.zeros(1, 9), 3)
    assert ops.chosen()["sample_support"] != "triton"


@methods
def test_opcheck(method):
    call = (torch.randn(3, 20), 4, method, 1.0, 3, torch.arange(3), 18, "triton")
    torch.library.opcheck(torch.ops.distill_core.sample_support.default, call)


@methods
def test_programs_write_nothing_of_each_other(method):
    """Kernels read what the one before wrote: only writes may not meet, and no launch shares an address."""
    z, keys = torch.randn(3, 50), torch.arange(3)
    rows = by_triton._rows(z, 5 if method == "threshold" else 1, 1.0, 5 if method == "threshold" else 0)
    hit = torch.full((3, 5), -1)
    for launch in (
        lambda: by_triton._measure(rows, strange=True),
        lambda: by_triton._hit(rows, 0, keys, hit, even=method == "threshold"),
    ):
        with access_log() as log:
            launch()
        assert log.stores and not log.clashes, log.clashes[:3]
