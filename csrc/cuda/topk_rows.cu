#include "../kernels/topk_rows.cuh"

#include "launchers.h"

namespace distill_cuda {
namespace {

template <int T, class E>
void launch(const void* logits, int64_t rows, int64_t row_stride, int64_t n_valid, int32_t k,
            const double* temperatures, int32_t count, int64_t* ids, float* top, float* tails, int32_t tail_stride,
            void* stream) {
  Inverse<float, T> inverse{};
  inverse.count = count;
  for (int t = 0; t < count; ++t) {
    inverse.temperature[t] = temperatures[t];
    inverse.at[t] = float(1.0 / temperatures[t]);
  }
  DISTILL_LAUNCH((topk_rows<T, E>), unsigned(rows), THREADS, cudaStream_t(stream), static_cast<const E*>(logits),
                 row_stride, n_valid, k, inverse, ids, top, tails, tail_stride);
}

template <class E, class... Args>
void launch_for(int32_t count, Args... args) {
  if (count <= 1) launch<1, E>(args...);
  else launch<MAX_TEMPERATURES, E>(args...);
}

}  // namespace
}  // namespace distill_cuda

extern "C" int distill_topk_rows(const void* logits, int32_t dtype, int64_t rows, int64_t row_stride, int64_t n_valid,
                                 int32_t k, const double* temperatures, int32_t n_temperatures, int64_t* ids,
                                 float* top, float* tails, void* stream) {
  using namespace distill_cuda;
  if (rows == 0) return 0;
  for (int32_t from = 0; from == 0 || from < n_temperatures; from += MAX_TEMPERATURES) {
    const int32_t left = n_temperatures - from, count = left < MAX_TEMPERATURES ? left : MAX_TEMPERATURES;
    const auto run = [&](auto element) {
      using E = decltype(element);
      launch_for<E>(count, logits, rows, row_stride, n_valid, k, temperatures + from, count, ids, top, tails + from,
                    n_temperatures, stream);
    };
    if (dtype == DISTILL_FLOAT32) run(float());
    else if (dtype == DISTILL_BFLOAT16) run(Bf16());
    else run(Fp16());
  }
  return int(cudaGetLastError());
}
