// Host functions that launch the kernels: raw pointers, sizes, a stream. No torch and no CUDA header. Each returns 0 or
// the runtime's error code.
#pragma once

#include <cstdint>

extern "C" {

enum distill_dtype : int32_t { DISTILL_FLOAT32 = 0, DISTILL_BFLOAT16 = 1, DISTILL_FLOAT16 = 2 };

constexpr int distill_max_k = 1024;

// ids, top [rows, k] and tails [rows, n_temperatures] of logits [rows, >= n_valid]: the k largest of the first n_valid
// entries of each row, and the logsumexp of the others per temperature. 0 <= k <= min(n_valid, distill_max_k),
// n_valid < 2^32 - 1. Reads the logits once per four temperatures.
int distill_topk_rows(const void* logits, int32_t dtype, int64_t rows, int64_t row_stride, int64_t n_valid, int32_t k,
                      const double* temperatures, int32_t n_temperatures, int64_t* ids, float* top, float* tails,
                      void* stream);

}
