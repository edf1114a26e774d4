#include "on_device.h"

namespace distill_cuda {
namespace {

std::tuple<Tensor, Tensor> sample_rows(const Tensor& logits, int64_t n_valid, int64_t k, bool multinomial,
                                       double temperature, int64_t seed, const Tensor& row_keys) {
  check_rows(logits, n_valid);
  STD_TORCH_CHECK(k >= 0 && k <= distill_max_k, "sample_rows: k must lie in 0 .. ", distill_max_k);
  STD_TORCH_CHECK(row_keys.dim() == 1 && row_keys.size(0) == logits.size(0) && row_keys.is_contiguous() &&
                      row_keys.scalar_type() == ScalarType::Long &&
                      row_keys.get_device_index() == logits.get_device_index(),
                  "sample_rows: wants contiguous int64 row keys [N] on the device of the logits");
  const OnDevice on(logits);
  const int64_t n = logits.size(0);
  Tensor ids = torch::stable::new_empty(logits, {n, k}, ScalarType::Long);
  Tensor weights = torch::stable::new_empty(logits, {n, k}, ScalarType::Float);
  check(distill_sample_rows(logits.const_data_ptr(), dtype_code(logits), n, logits.stride(0), n_valid, int32_t(k),
                            multinomial, temperature, seed, static_cast<const int64_t*>(row_keys.const_data_ptr()),
                            pointer<int64_t>(ids), pointer<float>(weights), on.stream),
        "sample_rows");
  return {ids, weights};
}

}  // namespace
}  // namespace distill_cuda

STABLE_TORCH_LIBRARY_IMPL(distill_core_cuda, CUDA, m) { m.impl("sample_rows", TORCH_BOX(&distill_cuda::sample_rows)); }
