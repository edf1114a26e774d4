"""The sampling kernel in each instruction set: the reference's ids, and the same for all three."""

from __future__ import annotations

import pytest

from tests.native.conftest import ISAS

pytestmark = pytest.mark.native

# Ids may differ from the reference only where a point lies within rounding of the end of an entry: then the fp64 line
# of masses, cut at that end, is this close to the point, in units of the distance between points.
AGREE = """
import torch
from distill_core import ops
from distill_core.ops.sample_support.counter_random import uniform
torch.manual_seed(0)
rows = different = 0

def near_a_boundary(z, k, temperature, seed, key, method):
    p = torch.softmax(z.double() / temperature, 0)
    if method == "multinomial":
        line, points = p.cumsum(0), uniform(seed, torch.tensor([key]), k)[0]
    else:
        heavy, rest = [], 1.0
        for j, i in enumerate(p.argsort(descending=True, stable=True).tolist()):
            if j >= k or p[i] < rest / (k - j) * (1 - 1e-9):
                break
            heavy.append(i)
            rest -= p[i].item()
        p[heavy] = 0
        line = p.cumsum(0) * ((k - len(heavy)) / p.sum())
        points = uniform(seed, torch.tensor([key]), 1)[0] + torch.arange(k - len(heavy))
    return bool((line[:, None] - points).abs().min() < 1e-12)

for dtype in (torch.float32, torch.bfloat16, torch.float16):
    for v in (1, 5, 300, 2049):
        for spread in (0.0, 1.0, 4.0, 30.0):
            z = (torch.randn(64, v) * spread).to(dtype)
            for method in ("threshold", "multinomial"):
                for k in (1, 4, 12, 200):
                    for temperature in (1.0, 2.5):
                        options = {"method": method, "temperature": temperature, "seed": 17 * k - 40}
                        ids, w = ops.sample_support(z, k, impl="reference", **options)
                        own_ids, own_w = ops.sample_support(z, k, impl="cpu", **options)
                        wrong = (ids != own_ids).any(1)
                        rows += 64
                        different += int(wrong.sum())
                        for r in wrong.nonzero().flatten().tolist():
                            assert near_a_boundary(z[r], k, temperature, options["seed"], r, method), (v, spread, k, r)
                        torch.testing.assert_close(own_w[~wrong], w[~wrong], rtol=1e-6, atol=0)
assert rows > 20_000 and different <= rows / 10_000, (rows, different)
"""

DIGEST = """
import hashlib, torch
from distill_core import ops
torch.manual_seed(1)
digest = hashlib.sha256()
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    z = (torch.randn(50, 5003) * 4).to(dtype)
    for method in ("threshold", "multinomial"):
        for k, temperature in ((12, 1.0), (64, 1.7), (700, 1.0)):
            for x in ops.sample_support(z, k, method=method, temperature=temperature, impl="cpu"):
                digest.update(x.numpy().tobytes())
print(digest.hexdigest())
"""


def test_ids_and_weights_of_the_reference(on_isa):
    on_isa(AGREE)


def test_every_instruction_set_draws_the_same(run_on_isa):
    digests = {run_on_isa(isa, DIGEST).strip() for isa in ISAS}
    assert len(digests) == 1 and len(digests.pop()) == 64
