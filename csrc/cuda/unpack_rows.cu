#include "../kernels/unpack_rows.cuh"

#include "launchers.h"

extern "C" int distill_unpack_rows(const int64_t* words, int64_t n_words, const int64_t* table, int64_t sequences,
                                   int64_t rows, int64_t k, int32_t method, int64_t vocabulary,
                                   const double* temperatures, int32_t n_temperatures, double value_step, int64_t* ids,
                                   float* values, float* tail, float* entropy, int64_t* gaps, int64_t* starts,
                                   int32_t* status, void* stream) {
  using namespace distill_cuda;
  static_assert(sizeof(PackedSequence) == 16 * sizeof(int64_t));
  if (sequences == 0) return 0;
  const Unpacking u{reinterpret_cast<const uint64_t*>(words), n_words, reinterpret_cast<const PackedSequence*>(table),
                    sequences, rows, k, vocabulary, method, n_temperatures, temperatures, value_step, ids, values, tail,
                    entropy, gaps, starts, status};
  DISTILL_LAUNCH(unpack_columns, unsigned(READERS * sequences), UNPACK_THREADS, cudaStream_t(stream), u);
  if (rows > 0)
    DISTILL_LAUNCH(make_rows, unsigned((rows + UNPACK_WARPS - 1) / UNPACK_WARPS), UNPACK_THREADS, cudaStream_t(stream),
                   u);
  return int(cudaGetLastError());
}
