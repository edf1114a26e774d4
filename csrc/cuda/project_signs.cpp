#include <algorithm>
#include <cmath>
#include <vector>

#include "on_device.h"

namespace distill_cuda {
namespace {

// [n, dim]: matrices [n, F_i] side by side, projected and divided by sqrt(dim).
Tensor project_signs(std::vector<Tensor> matrices, int64_t dim, int64_t seed, int64_t first_feature) {
  STD_TORCH_CHECK(!matrices.empty() && dim > 0, "project_signs: wants matrices and at least one column");
  const Tensor& like = matrices[0];
  const int64_t n = like.size(0);
  int64_t scratch_size = 0;
  for (const Tensor& x : matrices) {
    STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == n && (x.stride(1) == 1 || x.size(1) <= 1),
                    "project_signs: wants matrices with n rows and stride 1 along the features");
    STD_TORCH_CHECK(x.get_device_index() == like.get_device_index(), "project_signs: matrices on different devices");
    scratch_size = std::max(scratch_size, distill_project_scratch(n, x.size(1), dim));
  }
  // Blocks of a launch: samples / 8 x columns / 64 x at most 32 slices.
  STD_TORCH_CHECK((n / 8 + 1) * (dim / 64 + 1) < (1LL << 26) && n * dim < (1LL << 38), "project_signs: too large");
  const OnDevice on(like);
  Tensor out = torch::stable::new_empty(like, {n, dim}, ScalarType::Float);
  Tensor total = torch::stable::new_empty(like, {n, dim}, ScalarType::Double);
  Tensor scratch = torch::stable::new_empty(like, {scratch_size}, ScalarType::Double);
  for (std::size_t i = 0; i < matrices.size(); ++i) {
    const Tensor& x = matrices[i];
    check(distill_project_signs(x.const_data_ptr(), dtype_code(x), n, x.stride(0), x.size(1), dim, seed, first_feature,
                                i == 0, pointer<double>(scratch), pointer<double>(total), pointer<float>(out),
                                1 / std::sqrt(double(dim)), on.stream),
          "project_signs");
    first_feature += x.size(1);
  }
  return out;
}

}  // namespace
}  // namespace distill_cuda

STABLE_TORCH_LIBRARY_IMPL(distill_core_cuda, CUDA, m) {
  m.impl("project_signs", TORCH_BOX(&distill_cuda::project_signs));
}
