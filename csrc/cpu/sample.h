// A sampled support of a row: threshold sampling or draws with replacement.
#pragma once

#include "topk.h"

namespace distill {

struct SampleTask {
  TopkTask top;  // the candidates for certain entries: min(k, length) of them, none for draws with replacement
  int64_t k;     // entries or draws, at least 1
  bool threshold;
  double temperature;
  uint64_t seed;
  int64_t blocks;  // of MASS_BLOCK entries
};

// Entries whose masses are summed together. Fixed: the sums decide which entries are drawn.
constexpr int64_t MASS_BLOCK = 256;
// The same within a block, once a point falls into it.
constexpr int64_t MASS_PART = 16;

// Working memory of one thread, for one row after another.
struct SampleScratch {
  TopkScratch top;
  double* masses;    // [blocks * MASS_BLOCK] of a row
  double* line;      // [blocks + 1] mass before every block
  double* left;      // [k + 1] log of the mass outside the j largest
  double* log_top;   // [k] log of the k largest masses
  uint64_t* order;   // [k] the k largest by id, with their rank; or random numbers
  uint64_t* spare;   // [k] for sorting
};

}  // namespace distill

DISTILL_KERNEL(sample_row, const float* z, const SampleTask& task, const SampleScratch& scratch, int64_t key,
               int64_t* ids, float* weights)
DISTILL_KERNEL(sample_row, const bf16* z, const SampleTask& task, const SampleScratch& scratch, int64_t key,
               int64_t* ids, float* weights)
DISTILL_KERNEL(sample_row, const fp16* z, const SampleTask& task, const SampleScratch& scratch, int64_t key,
               int64_t* ids, float* weights)
