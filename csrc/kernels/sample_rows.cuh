// Threshold and multinomial sampling of a row's support, with fp64 masses and counter-based uniforms. One block per row,
// two reads of it: the largest entries and the mass of the rest; then the masses in id order, on which points are hit.
// The scheme is that of distill_core/ops/sample_support/reference.py.
#pragma once

#include "counter_random.cuh"
#include "topk_rows.cuh"

namespace distill_cuda {

constexpr double CERTAIN = 1e-9;  // within this relative distance of the threshold an entry is kept for certain
constexpr uint32_t NOBODY = 0xffffffffu;

// The line of masses exp((v - base) / t) in id order, from which `n` points pick entries.
struct Line {
  double base, inverse;
  uint64_t certain;  // keys at or above it have no mass on the line
  int n;
};

// Points of systematic sampling: u, u + 1, ... on the line stretched to the total n.
struct EvenPoints {
  double u, scale;
  int n;
  __device__ inline int below(double x) const {
    const double count = ceil(x * scale - u);
    return count <= 0 ? 0 : count >= n ? n : int(count);
  }
};

// Points anywhere, increasing; stored as the complements of their bits, which decrease.
struct SortedPoints {
  const uint64_t* keys;
  int n;
  __device__ inline int below(double x) const {
    int low = 0, high = n;
    while (low < high) {
      const int middle = (low + high) / 2;
      const uint64_t bits = ~keys[middle];
      double point;
      memcpy(&point, &bits, sizeof point);
      if (point < x) low = middle + 1; else high = middle;
    }
    return low;
  }
};

// Inclusive prefix sums over a warp that never decrease from lane to lane, whatever the rounding.
__device__ inline double warp_prefix(double x) {
  const int lane = threadIdx.x % 32;
  for (int step = 1; step < 32; step *= 2) {
    const double before = __shfl_up_sync(EVERY_LANE, x, step);
    if (lane >= step) x += before;
  }
  for (int step = 1; step < 32; step *= 2) {
    const double before = __shfl_up_sync(EVERY_LANE, x, step);
    if (lane >= step) x = fmax(x, before);
  }
  return x;
}

// hit[i] = id of the entry that point i falls on. Neighbouring entries share their boundary bit for bit, so each point
// falls on one entry; those that rounding leaves in no entry go to the next one hit, at the end to the last with mass.
template <class E, class Points>
__device__ inline void walk_line(const E* row, int64_t n_valid, const Line& line, const Points& points,
                                 uint32_t* hit) {
  DISTILL_SHARED(double, of_warp, [THREADS / 32]);
  DISTILL_SHARED(uint32_t, last, [THREADS]);
  for (int i = threadIdx.x; i < line.n; i += THREADS) hit[i] = NOBODY;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t offset = misalignment(row);
  double carry = 0;
  uint32_t mine = 0;  // this thread's last entry with mass, plus 1
  for (int64_t chunk = -offset; chunk < n_valid; chunk += CHUNK) {
    const int64_t first = chunk + 4 * int64_t(threadIdx.x);
    float v[4];
    double mass[4], own = 0;
    int heavy = -1;
    load_four(row, first, n_valid, -INFINITY, v);
    for (int j = 0; j < 4; ++j) {
      const bool light = v[j] != -INFINITY && order_key(v[j], uint32_t(first + j)) < line.certain;
      mass[j] = light ? exp((double(v[j]) - line.base) * line.inverse) : 0.0;
      own += mass[j];
      if (mass[j] > 0) heavy = j;
    }
    if (heavy >= 0) mine = uint32_t(first + heavy) + 1;
    const double prefix = warp_prefix(own);
    double before = __shfl_up_sync(EVERY_LANE, prefix, 1);
    if (lane == 0) before = 0;
    __syncthreads();  // the previous chunk's sums have been read
    if (lane == 31) of_warp[warp] = prefix;
    __syncthreads();
    double start = carry;
    for (int w = 0; w < THREADS / 32; ++w) {
      if (w == warp) start = carry;
      carry += of_warp[w];
    }
    const double low = start + before, high = start + prefix;
    int from = points.below(low);
    if (heavy < 0 || points.below(high) == from) continue;
    double at = low;
    for (int j = 0; j <= heavy; ++j) {
      at = j == heavy ? high : fmin(at + mass[j], high);
      const int to = mass[j] > 0 ? points.below(at) : from;
      for (; from < to; ++from) hit[from] = uint32_t(first + j);
    }
  }
  last[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t next = 0;
    for (int i = 0; i < THREADS; ++i) next = last[i] > next ? last[i] : next;
    next -= 1;
    for (int i = line.n - 1; i >= 0; --i) {
      if (hit[i] == NOBODY) hit[i] = next;
      next = hit[i];
    }
  }
  __syncthreads();
}

// What threshold sampling decides from the largest entries: `certain` of them are kept as they are, `drawn` others get
// the weight `light_weight` each. `undefined`: NaN or +inf among the logits.
struct ThresholdPlan {
  double largest, total, base, left, light_weight;
  int certain, drawn;
  int undefined;
};

// By one thread. sums[j] becomes the mass of everything but the j largest, relative to entry j.
__device__ inline ThresholdPlan plan_threshold(const uint64_t* keys, int k, Tail<double, 1> rest, double inverse,
                                               double* sums) {
  double at = rest.max, sum = rest.sum[0];
  for (int j = k - 1; j >= 0; --j) {
    const double v = key_value(keys[j]);
    if (v != -INFINITY) {
      if (sum > 0 && v != at) sum *= exp((at - v) * inverse);
      sum += 1;
      at = v;
    }
    sums[j] = sum;
  }
  ThresholdPlan plan = {};
  plan.largest = k > 0 ? double(key_value(keys[0])) : -INFINITY;
  plan.total = k > 0 ? sums[0] : 0;
  plan.undefined = !(plan.total < INFINITY) || plan.largest == INFINITY || plan.largest != plan.largest;
  if (plan.undefined) return plan;
  int h = 0;
  while (h < k && key_value(keys[h]) != -INFINITY && sums[h] <= (k - h) * (1 + CERTAIN)) ++h;
  plan.certain = h;
  if (h < k && key_value(keys[h]) != -INFINITY) {
    plan.drawn = k - h;
    plan.base = key_value(keys[h]);
    plan.left = sums[h];
    plan.light_weight = exp((plan.base - plan.largest) * inverse) * plan.left / plan.total / plan.drawn;
  }
  return plan;
}

// ids, weights [rows, k]: -1 and 0 on padding. Certain entries by decreasing weight, then drawn ones by id.
template <class E>
__global__ void __launch_bounds__(THREADS) sample_threshold(const E* logits, int64_t row_stride, int64_t n_valid, int k,
                                                            Inverse<double, 1> inverse, uint64_t seeded,
                                                            const int64_t* row_keys, int64_t* ids, float* weights) {
  DISTILL_SHARED(uint64_t, keys, [BUFFER]);
  DISTILL_SHARED(double, sums, [MAX_K]);
  DISTILL_SHARED(uint32_t, hit, [MAX_K]);
  DISTILL_SHARED(ThresholdPlan, shared_plan, );
  const int64_t r = blockIdx.x;
  const E* row = logits + r * row_stride;
  const int most = k < n_valid ? k : int(n_valid);
  const Tail<double, 1> rest = block_merged(scan_row<double, 1>(row, n_valid, most, inverse, keys), inverse);
  if (threadIdx.x == 0) shared_plan = plan_threshold(keys, most, rest, inverse.at[0], sums);
  __syncthreads();
  const ThresholdPlan plan = shared_plan;
  if (plan.drawn > 0) {
    const uint64_t certain = plan.certain > 0 ? keys[plan.certain - 1] : ~uint64_t(0);
    const Line line = {plan.base, inverse.at[0], certain, plan.drawn};
    const double u = draw_uniform(key_state(seeded, uint64_t(row_keys[r])), 0);
    walk_line(row, n_valid, line, EvenPoints{u, plan.drawn / plan.left, plan.drawn}, hit);
  }
  for (int i = threadIdx.x; i < k; i += THREADS) {
    const bool head = i < plan.certain || (plan.undefined && i < most);
    const bool drawn = !head && i < plan.certain + plan.drawn;
    ids[r * k + i] = head ? int64_t(key_id(keys[i])) : drawn ? int64_t(hit[i - plan.certain]) : -1;
    double weight = 0;
    if (drawn) weight = plan.light_weight;
    else if (head) weight = plan.undefined ? NAN : exp((key_value(keys[i]) - plan.largest) * inverse.at[0]) / plan.total;
    weights[r * k + i] = float(weight);
  }
}

// ids, weights [rows, k]: different ids, increasing, with weights count / k; then -1 and 0.
template <class E>
__global__ void __launch_bounds__(THREADS) sample_multinomial(const E* logits, int64_t row_stride, int64_t n_valid,
                                                              int k, Inverse<double, 1> inverse, uint64_t seeded,
                                                              const int64_t* row_keys, int64_t* ids, float* weights) {
  DISTILL_SHARED(uint64_t, keys, [BUFFER]);
  DISTILL_SHARED(uint32_t, hit, [MAX_K]);
  DISTILL_SHARED(double, shared_max, );
  DISTILL_SHARED(double, shared_sum, );
  const int64_t r = blockIdx.x;
  const E* row = logits + r * row_stride;
  const Tail<double, 1> all = block_merged(scan_row<double, 1>(row, n_valid, 0, inverse, keys), inverse);
  if (threadIdx.x == 0) { shared_max = all.max; shared_sum = all.sum[0]; }
  __syncthreads();
  const double max = shared_max, sum = shared_sum;
  const bool undefined = sum != sum || max == INFINITY;
  if (sum > 0 && !undefined) {
    const uint64_t keyed = key_state(seeded, uint64_t(row_keys[r]));
    for (int i = threadIdx.x; i < k; i += THREADS) {
      const double point = draw_uniform(keyed, i) * sum;
      uint64_t bits;
      memcpy(&bits, &point, sizeof bits);
      keys[i] = ~bits;
    }
    __syncthreads();
    block_sort(keys, k);
    walk_line(row, n_valid, Line{max, inverse.at[0], ~uint64_t(0), k}, SortedPoints{keys, k}, hit);
  }
  for (int i = threadIdx.x; i < k; i += THREADS) {
    ids[r * k + i] = -1;
    weights[r * k + i] = 0;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (undefined && k > 0) { ids[r * k] = 0; weights[r * k] = NAN; }
  if (!(sum > 0) || undefined) return;
  int slot = -1, count = 0;
  for (int i = 0; i < k; ++i) {
    if (i == 0 || hit[i] != hit[i - 1]) { ++slot; count = 0; ids[r * k + slot] = hit[i]; }
    weights[r * k + slot] = float(double(++count) / k);
  }
}

}  // namespace distill_cuda
