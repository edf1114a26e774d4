#include "../kernels/match_rows.cuh"

#include "launchers.h"

namespace {
unsigned blocks(int64_t rows) { return unsigned((rows + distill_cuda::ROWS_PER_BLOCK - 1) / distill_cuda::ROWS_PER_BLOCK); }
}  // namespace

extern "C" int distill_match_rows(const void* table, int64_t n_tensors, int64_t n_rows, int32_t difference,
                                  double* sums, void* stream) {
  using namespace distill_cuda;
  if (n_rows == 0) return 0;
  DISTILL_LAUNCH(match_rows, blocks(n_rows), MATCH_THREADS, cudaStream_t(stream),
                 static_cast<const MatchedTensor*>(table), n_tensors, n_rows, difference, sums);
  return int(cudaGetLastError());
}

extern "C" int distill_combine_rows(const void* table, int64_t n_tensors, int64_t n_rows, const double* by,
                                    void* stream) {
  using namespace distill_cuda;
  if (n_rows == 0) return 0;
  DISTILL_LAUNCH(combine_rows, blocks(n_rows), MATCH_THREADS, cudaStream_t(stream),
                 static_cast<const MatchedTensor*>(table), n_tensors, n_rows, by);
  return int(cudaGetLastError());
}
