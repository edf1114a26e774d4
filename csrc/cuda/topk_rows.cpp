#include <vector>

#include "on_device.h"

namespace distill_cuda {
namespace {

std::tuple<Tensor, Tensor, Tensor> topk_rows(const Tensor& logits, int64_t n_valid, int64_t k,
                                             std::vector<double> temperatures) {
  check_rows(logits, n_valid);
  STD_TORCH_CHECK(k >= 0 && k <= n_valid && k <= distill_max_k, "topk_rows: k must lie in 0 .. ", distill_max_k);
  const OnDevice on(logits);
  const int64_t n = logits.size(0), t = int64_t(temperatures.size());
  Tensor ids = torch::stable::new_empty(logits, {n, k}, ScalarType::Long);
  Tensor top = torch::stable::new_empty(logits, {n, k}, ScalarType::Float);
  Tensor tails = torch::stable::new_empty(logits, {n, t}, ScalarType::Float);
  check(distill_topk_rows(logits.const_data_ptr(), dtype_code(logits), n, logits.stride(0), n_valid, int32_t(k),
                          temperatures.data(), int32_t(t), pointer<int64_t>(ids), pointer<float>(top),
                          pointer<float>(tails), on.stream),
        "topk_rows");
  return {ids, top, tails};
}

}  // namespace
}  // namespace distill_cuda

STABLE_TORCH_LIBRARY_IMPL(distill_core_cuda, CUDA, m) { m.impl("topk_rows", TORCH_BOX(&distill_cuda::topk_rows)); }
