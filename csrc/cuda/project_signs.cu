#include "../kernels/project_signs.cuh"

#include "launchers.h"

namespace {

constexpr int64_t SLICES_AT_ONCE = 32;  // bounds the scratch: a launch takes 2^20 features

int64_t slices_of(int64_t features) { return (features + distill_cuda::SLICE - 1) / distill_cuda::SLICE; }

}  // namespace

extern "C" int64_t distill_project_scratch(int64_t samples, int64_t features, int64_t dim) {
  const int64_t slices = slices_of(features);
  return (slices < SLICES_AT_ONCE ? slices : SLICES_AT_ONCE) * samples * dim;
}

extern "C" int distill_project_signs(const void* x, int32_t dtype, int64_t samples, int64_t row_stride,
                                     int64_t features, int64_t dim, int64_t seed, int64_t first_feature, int32_t first,
                                     double* scratch, double* total, float* out, double scale, void* stream) {
  using namespace distill_cuda;
  const int64_t n = samples * dim, slices = slices_of(features);
  if (n == 0) return 0;
  const int64_t tiles = (samples + SAMPLES - 1) / SAMPLES * ((dim + COLUMNS - 1) / COLUMNS);
  for (int64_t from = 0; from == 0 || from < slices; from += SLICES_AT_ONCE) {
    const int64_t count = slices - from < SLICES_AT_ONCE ? slices - from : SLICES_AT_ONCE;
    const Projection p{row_stride, samples, features, dim, uint64_t(first_feature), seed_state(uint64_t(seed)), from};
    const auto run = [&](auto element) {
      using E = decltype(element);
      DISTILL_LAUNCH((project_signs<E>), unsigned(tiles * count), PROJECT_THREADS, cudaStream_t(stream),
                     static_cast<const E*>(x), p, scratch);
    };
    if (count > 0 && dtype == DISTILL_FLOAT32) run(float());
    else if (count > 0 && dtype == DISTILL_BFLOAT16) run(Bf16());
    else if (count > 0) run(Fp16());
    DISTILL_LAUNCH(add_slices, unsigned((n + PROJECT_THREADS - 1) / PROJECT_THREADS), PROJECT_THREADS,
                   cudaStream_t(stream), scratch, count, n, first && from == 0, total,
                   from + count >= slices ? out : nullptr, scale);
  }
  return int(cudaGetLastError());
}
