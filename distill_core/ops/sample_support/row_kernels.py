# mypy: ignore-errors
"""Triton kernels of sampled supports: masses in fixed point, the k largest entries' plan, and the entries points hit.

Legend: N rows, V vocabulary, K columns of the result, M largest entries known, B blocks of WIDTH columns.

A line of masses `exp((z - base) / t)`, in units of 2^-53, is summed in integers: no order, layout, grid or chunk
changes a bit of a sum, and a prefix is rounded once, when it becomes fp64. `line_of` says which entries have no mass on
the line (the `certain` largest) and what the largest mass, 1, belongs to.

1. `block_masses`: the mass of each block, and the first entry that no distribution can hold (NaN, +inf).
2. `plan_threshold`: how many entries are certain, and all weights, from the M largest entries and the mass of the rest.
3. `block_masses` again, of the line that is drawn from.
4. `hit_points`: for each point the block, then the entry, whose end is the first beyond the point.
5. `count_draws` (multinomial): different ids, increasing, and how often each was hit.
"""

import triton
import triton.language as tl

from ..support_logits.row_kernels import NONE, grid_of_row
from ..topk_logits.row_kernels import key_of

GOLDEN: tl.constexpr = tl.constexpr(0x9E3779B97F4A7C15)
EVERYTHING: tl.constexpr = tl.constexpr(2**63 - 1)
"""No key reaches it."""
UNITS: tl.constexpr = tl.constexpr(2.0**53)
LOW: tl.constexpr = tl.constexpr(2**32 - 1)
CERTAIN: tl.constexpr = tl.constexpr(1e-9)
"""As in reference.py: an entry within this relative distance of the threshold is kept for certain."""


@triton.jit
def _mix(x):
    """SplitMix64's finaliser, on uint64."""
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def uniform(seed, key, draw):
    """The numbers of counter_random.py, bit for bit: fp64 in [0, 1); `draw` counts from 1."""
    keyed = _mix(_mix(seed.to(tl.uint64) + GOLDEN) + key.to(tl.uint64) * GOLDEN)
    bits = _mix(keyed + draw.to(tl.uint64) * GOLDEN) >> 11
    return bits.to(tl.int64).to(tl.float64) / UNITS


@triton.jit
def line_of(values_ptr, ids_ptr, certain, M):
    """The logit whose mass is 1 (fp64), and the key from which on entries have no mass, of a row's line."""
    base = tl.load(values_ptr + tl.minimum(certain, M - 1)).to(tl.float64)
    value = tl.load(values_ptr + tl.maximum(certain - 1, 0))
    last = tl.load(ids_ptr + tl.maximum(certain - 1, 0)).to(tl.int32)
    return tl.where(base == -float("inf"), 0.0, base), tl.where(certain > 0, key_of(value, last), EVERYTHING)


@triton.jit
def mass_of(x, ids, base, bound, inv_t):
    """int64 masses in units of 2^-53. A mass that is no number, or above the largest, belongs to a row that is
    dropped."""
    mass = tl.exp((x.to(tl.float64) - base) * inv_t)
    on_line = (key_of(x, ids) < bound) & (mass <= 1.0)
    return tl.where(on_line, mass * UNITS + 0.5, 0.0).to(tl.int64)


