// Gradient matching over a list of tensors in one launch: per row the inner products <a, b>, <a, a>, <b, b> (or the sums
// of (a - b)^2 and |a - b|), and the gradient as a combination of the two rows. A warp per row; fixed order, no atomics.
#pragma once

#include "launch.cuh"
#include "warp_sum.cuh"

namespace distill_cuda {

constexpr int MATCH_THREADS = 256;
constexpr int ROWS_PER_BLOCK = MATCH_THREADS / 32;

// One tensor of the list, as it lies in the table: eight int64. Rows are contiguous, `cols` entries each.
struct MatchedTensor {
  const void* a;
  const void* b;
  void* g;
  int64_t first_row;  // rows of all tensors before it
  int64_t rows, cols;
  int64_t dtype;
  int64_t unused;
};

// The tensor that holds a row: the last one whose first row is not behind it and that has rows.
__device__ inline const MatchedTensor& tensor_of(const MatchedTensor* table, int64_t n_tensors, int64_t row) {
  int64_t low = 0, high = n_tensors;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (table[middle].first_row <= row) low = middle; else high = middle;
  }
  return table[low];
}

// Calls four(i) for every fourth entry and one(i) for the rest of a row, as this lane's share, in increasing order.
template <class F4, class F1>
__device__ inline void for_entries(int64_t cols, bool by_four, F4 four, F1 one) {
  const int lane = threadIdx.x % 32;
  const int64_t end = by_four ? cols - cols % 4 : 0;
  for (int64_t i = 4 * lane; i < end; i += 4 * 32) four(i);
  for (int64_t i = end + lane; i < cols; i += 32) one(i);
}

// Partial sums in float over at most BLOCKED entries of a lane, those in double: long rows lose nothing.
constexpr int BLOCKED = 64;

struct BlockedSum {
  double total = 0;
  float part = 0;
  __device__ inline void add(float x) { part += x; }
  __device__ inline void close() { total += part; part = 0; }
};

template <class E>
__device__ inline void row_products(const MatchedTensor& t, int64_t row, bool difference, double* out) {
  const E* a = static_cast<const E*>(t.a) + row * t.cols;
  const E* b = static_cast<const E*>(t.b) + row * t.cols;
  BlockedSum s[3];
  int n = 0;
  const auto add = [&](float x, float y) {
    if (difference) {
      const float d = x - y;
      s[0].add(d * d);
      s[1].add(fabsf(d));
    } else {
      s[0].add(x * y);
      s[1].add(x * x);
      s[2].add(y * y);
    }
    if (++n == BLOCKED) {
      for (int m = 0; m < 3; ++m) s[m].close();
      n = 0;
    }
  };
  const auto four = [&](int64_t i) {
    float x[4], y[4];
    load_four(a, i, t.cols, 0.f, x);
    load_four(b, i, t.cols, 0.f, y);
    for (int j = 0; j < 4; ++j) add(x[j], y[j]);
  };
  for_entries(t.cols, misalignment(a) == 0 && misalignment(b) == 0, four,
              [&](int64_t i) { add(widen(a[i]), widen(b[i])); });
  for (int m = 0; m < 3; ++m) {
    s[m].close();
    const double sum = warp_sum(s[m].total);
    if (threadIdx.x % 32 == 0) out[m] = sum;
  }
}

// sums [rows of all tensors, 3]: ab, aa, bb; or, for `difference`, the squares and absolute values of a - b, and 0.
static __global__ void __launch_bounds__(MATCH_THREADS) match_rows(const MatchedTensor* table, int64_t n_tensors,
                                                            int64_t n_rows, int difference, double* sums) {
  const int64_t row = int64_t(blockIdx.x) * ROWS_PER_BLOCK + threadIdx.x / 32;
  if (row >= n_rows) return;
  const MatchedTensor& t = tensor_of(table, n_tensors, row);
  if (t.dtype == 0) row_products<float>(t, row - t.first_row, difference, sums + 3 * row);
  else if (t.dtype == 1) row_products<Bf16>(t, row - t.first_row, difference, sums + 3 * row);
  else row_products<Fp16>(t, row - t.first_row, difference, sums + 3 * row);
}

template <class E>
__device__ inline void row_combination(const MatchedTensor& t, int64_t row, const double* by) {
  const E* a = static_cast<const E*>(t.a) + row * t.cols;
  const E* b = static_cast<const E*>(t.b) + row * t.cols;
  E* g = static_cast<E*>(t.g) + row * t.cols;
  const float of_a = float(by[0]), of_b = float(by[1]), of_sign = float(by[2]);
  const auto combined = [&](float x, float y, E& to) {
    const float sign = x > y ? 1.f : x < y ? -1.f : x - y;  // 0, or NaN
    narrow(of_a * x + of_b * y + (of_sign == 0.f ? 0.f : of_sign * sign), to);
  };
  const auto four = [&](int64_t i) {
    float x[4], y[4];
    load_four(a, i, t.cols, 0.f, x);
    load_four(b, i, t.cols, 0.f, y);
    Four<E> out;
    for (int j = 0; j < 4; ++j) combined(x[j], y[j], out.at[j]);
    *reinterpret_cast<Four<E>*>(g + i) = out;
  };
  for_entries(t.cols, misalignment(a) == 0 && misalignment(b) == 0 && misalignment(g) == 0, four,
              [&](int64_t i) { combined(widen(a[i]), widen(b[i]), g[i]); });
}

// g = by[r, 0] a + by[r, 1] b + by[r, 2] sign(a - b), row by row.
static __global__ void __launch_bounds__(MATCH_THREADS) combine_rows(const MatchedTensor* table, int64_t n_tensors,
                                                              int64_t n_rows, const double* by) {
  const int64_t row = int64_t(blockIdx.x) * ROWS_PER_BLOCK + threadIdx.x / 32;
  if (row >= n_rows) return;
  const MatchedTensor& t = tensor_of(table, n_tensors, row);
  if (t.dtype == 0) row_combination<float>(t, row - t.first_row, by + 3 * row);
  else if (t.dtype == 1) row_combination<Bf16>(t, row - t.first_row, by + 3 * row);
  else row_combination<Fp16>(t, row - t.first_row, by + 3 * row);
}

}  // namespace distill_cuda
