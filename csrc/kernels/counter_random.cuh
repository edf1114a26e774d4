// Counter-based random numbers, bit for bit those of distill_core/ops/sample_support/counter_random.py.
#pragma once

#include "launch.cuh"

namespace distill_cuda {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;

// SplitMix64's finaliser.
__device__ __host__ inline uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
  x = (x ^ x >> 27) * 0x94D049BB133111EB;
  return x ^ x >> 31;
}

// What the numbers of a seed start from, and those of a key under that seed.
__device__ __host__ inline uint64_t seed_state(uint64_t seed) { return mix(seed + GOLDEN); }
__device__ __host__ inline uint64_t key_state(uint64_t seeded, uint64_t key) { return mix(seeded + key * GOLDEN); }

// 64 random bits: the draw-th of a key, counted from 0.
__device__ __host__ inline uint64_t draw_bits(uint64_t keyed, uint64_t draw) { return mix(keyed + (draw + 1) * GOLDEN); }

// The draw-th uniform of a key: in [0, 1), a multiple of 2^-53.
__device__ inline double draw_uniform(uint64_t keyed, uint64_t draw) {
  return double(draw_bits(keyed, draw) >> 11) * 0x1p-53;
}

}  // namespace distill_cuda
