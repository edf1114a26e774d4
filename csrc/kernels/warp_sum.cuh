// Sums over a warp in a fixed order.
#pragma once

#include "launch.cuh"

namespace distill_cuda {

// The sum over all lanes; valid in lane 0.
__device__ inline double warp_sum(double x) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_down_sync(EVERY_LANE, x, step);
  return x;
}

}  // namespace distill_cuda
