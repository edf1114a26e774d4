#include "sample.h"

#include <memory>

#include "tensors.h"
#include "topk_scratch.h"

namespace distill {
namespace {

// Allocated once per thread and chunk of rows, uninitialised.
struct SampleMemory {
  explicit SampleMemory(const SampleTask& task)
      : top(task.top),
        doubles(new double[task.blocks * MASS_BLOCK + task.blocks + 1 + 2 * task.top.k + 1]),
        words(new uint64_t[2 * task.k]) {
    double* const line = doubles.get() + task.blocks * MASS_BLOCK;
    double* const left = line + task.blocks + 1;
    scratch = {top.scratch, doubles.get(), line, left, left + task.top.k + 1, words.get(), words.get() + task.k};
  }

  TopkMemory top;
  std::unique_ptr<double[]> doubles;
  std::unique_ptr<uint64_t[]> words;
  SampleScratch scratch;
};

// logits [N, L] any row stride; keys [N] int64; ids [N, k] int64 and weights [N, k] float32 are written, -1 and 0 pad.
void sample_into(const Tensor& logits, int64_t k, bool threshold, double temperature, int64_t seed, const Tensor& keys,
                 Tensor& ids, Tensor& weights) {
  STD_TORCH_CHECK(logits.dim() == 2 && (logits.size(1) < 2 || logits.stride(1) == 1), "sample: wants contiguous rows");
  const int64_t rows = logits.size(0), length = logits.size(1), stride = logits.stride(0);
  STD_TORCH_CHECK(k >= 1 && length >= 1 && length < (int64_t(1) << 31), "sample: k or the row length is out of range");
  STD_TORCH_CHECK(keys.scalar_type() == ScalarType::Long && keys.is_contiguous() && keys.numel() == rows,
                  "sample: wants one int64 key per row");
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long && weights.scalar_type() == ScalarType::Float &&
                      ids.is_contiguous() && weights.is_contiguous() && ids.numel() == rows * k &&
                      weights.numel() == rows * k,
                  "sample: wants contiguous int64 ids and float32 weights of size [rows, k]");
  const int64_t most = threshold ? (k < length ? k : length) : 0;
  const SampleTask task{topk_task(length, most, 0, nullptr), k, threshold, temperature, uint64_t(seed),
                        (length + MASS_BLOCK - 1) / MASS_BLOCK};
  const int64_t* const of_row = data<int64_t>(keys);
  int64_t* const to_ids = mutable_data<int64_t>(ids);
  float* const to_weights = mutable_data<float>(weights);
  const int64_t rows_each = 1 + (int64_t(1) << 13) / (length + 1);
  with_elements(logits, [&](auto* z) {
    torch::stable::parallel_for(0, rows, rows_each, [&](int64_t a, int64_t b) {
      const SampleMemory memory(task);
      for (int64_t r = a; r < b; ++r)
        DISTILL_CALL(sample_row, z + r * stride, task, memory.scratch, of_row[r], to_ids + r * k, to_weights + r * k);
    });
  });
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("sample", TORCH_BOX(&distill::sample_into)); }
