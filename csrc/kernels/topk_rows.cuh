// One-read top-k of a row and the logsumexp of all the rest at several temperatures. One block per row, exact, equal
// values by lowest id, deterministic.
//
// The block reads the row once. An entry above the k-th best so far goes into a buffer in shared memory, every other
// one into its thread's running sums. A full buffer is sorted, cut to k, and what falls off is added to the sums as
// well: the tail is a sum over the complement, never a difference. Which thread adds what is fixed, so are the results.
#pragma once

#include "launch.cuh"

namespace distill_cuda {

constexpr int THREADS = 256;
constexpr int CHUNK = 4 * THREADS;     // entries of a row per step
constexpr int MAX_K = 1024;
constexpr int BUFFER = MAX_K + CHUNK;  // a power of two: keys that a sort may hold
constexpr int MAX_TEMPERATURES = 4;    // per launch

// Orders entries: the larger key comes first. Larger values first, NaN before all, equal values (-0 == 0) by lowest
// id. 0 is no entry's key.
__device__ inline uint64_t order_key(float v, uint32_t id) {
  uint32_t bits;
  memcpy(&bits, &v, sizeof bits);
  if (v == 0.f) bits = 0;
  bits = v != v ? 0xffffffffu : (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
  return uint64_t(bits) << 32 | uint32_t(~id);
}

__device__ inline uint32_t key_id(uint64_t key) { return ~uint32_t(key); }

__device__ inline float key_value(uint64_t key) {
  uint32_t bits = uint32_t(key >> 32);
  bits = (bits & 0x80000000u) ? bits & 0x7fffffffu : ~bits;
  float v;
  memcpy(&v, &bits, sizeof v);
  return v;
}

// Running sums over some entries: their maximum, and sum_t = sum of exp((v - max) / t).
template <class Acc, int T>
struct Tail {
  Acc max, sum[T];
};

// The temperatures t and 1 / t; `count` of them are in use.
template <class Acc, int T>
struct Inverse {
  double temperature[T];
  Acc at[T];
  int count;
};

template <class Acc, int T>
__device__ inline Tail<Acc, T> empty_tail() {
  Tail<Acc, T> tail;
  tail.max = -Acc(INFINITY);
  for (int t = 0; t < T; ++t) tail.sum[t] = 0;
  return tail;
}

// Expresses the sums relative to a larger maximum.
template <class Acc, int T>
__device__ inline void raise(Tail<Acc, T>& tail, Acc max, const Inverse<Acc, T>& inverse) {
  if (!(max > tail.max)) return;
  for (int t = 0; t < T; ++t)
    if (t < inverse.count) tail.sum[t] *= exp((tail.max - max) * inverse.at[t]);
  tail.max = max;
}

// Adds one entry at most as large as the maximum. An impossible one (-inf) has no mass; NaN makes the sums NaN.
template <class Acc, int T>
__device__ inline void add_below(Tail<Acc, T>& tail, Acc v, const Inverse<Acc, T>& inverse) {
  if (v == -Acc(INFINITY)) return;
  const Acc below = v == tail.max ? Acc(0) : v - tail.max;  // inf - inf
  for (int t = 0; t < T; ++t)
    if (t < inverse.count) tail.sum[t] += exp(below * inverse.at[t]);
}

template <class Acc, int T>
__device__ inline Tail<Acc, T> merged(Tail<Acc, T> a, Tail<Acc, T> b, const Inverse<Acc, T>& inverse) {
  raise(a, b.max, inverse);
  raise(b, a.max, inverse);
  for (int t = 0; t < T; ++t) a.sum[t] += b.sum[t];
  return a;
}

// The sums of all threads, in a fixed order; valid in thread 0.
template <class Acc, int T>
__device__ inline Tail<Acc, T> block_merged(Tail<Acc, T> tail, const Inverse<Acc, T>& inverse) {
  DISTILL_SHARED(Acc, of_warp, [THREADS / 32][T + 1]);
  for (int step = 16; step > 0; step >>= 1) {
    Tail<Acc, T> other;
    other.max = __shfl_down_sync(EVERY_LANE, tail.max, step);
    for (int t = 0; t < T; ++t) other.sum[t] = __shfl_down_sync(EVERY_LANE, tail.sum[t], step);
    tail = merged(tail, other, inverse);
  }
  if (threadIdx.x % 32 == 0) {
    Acc* mine = of_warp[threadIdx.x / 32];
    for (int t = 0; t < T; ++t) mine[t] = tail.sum[t];
    mine[T] = tail.max;
  }
  __syncthreads();
  if (threadIdx.x == 0)
    for (int w = 1; w < THREADS / 32; ++w) {
      Tail<Acc, T> other;
      for (int t = 0; t < T; ++t) other.sum[t] = of_warp[w][t];
      other.max = of_warp[w][T];
      tail = merged(tail, other, inverse);
    }
  return tail;
}

// keys[0 .. n) in decreasing order; uses keys up to the next power of two.
__device__ inline void block_sort(uint64_t* keys, int n) {
  int size = 2;
  while (size < n) size *= 2;
  for (int i = n + int(threadIdx.x); i < size; i += THREADS) keys[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2)
    for (int stride = run / 2; stride > 0; stride /= 2) {
      for (int pair = threadIdx.x; pair < size / 2; pair += THREADS) {
        const int low = 2 * pair - (pair & (stride - 1)), high = low + stride;
        const uint64_t a = keys[low], b = keys[high];
        if ((a < b) == ((low & run) == 0)) { keys[low] = b; keys[high] = a; }
      }
      __syncthreads();
    }
}

// Sorts the buffer, cuts it to k, adds what falls off to the sums. Starts behind a barrier, ends with one.
template <class Acc, int T>
__device__ inline void cut_buffer(uint64_t* keys, int& count, uint64_t& entry, int k, Tail<Acc, T>& tail,
                                  const Inverse<Acc, T>& inverse) {
  const int n = count;
  block_sort(keys, n);
  for (int i = k + int(threadIdx.x); i < n; i += THREADS) {
    const Acc v = key_value(keys[i]);
    raise(tail, v, inverse);
    add_below(tail, v, inverse);
  }
  if (threadIdx.x == 0) {
    count = n < k ? n : k;
    entry = n < k ? 0 : keys[k - 1];
  }
  __syncthreads();
}

// Reads a row once: keys[0 .. k) become its k largest entries in order; returns this thread's share of all the rest.
template <class Acc, int T, class E>
__device__ inline Tail<Acc, T> scan_row(const E* row, int64_t n_valid, int k, const Inverse<Acc, T>& inverse,
                                        uint64_t* keys) {
  DISTILL_SHARED(int, count, );       // keys in the buffer
  DISTILL_SHARED(uint64_t, entry, );  // an entry needs a larger key to get in
  if (threadIdx.x == 0) { count = 0; entry = k > 0 ? 0 : ~uint64_t(0); }
  __syncthreads();
  const int limit = 2 * k < 256 ? 256 : 2 * k < MAX_K ? 2 * k : MAX_K;
  Tail<Acc, T> tail = empty_tail<Acc, T>();
  bool sorted = true;
  int64_t first = 4 * int64_t(threadIdx.x) - misalignment(row);
  float next[4];
  load_four(row, first, n_valid, -INFINITY, next);
  for (int64_t chunk = -int64_t(misalignment(row)); chunk < n_valid; chunk += CHUNK, first += CHUNK) {
    float v[4];
    for (int j = 0; j < 4; ++j) v[j] = next[j];
    load_four(row, first + CHUNK, n_valid, -INFINITY, next);
    const uint64_t needed = entry;
    uint64_t key[4];
    int passing = 0;
    Acc largest = -Acc(INFINITY);
    for (int j = 0; j < 4; ++j) {
      const bool inside = first + j >= 0 && first + j < n_valid;
      key[j] = inside ? order_key(v[j], uint32_t(first + j)) : 0;
      if (key[j] > needed) ++passing; else largest = fmax(largest, Acc(v[j]));
    }
    raise(tail, largest, inverse);
    for (int j = 0; j < 4; ++j)
      if (key[j] <= needed) add_below(tail, Acc(v[j]), inverse);
    if (passing > 0) {
      int at = atomicAdd(&count, passing);
      for (int j = 0; j < 4; ++j)
        if (key[j] > needed) keys[at++] = key[j];
    }
    if (!__syncthreads_or(passing)) continue;
    sorted = count > limit;
    if (sorted) cut_buffer(keys, count, entry, k, tail, inverse);
    else __syncthreads();
  }
  if (!sorted) cut_buffer(keys, count, entry, k, tail, inverse);
  return tail;
}

// Logsumexp of v / t.
template <class Acc, int T>
__device__ inline double log_mass(const Tail<Acc, T>& tail, const Inverse<Acc, T>& inverse, int t) {
  return tail.sum[t] == 0 ? -INFINITY : double(tail.max) / inverse.temperature[t] + log(double(tail.sum[t]));
}

template <int T, class E>
__global__ void __launch_bounds__(THREADS) topk_rows(const E* logits, int64_t row_stride, int64_t n_valid, int k,
                                                     Inverse<float, T> inverse, int64_t* ids, float* top, float* tails,
                                                     int tail_stride) {
  DISTILL_SHARED(uint64_t, keys, [BUFFER]);
  const int64_t r = blockIdx.x;
  const E* row = logits + r * row_stride;
  Tail<float, T> tail = scan_row<float, T>(row, n_valid, k, inverse, keys);
  for (int i = threadIdx.x; i < k; i += THREADS) {
    const uint32_t id = key_id(keys[i]);
    ids[r * k + i] = id;
    top[r * k + i] = widen(row[id]);
  }
  tail = block_merged(tail, inverse);
  if (threadIdx.x == 0)
    for (int t = 0; t < T; ++t)
      if (t < inverse.count) tails[r * tail_stride + t] = float(log_mass(tail, inverse, t));
}

}  // namespace distill_cuda