@triton.jit
def block_masses(
    z_ptr, values_ptr, ids_ptr, certain_ptr, inv_t_ptr, mass_ptr, strange_ptr, stride_z, V, M, B, STEPS,
    BLOCKS: tl.constexpr, WIDTH: tl.constexpr, ALIGNED: tl.constexpr, STRANGE: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of one row: `mass` [N, 2, B] (the first of two planes), `strange` [N, B] lowest id or NONE."""
    pid = tl.program_id(0).to(tl.int64)
    row = pid // STEPS
    step = (pid % STEPS).to(tl.int32)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row = z_ptr + origin
    base, bound = line_of(values_ptr + row * M, ids_ptr + row * M, tl.load(certain_ptr + row), M)
    inv_t = tl.load(inv_t_ptr)
    first = step * (BLOCKS * WIDTH)
    lane = first + tl.arange(0, BLOCKS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    end = lead + V
    if (first >= lead) & (first + BLOCKS * WIDTH <= end):
        x = tl.load(z_row + lane).to(tl.float32)
    else:
        x = tl.load(z_row + lane, mask=(lane >= lead) & (lane < end), other=-float("inf")).to(tl.float32)
    block = step * BLOCKS + tl.arange(0, BLOCKS)
    mass = tl.sum(mass_of(x, lane - lead, base, bound, inv_t), axis=1)
    tl.store(mass_ptr + row * 2 * B + block, mass, mask=block < B)
    if STRANGE:
        wrong = tl.min(tl.where(x < float("inf"), NONE, lane - lead), axis=1)
        tl.store(strange_ptr + row * B + block, wrong, mask=block < B)


@triton.jit
def _log_add(a, b):
    high, low = tl.maximum(a, b), tl.minimum(a, b)
    return tl.where(high == -float("inf"), high, high + tl.log(1.0 + tl.exp(low - high)))


@triton.jit
def _position(high, low):
    """high 2^32 + low in fp64, rounded once: high < 2^53, 0 <= low < 2^32."""
    return high.to(tl.float64) * 4294967296.0 + low.to(tl.float64)


@triton.jit
def _strange_and_mass(strange_ptr, mass_ptr, B, BLOCK_B: tl.constexpr):
    """Lowest strange id of a row, and the mass of all its blocks in fp64."""
    strange = NONE
    high, low = tl.zeros([BLOCK_B], tl.int64), tl.zeros([BLOCK_B], tl.int64)
    lowest = tl.full([BLOCK_B], NONE, tl.int32)
    for first in range(0, B, BLOCK_B):
        block = first + tl.arange(0, BLOCK_B)
        lowest = tl.minimum(lowest, tl.load(strange_ptr + block, mask=block < B, other=NONE))
        mass = tl.load(mass_ptr + block, mask=block < B, other=0)
        high += mass >> 32
        low += mass & LOW
    strange = tl.min(lowest, axis=0)
    low_sum = tl.sum(low, axis=0)
    return strange, _position(tl.sum(high, axis=0) + (low_sum >> 32), low_sum & LOW)


@triton.jit
def plan_threshold(
    values_ptr, top_ids_ptr, mass_ptr, strange_ptr, inv_t_ptr, certain_ptr, ids_ptr, weights_ptr, M, K, B,
    BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr,
):  # fmt: skip
    """Ids of the certain entries and all weights of one row, -1 and 0 being there already.

    `certain` [N]: the number of certain entries, M where nothing is drawn. Log-masses are relative to the last of the M
    largest entries, and so is the mass of the rest in `mass`.
    """
    row = tl.program_id(0).to(tl.int64)
    strange, mass = _strange_and_mass(strange_ptr + row * B, mass_ptr + row * 2 * B, B, BLOCK_B)
    inv_t = tl.load(inv_t_ptr)
    j = tl.arange(0, BLOCK_K)
    z = tl.load(values_ptr + row * M + j, mask=j < M, other=-float("inf")).to(tl.float64)
    base = tl.load(values_ptr + row * M + M - 1).to(tl.float64)
    a = (z - tl.where(base == -float("inf"), 0.0, base)) * inv_t
    rest = tl.where(mass > 0, tl.log(tl.where(mass > 0, mass, 1.0) / UNITS), -float("inf"))
    left = tl.associative_scan(tl.where(j == M - 1, _log_add(a, rest), a), 0, _log_add, reverse=True)
    room = tl.log(tl.maximum(M - j, 1).to(tl.float64))
    surely = (a >= left - room - CERTAIN) & (a != -float("inf")) & (j < M)
    h = tl.min(tl.where(surely, M, tl.minimum(j, M)), axis=0)
    total = tl.sum(tl.where(j == 0, left, 0.0), axis=0)
    left_h = tl.sum(tl.where(j == h, left, 0.0), axis=0)
    draws = (h < M) & (tl.sum(tl.where(j == h, a, 0.0), axis=0) != -float("inf"))
    light = tl.exp(left_h - total - tl.log(tl.maximum(M - h, 1).to(tl.float64)))
    weight = tl.where(j < h, tl.exp(a - total), tl.where(draws & (j < M), light, 0.0))
    id_K = tl.load(top_ids_ptr + row * M + j, mask=j < h, other=-1)
    if strange < NONE:
        weight = tl.where(j == 0, float("nan"), 0.0).to(tl.float64)
        id_K = tl.where(j == 0, strange.to(tl.int64), -1)
    tl.store(weights_ptr + row * K + j, weight.to(tl.float32), mask=j < M)
    tl.store(ids_ptr + row * K + j, id_K, mask=j < M)
    tl.store(certain_ptr + row, tl.where(draws & (strange == NONE), h, M))


@triton.jit
def _beyond(high, low, end_high, end_low, factor, point):
    """Whether a prefix lies beyond a point; the whole line lies beyond every point."""
    return (_position(high, low) * factor > point) | ((high == end_high) & (low == end_low))


@triton.jit
def _add_up(mass_ptr, B, BLOCK_B: tl.constexpr):
    """Turns the masses of a row's blocks into the ends of the blocks: two planes, high and low 32 bits. Returns the
    last."""
    end_high, end_low = tl.zeros([], tl.int64), tl.zeros([], tl.int64)
    for first in range(0, B, BLOCK_B):
        block = first + tl.arange(0, BLOCK_B)
        mass = tl.load(mass_ptr + block, mask=block < B, other=0)
        low = end_low + tl.cumsum(mass & LOW, axis=0)
        high = end_high + tl.cumsum(mass >> 32, axis=0) + (low >> 32)
        tl.store(mass_ptr + block, high, mask=block < B)
        tl.store(mass_ptr + B + block, low & LOW, mask=block < B)
        low_all = end_low + tl.sum(mass & LOW, axis=0)
        end_high += tl.sum(mass >> 32, axis=0) + (low_all >> 32)
        end_low = low_all & LOW
    return end_high, end_low


@triton.jit
def hit_points(
    z_ptr, values_ptr, top_ids_ptr, certain_ptr, inv_t_ptr, seed_ptr, keys_ptr, mass_ptr, hit_ptr,
    stride_z, V, M, K, B, HALVINGS,
    EVEN: tl.constexpr, POINTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_B: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Ids hit by a row's points. EVEN: points u, u + 1, ... on the line stretched to M - certain, written behind the
    certain entries of `hit` [N, K]; else K points anywhere, NONE where the line has no mass."""
    row = tl.program_id(0).to(tl.int64)
    origin, lead = grid_of_row(row, stride_z, ALIGNED)
    z_row, mass_row, hit_row = z_ptr + origin, mass_ptr + row * 2 * B, hit_ptr + row * K
    certain = tl.load(certain_ptr + row)
    base, bound = line_of(values_ptr + row * M, top_ids_ptr + row * M, certain, M)
    inv_t = tl.load(inv_t_ptr)
    seed, key = tl.load(seed_ptr), tl.load(keys_ptr + row)
    end_high, end_low = _add_up(mass_row, B, BLOCK_B)
    tl.debug_barrier()  # every block's end is written before any is looked up
    end = _position(end_high, end_low)
    points = M - certain if EVEN else K
    factor = points.to(tl.float64) / tl.where(end > 0, end, 1.0) if EVEN else 1.0
    for start in range(0, points, POINTS):
        j = start + tl.arange(0, POINTS)
        if EVEN:
            point = uniform(seed, key, tl.full([POINTS], 1, tl.int64)) + j.to(tl.float64)
        else:
            point = uniform(seed, key, j.to(tl.int64) + 1) * end
        low_P, high_P = tl.zeros([POINTS], tl.int32), tl.zeros([POINTS], tl.int32) + (B - 1)
        for _ in range(HALVINGS):
            middle = (low_P + high_P) // 2
            ends = _beyond(tl.load(mass_row + middle), tl.load(mass_row + B + middle), end_high, end_low, factor, point)
            low_P, high_P = tl.where(ends, low_P, tl.minimum(middle + 1, high_P)), tl.where(ends, middle, high_P)
        before_high = tl.load(mass_row + low_P - 1, mask=low_P > 0, other=0)
        before_low = tl.load(mass_row + B + low_P - 1, mask=low_P > 0, other=0)
        lane = low_P[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        inside = (lane >= lead) & (lane < lead + V)
        x = tl.load(z_row + lane, mask=inside, other=-float("inf")).to(tl.float32)
        part = tl.cumsum(mass_of(x, lane - lead, base, bound, inv_t), axis=1)
        low = before_low[:, None] + (part & LOW)
        high = before_high[:, None] + (part >> 32) + (low >> 32)
        passed = _beyond(high, low & LOW, end_high, end_low, factor, point[:, None])
        at = low_P * WIDTH + tl.sum(tl.where(passed, 0, 1), axis=1) - lead
        if EVEN:
            tl.store(hit_row + certain + j, at.to(tl.int64), mask=j < points)
        else:
            tl.store(hit_row + j, tl.where(end > 0, at, NONE).to(tl.int64), mask=j < points)


@triton.jit
def _later(a, b):
    return tl.maximum(a, b)


@triton.jit
def count_draws(hit_ptr, strange_ptr, ids_ptr, weights_ptr, K, B, BLOCK_K: tl.constexpr, BLOCK_B: tl.constexpr):
    """Different ids of a row, increasing, with weights count / K; -1 and 0 are there already."""
    row = tl.program_id(0).to(tl.int64)
    lowest = tl.full([BLOCK_B], NONE, tl.int32)
    for first in range(0, B, BLOCK_B):
        block = first + tl.arange(0, BLOCK_B)
        lowest = tl.minimum(lowest, tl.load(strange_ptr + row * B + block, mask=block < B, other=NONE))
    strange = tl.min(lowest, axis=0)
    j = tl.arange(0, BLOCK_K)
    hit = tl.sort(tl.load(hit_ptr + row * K + j, mask=j < K, other=NONE).to(tl.int32))
    real = hit != NONE
    begins = real & ((j == 0) | (hit != tl.gather(hit, tl.maximum(j - 1, 0), axis=0)))
    ends = real & ((j == BLOCK_K - 1) | (hit != tl.gather(hit, tl.minimum(j + 1, BLOCK_K - 1), axis=0)))
    slot = tl.cumsum(begins.to(tl.int32), axis=0) - 1
    start = tl.associative_scan(tl.where(begins, j, 0), 0, _later)
    weight = (j - start + 1).to(tl.float64) / K.to(tl.float64)
    tl.store(ids_ptr + row * K + slot, hit.to(tl.int64), mask=begins)
    tl.store(weights_ptr + row * K + slot, weight.to(tl.float32), mask=ends)
    if strange < NONE:
        tl.store(ids_ptr + row * K, strange.to(tl.int64))
        tl.store(weights_ptr + row * K, float("nan"))
