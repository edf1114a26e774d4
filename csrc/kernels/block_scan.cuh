// Running sums and maxima over the threads of a block, of integers: exact, whatever the order.
#pragma once

#include "launch.cuh"

namespace distill_cuda {

constexpr int SCAN_THREADS = 256;

struct Add { __device__ int64_t operator()(int64_t a, int64_t b) const { return a + b; } };
struct Larger { __device__ int64_t operator()(int64_t a, int64_t b) const { return a > b ? a : b; } };

struct Scanned { int64_t before, all; };  // over the threads before this one; over all of them

// Every thread of the block calls it. `none` is what no thread adds up to.
template <class Join>
__device__ inline Scanned block_scan(int64_t x, int64_t none, Join join) {
  DISTILL_SHARED(int64_t, of_warp, [SCAN_THREADS / 32]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(EVERY_LANE, x, step);
    if (lane >= step) x = join(other, x);
  }
  const int64_t left = __shfl_up_sync(EVERY_LANE, x, 1);
  if (lane == 31) of_warp[warp] = x;
  __syncthreads();
  Scanned found{none, none};
  for (int w = 0; w < SCAN_THREADS / 32; ++w) {
    if (w == warp) found.before = found.all;
    found.all = join(found.all, of_warp[w]);
  }
  if (lane > 0) found.before = join(found.before, left);
  __syncthreads();
  return found;
}

}  // namespace distill_cuda
