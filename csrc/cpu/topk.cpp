#include "topk.h"

#include <memory>

#include "tensors.h"
#include "topk_scratch.h"

namespace distill {
namespace {

// logits [N, L] any row stride; temperatures [T] float64; ids [N, K] int64, values [N, K] and tails [N, T] float32 are
// written.
void topk_into(const Tensor& logits, int64_t k, const Tensor& temperatures, Tensor& ids, Tensor& values, Tensor& tails) {
  STD_TORCH_CHECK(logits.dim() == 2 && (logits.size(1) < 2 || logits.stride(1) == 1), "topk: wants contiguous rows");
  STD_TORCH_CHECK(temperatures.scalar_type() == ScalarType::Double && temperatures.is_contiguous(),
                  "topk: wants contiguous float64 temperatures");
  STD_TORCH_CHECK(ids.scalar_type() == ScalarType::Long && values.scalar_type() == ScalarType::Float &&
                      tails.scalar_type() == ScalarType::Float && ids.is_contiguous() && values.is_contiguous() &&
                      tails.is_contiguous(),
                  "topk: wants contiguous int64 ids and float32 values and tails");
  const int64_t rows = logits.size(0), length = logits.size(1), stride = logits.stride(0), count = temperatures.numel();
  STD_TORCH_CHECK(k >= 0 && k <= length && length < (int64_t(1) << 31), "topk: k or the row length is out of range");
  STD_TORCH_CHECK(ids.numel() == rows * k && values.numel() == rows * k && tails.numel() == rows * count,
                  "topk: the outputs have the wrong size");
  const TopkTask task = topk_task(length, k, count, data<double>(temperatures));
  int64_t* const to_ids = mutable_data<int64_t>(ids);
  float *const to_values = mutable_data<float>(values), *const to_tails = mutable_data<float>(tails);
  const int64_t rows_each = 1 + (int64_t(1) << 15) / (length + 1);
  with_elements(logits, [&](auto* z) {
    torch::stable::parallel_for(0, rows, rows_each, [&](int64_t a, int64_t b) {
      const TopkMemory memory(task);
      for (int64_t r = a; r < b; ++r)
        DISTILL_CALL(topk_row, z + r * stride, task, memory.scratch, to_ids + r * k, to_values + r * k,
                     to_tails + r * count);
    });
  });
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("topk", TORCH_BOX(&distill::topk_into)); }
