#include "../kernels/sample_rows.cuh"

#include "launchers.h"

extern "C" int distill_sample_rows(const void* logits, int32_t dtype, int64_t rows, int64_t row_stride,
                                   int64_t n_valid, int32_t k, int32_t multinomial, double temperature, int64_t seed,
                                   const int64_t* row_keys, int64_t* ids, float* weights, void* stream) {
  using namespace distill_cuda;
  if (rows == 0) return 0;
  Inverse<double, 1> inverse{};
  inverse.count = 1;
  inverse.temperature[0] = temperature;
  inverse.at[0] = 1.0 / temperature;
  const uint64_t seeded = seed_state(uint64_t(seed));
  const auto run = [&](auto element) {
    using E = decltype(element);
    const E* z = static_cast<const E*>(logits);
    if (multinomial)
      DISTILL_LAUNCH((sample_multinomial<E>), unsigned(rows), THREADS, cudaStream_t(stream), z, row_stride, n_valid, k,
                     inverse, seeded, row_keys, ids, weights);
    else
      DISTILL_LAUNCH((sample_threshold<E>), unsigned(rows), THREADS, cudaStream_t(stream), z, row_stride, n_valid, k,
                     inverse, seeded, row_keys, ids, weights);
  };
  if (dtype == DISTILL_FLOAT32) run(float());
  else if (dtype == DISTILL_BFLOAT16) run(Bf16());
  else run(Fp16());
  return int(cudaGetLastError());
}
