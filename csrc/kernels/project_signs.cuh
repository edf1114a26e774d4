// Projection of features by random signs that are never stored: a sign is a bit of a counter-based word. A block takes
// eight samples, 64 columns (one word per feature) and a slice of the features; slices are added in order.
#pragma once

#include "counter_random.cuh"
#include "launch.cuh"

namespace distill_cuda {

constexpr int PROJECT_THREADS = 256;
constexpr int COLUMNS = 64;                          // bits of a word
constexpr int SHARES = PROJECT_THREADS / COLUMNS;    // threads that share a column
constexpr int SAMPLES = 8;                           // per block
constexpr int64_t SLICE = 1 << 15;                   // features per block

struct Projection {
  int64_t row_stride, samples, features, dim;
  uint64_t first_feature;  // global index of x[:, 0]
  uint64_t seeded;
  int64_t first_slice;     // of this launch
};

// partial [slices of this launch, samples, dim]: sums of sign * x over each slice, fp32 over 64 entries, then fp64.
template <class E>
__global__ void __launch_bounds__(PROJECT_THREADS) project_signs(const E* x, Projection p, double* partial) {
  DISTILL_SHARED(uint64_t, words, [PROJECT_THREADS]);
  DISTILL_SHARED(float, values, [PROJECT_THREADS][SAMPLES]);
  DISTILL_SHARED(double, shares, [SHARES][COLUMNS][SAMPLES]);
  const int64_t n_words = (p.dim + COLUMNS - 1) / COLUMNS, n_tiles = (p.samples + SAMPLES - 1) / SAMPLES;
  const int64_t word = blockIdx.x % n_words, tile = blockIdx.x / n_words % n_tiles;
  const int64_t slice = blockIdx.x / n_words / n_tiles;
  const int64_t sample = tile * SAMPLES, start = (p.first_slice + slice) * SLICE;
  const int64_t end = start + SLICE < p.features ? start + SLICE : p.features;
  const int column = threadIdx.x % COLUMNS, share = threadIdx.x / COLUMNS;
  double sum[SAMPLES] = {};
  for (int64_t chunk = start; chunk < end; chunk += PROJECT_THREADS) {
    const int64_t f = chunk + threadIdx.x;
    words[threadIdx.x] = draw_bits(key_state(p.seeded, p.first_feature + uint64_t(f)), uint64_t(word));
    for (int s = 0; s < SAMPLES; ++s)
      values[threadIdx.x][s] = f < end && sample + s < p.samples ? widen(x[(sample + s) * p.row_stride + f]) : 0.f;
    __syncthreads();
    float part[SAMPLES] = {};
    for (int i = share; i < PROJECT_THREADS; i += SHARES) {
      const bool minus = words[i] >> column & 1;
      for (int s = 0; s < SAMPLES; ++s) part[s] += minus ? -values[i][s] : values[i][s];
    }
    for (int s = 0; s < SAMPLES; ++s) sum[s] += part[s];
    __syncthreads();
  }
  for (int s = 0; s < SAMPLES; ++s) shares[share][column][s] = sum[s];
  __syncthreads();
  for (int i = threadIdx.x; i < COLUMNS * SAMPLES; i += PROJECT_THREADS) {
    const int c = i % COLUMNS, s = i / COLUMNS;
    const int64_t at = word * COLUMNS + c;
    if (at >= p.dim || sample + s >= p.samples) continue;
    double total = shares[0][c][s];
    for (int h = 1; h < SHARES; ++h) total += shares[h][c][s];
    partial[(slice * p.samples + sample + s) * p.dim + at] = total;
  }
}

// total[i] += the slices' partial sums, in order. `first` starts from 0; `out` [n], if any, becomes total * scale.
static __global__ void __launch_bounds__(PROJECT_THREADS) add_slices(const double* partial, int64_t slices, int64_t n,
                                                              bool first, double* total, float* out, double scale) {
  const int64_t i = int64_t(blockIdx.x) * PROJECT_THREADS + threadIdx.x;
  if (i >= n) return;
  double sum = first ? 0 : total[i];
  for (int64_t s = 0; s < slices; ++s) sum += partial[s * n + i];
  total[i] = sum;
  if (out) out[i] = float(sum * scale);
}

}  // namespace distill_cuda
